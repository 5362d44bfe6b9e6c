//! Tests of reading.

use super::*;
use proptest::prelude::*;

const WIDE: Bounds = Bounds::ANSWER;

#[test]
fn refuses_what_is_no_object() {
    for text in ["[]", "5", "\"x\"", "null", "true"] {
        assert_eq!(
            parse_object(text.as_bytes(), &WIDE),
            Err(JsonError::NotAnObject),
            "{text}"
        );
    }
    for text in ["", "{nope", "{\"a\":1", "{\"a\":1}x", "\u{0}"] {
        assert!(
            matches!(
                parse_object(text.as_bytes(), &WIDE),
                Err(JsonError::Syntax(_))
            ),
            "{text}"
        );
    }
}

#[test]
fn scalars_as_the_reference_reads_them() {
    let object = parse_object(
        br#"{"t":true,"f":false,"n":null,"i":1,"d":1.5,"w":1.0,"s":"x","z":"0","e":"",
            "p":"7443","a":[],"y":-0.0e9,"h":18446744073709551616}"#,
        &WIDE,
    )
    .unwrap();
    for (key, text, truth) in [
        ("t", "1", true),
        ("f", "0", false),
        ("n", "", false),
        ("i", "1", true),
        ("d", "1.5", true),
        ("w", "1", true),
        ("s", "x", true),
        ("z", "0", false),
        ("e", "", false),
        ("a", "", true),
        ("y", "0", false),
        ("h", "18446744073709551616", true),
        ("absent", "", false),
    ] {
        assert_eq!(text_of(&object, key), text, "{key}");
        assert_eq!(truthy(&object, key), truth, "{key}");
    }
    assert_eq!(port_of(&object, "p"), Some(7443));
    assert_eq!(port_of(&object, "i"), Some(1));
    assert_eq!(port_of(&object, "z"), None);
    assert_eq!(port_of(&object, "d"), None);
}

#[test]
fn members_that_nobody_asked_for_are_checked_and_left_out() {
    let text = br#"{"a":"x","b":[{"a":"no"},2],"c":3,"a":"\u00e9","d":{"a":1}}"#;
    let object = parse_members(text, &["a", "d", "absent"], &WIDE).unwrap();
    assert_eq!(render(&object), r#"{"a":"é","d":{"a":1}}"#);
    assert_eq!(
        parse_members(b"[1]", &["a"], &WIDE),
        Err(JsonError::NotAnObject)
    );
    for bad in [&b"{\"b\":[1,]}"[..], b"{\"b\":\"\\x\"}", b"{\"b\":01}"] {
        assert!(parse_members(bad, &["a"], &WIDE).is_err());
    }
}

fn fault(text: &str) -> (&'static str, usize) {
    match parse_value(text.as_bytes(), &WIDE) {
        Err(JsonError::Syntax(fault)) => (fault.what, fault.at),
        other => panic!("{text}: {other:?}"),
    }
}

#[test]
fn faults_say_what_and_where() {
    for (bad, what, at) in [
        ("", "expected a value", 0),
        ("{", "expected a member name", 1),
        ("[1,]", "expected a value", 3),
        ("[1 2]", "expected ',' or ']'", 3),
        ("[1}", "expected ',' or ']'", 2),
        ("{\"a\" 1}", "expected ':'", 5),
        ("{a:1}", "expected a member name", 1),
        ("{\"a\":1,}", "expected a member name", 7),
        ("{\"a\":1]", "expected ',' or '}'", 6),
        ("01", "text after the document", 1),
        ("1.", "malformed number", 2),
        ("-", "malformed number", 1),
        ("1e+", "malformed number", 3),
        ("+1", "expected a value", 0),
        (".5", "expected a value", 0),
        ("\"\\x\"", "unknown escape", 2),
        ("\"\\", "unknown escape", 2),
        ("\"\\u12g4\"", "malformed \\u escape", 5),
        ("\"\n\"", "control character in a string", 1),
        ("\"", "unterminated string", 1),
        (" tru", "expected a value", 1),
        ("1 2", "text after the document", 2),
        ("\"\\ud800\"", "lone surrogate", 7),
        ("\"\\ud800\\n\"", "lone surrogate", 8),
        ("\"\\ud800\\ud800\"", "lone surrogate", 13),
        ("\"\\udc00\"", "lone surrogate", 7),
    ] {
        assert_eq!(fault(bad), (what, at), "{bad:?}");
    }
    let error = parse_value(b"[\"\xff\"]", &WIDE).unwrap_err();
    assert_eq!(error.to_string(), "not UTF-8 at byte 2");
}

#[test]
fn strings_lose_their_escapes() {
    let text = br#""a\"\\\/\b\f\n\r\t\u00e9\u0000\ud83d\ude00z\u007F""#;
    assert_eq!(
        parse_value(text, &WIDE),
        Ok(Value::String("a\"\\/\u{8}\u{c}\n\r\té\0😀z\u{7f}".into()))
    );
}

#[test]
fn of_duplicates_the_last_counts() {
    let object = parse_object(br#"{"b":1,"a":2,"b":{"a":1,"a":3},"a":4}"#, &WIDE).unwrap();
    assert_eq!(render(&object), r#"{"a":4,"b":{"a":3}}"#);
}

#[test]
fn bounds_are_exact() {
    let bounds = |max_nodes, max_depth| Bounds {
        max_nodes,
        max_depth,
    };
    let text = br#" {"a":[1,"x"],"b":{}} "#;
    assert!(parse_value(text, &bounds(7, 2)).is_ok());
    assert_eq!(
        parse_value(text, &bounds(6, 2)),
        Err(JsonError::TooComplex(Fault {
            what: "too many values",
            at: 18
        }))
    );
    assert_eq!(
        parse_value(text, &bounds(7, 1)),
        Err(JsonError::TooComplex(Fault {
            what: "nested too deeply",
            at: 6
        }))
    );
    assert!(parse_value(b"1", &bounds(1, 0)).is_ok());
    let deep = [b'['; 1_000_000];
    assert!(matches!(
        parse_value(&deep, &WIDE),
        Err(JsonError::TooComplex(Fault { at: 64, .. }))
    ));
    let quoted = format!(
        "{{\"a\":\"{}\\\"{}\"}}",
        "[,{:".repeat(2000),
        "[".repeat(100)
    );
    assert!(parse_object(quoted.as_bytes(), &Bounds::REQUEST).is_ok());
}

#[test]
fn a_large_object_in_reverse_order_takes_no_quadratic_time() {
    let members: Vec<String> = (0..120_000)
        .rev()
        .map(|n| format!("\"{n:06}\":0"))
        .collect();
    let text = format!("{{{}}}", members.join(","));
    let start = std::time::Instant::now();
    let object = parse_object(text.as_bytes(), &WIDE).unwrap();
    assert_eq!(object.len(), 120_000);
    assert!(start.elapsed().as_secs() < 5, "{:?}", start.elapsed());
}

proptest! {
    #[test]
    fn never_panics_and_rereads_what_it_wrote(text in ".{0,200}") {
        if let Ok(value) = parse_value(text.as_bytes(), &WIDE) {
            prop_assert_eq!(parse_value(render(&value).as_bytes(), &WIDE), Ok(value));
        }
    }

    #[test]
    fn any_bytes_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse_object(&bytes, &Bounds::REQUEST);
    }
}
