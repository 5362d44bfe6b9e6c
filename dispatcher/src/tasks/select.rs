//! Which hosts a caller means.

use crate::fleet::select::{Selection, TagFilter};
use crate::model::host_word::split;
use crate::model::{AppError, Kind};
use crate::store::files::registry::Registry;
use crate::store::runs::Runs;

/// Which hosts a caller means, in the caller's terms.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    /// Host words, lists, ranges and patterns.
    pub words: Vec<String>,
    /// The same of those that are not meant.
    pub exclude: Vec<String>,
    /// Every registered agent.
    pub all: bool,
    /// Only agents with these tags.
    pub tags: Option<TagFilter>,
    /// Only the hosts where this run failed.
    pub failed_of: Option<String>,
    /// With `failed_of`: also the hosts where that run may still go on.
    pub with_unknown: bool,
}

impl Choice {
    /// The host words meant.
    pub(super) fn words(
        &self,
        agents: &Registry,
        runs: &dyn Runs,
    ) -> Result<Vec<String>, AppError> {
        let among = match &self.failed_of {
            None if self.with_unknown => {
                return Err(AppError::usage("--with-unknown needs --failed-of"));
            }
            None => None,
            Some(reqid) => {
                let shown = reqid.escape_debug();
                let record = runs.load(reqid)?.ok_or_else(|| {
                    AppError::new(Kind::NotFound, format!("no record of run '{shown}'"))
                })?;
                let mut failed = record.failed_hosts();
                let unknown = record.unended_words();
                if self.with_unknown {
                    failed.extend(unknown.iter().map(|word| split(word).0.to_owned()));
                    failed.sort();
                    failed.dedup();
                }
                if failed.is_empty() {
                    let mut message = format!("run '{shown}' has no failed host");
                    if !unknown.is_empty() {
                        message.push_str(&format!(
                            "; on {} it may still go on (--with-unknown)",
                            unknown.len()
                        ));
                    }
                    return Err(AppError::new(Kind::NotFound, message));
                }
                Some(failed)
            }
        };
        let selection = Selection {
            words: self.words.clone(),
            exclude: self.exclude.clone(),
            all: self.all,
            tags: self.tags.clone(),
            among,
        };
        if selection.is_empty() {
            return Err(AppError::usage(
                "no host given (name one, or use --all or --tags)",
            ));
        }
        Ok(selection.words(agents)?)
    }
}
