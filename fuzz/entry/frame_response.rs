//! Response frames as the front-end receives them.

use ctrl_exec_protocol::frame::{Response, ResponseDecoder};

/// Any bytes, in pieces of any size, are one response or refused, within the limit; an accepted
/// one survives being sent again.
pub fn run(data: &[u8]) {
    let Some((&[step, limit], bytes)) = data.split_first_chunk::<2>() else {
        return;
    };
    let limit = usize::from(limit);
    let response = decode(bytes, limit, usize::from(step).max(1));
    if let Some(response) = response {
        let again = decode(&response.encode(true), usize::MAX >> 1, 7);
        let again = again.map(|again| (again.exit, again.stdout.bytes(), again.stdout.dropped));
        let expected = (
            response.exit,
            response.stdout.bytes(),
            response.stdout.dropped,
        );
        assert_eq!(again, Some(expected));
    }
}

fn decode(bytes: &[u8], limit: usize, step: usize) -> Option<Response> {
    let mut decoder = ResponseDecoder::new(limit);
    for chunk in bytes.chunks(step) {
        decoder.push(chunk);
        assert!(decoder.held() <= limit.saturating_mul(2));
    }
    decoder.finish().ok()
}
