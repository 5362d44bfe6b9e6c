//! The little DER that the certificate checks read themselves: whole values with minimal lengths
//! and nothing behind them.

/// Tag of a SEQUENCE.
pub(crate) const SEQUENCE: u8 = 0x30;
/// Tag of a BIT STRING.
pub(crate) const BIT_STRING: u8 = 0x03;

/// Tag of a BOOLEAN.
pub(crate) const BOOLEAN: u8 = 0x01;
/// Tag of an INTEGER.
pub(crate) const INTEGER: u8 = 0x02;
/// Tag of an OCTET STRING.
pub(crate) const OCTET_STRING: u8 = 0x04;
/// Tag of an OBJECT IDENTIFIER.
pub(crate) const OID: u8 = 0x06;
/// Tag of a UTF8String.
pub(crate) const UTF8_STRING: u8 = 0x0c;
/// Tag of a UTCTime.
pub(crate) const UTC_TIME: u8 = 0x17;
/// Tag of a GeneralizedTime.
pub(crate) const GENERALIZED_TIME: u8 = 0x18;
/// Tag of a SET.
pub(crate) const SET: u8 = 0x31;

/// One DER value: the whole encoding and its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tlv<'a> {
    pub(crate) tag: u8,
    pub(crate) whole: &'a [u8],
    pub(crate) content: &'a [u8],
}

/// Reads one value with a one-byte tag and a minimal length of at most four bytes; returns it and
/// what follows.
pub(crate) fn read(input: &[u8]) -> Option<(Tlv<'_>, &[u8])> {
    let (&tag, rest) = input.split_first()?;
    if tag & 0x1f == 0x1f {
        return None;
    }
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let count = usize::from(first & 0x7f);
        if count == 0 || count > 3 || rest.len() < count {
            return None;
        }
        let (bytes, rest) = rest.split_at(count);
        let length = bytes
            .iter()
            .fold(0usize, |sum, byte| (sum << 8) | usize::from(*byte));
        let minimal = length >= 0x80 && bytes.first() != Some(&0);
        if !minimal {
            return None;
        }
        (length, rest)
    };
    if rest.len() < length {
        return None;
    }
    let (content, after) = rest.split_at(length);
    let whole = input.get(..input.len() - after.len())?;
    Some((
        Tlv {
            tag,
            whole,
            content,
        },
        after,
    ))
}

/// Takes the next value off `rest`; it must have this tag.
pub(crate) fn next<'a>(rest: &mut &'a [u8], tag: u8) -> Option<Tlv<'a>> {
    let (value, behind) = read(rest)?;
    if value.tag != tag {
        return None;
    }
    *rest = behind;
    Some(value)
}

/// The one value of this tag that `input` consists of.
pub(crate) fn only(input: &[u8], tag: u8) -> Option<Tlv<'_>> {
    let (value, behind) = read(input)?;
    (value.tag == tag && behind.is_empty()).then_some(value)
}

/// A value with this tag and content; content of more than 65,535 bytes does not occur.
pub(crate) fn write(tag: u8, content: &[u8]) -> Vec<u8> {
    let [.., high, low] = content.len().to_be_bytes();
    let mut out = vec![tag];
    match (high, low) {
        (0, 0..=0x7f) => out.push(low),
        (0, _) => out.extend([0x81, low]),
        _ => out.extend([0x82, high, low]),
    }
    out.extend_from_slice(content);
    out
}

/// The usual text of an object identifier's content; a number too large for 32 bits reads as `?`.
pub(crate) fn dotted(content: &[u8]) -> String {
    let mut text = String::new();
    let mut number: Option<u32> = Some(0);
    for byte in content {
        number = number
            .and_then(|n| n.checked_mul(128))
            .map(|n| n | u32::from(byte & 0x7f));
        if byte & 0x80 != 0 {
            continue;
        }
        match number {
            Some(n) if text.is_empty() => {
                let first = (n / 40).min(2);
                text = format!("{first}.{}", n - 40 * first);
            }
            Some(n) => text.push_str(&format!(".{n}")),
            None => text.push_str(".?"),
        }
        number = Some(0);
    }
    text
}

