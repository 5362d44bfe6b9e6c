use proptest::prelude::*;

use super::*;
use crate::live::Found;

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
fn a_time_limit_travels_behind_the_arguments() {
    let mut frame = example().encode().unwrap();
    let body = frame.split_off(4);
    let limit = |fields: &[&[u8]]| {
        let mut body = body.clone();
        fields.iter().for_each(|field| put_field(&mut body, field));
        Request::decode(&body).unwrap().time_limit
    };
    assert_eq!(limit(&[]), None);
    assert_eq!(limit(&[b"ctrl-exec/time-limit-1=30"]), Some(30));
    assert_eq!(
        limit(&[EXTENSION, b"of tomorrow", b"ctrl-exec/time-limit-1=007"]),
        Some(7)
    );
    assert_eq!(
        limit(&[b"ctrl-exec/time-limit-1=99999999999"]),
        Some(u32::MAX)
    );
    for bad in ["", "0", "-1", "+1", "1s", "999999999999999999999"] {
        let field = [TIME_LIMIT, bad.as_bytes()].concat();
        assert_eq!(limit(&[&field]), None, "{bad}");
    }
    assert_eq!(
        limit(
            &[
                &[b"x".as_slice(); MAX_EXTENSIONS][..],
                &[b"ctrl-exec/time-limit-1=30"]
            ]
            .concat()
        ),
        None
    );
    let both = Request {
        extended: true,
        time_limit: Some(u32::MAX),
        ..example()
    };
    assert_eq!(decode_stream(&both.encode().unwrap(), 3), Ok(both));
}

#[test]
fn the_number_of_arguments_is_bounded() {
    let body = |argc: u32, args: usize| {
        let mut body = [0; 16].to_vec();
        body.extend_from_slice(&argc.to_be_bytes());
        body.extend(std::iter::repeat_n(0, 4 * args));
        Request::decode(&body).map(|request| request.args.len())
    };
    assert_eq!(body(256, 256), Ok(256));
    assert_eq!(body(257, 257), Err(RequestError::Malformed));
    assert_eq!(body(0xffff_fff0, 300), Err(RequestError::Malformed));
}

#[test]
fn the_head_is_known_before_the_rest() {
    let request = Request {
        script: b"name\0cut".to_vec(),
        stdin: vec![7; 100_000],
        ..example()
    };
    let mut frame = example().encode().unwrap()[..14].to_vec();
    put_field(&mut frame, &request.script);
    let head_end = frame.len() + 4;
    put_field(&mut frame, &request.stdin);
    frame.extend_from_slice(&[0; 4]);
    let total = u32::try_from(frame.len() - 4).unwrap();
    frame[..4].copy_from_slice(&total.to_be_bytes());
    let mut decoder = RequestDecoder::new();
    for (at, byte) in frame[..head_end].iter().enumerate() {
        assert_eq!(decoder.head(), Ok(None), "{at}");
        assert_eq!(decoder.push(&[*byte]), Ok(1));
    }
    let head = Head {
        reqid: b"r",
        dispatcher: b"d",
        script: b"name",
        rest: 100_004,
    };
    assert_eq!(decoder.head(), Ok(Some(head)));
    decoder.skip();
    assert_eq!(decoder.push(&frame[head_end..]), Ok(100_004));
    assert!(decoder.is_complete());
    assert_eq!(decoder.body.capacity(), 0, "nothing is kept");
    assert_eq!(decoder.finish(), Err(RequestError::Malformed));
}

#[test]
fn a_head_without_end_is_refused() {
    let mut decoder = RequestDecoder::new();
    decoder.push(&1_000_000u32.to_be_bytes()).unwrap();
    decoder.push(&500_000u32.to_be_bytes()).unwrap();
    decoder.push(&vec![0; MAX_HEAD - 4]).unwrap();
    assert_eq!(decoder.head(), Ok(None));
    decoder.push(&[0]).unwrap();
    assert_eq!(decoder.head(), Err(RequestError::Malformed));
    // The same when it came in one piece, and does end.
    let long = Request {
        reqid: vec![b'r'; MAX_HEAD],
        ..example()
    };
    let mut decoder = RequestDecoder::new();
    decoder.push(&long.encode().unwrap()).unwrap();
    assert_eq!(decoder.head(), Err(RequestError::Malformed));
}

