//! The kernel's mount table.

use ctrl_exec_host::mountinfo;

/// Any bytes are a table; every mount in it has a place, and no more come out than lines went in.
pub fn run(data: &[u8]) {
    let lines = data.split(|byte| *byte == b'\n').count();
    let mounts: Vec<_> = mountinfo::parse(data).collect();
    assert!(mounts.len() <= lines);
    for mount in &mounts {
        assert!(mount.point.is_absolute());
        assert!(!mount.has("no such option, ever"));
    }
}
