use proptest::prelude::*;

use super::*;

fn example() -> Request {
    Request {
        reqid: b"r".to_vec(),
        dispatcher: b"d".to_vec(),
        script: b"ok".to_vec(),
        args: vec![b"x".to_vec()],
        ..Request::default()
    }
}

fn decode_stream(bytes: &[u8], step: usize) -> Result<Request, RequestError> {
    let mut decoder = RequestDecoder::new();
    for chunk in bytes.chunks(step) {
        decoder.push(chunk)?;
    }
    decoder.finish()
}

#[test]
fn the_example_of_the_specification() {
    let expected = b"\0\0\0\x1d\0\0\0\x01r\0\0\0\x01d\0\0\0\x02ok\0\0\0\0\0\0\0\x01\0\0\0\x01x";
    assert_eq!(example().encode().unwrap(), expected);
    for step in [1, 3, 33] {
        assert_eq!(decode_stream(expected, step), Ok(example()));
    }
}

#[test]
fn impossible_requests_are_not_sent() {
    let with = |args: Vec<Vec<u8>>| Request { args, ..example() };
    assert_eq!(
        with(vec![vec![]; 257]).encode(),
        Err(EncodeError::TooManyArgs)
    );
    assert!(with(vec![vec![]; 256]).encode().is_ok());
    assert_eq!(
        with(vec![b"a\0b".to_vec()]).encode(),
        Err(EncodeError::NulByte)
    );
    let large = Request {
        stdin: vec![0; MAX_TOTAL],
        ..example()
    };
    assert_eq!(large.encode(), Err(EncodeError::TooLarge));
    let exact = Request {
        stdin: vec![0; MAX_TOTAL - 29],
        ..example()
    };
    assert_eq!(decode_stream(&exact.encode().unwrap(), 1 << 16), Ok(exact));
}

#[test]
fn bad_totals_are_refused_at_once() {
    for total in [0u32, 16_777_217, u32::MAX] {
        let result = RequestDecoder::new().push(&total.to_be_bytes());
        assert_eq!(result, Err(RequestError::BadTotal));
    }
    let mut decoder = RequestDecoder::new();
    assert_eq!(decoder.push(&16_777_216u32.to_be_bytes()), Ok(4));
    assert_eq!(
        decoder.body.capacity(),
        0,
        "nothing is allocated for a promise"
    );
}

#[test]
fn malformed_bodies() {
    for body in [
        &b"\0\0\x03\xe8abcd"[..],
        b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x27\x0f",
        b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\x32ab",
        b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
        b"\xff\xff\xff\xff",
    ] {
        assert_eq!(
            Request::decode(body),
            Err(RequestError::Malformed),
            "{body:x?}"
        );
    }
}

#[test]
fn trailing_bytes_are_ignored_unless_they_are_the_extension() {
    let mut frame = example().encode().unwrap();
    let body = frame.split_off(4);
    let with = |tail: &[u8]| Request::decode(&[&body, tail].concat()).unwrap().extended;
    assert!(!with(b""));
    assert!(!with(b"trailing"));
    assert!(with(b"\0\0\0\x13ctrl-exec/dropped-1"));
    assert!(!with(b"\0\0\0\x13ctrl-exec/dropped-1 "));
    let extended = Request {
        extended: true,
        ..example()
    };
    assert_eq!(decode_stream(&extended.encode().unwrap(), 7), Ok(extended));
}

#[test]
fn capture_keeps_both_ends() {
    let mut capture = Capture::new(10);
    for byte in b'a'..=b'z' {
        capture.push(&[byte]);
    }
    let output = capture.finish();
    assert_eq!(
        output,
        Output {
            head: b"abcde".to_vec(),
            tail: b"vwxyz".to_vec(),
            dropped: 16
        }
    );
    assert_eq!(
        output.marked(),
        b"abcde\n[ctrl-exec: 16 bytes dropped]\nvwxyz"
    );
    let mut capture = Capture::new(10);
    capture.push(b"abcdefg");
    capture.push(b"hij");
    assert_eq!(capture.finish(), Output::whole(*b"abcdefghij"));
    let mut capture = Capture::new(0);
    capture.push(b"abc");
    assert_eq!(
        capture.finish(),
        Output {
            dropped: 3,
            ..Output::default()
        }
    );
}

