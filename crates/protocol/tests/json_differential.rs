//! What we do with JSON beyond `miniserde` against `miniserde` itself: the same texts are taken, and
//! the values that are handed on as slices are the values it reads.
//!
//! They differ on purpose in two things. Ours takes numbers of any size, as it keeps their
//! spelling; `miniserde` refuses what no `f64` holds. And ours has bounds, which are wide enough
//! here not to matter.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use ctrl_exec_protocol::json::{Bounds, Raw, Scalar};
use miniserde::json::{Number, Value as Theirs};
use proptest::prelude::*;

const BOUNDS: Bounds = Bounds {
    max_nodes: 10_000,
    max_depth: 100,
};

/// Asserts that both say the same of a text. True when they take it.
fn compare(text: &str) -> bool {
    let ours = Raw::parse(text.as_bytes(), &BOUNDS);
    let theirs: Option<Theirs> = miniserde::json::from_str(text).ok();
    match (ours, &theirs) {
        (Ok(ours), Some(theirs)) => {
            assert!(same(ours, theirs), "{text}: {ours:?} {theirs:?}");
            // What ours writes is read alike by both.
            for written in [ours.sorted(), ours.canonical()] {
                let again = Raw::parse(written.as_bytes(), &BOUNDS).unwrap();
                let reread: Theirs = miniserde::json::from_str(&written).expect(&written);
                assert!(same(again, &reread), "{text}");
            }
            let sorted = ours.sorted();
            let reread: Theirs = miniserde::json::from_str(&sorted).unwrap();
            assert!(same(ours, &reread), "{text}");
        }
        (Err(_), None) => {}
        (Ok(_), None) => assert!(has_huge_number(text), "only ours takes {text:?}"),
        (Err(error), Some(_)) => panic!("only they take {text:?}: {error}"),
    }
    ours.is_ok()
}

fn same(ours: Raw<'_>, theirs: &Theirs) -> bool {
    match theirs {
        Theirs::Null => ours.scalar() == Scalar::Null,
        Theirs::Bool(flag) => ours.scalar() == Scalar::Bool(*flag),
        Theirs::String(text) => ours.string().as_ref() == Some(text),
        Theirs::Number(Number::U64(number)) => ours.as_str().parse() == Ok(*number),
        Theirs::Number(Number::I64(number)) => ours.as_str().parse() == Ok(*number),
        Theirs::Number(Number::F64(number)) => {
            let Scalar::Number(printed) = ours.scalar() else {
                return false;
            };
            // Theirs is off by some units in the last place, or underflows.
            let exact: f64 = ours.as_str().parse().unwrap();
            let close = |n: f64| (n - exact).abs() <= exact.abs() * 1e-14 + 1e-300;
            close(*number) && close(printed.parse().unwrap())
        }
        Theirs::Array(items) => {
            ours.items().count() == items.len()
                && ours.items().zip(items.iter()).all(|(a, b)| same(a, b))
        }
        Theirs::Object(members) => {
            // Theirs has each name once, with its last value.
            ours.is_object()
                && ours
                    .members()
                    .all(|(name, _)| members.contains_key(name.as_ref()))
                && members
                    .iter()
                    .all(|(name, value)| ours.get(name).is_some_and(|ours| same(ours, value)))
        }
    }
}

/// Looks at the text, as duplicates hide values.
fn has_huge_number(text: &str) -> bool {
    text.split(|c: char| !matches!(c, '0'..='9' | '-' | '+' | '.' | 'e' | 'E'))
        .filter_map(|word| word.parse::<f64>().ok())
        .any(|n| n.abs() > 1e290)
}

/// A string as somebody else might spell it: with escapes where none are needed.
fn spelled_string() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => "[a-c]".boxed(),
        2 => "[^\"\\\\\u{0}-\u{1f}]".boxed(),
        1 => "\\\\[\"\\\\/bfnrt]".boxed(),
        1 => "\\\\u[0-9a-cA-Ce-fE-F][0-9a-fA-F]{3}".boxed(),
        1 => "\\\\u[dD][89aAbB][0-9a-f]{2}\\\\u[dD][c-fC-F][0-9a-f]{2}".boxed(),
        1 => Just("\\u0000".to_owned()).boxed(),
    ];
    proptest::collection::vec(piece, 0..4).prop_map(|pieces| format!("\"{}\"", pieces.concat()))
}

