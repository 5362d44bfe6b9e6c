//! `scripts.conf`: the allowlist of scripts (agent.md §7.5).

use super::lines::{BOM, HAS_BOM, is_space, is_word, key_value};
use super::{ConfigError, MAX_FILE_BYTES, MAX_NAME, MAX_VALUE, Subject, Warning};
use crate::sorted_map::SortedMap;

/// Most scripts in one file; a bound of our own.
pub const MAX_SCRIPTS: usize = 4096;
/// The profile of a line without `profile=`.
pub const DEFAULT_PROFILE: &str = "default";

/// The allowlist.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ScriptsConf {
    /// Scripts by name, in byte order.
    pub scripts: SortedMap<Script>,
}

/// One allowed script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    /// Absolute path as written.
    pub path: String,
    /// Name of its profile.
    pub profile: String,
}

impl ScriptsConf {
    /// Reads the whole file. `file` is its name for messages.
    ///
    /// A line that cannot be used is skipped with a warning, so its script is not permitted. Of
    /// several usable lines for one name the last counts, with a warning.
    ///
    /// # Errors
    /// Only when the file as a whole is over a limit.
    pub fn parse(text: &str, file: &str) -> Result<(Self, Vec<Warning>), ConfigError> {
        if text.len() > MAX_FILE_BYTES {
            return Err(ConfigError::whole(file, "file is larger than 1 MiB"));
        }
        let mut conf = Self::default();
        let mut warnings = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let mut warn = |message: &str| {
                if warnings.len() < 256 {
                    let message = message.to_owned();
                    warnings.push(Warning {
                        line: index + 1,
                        subject: Subject::Line,
                        message,
                    });
                }
            };
            match entry(line) {
                Ok(None) => {}
                Ok(Some((name, script))) => {
                    if conf.scripts.insert(name.to_owned(), script).is_some() {
                        warn(&format!(
                            "script '{name}' is given more than once; the last one counts"
                        ));
                    }
                    if conf.scripts.len() > MAX_SCRIPTS {
                        return Err(ConfigError::at(file, index + 1, "more than 4096 scripts"));
                    }
                }
                Err(fault) => warn(&format!("skipped: {fault}")),
            }
        }
        Ok((conf, warnings))
    }
}

fn entry(line: &str) -> Result<Option<(&str, Script)>, &'static str> {
    let trimmed = line.trim_matches(is_space);
    if trimmed.is_empty() || trimmed.starts_with('#') {
        return Ok(None);
    }
    if line.starts_with(BOM) {
        return Err(HAS_BOM);
    }
    let (name, value) = key_value(line).ok_or("malformed line")?;
    if name.is_empty() || !name.chars().all(|ch| is_word(ch) || ch == '-') || line.contains('\0') {
        return Err("malformed line");
    }
    if name.len() > MAX_NAME || value.len() > MAX_VALUE {
        return Err("name or value is too long");
    }
    let mut path = None;
    let mut profile = DEFAULT_PROFILE;
    for token in value.split(is_space).filter(|token| !token.is_empty()) {
        match annotation(token) {
            Some(("profile", name)) => profile = name,
            Some(_) => {}
            None if path.is_some() => return Err("more than one path"),
            None => path = Some(token),
        }
    }
    match path {
        None => Err("no path"),
        Some(path) if !path.starts_with('/') => Err("path is not absolute"),
        Some(path) => Ok(Some((
            name,
            Script {
                path: path.to_owned(),
                profile: profile.to_owned(),
            },
        ))),
    }
}

/// `key=value` where the key is lower-case letters and underscores.
fn annotation(token: &str) -> Option<(&str, &str)> {
    let (key, value) = token.split_once('=')?;
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
    (!key.is_empty() && key.bytes().all(fits)).then_some((key, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> (ScriptsConf, Vec<Warning>) {
        ScriptsConf::parse(text, "scripts.conf").unwrap()
    }

    #[test]
    fn order_does_not_matter_and_unknown_annotations_are_ignored() {
        let (conf, warnings) =
            parse("# c\n\n a-1 = /a.sh profile=p note=x\r\nb = profile=q /b=1.sh\nc=/c\n");
        assert_eq!(warnings, []);
        let script = |path: &str, profile: &str| Script {
            path: path.to_owned(),
            profile: profile.to_owned(),
        };
        assert_eq!(conf.scripts["a-1"], script("/a.sh", "p"));
        assert_eq!(conf.scripts["b"], script("/b=1.sh", "q"));
        assert_eq!(conf.scripts["c"], script("/c", "default"));
    }

    #[test]
    fn unusable_lines_are_skipped_with_a_warning() {
        let (conf, warnings) = parse(
            "no equals\na = rel\nb = /x /y\nc = profile=p\nd. = /d\ne = \n= /x\nf=\ng = /g\n",
        );
        assert_eq!(conf.scripts.keys().collect::<Vec<_>>(), ["g"]);
        assert_eq!(warnings.len(), 8);
        assert_eq!(
            warnings[1].to_string(),
            "line 2: skipped: path is not absolute"
        );
    }

    #[test]
    fn the_last_usable_line_of_a_name_counts() {
        let (conf, warnings) = parse("a = rel\na = /1\na = /2 profile=p\na = /x /y\n");
        assert_eq!(conf.scripts["a"].path, "/2");
        assert_eq!(conf.scripts["a"].profile, "p");
        assert_eq!(warnings.len(), 3);
    }
}
