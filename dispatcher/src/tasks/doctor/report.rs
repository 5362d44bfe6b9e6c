//! What was found.

/// How grave a finding is.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Grade {
    /// As it should be.
    Ok,
    /// Works, but not for ever, or not for all.
    Warning,
    /// Does not work.
    Fault,
}

impl Grade {
    /// The word shown.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Fault => "fault",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug)]
pub struct Finding {
    /// What was looked at.
    pub check: &'static str,
    /// How it is.
    pub grade: Grade,
    /// In words, with the remedy.
    pub message: String,
}

/// Findings in the order they were made.
#[derive(Debug, Default)]
pub struct Report(Vec<Finding>);

impl Report {
    /// All findings.
    pub fn findings(&self) -> &[Finding] {
        &self.0
    }

    /// The gravest grade.
    pub fn worst(&self) -> Grade {
        self.0
            .iter()
            .map(|finding| finding.grade)
            .max()
            .unwrap_or(Grade::Ok)
    }

    /// Adds a finding.
    pub fn add(&mut self, check: &'static str, grade: Grade, message: impl Into<String>) {
        self.0.push(Finding {
            check,
            grade,
            message: message.into(),
        });
    }
}
