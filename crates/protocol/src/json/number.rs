//! How Perl prints a number, made of its decimal text: this needs no floating-point code.

/// Most digits that Perl prints.
const DIGITS: usize = 15;

/// `number`, a number of JSON, as Perl prints it: integers as they are, anything with a fraction or
/// an exponent with up to 15 significant digits.
pub(super) fn print_form(number: &str) -> String {
    let (sign, magnitude) = match number.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", number),
    };
    if magnitude == "0" {
        return "0".into();
    }
    if magnitude.bytes().all(|b| b.is_ascii_digit()) {
        return number.into();
    }
    let (mantissa, exponent) = match magnitude.bytes().position(|b| matches!(b, b'e' | b'E')) {
        Some(at) => {
            let exponent = magnitude[at + 1..].parse::<i32>();
            (&magnitude[..at], exponent.unwrap_or(9999))
        }
        None => (magnitude, 0),
    };
    let mut digits = mantissa.as_bytes().to_vec();
    let whole = digits.iter().position(|b| *b == b'.');
    if let Some(dot) = whole {
        digits.remove(dot);
    }
    let whole = whole.unwrap_or(digits.len());
    // The value is 0.DIGITS times ten to the power of `point`.
    let mut point = exponent.saturating_add(length(whole));
    let zeros = digits.iter().take_while(|d| **d == b'0').count();
    digits.drain(..zeros);
    point = point.saturating_sub(length(zeros));
    if digits.len() > DIGITS {
        let up = digits[DIGITS] >= b'5';
        digits.truncate(DIGITS);
        if up {
            point = point.saturating_add(length(round_up(&mut digits)));
        }
    }
    while digits.last() == Some(&b'0') {
        digits.pop();
    }
    if digits.is_empty() {
        return "0".into();
    }
    let mut out = sign.as_bytes().to_vec();
    let scientific = point.saturating_sub(1);
    if !(-4..15).contains(&scientific) {
        let size = scientific.unsigned_abs();
        if digits.len() > 1 {
            digits.insert(1, b'.');
        }
        out.append(&mut digits);
        out.push(b'e');
        out.push(if scientific < 0 { b'-' } else { b'+' });
        if size < 10 {
            out.push(b'0');
        }
        out.extend_from_slice(size.to_string().as_bytes());
    } else if point <= 0 {
        out.extend_from_slice(b"0.");
        out.resize(out.len() + point.unsigned_abs() as usize, b'0');
        out.append(&mut digits);
    } else {
        let point = point.unsigned_abs() as usize;
        if digits.len() > point {
            digits.insert(point, b'.');
        } else {
            digits.resize(point, b'0');
        }
        out.append(&mut digits);
    }
    // All of it is ASCII.
    String::from_utf8(out).unwrap_or_default()
}

fn length(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

/// Adds one to the last digit. Returns by how many digits the number became longer.
fn round_up(digits: &mut [u8]) -> usize {
    for digit in digits.iter_mut().rev() {
        if *digit < b'9' {
            *digit += 1;
            return 0;
        }
        *digit = b'0';
    }
    // All were nines, and are zeros now.
    match digits.first_mut() {
        Some(first) => *first = b'1',
        None => return 0,
    }
    1
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_print_as_perl_prints_them() {
        for (given, printed) in [
            ("1.0", "1"),
            ("2.50", "2.5"),
            ("1e3", "1000"),
            ("-0", "0"),
            ("-1.5", "-1.5"),
            ("0.0001", "0.0001"),
            ("0.00001", "1e-05"),
            ("1E+20", "1e+20"),
            ("1e14", "100000000000000"),
            ("1e15", "1e+15"),
            ("1.5e300", "1.5e+300"),
            ("-12.5e-7", "-1.25e-06"),
            ("3.141592653589793238", "3.14159265358979"),
            ("9.9999999999999999", "10"),
            ("0.00099999999999999999", "0.001"),
            ("123456789012345.5", "123456789012346"),
            ("0.0", "0"),
            ("-0.0", "0"),
            ("0e99999999999", "0"),
            ("18446744073709551616", "18446744073709551616"),
            ("-9223372036854775809", "-9223372036854775809"),
        ] {
            assert_eq!(print_form(given), printed, "{given}");
        }
    }

    proptest! {
        #[test]
        fn numbers_keep_their_value(mantissa in -1_000_000_000i64..1_000_000_000, scale in 0u32..6) {
            let spelled = format!("{mantissa}e-{scale}");
            let printed: f64 = print_form(&spelled).parse().unwrap();
            let expected: f64 = spelled.parse().unwrap();
            prop_assert!((printed - expected).abs() <= expected.abs() * 1e-14);
        }

        #[test]
        fn any_number_is_printed(
            text in "-?(0|[1-9][0-9]{0,20})(\\.[0-9]{1,20})?([eE][-+]?[0-9]{1,12})?"
        ) {
            let printed = print_form(&text);
            prop_assert!(printed.parse::<f64>().is_ok(), "{}", printed);
        }
    }
}
