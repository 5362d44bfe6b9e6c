//! Certificate serial numbers as trust keys (agent.md §3.4, pki-and-pairing.md §5).
//!
//! The reference compares serials after passing their *text* through one function, here
//! [`canonical`]. That function reads a hex serial without letters as decimal, so it is neither
//! injective nor idempotent. Wire and disk compatibility need it exactly; new certificates avoid
//! its trouble by carrying serials for which [`is_stable`] holds.
//!
//! Where it is decided who is trusted, that is not good enough: `0x0f` and `0x15` ("15" read as
//! decimal) have one canonical form, so one certificate would pass for the other. There the
//! *number* counts: [`exact`] of a live serial, [`of_wire`] of what a dispatcher sent, [`written`]
//! for what stands in a file.

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
    hex(magnitude.iter())
}

/// Bytes as pairs of lower-case hex digits.
pub fn hex<'a>(bytes: impl ExactSizeIterator<Item = &'a u8>) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        for digit in [byte >> 4, byte & 15] {
            let first = if digit < 10 { b'0' } else { b'a' - 10 };
            text.push(char::from(first + digit));
        }
    }
    text
}

/// The number that a live serial (lower-case hex) stands for: without leading zeros.
pub fn exact(live: &str) -> &str {
    strip_zeros(live)
}

/// The number meant by a serial that a dispatcher sends: [`canonical`] of its live serial, which
/// the sender has applied, or hex with colons. `None` when it is no serial.
///
/// A canonical form of digits only comes from one live serial, whose digits it is when read as a
/// number. One with letters comes from the live serial that reads the same, or from one of digits
/// only; the former is meant, as for every certificate that our CA makes.
pub fn of_wire(text: &str) -> Option<String> {
    if text.contains(':') {
        return hex_of(&text.replace(':', ""));
    }
    if text.len() > 1 && text.len() <= MAX_TEXT && text.bytes().all(|b| b.is_ascii_digit()) {
        let digits = hex_to_decimal(text.as_bytes());
        return hex_of(if digits.is_empty() { "0" } else { &digits });
    }
    hex_of(&canonical(text))
}

/// The form of a number ([`exact`]) in files: with colons where [`canonical`] would change it.
pub fn for_file(exact: &str) -> String {
    if canonical(exact) == exact {
        exact.to_owned()
    } else {
        format!("00:{exact}")
    }
}

/// The numbers that a serial written by a person or a tool may mean: as `openssl` prints it
/// (`16 (0x10)`, `00:10`, `serial=10`), with `0x`, or bare. Digits only may be decimal or
/// hexadecimal, and bare hex may stand for what has it as its [`canonical`] form, so those mean two.
/// Empty when it is no serial.
pub fn written(text: &str) -> Vec<String> {
    let text = text.trim();
    let text = strip_prefix_ignore_case(text, "serial number:").trim();
    let one = |hex: &str| hex_of(hex).into_iter().collect();
    if let Some((decimal, hex)) = text.strip_suffix(')').and_then(|t| t.split_once('(')) {
        let hex = strip_prefix_ignore_case(hex.trim(), "0x");
        let number = !decimal.is_empty() && decimal.trim().bytes().all(|b| b.is_ascii_digit());
        return if number { one(hex) } else { Vec::new() };
    }
    let bare = strip_prefix_ignore_case(text, "serial=");
    let bare = strip_prefix_ignore_case(bare, "0x");
    if bare.contains(':') {
        return one(&bare.replace(':', ""));
    }
    if bare.len() < text.len() {
        return one(bare);
    }
    let Some(hex) = hex_of(bare) else {
        return Vec::new();
    };
    let other = if bare.bytes().all(|b| b.is_ascii_digit()) {
        decimal_to_hex(bare)
    } else {
        hex_to_decimal(hex.as_bytes())
    };
    let mut all = vec![hex];
    if other.len() <= MAX_TEXT && all[0] != other {
        all.push(other);
    }
    all
}

/// [`exact`] of text that is hex digits and nothing else.
fn hex_of(text: &str) -> Option<String> {
    let hex = (1..=MAX_TEXT).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit());
    hex.then(|| strip_zeros(&text.to_ascii_lowercase()).to_owned())
}

/// Decimal digits of a number in hex digits.
fn hex_to_decimal(hex: &[u8]) -> String {
    // Little-endian decimal digits; the input is bounded, so the quadratic loop is too.
    let mut digits: Vec<u8> = Vec::new();
    for digit in hex {
        let mut carry = char::from(*digit).to_digit(16).unwrap_or(0);
        for place in &mut digits {
            let value = u32::from(*place) * 16 + carry;
            *place = (value % 10) as u8;
            carry = value / 10;
        }
        while carry > 0 {
            digits.push((carry % 10) as u8);
            carry /= 10;
        }
    }
    digits.iter().rev().map(|d| char::from(b'0' + d)).collect()
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
    let hex = hex(bytes.iter().rev());
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

    #[test]
    fn what_a_person_writes() {
        for (text, expected) in [
            ("16 (0x10)", &["10"][..]),
            ("Serial Number: 16 (0x10)", &["10"]),
            ("00:10", &["10"]),
            ("DE:AD:be:ef", &["deadbeef"]),
            ("0x10", &["10"]),
            ("0X0a", &["a"]),
            ("serial=10", &["10"]),
            ("serial=DEADBEEF", &["deadbeef"]),
            ("Serial=0x10", &["10"]),
            ("10", &["10", "a"]),
            ("16", &["16", "10"]),
            ("9", &["9"]),
            ("0", &["0"]),
            ("a", &["a", "10"]),
            ("0F", &["f", "15"]),
            ("", &[]),
            ("nope", &[]),
            ("10 11", &[]),
            ("x (0x10)", &[]),
            ("16 (10", &[]),
        ] {
            assert_eq!(written(text), expected, "{text:?}");
        }
        // Whatever the reference would find revoked by a bare entry is meant by it.
        for n in 0..0x1ff_u32 {
            let live = format!("{n:x}");
            for entry in 0..0x1ff_u32 {
                for entry in [format!("{entry}"), format!("{entry:x}")] {
                    if canonical(&entry) == canonical(&live) {
                        assert!(written(&entry).contains(&live), "{entry} {live}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_a_dispatcher_sends_means_one_number() {
        for n in 0..0xfff_u32 {
            let live = format!("{n:x}");
            let sent = canonical(&live);
            let meant = of_wire(&sent).unwrap();
            // A twin with letters wins; nothing else is ambiguous.
            let twin = sent.bytes().any(|b| b.is_ascii_alphabetic());
            assert_eq!(meant, if twin { sent } else { live }, "{n:x}");
        }
        assert_eq!(of_wire("00:15").as_deref(), Some("15"));
        assert_eq!(of_wire("00"), Some("0".into()));
        for bad in ["", "nan", "x", ":", "not-a-serial", "-1"] {
            assert_eq!(of_wire(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_may_be_asked_about(text in "([0-9a-fA-Fx:() ]|.){0,300}") {
            let _ = (of_wire(&text), exact(&text));
            for one in written(&text) {
                prop_assert_eq!(exact(&one), one.as_str());
            }
        }

        #[test]
        fn decimal_and_back(n in any::<u128>()) {
            prop_assert_eq!(hex_to_decimal(format!("{n:x}").as_bytes()), if n == 0 { String::new() } else { n.to_string() });
        }

        #[test]
        fn what_a_file_holds_is_read_back(n in any::<u64>()) {
            let number = format!("{n:x}");
            prop_assert_eq!(of_wire(&for_file(&number)), Some(number));
        }

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