#[test]
fn early_ends_of_a_response() {
    assert_eq!(ResponseDecoder::new(9).finish(), Err(ResponseError::Empty));
    let whole = Response::refusal("no").encode(false);
    for end in 1..whole.len() {
        let mut decoder = ResponseDecoder::new(9);
        decoder.push(&whole[..end]);
        assert!(!decoder.is_complete());
        assert_eq!(decoder.finish(), Err(ResponseError::Truncated), "{end}");
    }
}

#[test]
fn a_shortened_response_in_both_forms() {
    let stdout = Output {
        head: b"ab".to_vec(),
        tail: b"yz".to_vec(),
        dropped: 1 << 40,
    };
    let response = Response {
        exit: -1,
        stdout,
        stderr: Output::whole(*b"e"),
    };
    let decode = |bytes: &[u8], limit| {
        let mut decoder = ResponseDecoder::new(limit);
        decoder.push(bytes);
        decoder.finish().unwrap()
    };
    assert_eq!(decode(&response.encode(true), 100), response);
    let plain = decode(&response.encode(false), 100);
    assert_eq!(
        plain.stdout.head,
        b"ab\n[ctrl-exec: 1099511627776 bytes dropped]\nyz"
    );
    let twice = decode(&response.encode(true), 2).stdout;
    assert_eq!((twice.head, twice.tail), (b"a".to_vec(), b"z".to_vec()));
    assert_eq!(twice.dropped, (1 << 40) + 2);
}

proptest! {
    #[test]
    fn any_bytes_are_a_request_or_refused(bytes: Vec<u8>, step in 1usize..9) {
        let _ = Request::decode(&bytes);
        let _ = decode_stream(&bytes, step);
    }

    #[test]
    fn requests_survive_the_wire(
        reqid: Vec<u8>, stdin: Vec<u8>,
        script in "[a-z]{0,9}",
        args in prop::collection::vec(prop::collection::vec(1u8.., 0..9), 0..9),
        extended: bool, step in 1usize..40,
    ) {
        let script = script.into_bytes();
        let request =
            Request { reqid, dispatcher: vec![0, 1], script, stdin, args, extended };
        let frame = request.encode().unwrap();
        prop_assert_eq!(decode_stream(&frame, step), Ok(request));
        prop_assert_eq!(decode_stream(&frame[..frame.len() - 1], step), Err(RequestError::Truncated));
    }

    #[test]
    fn responses_survive_the_wire(
        exit: i32, out: Vec<u8>, err: Vec<u8>, limit in 0usize..40, step in 1usize..40,
        extended: bool, junk in prop::collection::vec(any::<u8>(), 0..9),
    ) {
        let mut capture = Capture::new(limit);
        out.chunks(step).for_each(|chunk| capture.push(chunk));
        let stdout = capture.finish();
        prop_assert!(stdout.bytes().len() <= limit);
        let lost = out.len() - stdout.bytes().len();
        prop_assert_eq!(stdout.dropped, lost as u64);
        prop_assert!(out.starts_with(&stdout.head) && out.ends_with(&stdout.tail));
        let response = Response { exit, stdout, stderr: Output::whole(err) };
        let mut decoder = ResponseDecoder::new(1000);
        let mut bytes = response.encode(extended);
        if extended {
            bytes.extend(junk);
        }
        bytes.chunks(step).for_each(|chunk| decoder.push(chunk));
        let decoded = decoder.finish().unwrap();
        prop_assert_eq!(decoded.exit, exit);
        prop_assert_eq!(decoded.stderr, response.stderr);
        if extended {
            prop_assert_eq!(decoded.stdout, response.stdout);
        } else {
            prop_assert_eq!(decoded.stdout.head, response.stdout.marked());
        }
    }

    #[test]
    fn any_bytes_are_a_response_or_refused(bytes: Vec<u8>, limit in 0usize..20, step in 1usize..9) {
        let mut decoder = ResponseDecoder::new(limit);
        bytes.chunks(step).for_each(|chunk| decoder.push(chunk));
        prop_assert!(decoder.held() <= 2 * limit);
        let _ = decoder.finish();
    }
}
