//! What parsers take and what they make of it, over random input.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use ctrl_exec_dispatcher::fleet::select::{TagFilter, glob};
use ctrl_exec_dispatcher::fleet::{Call, Identity};
use ctrl_exec_dispatcher::fleet::{address, hostlist};
use ctrl_exec_dispatcher::model::{AgentRecord, SerialStatus};
use ctrl_exec_dispatcher::model::{EntryState, HostEntry, RunRecord};
use ctrl_exec_dispatcher::store::files::revoked;
use ctrl_exec_dispatcher::tasks;
use ctrl_exec_testkit::json as jval;
use proptest::prelude::*;
use std::sync::Arc;

/// The obvious, slow definition.
fn slow_glob(pattern: &[char], text: &[char]) -> bool {
    match pattern.split_first() {
        None => text.is_empty(),
        Some(('*', rest)) => (0..=text.len()).any(|skip| slow_glob(rest, &text[skip..])),
        Some(('?', rest)) => !text.is_empty() && slow_glob(rest, &text[1..]),
        Some((c, rest)) => text.first() == Some(c) && slow_glob(rest, &text[1..]),
    }
}

/// A call to an agent `a`, with an identity that trusts nobody.
fn call() -> Call {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let nobody = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let target = address::target(&AgentRecord::new("a"), None, None);
    Call::get(target, Identity::new(Arc::new(nobody)), "/x")
}

proptest! {
    #[test]
    fn globs_match_like_the_definition(pattern in "[ab*?]{0,8}", text in "[ab]{0,8}") {
        let p: Vec<char> = pattern.chars().collect();
        let t: Vec<char> = text.chars().collect();
        prop_assert_eq!(glob(&pattern, &text), slow_glob(&p, &t));
    }

    #[test]
    fn any_pattern_comes_to_an_end(pattern in ".{0,40}", text in ".{0,40}") {
        glob(&pattern, &text);
    }

    #[test]
    fn what_fold_makes_of_names_expands_to_them(
        names in prop::collection::btree_set("[a-c][a-b0-9.-]{0,1}[0-9]{0,3}(-[0-9]{1,2})?", 1..40)
    ) {
        let names: Vec<String> = names.into_iter().collect();
        let mut again = hostlist::expand(&hostlist::fold(&names), 40).unwrap();
        again.sort();
        prop_assert_eq!(again, names);
    }

    #[test]
    fn no_list_expands_without_bound(list in "[a0-9,/\\[\\]!*-]{0,40}") {
        if let Ok(words) = hostlist::expand(&list, 1_000) {
            prop_assert!(words.len() <= 1_000);
        }
    }

    #[test]
    fn a_word_is_a_name_and_a_port(word in ".{0,20}", port in 1_u16..) {
        let with_port = format!("{word}:{port}");
        prop_assert_eq!(address::split(&with_port), (word.as_str(), Some(port)));
        let (name, found) = address::split(&word);
        prop_assert!(found.is_some() || name == word);
    }

    #[test]
    fn records_keep_every_field(key in "[a-z_]{1,10}", value in ".{0,30}", port in any::<i64>()) {
        let raw = jval::Object::of([(&*key, jval::string(&*value)), ("port", jval::number(port))]);
        let before = raw.clone();
        let mut record = AgentRecord::parse("a", jval::line(&raw).as_bytes()).unwrap();
        prop_assert!(record.port() > 0);
        record.serial_status = Some(SerialStatus::Pending);
        let again = jval::parse_object(record.to_json().as_bytes()).unwrap();
        for (name, value) in before.iter().filter(|(name, _)| *name != "serial_status") {
            prop_assert_eq!(jval::line(&again[name]), jval::line(value));
        }
        address::target(&record, None, None);
    }

    #[test]
    fn no_answer_of_an_agent_breaks_a_result(status in 100_u16..999, body in prop::collection::vec(any::<u8>(), 0..200)) {
        let response = ctrl_exec_reactor::http::Response {
            status,
            reason: String::from_utf8_lossy(&body).into_owned(),
            body,
            ..Default::default()
        };
        let answer = ctrl_exec_dispatcher::fleet::Answer {
            rtt: std::time::Duration::ZERO,
            result: Ok(response),
            certificate: None,
            output: None,
        };
        let call = call();
        let lines = [
            tasks::run::run_result(&call, "s", "r", answer.clone()).to_json(),
            tasks::run::async_result(&call, "s", "r", answer.clone()).to_json(),
            tasks::ping::ping_result(&call, answer.clone()).to_json(),
            tasks::discover::capabilities_result(&call, answer.clone()).to_json(),
            tasks::rotate::rotate_result(&call, answer.clone()).to_json(),
        ];
        for line in lines {
            let result = jval::parse_object(line.as_bytes()).unwrap();
            prop_assert_eq!(jval::str_or_empty(&result, "host"), "a");
            prop_assert!(result.contains_key("outcome"));
            prop_assert!(!line.contains('\n'));
        }
        let mut entry = HostEntry::new(EntryState::Running);
        tasks::follow::result_of(&answer).apply(&mut entry);
    }

    #[test]
    fn run_records_survive_reading(text in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(record) = RunRecord::parse("r", &text) {
            let again = RunRecord::parse("r", record.to_json().as_bytes()).unwrap();
            prop_assert_eq!(again.to_json(), record.to_json());
        }
    }

    #[test]
    fn filters_and_serials_never_panic(text in ".{0,40}") {
        let _ = TagFilter::parse(&text);
        let normal = revoked::normal(&text);
        prop_assert_eq!(revoked::normal(&normal), normal);
        let _ = jval::parse_object(text.as_bytes());
        let word = format!("{text}:7");
        prop_assert_eq!(address::split(&word), (text.as_str(), Some(7)));
    }
}
