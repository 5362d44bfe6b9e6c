//! Members as peers send them: Perl makes no difference between a number and its text, so neither
//! does what reads them.

use miniserde::de::{Deserialize, Seq, Visitor};
use miniserde::{Error, Result, make_place};

make_place!(Place);

/// A member that should be a scalar, and may be anything. Absent counts as `null`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Scalar {
    /// `null`, or absent.
    #[default]
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number, in Perl's print form.
    Number(String),
    /// A string.
    Text(String),
    /// An array or an object.
    Compound,
}

impl Scalar {
    /// As text, the way the reference turns one into a string: `true` is `1`, `false` is `0`,
    /// `null` is empty (agent.md §2.1). `None` for arrays and objects.
    pub fn into_text(self) -> Option<String> {
        match self {
            Self::Null => Some(String::new()),
            Self::Bool(flag) => Some(if flag { "1" } else { "0" }.to_owned()),
            Self::Number(text) | Self::Text(text) => Some(text),
            Self::Compound => None,
        }
    }

    /// As text; empty for arrays and objects.
    pub fn text(self) -> String {
        self.into_text().unwrap_or_default()
    }

    /// The string, if it is one.
    pub fn into_string(self) -> Option<String> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// As an integer; a string of digits counts, since peers' JSON libraries let numbers become
    /// strings (dispatcher.md §17.9).
    pub fn integer(&self) -> Option<i64> {
        match self {
            Self::Number(text) | Self::Text(text) => text.trim().parse().ok(),
            _ => None,
        }
    }

    /// As a count.
    pub fn count(&self) -> Option<u64> {
        self.integer().and_then(|number| u64::try_from(number).ok())
    }

    /// As a TCP port, 1 to 65535.
    pub fn port(&self) -> Option<u16> {
        u16::try_from(self.integer()?)
            .ok()
            .filter(|port| *port != 0)
    }

    /// Whether the reference's language takes it for true: not absent, `null`, `false`, `0`, `"0"`
    /// or `""`.
    pub fn is_true(&self) -> bool {
        match self {
            Self::Null => false,
            Self::Bool(flag) => *flag,
            Self::Number(text) | Self::Text(text) => !text.is_empty() && text != "0",
            Self::Compound => true,
        }
    }

    /// Whether it is absent or `null`.
    pub fn is_null(&self) -> bool {
        *self == Self::Null
    }
}

impl Deserialize for Scalar {
    fn begin(out: &mut Option<Self>) -> &mut dyn Visitor {
        Place::new(out)
    }

    fn default() -> Option<Self> {
        Some(Self::Null)
    }
}

impl Visitor for Place<Scalar> {
    fn null(&mut self) -> Result<()> {
        self.set(Scalar::Null)
    }

    fn boolean(&mut self, flag: bool) -> Result<()> {
        self.set(Scalar::Bool(flag))
    }

    fn string(&mut self, text: &str) -> Result<()> {
        self.set(Scalar::Text(text.to_owned()))
    }

    fn negative(&mut self, number: i64) -> Result<()> {
        self.set(Scalar::Number(number.to_string()))
    }

    fn nonnegative(&mut self, number: u64) -> Result<()> {
        self.set(Scalar::Number(number.to_string()))
    }

    fn float(&mut self, _: f64) -> Result<()> {
        // Every text is prepared, and such numbers became strings.
        Err(Error)
    }

    fn seq(&mut self) -> Result<Box<dyn Seq + '_>> {
        self.set(Scalar::Compound)?;
        <dyn Visitor>::ignore().seq()
    }

    fn map(&mut self) -> Result<Box<dyn miniserde::de::Map + '_>> {
        self.set(Scalar::Compound)?;
        <dyn Visitor>::ignore().map()
    }
}

impl Place<Scalar> {
    #[expect(clippy::unnecessary_wraps, reason = "what a visitor returns")]
    fn set(&mut self, value: Scalar) -> Result<()> {
        self.out = Some(value);
        Ok(())
    }
}

/// A member that should be an array of scalars, and may be anything.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Scalars {
    /// `null`, or absent.
    #[default]
    Absent,
    /// An array of something.
    List(Vec<Scalar>),
    /// Anything else.
    NotAnArray,
}

impl Deserialize for Scalars {
    fn begin(out: &mut Option<Self>) -> &mut dyn Visitor {
        Place::new(out)
    }

    fn default() -> Option<Self> {
        Some(Self::Absent)
    }
}

impl Visitor for Place<Scalars> {
    fn null(&mut self) -> Result<()> {
        self.set(Scalars::Absent)
    }

    fn boolean(&mut self, _: bool) -> Result<()> {
        self.set(Scalars::NotAnArray)
    }

    fn string(&mut self, _: &str) -> Result<()> {
        self.set(Scalars::NotAnArray)
    }

    fn negative(&mut self, _: i64) -> Result<()> {
        self.set(Scalars::NotAnArray)
    }

    fn nonnegative(&mut self, _: u64) -> Result<()> {
        self.set(Scalars::NotAnArray)
    }

    fn float(&mut self, _: f64) -> Result<()> {
        self.set(Scalars::NotAnArray)
    }

    fn seq(&mut self) -> Result<Box<dyn Seq + '_>> {
        Ok(Box::new(Items {
            out: &mut self.out,
            items: Vec::new(),
            next: None,
        }))
    }

    fn map(&mut self) -> Result<Box<dyn miniserde::de::Map + '_>> {
        self.set(Scalars::NotAnArray)?;
        <dyn Visitor>::ignore().map()
    }
}

impl Place<Scalars> {
    #[expect(clippy::unnecessary_wraps, reason = "what a visitor returns")]
    fn set(&mut self, value: Scalars) -> Result<()> {
        self.out = Some(value);
        Ok(())
    }
}

struct Items<'a> {
    out: &'a mut Option<Scalars>,
    items: Vec<Scalar>,
    next: Option<Scalar>,
}

impl Seq for Items<'_> {
    fn element(&mut self) -> Result<&mut dyn Visitor> {
        self.items.extend(self.next.take());
        Ok(Deserialize::begin(&mut self.next))
    }

    fn finish(&mut self) -> Result<()> {
        self.items.extend(self.next.take());
        *self.out = Some(Scalars::List(std::mem::take(&mut self.items)));
        Ok(())
    }
}

/// Anything at all: only whether the text is JSON is of interest.
pub(super) struct Anything;

impl Deserialize for Anything {
    fn begin(out: &mut Option<Self>) -> &mut dyn Visitor {
        *out = Some(Self);
        <dyn Visitor>::ignore()
    }
}
