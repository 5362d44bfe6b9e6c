//! Lists of hosts as pdsh and ClusterShell write them, `ap[1-3,07],db`, read and made.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Most hosts that the words of one command may stand for before names are looked at.
pub const MAX_WORDS: usize = 100_000;

/// More digits than this are no number of a range.
const MAX_DIGITS: usize = 18;

/// Why a list of hosts cannot be read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ListError {
    word: String,
    fault: Fault,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Fault {
    Empty,
    Open,
    Class,
    Ambiguous,
    Reversed(String),
    Padding(String),
    TooMany,
}

/// One piece of a word: text and classes as they are, or the numbers of a range.
enum Part {
    Text(String),
    Numbers(Vec<Span>),
}

/// The numbers of `low-high/step`, with so many digits at least.
struct Span {
    low: u64,
    high: u64,
    step: u64,
    width: usize,
}

impl Span {
    fn count(&self) -> u64 {
        ((self.high - self.low) / self.step).saturating_add(1)
    }

    fn texts(&self) -> impl Iterator<Item = String> + '_ {
        (0..self.count())
            .map(|n| format!("{:0width$}", self.low + n * self.step, width = self.width))
    }
}

/// The words that `list` stands for: commas separate, ranges are numbered out. Classes (`[a-z]`),
/// `*` and `?` are left for whoever knows the names. At most `most` words.
pub fn expand(list: &str, most: usize) -> Result<Vec<String>, ListError> {
    let mut out = Vec::new();
    for word in pieces(list) {
        let fail = |fault| ListError {
            word: word.to_owned(),
            fault,
        };
        if word.is_empty() {
            return Err(ListError {
                word: list.to_owned(),
                fault: Fault::Empty,
            });
        }
        let parts = parts(word).map_err(fail)?;
        let count = parts.iter().fold(1_u64, |count, part| match part {
            Part::Text(_) => count,
            Part::Numbers(spans) => {
                let numbers = spans
                    .iter()
                    .fold(0_u64, |sum, span| sum.saturating_add(span.count()));
                count.saturating_mul(numbers)
            }
        });
        let room = most.saturating_sub(out.len());
        if usize::try_from(count).map_or(true, |count| count > room) {
            return Err(fail(Fault::TooMany));
        }
        out.extend(product(&parts));
    }
    Ok(out)
}

fn product(parts: &[Part]) -> Vec<String> {
    parts
        .iter()
        .fold(vec![String::new()], |heads, part| match part {
            Part::Text(text) => heads.into_iter().map(|head| head + text).collect(),
            Part::Numbers(spans) => heads
                .iter()
                .flat_map(|head| {
                    let numbers = spans.iter().flat_map(Span::texts);
                    numbers.map(move |number| format!("{head}{number}"))
                })
                .collect(),
        })
}

