//! Certificate serial numbers as trust keys (agent.md §3.4, pki-and-pairing.md §5).
//!
//! The reference compares serials after passing their *text* through one function, here
//! [`canonical`]. That function reads a hex serial without letters as decimal, so it is neither
//! injective nor idempotent. Wire and disk compatibility need it exactly; new certificates avoid
//! its trouble by carrying serials for which [`is_stable`] holds.

/// Longest serial text that is considered; RFC 5280 serials have at most 40 hex digits.
pub const MAX_TEXT: usize = 256;

/// What [`canonical`] gives for text that is no number.
pub const NOT_A_NUMBER: &str = "nan";

/// The reference's canonical form of a serial (function *f* of pki-and-pairing.md §5.1).
///
/// Empty input gives the empty string, which matches nothing. Text that is no number, or is longer
/// than [`MAX_TEXT`], gives [`NOT_A_NUMBER`].
pub fn canonical(text: &str) -> String {
    if text.is_empty() {
        return String::new();
    }
    if text.len() > MAX_TEXT {
        return NOT_A_NUMBER.to_owned();
    }
    let text = strip_prefix_ignore_case(text, "0x");
    let text = strip_prefix_ignore_case(text, "serial=");
    if text.contains(':') {
        let hex: String = text.chars().filter(|c| *c != ':').collect();
        return strip_zeros(&hex.to_ascii_lowercase()).to_owned();
    }
    let text = text.to_ascii_lowercase();
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        return decimal_to_hex(&text);
    }
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return strip_zeros(&text).to_owned();
    }
    NOT_A_NUMBER.to_owned()
}

/// A live serial as the reference prints it: two lower-case hex digits per byte of the DER
/// INTEGER's magnitude (`02`, `0a`, `10`, …).
///
/// `der_integer` holds the content bytes of the INTEGER; a leading zero byte that only keeps the
/// number positive is dropped.
pub fn live_hex(der_integer: &[u8]) -> String {
    let magnitude = match der_integer {
        [0, rest @ ..] if !rest.is_empty() => rest,
        all => all,
    };
    magnitude.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether every reader of this live serial agrees on its trust key, however often it is passed
/// through [`canonical`]: it holds a letter, or has at most one digit.
pub fn is_stable(live: &str) -> bool {
    let once = canonical(live);
    once == strip_zeros(live) && canonical(&once) == once
}

fn strip_prefix_ignore_case<'a>(text: &'a str, prefix: &str) -> &'a str {
    match text.get(..prefix.len()) {
        Some(head) if head.eq_ignore_ascii_case(prefix) => &text[prefix.len()..],
        _ => text,
    }
}

/// Strips leading zeros as long as another hex digit follows.
fn strip_zeros(text: &str) -> &str {
    let mut rest = text;
    while let Some(after) = rest.strip_prefix('0') {
        match after.bytes().next() {
            Some(next) if next.is_ascii_hexdigit() => rest = after,
            _ => break,
        }
    }
    rest
}

/// Minimal lower-case hex of a decimal number of any size.
fn decimal_to_hex(digits: &str) -> String {
    // Little-endian base-256 limbs; the input is bounded, so the quadratic loop is too.
    let mut bytes: Vec<u8> = Vec::new();
    for digit in digits.bytes() {
        let mut carry = u16::from(digit - b'0');
        for byte in &mut bytes {
            let value = u16::from(*byte) * 10 + carry;
            *byte = value.to_le_bytes()[0];
            carry = value >> 8;
        }
        if carry > 0 {
            bytes.push(carry.to_le_bytes()[0]);
        }
    }
    let hex: String = bytes
        .iter()
        .rev()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    if hex.is_empty() {
        "0".to_owned()
    } else {
        strip_zeros(&hex).to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn table_of_the_spec() {
        for (input, expected) in [
            ("deadbeef", "deadbeef"),
            ("DEADBEEF", "deadbeef"),
            ("0xDEADBEEF", "deadbeef"),
            ("serial=DEADBEEF", "deadbeef"),
            ("Serial=DEADBEEF", "deadbeef"),
            ("DE:AD:BE:EF", "deadbeef"),
            ("3735928559", "deadbeef"),
            ("00aabbccdd", "aabbccdd"),
            ("0000aabbccdd", "aabbccdd"),
            ("00AABB", "aabb"),
            ("255", "ff"),
            ("256", "100"),
            ("0", "0"),
            ("00", "0"),
            ("000", "0"),
            ("00:0a", "a"),
            ("00:16", "16"),
            ("0a", "a"),
            ("02", "2"),
            ("12345678", "bc614e"),
            ("4294967295", "ffffffff"),
            (
                "1234567890123456789012345678901234567890",
                "3a0c92075c0dbf3b8acbc5f96ce3f0ad2",
            ),
            ("not-a-serial", "nan"),
            (
                "a3f9b2c10001deadbeef0102030405060708090a",
                "a3f9b2c10001deadbeef0102030405060708090a",
            ),
            ("", ""),
            ("10", "a"),
            ("00:10", "10"),
            ("16", "10"),
            ("0x10", "a"),
            ("serial=10", "a"),
            ("99", "63"),
            ("9A", "9a"),
        ] {
            assert_eq!(canonical(input), expected, "canonical({input:?})");
        }
    }

    #[test]
    fn live_serials_print_two_digits_per_byte() {
        assert_eq!(live_hex(&[2]), "02");
        assert_eq!(live_hex(&[0x0a]), "0a");
        assert_eq!(live_hex(&[0x00, 0x80]), "80");
        assert_eq!(live_hex(&[0x01, 0x00]), "0100");
        assert_eq!(live_hex(&[0]), "00");
    }

    #[test]
    fn the_unstable_serials_of_the_spec() {
        let unstable = (0u8..=0x99)
            .filter(|n| !is_stable(&live_hex(&[*n])))
            .count();
        assert!(unstable > 70, "{unstable}");
        for stable in ["02", "0a", "9f", "deadbeef"] {
            assert!(is_stable(stable), "{stable}");
        }
        for drifting in ["10", "16", "99"] {
            assert!(!is_stable(drifting), "{drifting}");
        }
    }

    proptest! {
        #[test]
        fn never_panics_and_stays_bounded(text in ".{0,300}") {
            prop_assert!(canonical(&text).len() <= MAX_TEXT);
        }

        #[test]
        fn identity_on_minimal_hex_with_a_letter(n in any::<u64>()) {
            let hex = format!("f{n:x}");
            prop_assert_eq!(canonical(&hex), hex);
        }

        #[test]
        fn decimals_agree_with_the_integer(n in any::<u64>()) {
            prop_assert_eq!(canonical(&n.to_string()), format!("{n:x}"));
        }
    }
}
