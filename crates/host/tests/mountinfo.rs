//! The mount table's fuzz target, fed with the kernel's own table and with damaged ones.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../../../fuzz/entry/mountinfo.rs"]
mod entry;

#[test]
fn damaged_tables() {
    let table = std::fs::read("/proc/self/mountinfo").unwrap();
    entry::run(&table);
    let start = &table[..table.len().min(300)];
    for at in 0..start.len() {
        entry::run(&start[..at]);
        for byte in [0, b' ', b'\n', b'\\', b'-', b'/', 0xff] {
            let mut damaged = start.to_vec();
            damaged[at] = byte;
            entry::run(&damaged);
        }
    }
}
