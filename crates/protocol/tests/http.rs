//! Properties of the HTTP parsers: how the bytes are split never matters, no bytes make them
//! panic, and they never hold more than their limits allow.
#![cfg(feature = "http")]
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use ctrl_exec_protocol::http::{
    HttpError, Limits, Request, RequestParser, render_request, render_response,
};
use proptest::collection::vec;
use proptest::prelude::*;

#[path = "../../../fuzz/entry/http_request.rs"]
mod fuzz_request;
#[path = "../../../fuzz/entry/http_response.rs"]
mod fuzz_response;

const LIMITS: Limits = Limits {
    max_head: 200,
    max_headers: 5,
    max_body: 300,
};

/// Everything a connection with these bytes yields.
fn requests<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<Request>, Option<HttpError>) {
    let mut parser = RequestParser::new(LIMITS);
    let mut found = Vec::new();
    for mut piece in pieces {
        loop {
            match parser.push(piece) {
                Ok(used) => piece = &piece[used..],
                Err(error) => return (found, Some(error)),
            }
            assert!(parser.buffered() <= LIMITS.max_head + LIMITS.max_body);
            match parser.take() {
                Some(request) => {
                    assert!(request.body.len() <= LIMITS.max_body);
                    found.push(request);
                }
                None if piece.is_empty() => break,
                None => panic!("neither used nor complete"),
            }
        }
    }
    let end = parser.finish().err();
    found.extend(parser.take());
    (found, end)
}

fn responses<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> fuzz_response::Got {
    fuzz_response::all(LIMITS, pieces)
}

fn split<'a>(bytes: &'a [u8], cuts: &'a [usize]) -> impl Iterator<Item = &'a [u8]> {
    let mut rest = bytes;
    let mut cuts = cuts.iter().cycle();
    std::iter::from_fn(move || {
        let cut = (*cuts.next()?).min(rest.len());
        let (piece, left) = rest.split_at(cut);
        rest = left;
        (!piece.is_empty()).then_some(piece)
    })
}

/// Bytes that look like HTTP often enough to get past the first line.
fn http_like() -> impl Strategy<Value = Vec<u8>> {
    let tokens: Vec<&'static [u8]> = vec![
        b"\r\n",
        b"\r\n\r\n",
        b"\n",
        b"\r",
        b": ",
        b" ",
        b"GET /x HTTP/1.0\r\n",
        b"POST /run HTTP/1.1\r\n",
        b"HTTP/1.0 200 OK\r\n",
        b"HTTP/1.1 403 No\r\n",
        b"Content-Length: 3\r\n",
        b"Content-Length: 0\r\n",
        b"content-length: -1\r\n",
        b"Content-Length: 299\r\n",
        b"Content-Length: 301\r\n",
        b"Connection: keep-alive\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"3\r\n",
        b"0\r\n\r\n",
        b"no colon\r\n",
        b"abc",
        b"\0\xff",
    ];
    let piece = prop_oneof![
        8 => proptest::sample::select(tokens).prop_map(<[u8]>::to_vec),
        1 => vec(any::<u8>(), 0..60),
    ];
    vec(piece, 0..25).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn splits_never_matter_to_requests(bytes in http_like(), cuts in vec(1usize..30, 1..20)) {
        let whole = requests(std::iter::once(bytes.as_slice()));
        prop_assert_eq!(&requests(split(&bytes, &cuts)), &whole);
        prop_assert_eq!(&requests(bytes.chunks(1)), &whole);
    }

    #[test]
    fn splits_never_matter_to_responses(bytes in http_like(), cuts in vec(1usize..30, 1..20)) {
        let whole = responses(std::iter::once(bytes.as_slice()));
        prop_assert_eq!(&responses(split(&bytes, &cuts)), &whole);
        prop_assert_eq!(&responses(bytes.chunks(1)), &whole);
    }

    #[test]
    fn anything_is_survived(bytes in vec(any::<u8>(), 0..2000)) {
        requests(std::iter::once(bytes.as_slice()));
        responses(std::iter::once(bytes.as_slice()));
    }

    #[test]
    fn what_is_rendered_is_read_back(
        body in "[a-z{}\":\u{e9}]{0,100}",
        status in prop_oneof![Just(200u16), Just(202), Just(403), Just(409), Just(503)],
        keep_alive: bool,
        path in "/[a-z0-9/-]{0,40}",
    ) {
        let bytes = render_response(status, &body, keep_alive);
        let (found, _, end) = responses(std::iter::once(bytes.as_slice()));
        prop_assert_eq!(end, Some(HttpError::Empty));
        prop_assert_eq!((found[0].status, found[0].keep_alive), (status, keep_alive));
        prop_assert_eq!(found[0].body.as_slice(), body.as_bytes());

        let bytes = render_request("POST", &path, "host:7443", Some(&body), keep_alive);
        let (found, end) = requests(std::iter::once(bytes.as_slice()));
        prop_assert_eq!(end, Some(HttpError::Empty));
        let got = &found[0];
        prop_assert_eq!((&*got.method(), &*got.path(), got.keep_alive), ("POST", &*path, keep_alive));
        prop_assert_eq!(&got.body, body.as_bytes());
        prop_assert_eq!(got.headers.one("host"), Ok(Some("host:7443")));
    }
}

/// Name of a corpus and what it is fed to.
type Target = (&'static str, fn(&[u8]));

/// Every seed of the fuzzers, every beginning of it and every single-bit change.
#[test]
fn fuzz_seeds() {
    let targets: [Target; 2] = [
        ("http_request", fuzz_request::run),
        ("http_response", fuzz_response::run),
    ];
    for (target, run) in targets {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
        let mut count = 0;
        for entry in std::fs::read_dir(dir.join(target)).unwrap() {
            let seed = std::fs::read(entry.unwrap().path()).unwrap();
            (0..=seed.len()).for_each(|end| run(&seed[..end]));
            for bit in 0..seed.len() * 8 {
                let mut changed = seed.clone();
                changed[bit / 8] ^= 1 << (bit % 8);
                run(&changed);
            }
            count += 1;
        }
        assert!(count > 0);
    }
}
