//! Runs the fuzz targets' seed corpus through the same entry functions.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::path::Path;

#[path = "../../../fuzz/entry/agent_conf.rs"]
mod agent_conf;
#[path = "../../../fuzz/entry/frame_request.rs"]
mod frame_request;
#[path = "../../../fuzz/entry/frame_response.rs"]
mod frame_response;
#[cfg(feature = "json")]
#[path = "../../../fuzz/entry/json.rs"]
mod json;
#[cfg(feature = "json")]
#[path = "../../../fuzz/entry/pairing.rs"]
mod pairing;
#[path = "../../../fuzz/entry/scripts_conf.rs"]
mod scripts_conf;
#[path = "../../../fuzz/entry/serial.rs"]
mod serial;
#[cfg(feature = "json")]
#[path = "../../../fuzz/entry/wire.rs"]
mod wire;

#[test]
fn agent_conf_seeds() {
    each("agent_conf", agent_conf::run);
}

#[test]
fn scripts_conf_seeds() {
    each("scripts_conf", scripts_conf::run);
}

#[test]
fn frame_request_seeds() {
    each("frame_request", frame_request::run);
}

#[test]
fn frame_response_seeds() {
    each("frame_response", frame_response::run);
}

#[cfg(feature = "json")]
#[test]
fn json_seeds() {
    each("json", json::run);
}

#[test]
fn serial_seeds() {
    each("serial", serial::run);
}

#[cfg(feature = "json")]
#[test]
fn pairing_seeds() {
    each("pairing", pairing::run);
}

#[cfg(feature = "json")]
#[test]
fn wire_seeds() {
    each("wire", wire::run);
}

/// Runs every seed, every beginning of it and every single-bit change near its start.
fn each(target: &str, run: fn(&[u8])) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../fuzz/corpus")
        .join(target);
    let mut count = 0;
    for entry in std::fs::read_dir(dir).unwrap() {
        let seed = std::fs::read(entry.unwrap().path()).unwrap();
        (0..=seed.len()).for_each(|end| run(&seed[..end]));
        for bit in 0..seed.len().min(64) * 8 {
            let mut changed = seed.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            run(&changed);
        }
        count += 1;
    }
    assert!(count > 0);
}