fn spelled_number() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<i64>().prop_map(|n| n.to_string()),
        any::<u64>().prop_map(|n| n.to_string()),
        any::<f64>()
            .prop_filter("JSON has no others", |n| n.is_finite())
            .prop_map(|n| format!("{n:e}")),
        "-?(0|[1-9][0-9]{0,25})(\\.[0-9]{1,25})?([eE][-+]?[0-9]{1,4})?",
    ]
}

/// JSON texts with blanks in odd places.
fn text() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        Just("false".to_owned()),
        spelled_number(),
        spelled_string(),
    ];
    let leaf = ("[ \t\r\n]?", leaf, "[ \t\r\n]?").prop_map(|(a, b, c)| [a, b, c].concat());
    leaf.prop_recursive(5, 40, 6, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6)
                .prop_map(|items| format!(" [{}]", items.join(","))),
            proptest::collection::vec((spelled_string(), "[ \n]?", inner), 0..6).prop_map(
                |members| {
                    let members: Vec<String> = members
                        .into_iter()
                        .map(|(key, blank, value)| format!("{blank}{key}{blank}:{value}"))
                        .collect();
                    format!("{{{}}}\n", members.join(","))
                }
            ),
        ]
    })
}

/// Texts with pieces changed, put in and taken out.
fn damaged() -> impl Strategy<Value = String> {
    let edit = (
        any::<prop::sample::Index>(),
        0..3_u8,
        prop_oneof![
            "[\\[\\]{}:,\"\\\\ \t\n0-9.eE+truefalsn-]",
            "[\u{0}-\u{1f}\u{7f}é]",
            Just("\\ud800".to_owned()),
            Just("\"a\":".to_owned()),
            Just("1e999".to_owned()),
        ],
    );
    (text(), proptest::collection::vec(edit, 1..4)).prop_map(|(text, edits)| {
        let mut chars: Vec<char> = text.chars().collect();
        for (place, kind, piece) in edits {
            let at = place.index(chars.len() + 1);
            let end = if kind == 0 {
                at
            } else {
                chars.len().min(at + 1)
            };
            let piece = if kind == 1 { "" } else { piece.as_str() };
            chars.splice(at..end, piece.chars());
        }
        chars.into_iter().collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn whole_texts(text in text()) {
        let taken = compare(&text);
        prop_assert!(taken, "{}", text);
    }

    #[test]
    fn damaged_texts(text in damaged()) {
        compare(&text);
    }

    #[test]
    fn soup(text in "[\\[\\]{}:,\"\\\\ u0dD8cae1.tr+-]{0,12}") {
        compare(&text);
    }

    #[test]
    fn numbers(text in "[-+]?[0-9]{0,3}[.]?[0-9]{0,3}[eE]?[-+]?[0-9]{0,3}[ \u{0}]?") {
        compare(&text);
    }
}

#[test]
fn corners() {
    for text in [
        "\u{feff}1",
        "-",
        "-0",
        "-01",
        "0e",
        "[\u{0}]",
        "1\u{0}",
        "\"\\u0000\"",
        "\"\\uD83D\\uDE00\"",
        "\"\\uDE00\\uD83D\"",
        "\"\\ud83d\\u0041\"",
        "\"\\u00\u{e9}9\"",
        "\u{b}1",
        "nul",
        "nullx",
        "{\"a\":1,\"a\":2}",
        "{\"\":{\"\":[]}}",
        "[}",
        "{]",
        "[,]",
        "{,}",
        "\"\u{7f}\u{2028}\u{10ffff}\"",
        "18446744073709551615",
        "18446744073709551616",
        "-9223372036854775809",
        "1e400",
        "-1e99999999999",
        "0e99999999999",
    ] {
        compare(text);
    }
}

#[test]
fn numbers_beyond_their_range_are_ours_alone() {
    for text in ["1e400", "[-1.5E+309]"] {
        assert!(miniserde::json::from_str::<Theirs>(text).is_err());
        let value = Raw::parse(text.as_bytes(), &BOUNDS).unwrap();
        assert_eq!(value.sorted(), text);
    }
}