/// Separates at commas outside of brackets.
fn pieces(list: &str) -> Vec<&str> {
    let (mut out, mut from, mut inside) = (Vec::new(), 0, false);
    for (at, c) in list.char_indices() {
        match c {
            '[' => inside = true,
            ']' => inside = false,
            ',' if !inside => {
                out.push(&list[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    out.push(&list[from..]);
    out
}

fn parts(word: &str) -> Result<Vec<Part>, Fault> {
    let (mut out, mut left) = (Vec::new(), word);
    while let Some(open) = left.find('[') {
        if open > 0 {
            out.push(Part::Text(left[..open].to_owned()));
        }
        let inner = &left[open + 1..];
        // A `]` that comes first, perhaps behind `!`, belongs to the class.
        let first = inner.len() - inner.trim_start_matches(['!', '^']).len();
        let first = first.min(1);
        let skip = first + usize::from(inner[first..].starts_with(']'));
        let close = inner[skip..].find(']').ok_or(Fault::Open)? + skip;
        let content = &inner[..close];
        out.push(match spans(content)? {
            Some(spans) => Part::Numbers(spans),
            None => {
                check_class(content)?;
                Part::Text(format!("[{content}]"))
            }
        });
        left = &inner[close + 1..];
    }
    if !left.is_empty() {
        out.push(Part::Text(left.to_owned()));
    }
    Ok(out)
}

/// The numbers of `1-3,07`; `None` if that is no list of numbers.
fn spans(content: &str) -> Result<Option<Vec<Span>>, Fault> {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let mut out = Vec::new();
    let mut ranged = content.contains(',');
    for item in content.split(',') {
        let (range, step) = match item.split_once('/') {
            Some((range, step)) if digits(step) => (range, step),
            Some(_) => return Ok(None),
            None => (item, "1"),
        };
        let (low, high) = range.split_once('-').unwrap_or((range, range));
        if !digits(low) || !digits(high) {
            return Ok(None);
        }
        ranged |= range.contains('-');
        if low.len().max(high.len()).max(step.len()) > MAX_DIGITS {
            return Err(Fault::TooMany);
        }
        let number = |text: &str| text.parse::<u64>().map_err(|_| Fault::TooMany);
        let span = Span {
            low: number(low)?,
            high: number(high)?,
            step: number(step)?,
            width: if is_padded(low) { low.len() } else { 0 },
        };
        if span.low > span.high || span.step == 0 {
            return Err(Fault::Reversed(item.to_owned()));
        }
        if is_padded(high) && high.len() != low.len() {
            return Err(Fault::Padding(item.to_owned()));
        }
        out.push(span);
    }
    // `[12]` is 1 or 2 to a shell, and 12 to pdsh.
    if !ranged && content.len() > 1 {
        return Err(Fault::Ambiguous);
    }
    Ok(Some(out))
}

fn is_padded(number: &str) -> bool {
    number.len() > 1 && number.starts_with('0')
}

/// A class of characters must not be what somebody meant as a range.
fn check_class(content: &str) -> Result<(), Fault> {
    let bytes = content.as_bytes();
    let digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_digit);
    let long = bytes.iter().enumerate().any(|(at, byte)| {
        let before = at >= 2 && digit(at - 1) && digit(at - 2);
        *byte == b'-' && (before || digit(at + 1) && digit(at + 2))
    });
    if long || content.contains([',', '/', '[']) {
        return Err(Fault::Class);
    }
    Ok(())
}

/// `web[01-03,07],db` for names; [`expand`] gives the same names back.
pub fn fold<S: AsRef<str>>(names: &[S]) -> String {
    let names: BTreeSet<&str> = names.iter().map(AsRef::as_ref).collect();
    // Numbers written with zeros in front, by number of digits; a number as long belongs to them.
    let padded: BTreeSet<(&str, usize)> = names
        .iter()
        .map(|name| split_digits(name))
        .filter(|(_, number)| is_padded(number))
        .map(|(stem, number)| (stem, number.len()))
        .collect();
    let mut groups: BTreeMap<(&str, usize), Vec<(u64, &str)>> = BTreeMap::new();
    let mut parts: Vec<(&str, usize, String)> = Vec::new();
    for name in names {
        let (stem, digits) = split_digits(name);
        match digits.parse() {
            Ok(number) => {
                let width = padded.get(&(stem, digits.len())).map_or(0, |key| key.1);
                groups
                    .entry((stem, width))
                    .or_default()
                    .push((number, digits));
            }
            Err(_) => parts.push((name, 0, name.to_owned())),
        }
    }
    for ((stem, width), mut numbers) in groups {
        numbers.sort_unstable();
        parts.push((
            stem,
            width,
            match numbers[..] {
                [(_, only)] => format!("{stem}{only}"),
                _ => format!("{stem}[{}]", ranges(&numbers)),
            },
        ));
    }
    parts.sort();
    let parts: Vec<String> = parts.into_iter().map(|part| part.2).collect();
    parts.join(",")
}

fn ranges(numbers: &[(u64, &str)]) -> String {
    let mut out: Vec<String> = Vec::new();
    let mut left = numbers;
    while let [(first, low), ..] = left {
        let run = (0_u64..)
            .zip(left)
            .take_while(|(n, (number, _))| *number == first + n)
            .count();
        let (these, rest) = left.split_at(run);
        out.push(match these {
            [.., (last, high)] if last > first => format!("{low}-{high}"),
            _ => (*low).to_owned(),
        });
        left = rest;
    }
    out.join(",")
}

fn split_digits(name: &str) -> (&str, &str) {
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
    let stem = if name.len() - stem.len() > MAX_DIGITS {
        name
    } else {
        stem
    };
    name.split_at(stem.len())
}

impl fmt::Display for ListError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown: String = self.word.chars().take(200).collect();
        write!(f, "hosts '{}': ", shown.escape_debug())?;
        match &self.fault {
            Fault::Empty => f.write_str("a name is missing beside a comma"),
            Fault::Open => f.write_str("'[' without ']'"),
            Fault::Class => f.write_str(
                "the brackets hold neither numbers ([1-12], [01,03-05]) nor characters ([a-z])",
            ),
            Fault::Ambiguous => f.write_str(
                "one number in brackets may be meant as a number or as its digits: write it without \
                 brackets, or the digits with commas",
            ),
            Fault::Reversed(range) => write!(f, "'{range}' holds no number"),
            Fault::Padding(range) => {
                write!(f, "'{range}': both ends need the same number of digits, as the last has zeros in front")
            }
            Fault::TooMany => write!(f, "more than {MAX_WORDS} hosts"),
        }
    }
}

impl std::error::Error for ListError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_numbered_out() {
        for (list, words) in [
            ("ap[1-3]", "ap1 ap2 ap3"),
            ("ap[8-11]", "ap8 ap9 ap10 ap11"),
            ("ap[08-11]", "ap08 ap09 ap10 ap11"),
            ("ap[098-101]", "ap098 ap099 ap100 ap101"),
            ("ap[98-101]", "ap98 ap99 ap100 ap101"),
            ("ap[1,3-5]", "ap1 ap3 ap4 ap5"),
            ("ap[01,3]", "ap01 ap3"),
            ("ap[0-10/5]", "ap0 ap5 ap10"),
            (
                "a[1-2]-b[3-4].lan",
                "a1-b3.lan a1-b4.lan a2-b3.lan a2-b4.lan",
            ),
            ("a,b[1-2]:7600,c", "a b1:7600 b2:7600 c"),
            ("r[5]", "r5"),
            ("[1-2]", "1 2"),
            ("r[a-c]", "r[a-c]"),
            ("r[!0-3]x[1-2]", "r[!0-3]x1 r[!0-3]x2"),
            ("r[]x]", "r[]x]"),
            ("r[0-3a]", "r[0-3a]"),
            ("web*,db?", "web* db?"),
        ] {
            let words: Vec<&str> = words.split(' ').collect();
            assert_eq!(expand(list, 100).unwrap(), words, "{list}");
        }
    }

    #[test]
    fn what_may_be_meant_otherwise_is_refused() {
        for list in [
            "a,",
            ",a",
            "a,,b",
            "",
            "ap[1-12",
            "ap[1-3],b[",
            "ap[12]",
            "ap[5-1]",
            "ap[1-5/0]",
            "ap[1-012]",
            "ap[01-012]",
            "ap[1-12a]",
            "ap[a,b]",
            "ap[1-3,a]",
            "ap[!1-12]",
            "ap[1-]x[",
            "ap[0-999999999999999999]",
            "a[1-99]b[1-99]",
            "ap[1-99999999999999999999]",
            "ap[0-18446744073709551615]",
            "ap[[1-2]]x[",
            "ap[1-5/x]",
        ] {
            assert!(
                expand(list, 100).is_err(),
                "{list}: {:?}",
                expand(list, 100)
            );
        }
        assert_eq!(expand("a[1-100]", 100).unwrap().len(), 100);
        assert!(expand("b,a[1-100]", 100).is_err());
    }

    #[test]
    fn names_fold() {
        for (names, folded) in [
            ("a1 a2 a3 a7 b", "a[1-3,7],b"),
            ("ap1 ap10 ap11 ap12 ap2 ap9", "ap[1-2,9-12]"),
            ("w01 w02 w10", "w[01-02,10]"),
            ("w1 w01", "w1,w01"),
            ("w99 w100 w098", "w99,w[098,100]"),
            ("x", "x"),
            ("1 2", "[1-2]"),
            ("b b", "b"),
            (
                "n99999999999999999999 n99999999999999999998",
                "n99999999999999999998,n99999999999999999999",
            ),
        ] {
            let names: Vec<&str> = names.split(' ').collect();
            assert_eq!(fold(&names), folded);
        }
    }
}
