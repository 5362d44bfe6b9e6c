//! The library as a front end uses it, in the order of docs/design/DISPATCHER.md: one long-lived
//! dispatcher, tasks pulled from several threads, records that can be read meanwhile.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use ctrl_exec_dispatcher::config::Config;
use ctrl_exec_dispatcher::fleet::EngineOptions;
use ctrl_exec_dispatcher::model::{AppError, HostResult, Kind, Outcome, RunEnd};
use ctrl_exec_dispatcher::tasks::ping::{self, Inquiry};
use ctrl_exec_dispatcher::tasks::run::{self, RunOrder};
use ctrl_exec_dispatcher::tasks::{
    Choice, Dispatcher, Event, Limits, Log, Portion, Task, auth, follow,
};
use ctrl_exec_host::paths::Root as Prefix;
use ctrl_exec_host::syslog::Syslog;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};
use support::Root;
use support::agent::{Act, Agent};
use support::fleet::{self, Fleet};

fn dispatcher(root: &Root) -> Dispatcher {
    let prefix = Prefix::at(root.path("."));
    let config = Config::load(&prefix, None).unwrap();
    let log_root = prefix.clone();
    let log = Log::new(move || Syslog::open("test", &log_root).socket_only());
    let options = EngineOptions {
        keep: Some(Duration::from_secs(30)),
        ..EngineOptions::default()
    };
    Dispatcher::new(prefix, config, log, options)
}

fn order(words: &[&str]) -> RunOrder {
    RunOrder {
        words: words.iter().map(|word| (*word).to_owned()).collect(),
        script: "s".to_owned(),
        source_ip: "127.0.0.1".to_owned(),
        ..RunOrder::default()
    }
}

fn start(dispatcher: &Dispatcher, order: RunOrder) -> Result<run::Run, AppError> {
    let permit = auth::authorise(dispatcher, &order.hook_request())?;
    run::start(dispatcher, order, &permit, Limits::default())
}

fn ends<K: Task>(task: &mut K) -> Vec<HostResult<K::Reply>> {
    let mut results = Vec::new();
    while task.left() > 0 {
        if let Some(Event::Ended(result)) = task.next(Duration::from_secs(30)) {
            results.push(*result);
        }
    }
    results
}

fn outcomes(results: &[HostResult<RunEnd>]) -> Vec<Outcome> {
    results.iter().map(|result| result.outcome).collect()
}

