//! Runs the seed corpus of the connection fuzz target, and damaged copies of it, through the same
//! entry function.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "../../../fuzz/entry/connection.rs"]
mod connection;

#[test]
fn connection_seeds() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/connection");
    let mut count = 0;
    for entry in std::fs::read_dir(dir).unwrap() {
        let seed = std::fs::read(entry.unwrap().path()).unwrap();
        connection::run(&seed);
        for at in 0..seed.len().min(80) {
            connection::run(&seed[..at]);
            let mut changed = seed.clone();
            changed[at] ^= 1 << (at % 8);
            connection::run(&changed);
        }
        count += 1;
    }
    assert!(count > 5);
}
