#![no_main]

#[path = "../entry/scripts_conf.rs"]
mod entry;

libfuzzer_sys::fuzz_target!(|data: &[u8]| entry::run(data));