/// The three parts of a signed object (certificate or request): what is signed, the algorithm
/// identifier and the signature bits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Signed<'a> {
    pub(crate) body: Tlv<'a>,
    pub(crate) algorithm: Tlv<'a>,
    pub(crate) signature: &'a [u8],
}

/// Splits a signed object; refuses anything left over at either level.
pub(crate) fn signed(input: &[u8]) -> Option<Signed<'_>> {
    let (outer, trailing) = read(input)?;
    if outer.tag != SEQUENCE || !trailing.is_empty() {
        return None;
    }
    let (body, rest) = read(outer.content)?;
    let (algorithm, rest) = read(rest)?;
    let (bits, rest) = read(rest)?;
    if body.tag != SEQUENCE
        || algorithm.tag != SEQUENCE
        || bits.tag != BIT_STRING
        || !rest.is_empty()
    {
        return None;
    }
    let (&unused, signature) = bits.content.split_first()?;
    (unused == 0).then_some(Signed {
        body,
        algorithm,
        signature,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lengths_are_minimal_and_bounded() {
        assert!(read(&[0x30, 0x00]).is_some());
        assert!(
            read(&[0x30, 0x81, 0x01, 0xff]).is_none(),
            "long form of a short length"
        );
        assert!(read(&[0x30, 0x82, 0x00, 0x80]).is_none(), "leading zero");
        assert!(read(&[0x30, 0x80, 0x00, 0x00]).is_none(), "indefinite");
        assert!(read(&[0x30, 0x05, 0x00]).is_none(), "short");
        assert!(read(&[0x1f, 0x01, 0x00]).is_none(), "long tag");
        assert!(read(&[0x30, 0x84, 0xff, 0xff, 0xff, 0xff]).is_none());
        // A long form that ends within its length.
        for cut in [
            &[0x30][..],
            &[0x30, 0x81],
            &[0x30, 0x82],
            &[0x30, 0x82, 0x01],
            &[0x30, 0x83, 0x01, 0x00],
        ] {
            assert!(read(cut).is_none(), "{cut:?}");
        }
        // Three bytes of length are read, four are not, though all of the value be there.
        let value = |head: &[u8], length: usize| [head, &vec![0; length]].concat();
        assert!(read(&value(&[0x30, 0x83, 0x01, 0x00, 0x00], 0x1_0000)).is_some());
        assert!(read(&value(&[0x30, 0x84, 0x01, 0x00, 0x00, 0x00], 0x100_0000)).is_none());
    }

    #[test]
    fn a_signed_object_has_exactly_three_parts() {
        let good = [0x30, 0x08, 0x30, 0x00, 0x30, 0x00, 0x03, 0x02, 0x00, 0x07];
        assert_eq!(signed(&good).unwrap().signature, [7]);
        let mut trailing = good.to_vec();
        trailing.push(0);
        assert!(signed(&trailing).is_none());
        let inner = [
            0x30, 0x0a, 0x30, 0x00, 0x30, 0x00, 0x03, 0x02, 0x00, 0x07, 0x05, 0x00,
        ];
        assert!(signed(&inner).is_none());
    }

    #[test]
    fn what_is_written_reads_back() {
        for length in [0, 1, 0x7f, 0x80, 0xff, 0x100, 0xffff] {
            let content = vec![7; length];
            let whole = write(SEQUENCE, &content);
            assert_eq!(only(&whole, SEQUENCE).unwrap().content, content);
        }
    }

    #[test]
    fn object_identifiers_as_text() {
        assert_eq!(
            dotted(&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01]),
            "1.2.840.113549.1.1.1"
        );
        assert_eq!(dotted(&[0x55, 0x1d, 0x13]), "2.5.29.19");
        assert_eq!(dotted(&[0x88, 0x37, 0x03]), "2.999.3");
        assert_eq!(
            dotted(&[0x2a, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 0x05]),
            "1.2.?.5"
        );
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = signed(&bytes);
            if let Some((tlv, rest)) = read(&bytes) {
                prop_assert_eq!(tlv.whole.len() + rest.len(), bytes.len());
            }
        }
    }
}
