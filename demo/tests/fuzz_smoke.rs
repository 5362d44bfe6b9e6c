//! Every fuzz target with its seeds, every beginning of them, and random mutations: what a fuzzer
//! does, without one and on the stable toolchain. `FUZZ_RUNS` says how many mutations of each target
//! are tried, `FUZZ_SEED` which; `fuzz/smoke` tries many. A failure writes the input to a file.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};

#[path = "../../fuzz/entry/agent_conf.rs"]
mod agent_conf;
#[path = "../../fuzz/entry/certificate.rs"]
mod certificate;
#[path = "../../fuzz/entry/connection.rs"]
mod connection;
#[path = "../../fuzz/entry/crl.rs"]
mod crl;
#[path = "../../fuzz/entry/csr.rs"]
mod csr;
#[path = "../../fuzz/entry/frame_request.rs"]
mod frame_request;
#[path = "../../fuzz/entry/frame_response.rs"]
mod frame_response;
#[path = "../../fuzz/entry/http_request.rs"]
mod http_request;
#[path = "../../fuzz/entry/http_response.rs"]
mod http_response;
#[path = "../../fuzz/entry/json.rs"]
mod json;
#[path = "../../fuzz/entry/live.rs"]
mod live;
#[path = "../../fuzz/entry/mountinfo.rs"]
mod mountinfo;
#[path = "../../fuzz/entry/pairing.rs"]
mod pairing;
#[path = "../../fuzz/entry/queue_file.rs"]
mod queue_file;
#[path = "../../fuzz/entry/registry_record.rs"]
mod registry_record;
#[path = "../../fuzz/entry/run_record.rs"]
mod run_record;
#[path = "../../fuzz/entry/scripts_conf.rs"]
mod scripts_conf;
#[path = "../../fuzz/entry/serial.rs"]
mod serial;
#[path = "../../fuzz/entry/serial_lists.rs"]
mod serial_lists;
#[path = "../../fuzz/entry/trust_map.rs"]
mod trust_map;
#[path = "../../fuzz/entry/wire.rs"]
mod wire;

type Target = (&'static str, fn(&[u8]));

const TARGETS: &[Target] = &[
    ("agent_conf", agent_conf::run),
    ("certificate", certificate::run),
    ("connection", connection::run),
    ("crl", crl::run),
    ("csr", csr::run),
    ("frame_request", frame_request::run),
    ("frame_response", frame_response::run),
    ("http_request", http_request::run),
    ("http_response", http_response::run),
    ("json", json::run),
    ("live", live::run),
    ("mountinfo", mountinfo::run),
    ("pairing", pairing::run),
    ("queue_file", queue_file::run),
    ("registry_record", registry_record::run),
    ("run_record", run_record::run),
    ("scripts_conf", scripts_conf::run),
    ("serial", serial::run),
    ("serial_lists", serial_lists::run),
    ("trust_map", trust_map::run),
    ("wire", wire::run),
];

/// Mutations of each target where nothing else is asked for.
const RUNS: u64 = 300;
/// Targets of which one run takes milliseconds get so much fewer.
const SLOW: (&[&str], u64) = (&["connection", "certificate", "csr"], 10);
/// Longest input.
const MOST: usize = 4096;
/// Words that parsers of several targets know, besides their seeds.
const WORDS: [&[u8]; 12] = [
    b"\r\n\r\n",
    b"Content-Length: 18446744073709551616",
    b"\"\\ud800\"",
    b"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
    b"\xff\xff\xff\xff",
    b"\0",
    b"0x",
    b"-----BEGIN CERTIFICATE-----",
    b"1e999",
    b"\xe2\x80\xae",
    b"\x30\x84\xff\xff\xff\xff",
    b"null",
];

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz")
}

fn number(name: &str, usual: u64) -> u64 {
    std::env::var(name).map_or(usual, |text| text.parse().expect(name))
}

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let mut paths: Vec<PathBuf> = fs::read_dir(fuzz().join("corpus").join(name))
        .unwrap_or_else(|error| panic!("corpus of {name}: {error}"))
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    assert!(!paths.is_empty(), "corpus of {name}");
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// Runs a target, and keeps the input it fails on.
fn run((name, target): Target, input: &[u8]) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| target(input))) {
        let file =
            std::env::temp_dir().join(format!("ctrl-exec-fuzz-{name}-{}", std::process::id()));
        fs::write(&file, input).unwrap();
        eprintln!("{name}: failed on {}", file.display());
        resume_unwind(panic);
    }
}

/// A small generator (xorshift64*): the same seed tries the same inputs.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let value = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(value).unwrap() % end.max(1)
    }

    fn byte(&mut self) -> u8 {
        u8::try_from(self.below(256)).unwrap()
    }

    /// One change, as fuzzers make them.
    fn change(&mut self, input: &mut Vec<u8>, seeds: &[Vec<u8>]) {
        let at = self.below(input.len() + 1);
        let end = at + self.below((input.len() - at).min(32) + 1);
        match self.below(8) {
            0 if at < input.len() => input[at] ^= 1 << self.below(8),
            1 if at < input.len() => input[at] = self.byte(),
            2 => input.insert(at, self.byte()),
            3 => drop(input.drain(at..end)),
            4 => {
                let again = input[at..end].to_vec();
                input.splice(at..at, again);
            }
            5 => {
                let word = WORDS[self.below(WORDS.len())];
                input.splice(at..end, word.iter().copied());
            }
            6 => {
                let other = &seeds[self.below(seeds.len())];
                let from = self.below(other.len() + 1);
                let piece = &other[from..other.len().min(from + 64)];
                input.splice(at..end, piece.iter().copied());
            }
            _ => input.truncate(at),
        }
        input.truncate(MOST);
    }
}

#[test]
fn every_target_takes_its_seeds_and_mutations_of_them() {
    let (runs, seed) = (number("FUZZ_RUNS", RUNS), number("FUZZ_SEED", 1));
    for target in TARGETS {
        let name = target.0;
        let seeds = corpus(name);
        let runs = match SLOW.0.contains(&name) {
            true => runs / SLOW.1,
            false => runs,
        };
        for seed in &seeds {
            run(*target, seed);
        }
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        for _ in 0..runs {
            let mut input = seeds[random.below(seeds.len())].clone();
            for _ in 0..=random.below(6) {
                random.change(&mut input, &seeds);
            }
            run(*target, &input);
        }
    }
}

/// Nothing is left out: here, in the corpora, among the programs for a real fuzzer, or in their list.
#[test]
fn all_targets_are_here() {
    let names = |dir: &str| -> BTreeSet<String> {
        let entries = fs::read_dir(fuzz().join(dir)).unwrap();
        let stem = |path: PathBuf| path.file_stem().unwrap().to_string_lossy().into_owned();
        entries.map(|entry| stem(entry.unwrap().path())).collect()
    };
    let here: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    for dir in ["entry", "fuzz_targets", "corpus"] {
        assert_eq!(names(dir), here, "{dir}");
    }
    let manifest = fs::read_to_string(fuzz().join("Cargo.toml")).unwrap();
    for name in &here {
        let listed = format!("name = \"{name}\"\npath = \"fuzz_targets/{name}.rs\"");
        assert!(manifest.contains(&listed), "{name}");
        let program = fs::read_to_string(fuzz().join(format!("fuzz_targets/{name}.rs"))).unwrap();
        assert!(program.contains(&format!("entry/{name}.rs")), "{name}");
    }
}
