//! Runs the seed corpora of the dispatcher's fuzz targets, and damaged copies of them, through the
//! same entry functions.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::path::Path;

use proptest::prelude::*;

#[path = "../../fuzz/entry/csr.rs"]
mod csr;
#[path = "../../fuzz/entry/queue_file.rs"]
mod queue_file;
#[path = "../../fuzz/entry/registry_record.rs"]
mod registry_record;
#[path = "../../fuzz/entry/run_record.rs"]
mod run_record;
#[path = "../../fuzz/entry/serial_lists.rs"]
mod serial_lists;

type Target = (&'static str, fn(&[u8]));

/// The targets for files, which are small enough to cut everywhere.
const FILES: [Target; 4] = [
    ("queue_file", queue_file::run),
    ("registry_record", registry_record::run),
    ("run_record", run_record::run),
    ("serial_lists", serial_lists::run),
];

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../fuzz/corpus")
        .join(name);
    let seeds: Vec<Vec<u8>> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| std::fs::read(entry.unwrap().path()).unwrap())
        .collect();
    assert!(seeds.len() > 2, "{name}");
    seeds
}

#[test]
fn seeds() {
    corpus("csr").iter().for_each(|seed| csr::run(seed));
}

/// Every seed, every beginning of it, and every single-bit change near its start.
#[test]
fn files_cut_and_changed() {
    for (name, run) in FILES {
        for seed in corpus(name) {
            (0..=seed.len()).for_each(|end| run(&seed[..end]));
            for bit in 0..seed.len().min(64) * 8 {
                let mut changed = seed.clone();
                changed[bit / 8] ^= 1 << (bit % 8);
                run(&changed);
            }
        }
    }
}

/// Bytes changed, put in and taken out, as a fuzzer does.
fn damaged(seed: &[u8], edits: &[(prop::sample::Index, u8, u8)]) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for (place, kind, value) in edits {
        if bytes.is_empty() {
            break;
        }
        let place = place.index(bytes.len());
        match kind % 4 {
            0 | 1 => bytes[place] = *value,
            2 => bytes.insert(place, *value),
            _ => {
                bytes.remove(place);
            }
        }
    }
    bytes
}

fn edits() -> impl Strategy<Value = Vec<(prop::sample::Index, u8, u8)>> {
    proptest::collection::vec(
        (any::<prop::sample::Index>(), any::<u8>(), any::<u8>()),
        1..8,
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn damaged_files(seed in any::<prop::sample::Index>(), edits in edits()) {
        for (name, run) in FILES {
            let seeds = corpus(name);
            run(&damaged(&seeds[seed.index(seeds.len())], &edits));
        }
    }

    #[test]
    fn damaged_requests(seed in any::<prop::sample::Index>(), edits in edits()) {
        let seeds = corpus("csr");
        csr::run(&damaged(&seeds[seed.index(seeds.len())], &edits));
    }
}