#[test]
fn only_the_exact_words_cancel() {
    let asked = |bytes: &[u8], step: usize| {
        let mut decoder = CancelDecoder::default();
        bytes.chunks(step).any(|chunk| decoder.push(chunk))
    };
    for step in [1, 7, 100] {
        assert!(asked(CANCEL, step));
        assert!(asked(&[CANCEL, b"more"].concat(), step));
        assert!(!asked(&CANCEL[..CANCEL.len() - 1], step));
        assert!(!asked(&[b"x", CANCEL].concat(), step));
        assert!(!asked(&[&CANCEL[..5], CANCEL].concat(), step));
        assert!(!asked(b"", step));
    }
    assert_eq!(take_field(&mut &CANCEL[..]), Some(&b"ctrl-exec/cancel"[..]));
}

#[test]
fn output_comes_before_the_response_where_that_is_asked_for() {
    let live = Request {
        live: true,
        time_limit: Some(5),
        ..example()
    };
    assert_eq!(decode_stream(&live.encode().unwrap(), 5), Ok(live));
    let response = Response {
        exit: 3,
        ended: Some(Ended::default()),
        ..Response::default()
    };
    let mut bytes = LIVE_MARK.to_vec();
    crate::live::put_item(&mut bytes, b'o', b"one");
    crate::live::put_item(&mut bytes, b'e', b"two");
    let before = bytes.len();
    crate::live::put_item(&mut bytes, crate::live::END, &response.encode(true));
    for step in [1, 4, 9, 1000] {
        let mut decoder = ResponseDecoder::new(10);
        let mut output = Vec::new();
        for part in bytes.chunks(step) {
            decoder.push_live(part, &mut |found| match found {
                Found::Bytes(_, bytes) => output.extend_from_slice(bytes),
                other => panic!("{other:?}"),
            });
        }
        assert_eq!(output, b"onetwo", "{step}");
        assert!(decoder.is_complete());
        assert_eq!(decoder.finish(), Ok(response.clone()));
        // Who does not care for output still finds the response.
        let mut decoder = ResponseDecoder::new(10);
        bytes.chunks(step).for_each(|part| decoder.push(part));
        assert_eq!(decoder.finish(), Ok(response.clone()));
    }
    let mut cut = ResponseDecoder::new(10);
    cut.push(&bytes[..before + 7]);
    assert_eq!(cut.finish(), Err(ResponseError::Truncated));
}

#[test]
fn how_a_script_ended_survives_the_wire() {
    let decode = |bytes: &[u8]| {
        let mut decoder = ResponseDecoder::new(9);
        decoder.push(bytes);
        decoder.finish().unwrap().ended
    };
    for bits in 0..16 {
        let ended = Ended {
            signal: (bits & 8 != 0).then_some(9),
            oom: bits & 1 != 0,
            time_limit: bits & 2 != 0,
            cancelled: bits & 4 != 0,
        };
        let response = Response {
            exit: 126,
            ended: Some(ended),
            ..Response::default()
        };
        let bytes = response.encode(true);
        assert_eq!(bytes[bytes.len() - 1], bits & 7);
        assert_eq!(decode(&bytes), Some(ended));
        assert_eq!(decode(&bytes[..bytes.len() - 1]), None, "cut short");
        assert_eq!(decode(&bytes[..bytes.len() - 8]), None, "older executors");
        assert_eq!(decode(&response.encode(false)), None);
    }
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
        ended: Some(Ended::default()),
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
        extended: bool, limit in 0u32.., step in 1usize..40,
    ) {
        let script = script.into_bytes();
        let request =
            Request { reqid, dispatcher: vec![0, 1], script, stdin, args, extended, live: extended,
                time_limit: (limit > 0).then_some(limit) };
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
        let ended = Some(Ended { oom: exit > 0, ..Ended::default() });
        let response = Response { exit, stdout, stderr: Output::whole(err), ended };
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
            prop_assert_eq!(decoded.ended, response.ended);
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
