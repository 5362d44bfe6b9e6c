//! RSA keys of 2048 bits, for a dispatcher that signs nothing else (pki-and-pairing.md §3.1).
//!
//! ring makes no RSA keys. The test of primes is that of `crypto-primes`, on the numbers of
//! `crypto-bigint`: together a quarter of what the `rsa` crate takes of a router's flash. The rest
//! of a key is small arithmetic, done here.
//! [`crate::x509::keys`] lets ring read the finished key, and thereby check that its numbers belong
//! together, before anybody sees it.

use crypto_bigint::modular::{MontyForm, MontyParams};
use crypto_bigint::{Odd, U1024};
use crypto_primes::hazmat::MillerRabin;
use ring::rand::{SecureRandom, SystemRandom};

use crate::x509::der;

/// The public exponent, F4. It is a prime, which the small arithmetic below relies on.
const EXPONENT: u32 = 65_537;
/// Miller-Rabin rounds with random bases, after one with base 2: the error for primes of 1024 bits
/// stays below 2^-112 (FIPS 186-5, table B.1).
const ROUNDS: usize = 5;

/// The odd primes below 1024: five candidates in six are a multiple of one.
const PRIMES: [u16; 171] = small_primes();

/// Makes a key; DER of PKCS#8. `progress` is called for every number that is tried. `None` if the
/// system has no random numbers to give.
pub(crate) fn generate(progress: &mut dyn FnMut()) -> Option<Vec<u8>> {
    loop {
        let p = prime(progress)?;
        let q = prime(progress)?;
        // FIPS 186-5 A.1.3: the primes differ in their first 100 bits.
        let (first, second) = (p.to_be_bytes(), q.to_be_bytes());
        if first.get(..12) == second.get(..12) {
            continue;
        }
        return Some(pkcs8(&p, &q));
    }
}

/// A prime of 1024 bits with the two highest set, so that the product of two has 2048; one less
/// than it shares no factor with the exponent. Every candidate is drawn anew: counting on from one
/// would favour primes behind long gaps.
fn prime(progress: &mut dyn FnMut()) -> Option<U1024> {
    loop {
        progress();
        let mut bytes = random()?;
        let [first, .., last] = &mut bytes;
        *first |= 0xc0;
        *last |= 1;
        let hopeless = PRIMES
            .iter()
            .any(|small| remainder(&bytes, u32::from(*small)) == 0);
        if hopeless || remainder(&bytes, EXPONENT) == 1 {
            continue;
        }
        let candidate = U1024::from_be_slice(&bytes);
        if is_prime(&candidate)? {
            return Some(candidate);
        }
    }
}

/// Whether an odd number passes all rounds; `None` without random numbers for them.
fn is_prime(candidate: &U1024) -> Option<bool> {
    let Some(odd) = Option::<Odd<U1024>>::from(Odd::new(*candidate)) else {
        return Some(false);
    };
    let test = MillerRabin::new(odd);
    if !test.test_base_two().is_probably_prime() {
        return Some(false);
    }
    for _ in 0..ROUNDS {
        // Below half of any candidate, which has its highest bit set.
        let mut base = random()?;
        let [first, ..] = &mut base;
        *first &= 0x7f;
        if !test.test(&U1024::from_be_slice(&base)).is_probably_prime() {
            return Some(false);
        }
    }
    Some(true)
}

/// As many random bytes as a prime has; without them there must be no key.
fn random() -> Option<[u8; U1024::BYTES]> {
    let mut bytes = [0; U1024::BYTES];
    SystemRandom::new().fill(&mut bytes).ok()?;
    Some(bytes)
}

/// PrivateKeyInfo (RFC 5958) of the RSAPrivateKey (RFC 8017 A.1.2) of two primes.
fn pkcs8(p: &U1024, q: &U1024) -> Vec<u8> {
    const RSA_ENCRYPTION: [u8; 15] = [
        0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00,
    ];
    let one = U1024::ONE;
    let (p_less, q_less) = (p.wrapping_sub(&one), q.wrapping_sub(&one));
    let key = [
        integer(&[0]),
        integer(&product(p, q)),
        integer(&EXPONENT.to_be_bytes()),
        integer(&inverse_of_exponent(&product(&p_less, &q_less))),
        integer(&p.to_be_bytes()),
        integer(&q.to_be_bytes()),
        integer(&inverse_of_exponent(&p_less.to_be_bytes())),
        integer(&inverse_of_exponent(&q_less.to_be_bytes())),
        integer(&inverse(q, p).to_be_bytes()),
    ];
    let key = der::write(der::SEQUENCE, &key.concat());
    let info = [
        integer(&[0]),
        RSA_ENCRYPTION.to_vec(),
        der::write(der::OCTET_STRING, &key),
    ];
    der::write(der::SEQUENCE, &info.concat())
}

fn product(a: &U1024, b: &U1024) -> Vec<u8> {
    let (low, high) = a.split_mul(b);
    low.concat(&high).to_be_bytes().to_vec()
}

