//! Runs the seed corpus of the certificate fuzz target, and damaged copies of it,
//! through the same entry functions.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::path::Path;

use proptest::prelude::*;

#[path = "../../../fuzz/entry/certificate.rs"]
mod certificate;

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../fuzz/corpus")
        .join(name);
    let seeds: Vec<Vec<u8>> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| std::fs::read(entry.unwrap().path()).unwrap())
        .collect();
    assert!(seeds.len() > 5, "{name}");
    seeds
}

#[test]
fn seeds() {
    corpus("certificate")
        .iter()
        .for_each(|seed| certificate::run(seed));
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
    fn damaged_certificates(seed in any::<prop::sample::Index>(), edits in edits()) {
        let seeds = corpus("certificate");
        certificate::run(&damaged(&seeds[seed.index(seeds.len())], &edits));
    }
}
