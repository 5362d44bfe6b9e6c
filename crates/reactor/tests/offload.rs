//! Work that blocks.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::time::Duration;

use ctrl_exec_reactor::{Config, Event, Reactor};

const PATIENCE: Duration = Duration::from_secs(60);

fn offloaded(reactor: &mut Reactor) -> Event {
    loop {
        let event = reactor.next(Some(PATIENCE)).unwrap().expect("it ended");
        if !matches!(event, Event::Woken) {
            return event;
        }
    }
}

#[test]
fn results_come_back_by_name_and_the_loop_goes_on_meanwhile() {
    let mut reactor = Reactor::new(Config::default()).unwrap();
    let hold = Arc::new(Mutex::new(()));
    let held = hold.lock().unwrap();
    let slow = Arc::clone(&hold);
    let blocked = reactor
        .offload(move || {
            drop(slow.lock());
            "slow".to_owned()
        })
        .unwrap();
    let mut expected: HashMap<_, _> = (0..100_u32)
        .map(|n| (reactor.offload(move || n * 2).unwrap(), n * 2))
        .collect();
    reactor.set_timer(Duration::from_millis(1), 7);
    let mut timer = false;
    while !expected.is_empty() || !timer {
        match offloaded(&mut reactor) {
            Event::Offloaded { job, value } => {
                let value = *value.unwrap().downcast::<u32>().unwrap();
                assert_eq!(expected.remove(&job), Some(value));
            }
            Event::Timer { token: 7, .. } => timer = true,
            other => panic!("{other:?}"),
        }
    }
    drop(held);
    let Event::Offloaded { job, value } = offloaded(&mut reactor) else {
        panic!();
    };
    assert_eq!(job, blocked);
    assert_eq!(*value.unwrap().downcast::<String>().unwrap(), "slow");
}

#[test]
fn threads_are_bounded_and_a_panic_is_told() {
    let mut reactor = Reactor::new(Config::default()).unwrap();
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    for _ in 0..64 {
        let (now, most) = (Arc::clone(&now), Arc::clone(&most));
        reactor
            .offload(move || {
                let running = now.fetch_add(1, Ordering::SeqCst) + 1;
                most.fetch_max(running, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(2));
                now.fetch_sub(1, Ordering::SeqCst);
            })
            .unwrap();
    }
    for _ in 0..64 {
        assert!(matches!(
            offloaded(&mut reactor),
            Event::Offloaded { value: Some(_), .. }
        ));
    }
    let most = most.load(Ordering::SeqCst);
    assert!((1..=16).contains(&most), "{most} at a time");
    let broken = reactor.offload(|| panic!("on purpose")).unwrap();
    assert!(
        matches!(offloaded(&mut reactor), Event::Offloaded { job, value: None } if job == broken)
    );
    // The thread it was on still serves.
    reactor.offload(|| 1_u8).unwrap();
    assert!(matches!(
        offloaded(&mut reactor),
        Event::Offloaded { value: Some(_), .. }
    ));
}

#[test]
fn a_reactor_that_goes_waits_for_nothing() {
    let barrier = Arc::new(Barrier::new(2));
    let started = Arc::clone(&barrier);
    let hold = Arc::new(Mutex::new(()));
    let held = hold.lock().unwrap();
    let mut reactor = Reactor::new(Config::default()).unwrap();
    let slow = Arc::clone(&hold);
    reactor
        .offload(move || {
            started.wait();
            drop(slow.lock());
        })
        .unwrap();
    barrier.wait();
    drop(reactor);
    drop(held);
}
