//! What is the same on many agents is said once.

use super::report::{Grade, Report};

/// So many agents with the same finding are told of one by one; more together.
const FEW: usize = 3;
/// Names shown of a group.
const SHOWN: usize = 5;

/// Findings about agents, before they are told.
#[derive(Debug, Default)]
pub(super) struct Groups {
    groups: Vec<Group>,
}

#[derive(Debug)]
struct Group {
    check: &'static str,
    grade: Grade,
    /// What is the same, as it is said of all of them.
    of_all: String,
    /// Name, and what is said of one.
    members: Vec<(String, String)>,
}

impl Groups {
    /// A finding about the agent `name`: `one` is said of it, `of_all` where many have it.
    pub fn add(
        &mut self,
        check: &'static str,
        grade: Grade,
        name: &str,
        one: String,
        of_all: &str,
    ) {
        let same = |group: &&mut Group| {
            group.check == check && group.grade == grade && group.of_all == of_all
        };
        let member = (name.to_owned(), one);
        match self.groups.iter_mut().find(same) {
            Some(group) => group.members.push(member),
            None => self.groups.push(Group {
                check,
                grade,
                of_all: of_all.to_owned(),
                members: vec![member],
            }),
        }
    }

    /// Tells them.
    pub fn tell(self, report: &mut Report) {
        for group in self.groups {
            let names: Vec<String> = group.members.iter().map(|(name, _)| name.clone()).collect();
            if names.len() <= FEW {
                for (name, one) in group.members {
                    report.add_of(group.check, group.grade, one, vec![name]);
                }
                continue;
            }
            let message = format!(
                "{} agents {}: {} and {} more",
                names.len(),
                group.of_all,
                names[..SHOWN.min(names.len() - 1)].join(", "),
                names.len() - SHOWN.min(names.len() - 1)
            );
            report.add_of(group.check, group.grade, message, names);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_are_one_line_and_few_are_not() {
        let mut groups = Groups::default();
        for n in 0..10_000 {
            let name = format!("r{n:04}");
            groups.add(
                "agents",
                Grade::Warning,
                &name,
                format!("'{name}' waits"),
                "wait",
            );
        }
        groups.add(
            "agents",
            Grade::Fault,
            "x",
            "'x' is lost".to_owned(),
            "are lost",
        );
        let mut report = Report::default();
        groups.tell(&mut report);
        let findings = report.findings();
        assert_eq!(findings.len(), 2);
        assert_eq!(
            findings[0].message,
            "10000 agents wait: r0000, r0001, r0002, r0003, r0004 and 9995 more"
        );
        assert_eq!(findings[0].agents.len(), 10_000);
        assert_eq!(findings[1].message, "'x' is lost");
    }
}
