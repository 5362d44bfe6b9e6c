//! Request frames as the executor receives them.

use ctrl_exec_protocol::frame::{MAX_ARGS, MAX_TOTAL, Request, RequestDecoder};

/// Any bytes, in pieces of any size, are one request or refused; an accepted one survives being
/// sent again.
pub fn run(data: &[u8]) {
    let Some((&step, bytes)) = data.split_first() else {
        return;
    };
    let mut decoder = RequestDecoder::new();
    let mut used = 0;
    for chunk in bytes.chunks(usize::from(step).max(1)) {
        match decoder.push(chunk) {
            Ok(count) => used += count,
            Err(_) => return,
        }
    }
    assert!(used <= bytes.len() && used <= 4 + MAX_TOTAL);
    if let Ok(request) = decoder.finish() {
        assert!(request.args.len() <= MAX_ARGS);
        let again = request.encode().map(|frame| Request::decode(&frame[4..]));
        assert_eq!(again, Ok(Ok(request)));
    }
}
