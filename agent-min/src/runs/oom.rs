//! Whether the kernel killed something for want of memory.

use std::fs::File;
use std::io::Read;

/// Where the kernel counts (since 4.13).
const VMSTAT: &str = "/proc/vmstat";

/// How often the kernel has killed a process for want of memory; `None` when it does not say.
pub fn kills() -> Option<u64> {
    // The file has some 4 to 6 KB, and the line stands in its second half.
    let mut buffer = [0; 16 * 1024];
    let mut file = File::open(VMSTAT).ok()?;
    let mut length = 0;
    while length < buffer.len() {
        match file.read(&mut buffer[length..]) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(_) => return None,
        }
    }
    count_in(&buffer[..length])
}

fn count_in(text: &[u8]) -> Option<u64> {
    let line = text
        .split(|byte| *byte == b'\n')
        .find_map(|line| line.strip_prefix(b"oom_kill "))?;
    std::str::from_utf8(line).ok()?.trim().parse().ok()
}

/// Whether a script that SIGKILL ended, and not by us, was ended for want of memory: the count has
/// grown since it was started.
pub fn was_cause(before: Option<u64>, signal: Option<u8>, by_us: bool) -> bool {
    const KILL: u8 = 9;
    let grown = || match (before, kills()) {
        (Some(before), Some(now)) => now > before,
        _ => false,
    };
    signal == Some(KILL) && !by_us && grown()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_found() {
        assert_eq!(count_in(b"nr_x 5\noom_kill 7\ncompact 1\n"), Some(7));
        assert_eq!(count_in(b"xoom_kill 7\noom_kills 1\n"), None);
        assert_eq!(count_in(b""), None);
    }

    #[test]
    fn only_a_kill_that_was_not_ours_counts() {
        assert!(!was_cause(Some(0), Some(15), false));
        assert!(!was_cause(Some(0), Some(9), true));
        assert!(!was_cause(Some(0), None, false));
        assert!(!was_cause(None, Some(9), false));
        assert!(!was_cause(Some(u64::MAX), Some(9), false));
    }
}
