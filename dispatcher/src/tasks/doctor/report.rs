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
    /// The agents it is about, if it is about agents.
    pub agents: Vec<String>,
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
        self.add_of(check, grade, message, Vec::new());
    }

    /// Adds a finding about these agents.
    pub fn add_of(
        &mut self,
        check: &'static str,
        grade: Grade,
        message: impl Into<String>,
        agents: Vec<String>,
    ) {
        self.0.push(Finding {
            check,
            grade,
            message: message.into(),
            agents,
        });
    }
}