/// The inverse of `a` modulo the prime `p`, by Fermat: `a^(p-2)`.
fn inverse(a: &U1024, p: &U1024) -> U1024 {
    let Some(modulus) = Option::<Odd<U1024>>::from(Odd::new(*p)) else {
        return U1024::ZERO; // cannot be: primes of 1024 bits are odd
    };
    let params = MontyParams::new_vartime(modulus);
    let power = p.wrapping_sub(&U1024::from(2u32));
    let reduced = a.wrapping_rem_vartime(p);
    MontyForm::new(&reduced, params).pow(&power).retrieve()
}

/// The inverse of the exponent modulo `number` (big endian), which is `(1 + k * number) / e` for
/// the one `k` below `e` that makes it whole.
fn inverse_of_exponent(number: &[u8]) -> Vec<u8> {
    // -1/number modulo e, by Fermat again.
    let negated = EXPONENT - remainder(number, EXPONENT);
    let k = power_mod(negated, EXPONENT - 2);
    let mut carry: u64 = 1;
    let mut multiple: Vec<u8> = Vec::with_capacity(number.len() + 3);
    for byte in number.iter().rev() {
        carry += u64::from(*byte) * u64::from(k);
        multiple.push(lowest(carry));
        carry >>= 8;
    }
    while carry > 0 {
        multiple.push(lowest(carry));
        carry >>= 8;
    }
    let mut rest: u64 = 0;
    let divide = |byte: &u8| {
        rest = rest << 8 | u64::from(*byte);
        let digit = lowest(rest / u64::from(EXPONENT));
        rest %= u64::from(EXPONENT);
        digit
    };
    multiple.iter().rev().map(divide).collect()
}

/// A big-endian number modulo one of at most 24 bits.
fn remainder(number: &[u8], modulus: u32) -> u32 {
    number
        .iter()
        .fold(0, |rest, byte| (rest << 8 | u32::from(*byte)) % modulus)
}

const fn small_primes() -> [u16; 171] {
    let mut found = [0; 171];
    let mut count = 0;
    let mut number = 3u16;
    while count < found.len() {
        let mut divisor = 3;
        while number % divisor != 0 {
            divisor += 2;
        }
        if divisor == number {
            found[count] = number;
            count += 1;
        }
        number += 2;
    }
    found
}

fn power_mod(base: u32, power: u32) -> u32 {
    let e = u64::from(EXPONENT);
    let mut result: u64 = 1;
    for bit in (0..u32::BITS).rev() {
        result = result * result % e;
        if power >> bit & 1 == 1 {
            result = result * u64::from(base) % e;
        }
    }
    // Below the exponent, hence within 32 bits.
    u32::try_from(result).unwrap_or(0)
}

fn lowest(number: u64) -> u8 {
    let [.., byte] = number.to_be_bytes();
    byte
}

/// DER of a number that is not negative.
fn integer(number: &[u8]) -> Vec<u8> {
    let mut content = number;
    while let [0, rest @ ..] = content {
        content = rest;
    }
    let mut bytes = Vec::with_capacity(content.len() + 1);
    if content.first().is_none_or(|first| first & 0x80 != 0) {
        bytes.push(0);
    }
    bytes.extend_from_slice(content);
    der::write(der::INTEGER, &bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// For numbers small enough to compute with.
    #[test]
    fn inverses_of_the_exponent() {
        for number in [6u64, 40, 1_000_002, 4_294_967_290, 65_536, 65_538] {
            let bytes = inverse_of_exponent(&number.to_be_bytes());
            let inverse = bytes.iter().fold(0u128, |n, b| n << 8 | u128::from(*b));
            let one = inverse * u128::from(EXPONENT) % u128::from(number);
            assert_eq!(one, 1, "{number}");
            assert!(inverse < u128::from(number), "{number}");
        }
    }

    #[test]
    fn inverses_modulo_a_prime() {
        // 2^61 - 1 is a prime.
        let p = U1024::from(2_305_843_009_213_693_951u64);
        for a in [2u64, 3, 65_537, 2_305_843_009_213_693_950] {
            let a = U1024::from(a);
            let found = inverse(&a, &p);
            let (low, _) = a.split_mul(&found);
            assert_eq!(low.wrapping_rem_vartime(&p), U1024::ONE);
        }
    }

    #[test]
    fn numbers_are_written_minimally() {
        assert_eq!(integer(&[0]), [2, 1, 0]);
        assert_eq!(integer(&[0, 0, 0x7f]), [2, 1, 0x7f]);
        assert_eq!(integer(&[0x80]), [2, 2, 0, 0x80]);
    }

    #[test]
    fn small_primes_are_all_there() {
        assert_eq!(PRIMES[..5], [3, 5, 7, 11, 13]);
        assert_eq!(PRIMES[170], 1021); // the last below 1024
    }

    #[test]
    fn composites_are_no_primes() {
        for (number, expected) in [
            (561u64, false),
            (3_215_031_751, false), // a strong pseudoprime to the bases 2, 3, 5 and 7
            (2_305_843_009_213_693_951, true),
        ] {
            assert_eq!(is_prime(&U1024::from(number)), Some(expected));
        }
    }
}
