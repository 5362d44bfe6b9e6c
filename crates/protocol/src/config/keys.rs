//! Readers for single values. Each returns the fault as a sentence without file and line.

use super::shown;

/// A non-negative decimal number of at most `max`.
pub(super) fn number(key: &str, value: &str, max: u64) -> Result<u64, String> {
    let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    match value.parse::<u64>() {
        Ok(number) if digits && number <= max => Ok(number),
        _ if digits => Err(format!(
            "'{key}' is out of range (0 to {max}): {}",
            shown(value)
        )),
        _ => Err(format!("'{key}' must be a number, not '{}'", shown(value))),
    }
}

/// Like [`number`], for 32 bits.
pub(super) fn number_u32(key: &str, value: &str, max: u32) -> Result<u32, String> {
    let number = number(key, value, u64::from(max))?;
    u32::try_from(number).map_err(|_| format!("'{key}' is out of range"))
}

/// A size in bytes, or with `K`, `M` or `G` for powers of 1024.
pub(super) fn bytes(key: &str, value: &str, max: u64) -> Result<u64, String> {
    let (digits, shift) = match value.as_bytes().last() {
        Some(b'k' | b'K') => (&value[..value.len() - 1], 10),
        Some(b'm' | b'M') => (&value[..value.len() - 1], 20),
        Some(b'g' | b'G') => (&value[..value.len() - 1], 30),
        _ => (value, 0),
    };
    let fault = || {
        format!(
            "'{key}' must be a size of at most {max} bytes, not '{}'",
            shown(value)
        )
    };
    let number = number(key, digits, u64::MAX >> 1).map_err(|_| fault())?;
    match number.checked_mul(1u64 << shift) {
        Some(size) if size <= max => Ok(size),
        _ => Err(fault()),
    }
}

/// Our own switches take nothing but these words; a typing error must not choose a side.
pub(super) fn switch(key: &str, value: &str) -> Result<bool, String> {
    if is_yes(value) {
        Ok(true)
    } else if is_no(value) {
        Ok(false)
    } else {
        Err(format!("'{key}' must be yes or no, not '{}'", shown(value)))
    }
}

/// One of two words.
pub(super) fn one_of<T: Copy>(key: &str, value: &str, words: [(&str, T); 2]) -> Result<T, String> {
    match words.iter().find(|(word, _)| *word == value) {
        Some((_, meaning)) => Ok(*meaning),
        None => Err(format!(
            "'{key}' must be {} or {}, not '{}'",
            words[0].0,
            words[1].0,
            shown(value)
        )),
    }
}

/// The words that switch `no_new_privileges` on (agent.md §7.4).
pub(super) fn is_yes(value: &str) -> bool {
    ["1", "y", "yes", "true", "on"]
        .iter()
        .any(|word| value.eq_ignore_ascii_case(word))
}

pub(super) fn is_no(value: &str) -> bool {
    ["0", "n", "no", "false", "off"]
        .iter()
        .any(|word| value.eq_ignore_ascii_case(word))
}

/// A colon list without its empty items. A list that names nothing is a fault: for `script_dirs`
/// and `writable` "nothing listed" would mean "no restriction".
pub(super) fn colon_list(key: &str, value: &str, max: usize) -> Result<Vec<String>, String> {
    let items: Vec<String> = value
        .split(':')
        .filter(|item| !item.is_empty())
        .map(str::to_owned)
        .collect();
    match items.len() {
        0 => Err(format!("'{key}' lists no path")),
        count if count > max => Err(format!("'{key}' lists more than {max} paths")),
        _ => Ok(items),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_sizes() {
        assert_eq!(number("k", "007", 10), Ok(7));
        for bad in ["", "+1", "-1", "1x", "11", "99999999999999999999"] {
            assert!(number("k", bad, 10).is_err(), "{bad}");
        }
        assert_eq!(bytes("k", "256K", 1 << 30), Ok(256 << 10));
        assert_eq!(bytes("k", "2m", 1 << 30), Ok(2 << 20));
        assert_eq!(bytes("k", "1g", 1 << 30), Ok(1 << 30));
        for bad in ["K", "", "1T", "2G", "9223372036854775807G", "1 K", "é"] {
            assert!(bytes("k", bad, 1 << 30).is_err(), "{bad}");
        }
        assert_eq!(switch("k", "On"), Ok(true));
        assert_eq!(switch("k", "off"), Ok(false));
        assert!(switch("k", "ture").is_err());
    }
}
