//! Messages of the pairing port, in both directions.

use ctrl_exec_protocol::names;
use ctrl_exec_protocol::wire::pairing::{Ack, Outcome, PairRequest};

/// Any bytes are read as every message, or refused; what was read is written so that it reads the
/// same, and nothing is taken that the screen beside the pairing code must not show.
pub fn run(data: &[u8]) {
    if let Ok(request) = PairRequest::parse(data) {
        assert!(names::is_agent_name(&request.hostname) && !request.csr.is_empty());
        assert_eq!(PairRequest::parse(request.render().as_bytes()), Ok(request));
    }
    if let Ok(Ack::Pending { reqid }) = Ack::parse(data) {
        assert!(names::is_queue_id(&reqid));
        let again = Ack::parse(Ack::render_pending(&reqid).as_bytes());
        assert_eq!(again, Ok(Ack::Pending { reqid }));
    }
    if let Ok(outcome) = Outcome::parse(data) {
        assert_eq!(Outcome::parse(outcome.render().as_bytes()), Ok(outcome));
    }
}
