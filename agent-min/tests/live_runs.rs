//! Output that comes while the script runs, and input for it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use common::*;
use ctrl_exec_protocol::base64;
use ctrl_exec_protocol::http::{ChunkedBody, Limits, ResponseParser};
use ctrl_exec_protocol::live::{Decoder, Found, Stream as Of};
use std::io::{Read, Write};
use std::time::{Duration, Instant};

/// An answer that is read piece by piece.
struct Live {
    stream: Stream,
    parser: ResponseParser,
    body: ChunkedBody,
    items: Decoder,
    /// What has come; of one stream in a row in one piece.
    pieces: Vec<(Of, Vec<u8>)>,
    missing: u64,
    end: Vec<u8>,
    /// Bytes behind the answer.
    rest: Vec<u8>,
}

impl Live {
    fn start(caller: &Caller, body: &str) -> Live {
        Live::over(caller.connect().unwrap(), body)
    }

    fn over(mut stream: Stream, body: &str) -> Live {
        let request = format!(
            "POST /run HTTP/1.1\r\nConnection: keep-alive\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).unwrap();
        stream.flush().unwrap();
        Live {
            stream,
            parser: ResponseParser::new(Limits::AGENT_RESPONSE),
            body: ChunkedBody::default(),
            items: Decoder::default(),
            pieces: Vec::new(),
            missing: 0,
            end: Vec::new(),
            rest: Vec::new(),
        }
    }

    /// Reads once; whether there is more to come.
    fn read(&mut self) -> bool {
        let mut buffer = [0; 16 * 1024];
        let count = self.stream.read(&mut buffer).unwrap();
        assert!(count > 0, "the agent closed");
        let mut bytes = &buffer[..count];
        while !bytes.is_empty() && !self.body.is_over() {
            if !self.parser.is_chunked() {
                let used = self.parser.push(bytes).unwrap();
                assert!(!self.parser.is_complete(), "it is no stream");
                bytes = &bytes[used..];
                continue;
            }
            let Live {
                items,
                pieces,
                missing,
                end,
                ..
            } = self;
            let mut content = |bytes: &[u8]| {
                items.push(bytes, &mut |found| match found {
                    Found::Bytes(_, []) => {}
                    Found::Bytes(of, bytes) => match pieces.last_mut() {
                        Some((last, piece)) if *last == of => piece.extend_from_slice(bytes),
                        _ => pieces.push((of, bytes.to_vec())),
                    },
                    Found::Gap(_, count) => *missing += count,
                    Found::End(bytes) => end.extend_from_slice(bytes),
                });
            };
            let used = self.body.push(bytes, &mut content).unwrap();
            bytes = &bytes[used..];
        }
        self.rest.extend_from_slice(bytes);
        !self.body.is_over()
    }

    fn until(&mut self, mut done: impl FnMut(&Live) -> bool) {
        while !done(self) {
            assert!(self.read(), "it is over");
        }
    }

    /// Reads to the end; the result.
    fn finish(&mut self) -> String {
        while self.read() {}
        assert!(self.items.is_over() && self.rest.is_empty());
        String::from_utf8(self.end.clone()).unwrap()
    }

    fn text(&self, of: Of) -> Vec<u8> {
        let pieces = self.pieces.iter().filter(|(piece, _)| *piece == of);
        pieces.flat_map(|(_, bytes)| bytes.clone()).collect()
    }
}

fn host(extra: &str, script: &str) -> Host {
    let mut host = Host::new(&Ca::new());
    host.configure(extra);
    host.script("s", script);
    host.start();
    host
}

fn body(more: &str) -> String {
    format!(r#"{{"script":"s","reqid":"r","stream":true{more}}}"#)
}

#[test]
fn lines_come_while_the_script_runs_in_their_order_and_the_connection_is_kept() {
    let script = "#!/bin/sh\nfor n in 1 2 3; do\n echo out $n; while [ ! -e ${0%/*}/go$n ]; do \
                  sleep 0.02; done\n echo err $n >&2; while [ ! -e ${0%/*}/on$n ]; do sleep 0.02; \
                  done\ndone\nexit 4\n";
    let host = host("", script);
    let mut live = Live::start(&host.caller(), &body(""));
    for n in 1..=3 {
        // The script waits for us, so each line came before the next was written.
        live.until(|live| live.pieces.len() == 2 * n - 1);
        host.write(&format!("opt/go{n}"), "");
        live.until(|live| live.pieces.len() == 2 * n);
        host.write(&format!("opt/on{n}"), "");
    }
    let end = live.finish();
    assert_eq!(
        end,
        r#"{"script":"s","exit":4,"stdout":"","stderr":"","reqid":"r"}"#
    );
    let expected: Vec<_> = (1..=3)
        .flat_map(|n| {
            let line = |of, word| (of, format!("{word} {n}\n").into_bytes());
            [line(Of::Out, "out"), line(Of::Err, "err")]
        })
        .collect();
    assert_eq!(live.pieces, expected);
    // The same connection takes the next request, and a third.
    let mut again = Live::over(live.stream, &body(""));
    assert!(again.finish().contains(r#""exit":4"#));
    assert_eq!(again.text(Of::Err), b"err 1\nerr 2\nerr 3\n");
    let denied = r#"{"script":"t","reqid":"r","stream":true}"#;
    let request = format!(
        "POST /run HTTP/1.1\r\nContent-Length: {}\r\n\r\n{denied}",
        denied.len()
    );
    again.stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    again.stream.read_to_string(&mut answer).unwrap();
    assert!(
        answer.contains("Content-Length")
            && answer.ends_with(
                r#"{"script":"t","exit":-1,"error":"script not permitted","reqid":"r"}"#
            )
    );
}

#[test]
fn who_does_not_ask_or_reads_no_chunks_gets_the_usual_answer() {
    let host = host("", "#!/bin/sh\necho one\n");
    for (version, stream) in [("1.0", "true"), ("1.1", "false"), ("1.1", "null")] {
        let body = format!(r#"{{"script":"s","reqid":"r","stream":{stream}}}"#);
        let request = format!(
            "POST /run HTTP/{version}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let answer = host.caller().raw(request.as_bytes()).unwrap();
        assert!(answer.starts_with("HTTP/1.0 200 OK\r\n"), "{answer}");
        // Of a caller that cannot read chunks the agent finds out when the script runs already.
        if version == "1.1" {
            assert!(answer.contains(r#""stdout":"one\n""#), "{answer}");
        }
    }
}

#[test]
fn bytes_of_any_kind_survive_and_characters_are_not_cut() {
    let script = "#!/bin/sh\nprintf '\\303'; sleep 0.3; printf '\\274\\n\\377\\000\\n'\n";
    let host = host("", script);
    let mut live = Live::start(&host.caller(), &body(""));
    live.finish();
    assert_eq!(live.text(Of::Out), b"\xc3\xbc\n\xff\0\n");
}

/// The script is never held up, the agent holds little, and the caller learns what it missed.
#[test]
fn a_slow_reader_of_much_output_misses_the_middle_and_holds_nobody_up() {
    let script = "#!/bin/sh\necho first\nhead -c 100000000 /dev/zero | tr '\\0' x\necho last\n\
                  touch ${0%/*}/done\n";
    let host = host("memory_budget = 2M", script);
    let mut live = Live::start(&host.caller(), &body(""));
    live.until(|live| live.text(Of::Out).starts_with(b"first\n"));
    // Nothing is read while the script writes all it has.
    wait_for("the script", || host.path("opt/done").exists());
    let memory = std::fs::read_to_string(format!("/proc/{}/status", host.pid())).unwrap();
    let anonymous = memory
        .lines()
        .find(|line| line.starts_with("RssAnon"))
        .unwrap();
    let kilobytes: u64 = anonymous
        .split_whitespace()
        .nth(1)
        .unwrap()
        .parse()
        .unwrap();
    assert!(kilobytes < 8 * 1024, "{anonymous}");
    // Others are served meanwhile.
    assert_eq!(host.caller().post("/ping", "{}").0, 200);
    let end = live.finish();
    assert!(end.contains(r#""exit":0"#), "{end}");
    let text = live.text(Of::Out);
    assert!(
        text.starts_with(b"first\nxxx") && text.ends_with(b"xxx\nlast\n")
            || text.ends_with(b"xxxlast\n")
    );
    assert!(live.missing > 10_000_000, "{}", live.missing);
    assert_eq!(text.len() as u64 + live.missing, 100_000_000 + 6 + 5);
}

#[test]
fn a_caller_that_goes_away_changes_nothing_for_the_script() {
    let script = "#!/bin/sh\necho first\nn=0\nwhile [ $n -lt 40 ]; do head -c 100000 /dev/zero; \
                  n=$((n+1)); sleep 0.01; done\ntouch ${0%/*}/done\n";
    let host = host("", script);
    let mut live = Live::start(&host.caller(), &body(""));
    live.until(|live| !live.pieces.is_empty());
    drop(live);
    wait_for("the script", || host.path("opt/done").exists());
    host.wait_log("ACTION=run ");
    assert!(host.log().contains("EXIT=0"), "{}", host.log());
    assert_eq!(host.caller().post("/ping", "{}").0, 200);
}

#[test]
fn limits_and_cancels_end_a_stream_with_its_result() {
    let script = "#!/bin/sh\necho begun\nexec sleep 1000\n";
    let host = host("", script);
    let mut live = Live::start(&host.caller(), &body(r#","time_limit":1"#));
    let end = live.finish();
    assert!(end.contains(r#""time_limit":true"#), "{end}");
    assert!(text(&end, "stderr").contains("its time limit"), "{end}");
    assert_eq!(live.text(Of::Out), b"begun\n");
    let mut live = Live::start(&host.caller(), &body(""));
    live.until(|live| !live.pieces.is_empty());
    assert_eq!(host.caller().post("/cancel", r#"{"reqid":"r"}"#).0, 200);
    assert!(live.finish().contains(r#""cancelled":true"#));
}

#[test]
fn silence_is_told_from_death() {
    let host = host("", "#!/bin/sh\nexec sleep 13\n");
    let began = Instant::now();
    let mut live = Live::start(&host.caller(), &body(""));
    // Head, sign of life, result.
    let mut reads = 0;
    while live.read() {
        reads += 1;
    }
    assert!(reads >= 2 && live.pieces.is_empty(), "{reads}");
    assert!(began.elapsed() >= Duration::from_secs(13));
}

fn with_input(input: &[u8], more: &str) -> String {
    let data = base64::encode(input);
    format!(r#"{{"script":"s","reqid":"r","stdin_data":"{data}"{more}}}"#)
}

#[test]
fn input_follows_the_context() {
    let script = "#!/bin/sh\nread -r context\necho \"$context\"\nexec cat >${0%/*}/got\n";
    let host = host("", script);
    let all: Vec<u8> = (0..=255u8).cycle().take(512 * 1024).collect();
    for input in [&b""[..], b"no newline", b"a\nb\n", &all] {
        let (status, answer) = host.caller().post("/run-input", &with_input(input, ""));
        assert_eq!(status, 200);
        let context = text(&answer, "stdout");
        assert!(context.ends_with("}\n"), "{context}");
        assert_eq!(
            int(&context, "stdin_bytes"),
            i64::try_from(input.len()).unwrap(),
            "{context}"
        );
        assert_eq!(std::fs::read(host.path("opt/got")).unwrap(), input);
    }
    // Without input there is nothing behind the context, not even a newline.
    let (_, answer) = host.caller().post("/run", r#"{"script":"s","reqid":"r"}"#);
    assert!(!text(&answer, "stdout").contains("stdin_bytes"), "{answer}");
    assert!(std::fs::read(host.path("opt/got")).unwrap().is_empty());
    let more = with_input(&[&all[..], b"x"].concat(), "");
    let (status, answer) = host.caller().post("/run-input", &more);
    let error = text(&answer, "error");
    assert_eq!(
        (status, error.as_str()),
        (200, "stdin_data has more than 524288 bytes")
    );
    let bad = with_input(b"x", r#","stdin_data":"%""#).replace(r#""stdin_data":"eA==","#, "");
    assert!(host.caller().post("/run-input", &bad).1.contains("base64"));
}

#[test]
fn input_of_detached_runs_and_of_scripts_that_read_none() {
    let mut host = host("", "#!/bin/sh\nread -r context\nexec cat >${0%/*}/got\n");
    let input = b"\xff\0input\n".repeat(20_000);
    let (status, answer) = host
        .caller()
        .post("/run-input", &with_input(&input, r#","async":true"#));
    assert_eq!(status, 202, "{answer}");
    wait_for("the script", || {
        std::fs::read(host.path("opt/got")).is_ok_and(|got| got == input)
    });
    host.script("deaf", "#!/bin/sh\nexec true\n");
    host.reload();
    let deaf = with_input(&input, "").replace(r#""script":"s""#, r#""script":"deaf""#);
    let (_, answer) = host.caller().post("/run-input", &deaf);
    assert!(answer.contains(r#""exit":0"#), "{answer}");
    assert!(host.is_alive());
}

#[test]
fn gaps_of_usual_answers_say_where_they_are() {
    let script = "#!/bin/sh\necho begin\nhead -c 100000 /dev/zero | tr '\\0' '\\303'\necho end\n";
    let host = host("max_output = 4096", script);
    let (_, answer) = host.caller().post("/run", r#"{"script":"s","reqid":"r"}"#);
    let (stdout, gap) = (text(&answer, "stdout"), int(&answer, "stdout_gap"));
    let gap = usize::try_from(gap).unwrap();
    assert!(stdout.is_char_boundary(gap) && gap > 2048, "{gap}");
    assert!(stdout.starts_with("begin\n") && stdout.ends_with("end\n"));
    assert!(int(&answer, "stdout_truncated") > 90_000);
}

/// The executor of 0.12.3 knows nothing of live output: it comes with the result.
#[test]
fn an_executor_that_tells_of_output_only_at_the_end() {
    let mut host = Host::new(&Ca::new());
    let socket = host.path("exec.sock");
    host.configure(&format!("executor_socket = {}", socket.display()));
    host.script("s", "#!/bin/sh\n");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let executor = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut length = [0; 4];
        stream.read_exact(&mut length).unwrap();
        let mut frame = vec![0; u32::from_be_bytes(length) as usize];
        stream.read_exact(&mut frame).unwrap();
        stream
            .write_all(b"\0\0\0\x03\0\0\0\x04out\n\0\0\0\x04err\n")
            .unwrap();
        frame
    });
    host.start();
    let mut live = Live::start(&host.caller(), &body(""));
    let end = live.finish();
    assert_eq!(
        end,
        r#"{"script":"s","exit":3,"stdout":"out\n","stderr":"err\n","reqid":"r"}"#
    );
    assert!(live.pieces.is_empty());
    let frame = executor.join().unwrap();
    let asked = b"ctrl-exec/live-1";
    assert!(frame.windows(asked.len()).any(|window| window == asked));
}