#[test]
fn runs_of_one_process_share_connections() {
    let root = Root::new();
    let (identity, _) = root.agent_identity("fleet", 825);
    let fleet = Fleet::start(&identity, &root.ca_pem(), true, |_, _| {
        (200, r#"{"exit":0,"stdout":"x","stderr":""}"#.to_owned())
    });
    for n in 0..20 {
        let address = SocketAddr::from((fleet::address(n), fleet.port));
        root.register(&format!("a{n:02}"), address);
    }
    let dispatcher = dispatcher(&root);
    let all = Choice {
        all: true,
        ..Choice::default()
    };
    for _ in 0..12 {
        let words = dispatcher.select(&all).unwrap();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let results = ends(&mut start(&dispatcher, order(&words)).unwrap());
        assert_eq!(outcomes(&results), [Outcome::Ok; 20]);
    }
    assert_eq!(fleet.connections(), 20);
}

#[test]
fn the_record_is_there_before_anything_is_sent_and_grows() {
    let root = Root::new();
    let (identity, _) = root.agent_identity("a", 825);
    let gate = Arc::new((Mutex::new(false), Condvar::new()));
    let held = Arc::clone(&gate);
    let slow = Agent::start(&identity, &root.ca_pem(), move |_| {
        let mut open = held.0.lock().unwrap();
        while !*open {
            open = held.1.wait(open).unwrap();
        }
        Act::Answer(200, r#"{"exit":0}"#.to_owned())
    });
    let quick = Agent::start(&identity, &root.ca_pem(), |_| {
        Act::Answer(200, r#"{"exit":3}"#.to_owned())
    });
    root.register("slow", slow.address);
    root.register("quick", quick.address);
    let dispatcher = dispatcher(&root);
    let woken = Arc::new(AtomicUsize::new(0));
    let notified = Arc::clone(&woken);
    let order = order(&["slow", "quick"]);
    let permit = auth::authorise(&dispatcher, &order.hook_request()).unwrap();
    let limits = Limits {
        notify: Some(Box::new(move || {
            notified.fetch_add(1, Ordering::SeqCst);
        })),
        ..Limits::default()
    };
    let mut task = run::start(&dispatcher, order, &permit, limits).unwrap();
    let reqid = task.reqid().to_owned();
    let look = || {
        follow::look(&dispatcher, &reqid, None, Limits::default())
            .unwrap()
            .unwrap()
    };
    assert!(!look().complete);
    let mut first = None;
    while first.is_none() {
        if let Some(Event::Ended(result)) = task.next(Duration::from_secs(30)) {
            first = Some(result);
        }
    }
    assert_eq!(first.unwrap().host, "quick");
    assert!(woken.load(Ordering::SeqCst) > 0);
    // Another run of these hosts is refused meanwhile, though it is the same process.
    let other = start(&dispatcher, self::order(&["quick"])).unwrap_err();
    assert_eq!((other.kind, other.kind.http_status()), (Kind::Locked, 409));
    assert_eq!(other.conflicts, ["quick:s"]);
    // Before long, what ended is on disk.
    let limit = Instant::now() + Duration::from_secs(60);
    while look().failed_hosts() != ["quick"] {
        assert!(Instant::now() < limit);
        assert!(task.next(Duration::from_millis(50)).is_none());
    }
    *gate.0.lock().unwrap() = true;
    gate.1.notify_all();
    assert_eq!(outcomes(&ends(&mut task)), [Outcome::Ok]);
    assert!(look().complete);
    drop(task);
    assert!(start(&dispatcher, self::order(&["quick"])).is_ok());
}

#[test]
fn what_may_still_run_is_unknown_and_is_not_run_again() {
    let root = Root::new();
    let (identity, _) = root.agent_identity("a", 825);
    let hanging = Agent::start(&identity, &root.ca_pem(), |_| {
        Act::Hang(Duration::from_secs(60))
    });
    root.register("hung", hanging.address);
    root.register(
        "gone",
        SocketAddr::from(([127, 0, 0, 1], support::ports::claim().unwrap())),
    );
    let dispatcher = dispatcher(&root);
    let order = order(&["hung", "gone"]);
    let permit = auth::authorise(&dispatcher, &order.hook_request()).unwrap();
    let limits = Limits {
        timeout: Some(Duration::from_secs(1)),
        ..Limits::default()
    };
    let mut task = run::start(&dispatcher, order, &permit, limits).unwrap();
    let reqid = task.reqid().to_owned();
    let mut results = ends(&mut task);
    results.sort_by(|a, b| a.host.cmp(&b.host));
    assert_eq!(outcomes(&results), [Outcome::Unreached, Outcome::Unknown]);
    let failed = Choice {
        failed_of: Some(reqid),
        ..Choice::default()
    };
    assert_eq!(dispatcher.select(&failed).unwrap(), ["gone"]);
}

#[test]
fn the_hook_decides_and_says_why() {
    let root = Root::new();
    let hook = root.path("hook");
    std::fs::write(&hook, "#!/bin/sh\nexit 3\n").unwrap();
    std::fs::set_permissions(&hook, std::fs::Permissions::from_mode(0o755)).unwrap();
    root.configure(&format!("auth_hook = {}\n", hook.display()));
    let dispatcher = dispatcher(&root);
    let denied = start(&dispatcher, order(&["nobody"])).unwrap_err();
    assert_eq!((denied.kind, denied.code), (Kind::Denied, Some(3)));
    assert_eq!(denied.kind.http_status(), 403);
}

#[test]
fn errors_have_their_kinds() {
    let root = Root::new();
    let dispatcher = dispatcher(&root);
    let unknown = start(&dispatcher, order(&["nobody"])).unwrap_err();
    assert_eq!(
        (unknown.kind.http_status(), unknown.kind.exit()),
        (404, 3),
        "{unknown}"
    );
    let nobody = dispatcher.select(&Choice::default()).unwrap_err();
    assert_eq!(nobody.kind, Kind::Usage);
    let none = follow::look(&dispatcher, "0123456789abcdef", None, Limits::default());
    assert!(none.unwrap().is_none());
}

#[test]
fn a_task_is_stopped_from_another_thread() {
    let root = Root::new();
    let (identity, _) = root.agent_identity("a", 825);
    let hanging = Agent::start(&identity, &root.ca_pem(), |_| {
        Act::Hang(Duration::from_secs(60))
    });
    for n in 0..5 {
        root.register(&format!("h{n}"), hanging.address);
    }
    let dispatcher = dispatcher(&root);
    let inquiry = Inquiry {
        words: (0..5).map(|n| format!("h{n}")).collect(),
        ..Inquiry::default()
    };
    let permit = auth::authorise(&dispatcher, &inquiry.hook_request("ping")).unwrap();
    let limits = Limits {
        batch: Some(Portion::Count(1)),
        ..Limits::default()
    };
    let mut task = ping::start(&dispatcher, &inquiry, &permit, limits).unwrap();
    assert!(matches!(
        task.next(Duration::from_secs(30)),
        Some(Event::Begun(host)) if host == "h0"
    ));
    let control = task.control();
    std::thread::spawn(move || control.cancel());
    let skipped = ends(&mut task)
        .iter()
        .filter(|result| result.outcome == Outcome::Skipped)
        .count();
    assert_eq!(skipped, 4);
}
