//! A request that is being worked on.

use crate::front::api::app::App;
use crate::front::api::step::OnVerdict;
use crate::tasks::auth::Asked;
use ctrl_exec_protocol::http::Request;
use ctrl_exec_reactor::ConnId;
use std::sync::Arc;

/// Its number; never used twice.
pub type Ticket = u64;

/// A request that is being worked on.
pub struct Exchange {
    /// Who waits for the answer; `None` when they have gone.
    pub conn: Option<ConnId>,
    /// The connection stays for another request.
    pub keep_alive: bool,
    /// The answer goes without its body.
    pub headless: bool,
    /// The configuration it began with.
    pub app: Arc<App>,
    /// The question that the hook looks at.
    pub asked: Option<(Box<Asked>, OnVerdict)>,
}

/// Whether the connection stays after this request: in HTTP/1.1 unless the client says otherwise, in
/// HTTP/1.0 when it asks. Not when it is in doubt where the request ended.
pub fn keeps_alive(request: &Request) -> bool {
    if request.keep_alive {
        return true;
    }
    let close = |value: &[u8]| {
        value
            .split(|byte| *byte == b',')
            .any(|word| word.trim_ascii().eq_ignore_ascii_case(b"close"))
    };
    let mut lengths = request.headers.all("Content-Length");
    let first = lengths.next();
    let sure = first
        .is_none_or(|length| !length.is_empty() && length.iter().all(u8::is_ascii_digit))
        && lengths.all(|length| Some(length) == first);
    request.is_http_11() && sure && !request.headers.all("Connection").any(close)
}
