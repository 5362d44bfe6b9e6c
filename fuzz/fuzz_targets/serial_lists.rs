#![no_main]

#[path = "../entry/serial_lists.rs"]
mod entry;

libfuzzer_sys::fuzz_target!(|data: &[u8]| entry::run(data));
