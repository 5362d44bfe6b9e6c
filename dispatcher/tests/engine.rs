//! The long-lived engine by itself: kept connections, pacing over batches, limits, stopping,
//! several owners at once.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use ctrl_exec_dispatcher::fleet::{
    Answer, Batch, Call, Engine, EngineOptions, Fault, Identity, Plan, Report, Route, Target,
};
use ctrl_exec_protocol::tls;
use ctrl_exec_protocol::x509::verify::{ChainVerifier, system_clock};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use support::Root;
use support::agent::{Act, Agent};
use support::fleet::{self, Fleet};

const STEP: Duration = Duration::from_secs(20);

fn identity(root: &Root) -> Identity {
    let read = |name: &str| std::fs::read_to_string(root.path("etc/ctrl-exec").join(name)).unwrap();
    let own = tls::Identity::from_pem(&read("dispatcher.crt"), &read("dispatcher.key")).unwrap();
    let trust = Arc::new(ChainVerifier::from_pem(&root.ca_pem()).unwrap());
    Identity::new(tls::dispatcher_client_config(&own, trust, &system_clock(), false).unwrap())
}

fn call(identity: &Identity, address: SocketAddr) -> Call {
    let target = Target {
        obstacle: None,
        name: address.ip().to_string(),
        route: Route::Dial {
            address: address.ip().to_string(),
            port: address.port(),
        },
        knows: String::new(),
        perl: false,
        executor: None,
        features: None,
        paired: None,
        rate: None,
    };
    Call::post(target, identity.clone(), "/run", "{}")
}

fn keeping() -> Engine {
    Engine::new(EngineOptions {
        keep: Some(Duration::from_secs(30)),
        ..EngineOptions::default()
    })
}

fn agents(root: &Root, keep_alive: bool) -> Fleet {
    let (identity, _) = root.agent_identity("fleet", 825);
    Fleet::start(&identity, &root.ca_pem(), keep_alive, |_, _| {
        (200, r#"{"exit":0}"#.to_owned())
    })
}

fn all_ok(answers: &[Answer]) -> bool {
    answers.iter().all(|answer| answer.result.is_ok())
}

#[test]
fn connections_are_kept_from_batch_to_batch() {
    let root = Root::new();
    let fleet = agents(&root, true);
    let identity = identity(&root);
    let engine = keeping();
    let calls: Vec<Call> = (0..300)
        .map(|n| call(&identity, SocketAddr::from((fleet::address(n), fleet.port))))
        .collect();
    for _ in 0..3 {
        assert!(all_ok(&engine.all(calls.clone(), Plan::new(100, STEP))));
    }
    // Small batches find them too, on whichever loop they are.
    for one in calls.iter().take(20) {
        assert!(all_ok(&engine.all(vec![one.clone()], Plan::new(1, STEP))));
    }
    assert_eq!(fleet.connections(), 300);
}

#[test]
fn pacing_outlives_a_batch() {
    let root = Root::new();
    let fleet = agents(&root, false);
    let identity = identity(&root);
    let engine = keeping();
    let one = call(&identity, SocketAddr::from(([127, 0, 0, 1], fleet.port)));
    for _ in 0..9 {
        assert!(all_ok(&engine.all(vec![one.clone()], Plan::new(1, STEP))));
    }
    // The tenth connection inside a minute would get us shut out.
    let mut tenth = engine.start(
        vec![one],
        Plan::new(1, STEP),
        |_, answer| (answer, false),
        None,
    );
    assert!(tenth.next(Duration::from_millis(500)).is_none());
    assert_eq!(fleet.connections(), 9);
    tenth.control().cancel();
    let Some(Report::Ended(0, answer)) = tenth.next(STEP) else {
        panic!("not ended");
    };
    assert_eq!(answer.result.unwrap_err().fault, Fault::NotStarted);
}

#[test]
fn other_identities_do_not_share_a_connection() {
    let root = Root::new();
    let fleet = agents(&root, true);
    let (first, second) = (identity(&root), identity(&root));
    let engine = keeping();
    let address = SocketAddr::from(([127, 0, 0, 1], fleet.port));
    for identity in [&first, &second, &first] {
        let calls = vec![call(identity, address)];
        assert!(all_ok(&engine.all(calls, Plan::new(1, STEP))));
    }
    assert_eq!(fleet.connections(), 2);
}

#[test]
fn a_revoked_agent_is_refused_on_a_kept_connection_too() {
    let root = Root::new();
    let fleet = agents(&root, true);
    let identity = identity(&root);
    let engine = keeping();
    let one = Call {
        want_certificate: true,
        ..call(&identity, SocketAddr::from(([127, 0, 0, 1], fleet.port)))
    };
    let answers = engine.all(vec![one.clone()], Plan::new(1, STEP));
    let der = answers[0].certificate.clone().unwrap();
    let serial = ctrl_exec_protocol::x509::cert::facts(&der)
        .unwrap()
        .serial_hex;
    let mut plan = Plan::new(1, STEP);
    let normal = ctrl_exec_dispatcher::store::files::revoked::normal(&serial);
    plan.revoked = Arc::new([normal].into_iter().collect());
    let answers = engine.all(vec![one], plan);
    let error = answers[0].result.as_ref().unwrap_err();
    assert_eq!((&error.fault, error.sent), (&Fault::Revoked, false));
    assert_eq!(fleet.connections(), 1);
}

#[test]
fn what_was_sent_is_told_from_what_was_not() {
    let root = Root::new();
    let (agent, _) = root.agent_identity("a", 825);
    let silent = Agent::start(&agent, &root.ca_pem(), |_| Act::Hang(STEP));
    let identity = identity(&root);
    let engine = Engine::default();
    let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let calls = vec![
        call(&identity, silent.address),
        call(&identity, local(fleet::hanging_port())),
        call(&identity, local(support::ports::claim().unwrap())),
        call(&identity, local(fleet::garbage_port())),
    ];
    let answers = engine.all(calls, Plan::new(4, Duration::from_secs(2)));
    let sent: Vec<bool> = answers
        .iter()
        .map(|answer| answer.result.as_ref().unwrap_err().sent)
        .collect();
    assert_eq!(sent, [true, false, false, false]);
}

#[test]
fn a_request_that_may_not_be_repeated_is_not() {
    let root = Root::new();
    let (agent, _) = root.agent_identity("a", 825);
    let count = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&count);
    let agent = Agent::start(&agent, &root.ca_pem(), move |_| {
        counter.fetch_add(1, Ordering::SeqCst);
        Act::Close
    });
    let identity = identity(&root);
    let answers = keeping().all(vec![call(&identity, agent.address)], Plan::new(1, STEP));
    let error = answers[0].result.as_ref().unwrap_err();
    assert_eq!((&error.fault, error.sent), (&Fault::NoAnswer, true));
    assert_eq!(count.load(Ordering::SeqCst), 1);
}

