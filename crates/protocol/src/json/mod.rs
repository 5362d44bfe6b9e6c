//! JSON that may come from a peer, on `miniserde`, with what it lacks.
//!
//! Messages are derived types ([`read_object`], [`Fields`]). Before anything is made of a text, one
//! pass counts its values and their depth against [`Bounds`], and puts numbers that no machine
//! number holds as they are into the form in which the reference prints them. [`Raw`] is a value as
//! it came, for what is passed on unchanged. [`Scalar`] reads members for which peers take numbers,
//! texts and truths as they come.
//!
//! [`Members`] is an object that is kept, for what records and answers hold beyond what is known.

mod bounds;
mod derived;
mod members;
mod number;
mod raw;
mod scalar;

pub use derived::{Fields, array_of, read_object, read_object_or_null};
pub use members::{Json, Members};
pub use raw::Raw;
pub use scalar::{Scalar, Scalars};

use std::fmt;

/// What a text may contain at the most.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Bounds {
    /// Values and member names.
    pub max_nodes: usize,
    /// Nested arrays and objects.
    pub max_depth: usize,
}

impl Bounds {
    /// For requests: a thousand arguments and then some.
    pub const REQUEST: Self = Self {
        max_nodes: 4096,
        max_depth: 32,
    };
    /// For answers of agents and for files of our own, such as capability lists.
    pub const ANSWER: Self = Self {
        max_nodes: 262_144,
        max_depth: 64,
    };
    /// For records, and for answers where a dispatcher keeps them. Deeper than what an agent takes
    /// for a schema, which it hands on within an answer.
    pub const RECORD: Self = Self {
        max_nodes: 1_000_000,
        max_depth: 128,
    };
}

/// Why a text is not taken.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum JsonError {
    /// The text is JSON, but not an object.
    NotAnObject,
    /// The text is not JSON, or not UTF-8.
    Syntax(Fault),
    /// The text holds more than the bounds allow.
    TooComplex(Fault),
}

/// A place in a text, and what is wrong there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Fault {
    /// What was expected or wrong.
    pub what: &'static str,
    /// Offset in bytes.
    pub at: usize,
}

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAnObject => f.write_str("not a JSON object"),
            Self::Syntax(fault) | Self::TooComplex(fault) => {
                write!(f, "{} at byte {}", fault.what, fault.at)
            }
        }
    }
}

impl std::error::Error for JsonError {}

/// Bytes as text: UTF-8 as it is, what is not UTF-8 replaced by U+FFFD.
pub fn lossy(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}