#[test]
fn owners_on_several_threads_do_not_disturb_each_other() {
    let root = Root::new();
    let fleet = agents(&root, true);
    let identity = identity(&root);
    let engine = keeping();
    std::thread::scope(|scope| {
        for thread in 0..4_usize {
            let (engine, identity, port) = (engine.clone(), &identity, fleet.port);
            scope.spawn(move || {
                for round in 0..5 {
                    let calls: Vec<Call> = (0..50)
                        .map(|n| {
                            let n = thread * 50 + n;
                            call(identity, SocketAddr::from((fleet::address(n), port)))
                        })
                        .collect();
                    let answers = engine.all(calls, Plan::new(10, STEP));
                    assert!(all_ok(&answers), "{thread} {round}");
                }
            });
        }
    });
}

#[test]
fn a_batch_can_be_finished_cancelled_and_dropped() {
    let root = Root::new();
    let (agent, _) = root.agent_identity("a", 825);
    let silent = Agent::start(&agent, &root.ca_pem(), |_| Act::Hang(STEP));
    let identity = identity(&root);
    let engine = Engine::default();
    let woken = Arc::new(AtomicUsize::new(0));
    let notified = Arc::clone(&woken);
    let start = |count: usize| -> Batch<Answer> {
        let notified = Arc::clone(&notified);
        engine.start(
            vec![call(&identity, silent.address); count],
            Plan::new(2, STEP),
            |_, answer| (answer, true),
            Some(Box::new(move || {
                notified.fetch_add(1, Ordering::SeqCst);
            })),
        )
    };
    let begun = Instant::now();
    let mut batch = start(10);
    assert!(matches!(batch.next(STEP), Some(Report::Begun(0))));
    assert!(matches!(batch.next(STEP), Some(Report::Begun(1))));
    batch.control().finish();
    let mut kinds = Vec::new();
    while batch.left() > 2 {
        if let Some(Report::Ended(index, answer)) = batch.next(STEP) {
            kinds.push((index, answer.result.unwrap_err().fault));
        }
    }
    let not_started: Vec<_> = (2..10).map(|n| (n, Fault::NotStarted)).collect();
    assert_eq!(kinds, not_started);
    batch.control().cancel();
    while batch.left() > 0 {
        if let Some(Report::Ended(_, answer)) = batch.next(STEP) {
            assert_eq!(answer.result.unwrap_err().fault, Fault::Interrupted);
        }
    }
    assert!(woken.load(Ordering::SeqCst) > 0);
    // Given up, and the engine serves on.
    drop(start(5));
    let mut last = start(1);
    assert!(matches!(last.next(STEP), Some(Report::Begun(0))));
    drop(last);
    assert!(begun.elapsed() < STEP, "nothing waited for a time-out");
}
