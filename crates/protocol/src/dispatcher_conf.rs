//! The grammar of the dispatcher's configuration file (dispatcher.md §5).

use crate::sorted_map::SortedMap;
use std::fmt;

/// The settings of one file, as text, with what looked wrong but is no error.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Settings {
    values: SortedMap<String>,
    /// Lines that the reference ignores in silence, in words for the operator.
    pub warnings: Vec<String>,
}

/// Why a file is refused; the text names the fault, the caller adds the file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum SettingsError {
    /// A value does not fit its key.
    Invalid {
        /// The key.
        key: String,
        /// Its value in the file.
        value: String,
        /// What would fit.
        expected: &'static str,
    },
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid {
                key,
                value,
                expected,
            } => {
                write!(
                    f,
                    "invalid value '{value}' for '{key}': expected {expected}"
                )
            }
        }
    }
}

impl std::error::Error for SettingsError {}

impl Settings {
    /// Reads the text of a file. Lines that start with `#` or white space are skipped; the last
    /// occurrence of a key wins; an empty value leaves the key unset. No key is required (the
    /// reference wants `cert`, `key` and `ca`: DEVIATE); the reader knows the defaults.
    pub fn parse(text: &str) -> Self {
        let mut settings = Self::default();
        let text = text.strip_prefix('\u{feff}').map_or(text, |rest| {
            settings.warnings.push(
                "it begins with a byte order mark (BOM), which release 0.12.3 does not read; save it \
                 without"
                    .to_owned(),
            );
            rest
        });
        for (index, line) in text.lines().enumerate() {
            let number = index + 1;
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            if line.starts_with(char::is_whitespace) {
                if !line.trim_start().starts_with('#') {
                    settings
                        .warnings
                        .push(format!("line {number}: indented, therefore ignored"));
                }
                continue;
            }
            let Some((key, value)) = line.split_once('=') else {
                settings
                    .warnings
                    .push(format!("line {number}: no '=', therefore ignored"));
                continue;
            };
            let (key, value) = (key.trim(), value.trim());
            if key.is_empty() || !key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
                settings.warnings.push(format!(
                    "line {number}: '{key}' is no key, therefore ignored"
                ));
                continue;
            }
            if value.contains(" #") {
                settings.warnings.push(format!(
                    "line {number}: '#' does not start a comment here; the value of '{key}' is '{value}'"
                ));
            }
            if !value.is_empty() {
                settings.values.insert(key.to_owned(), value.to_owned());
            }
        }
        settings
    }

    /// The value of `key`.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(String::as_str)
    }

    /// The value of a key that names a file. As the reference sees it, `0` is no name.
    pub fn path(&self, key: &str) -> Option<&str> {
        self.text(key).filter(|value| *value != "0")
    }

    /// The value of `key` as a whole number between `min` and `max`, or `default` when unset.
    pub fn number(
        &self,
        key: &str,
        default: u32,
        (min, max): (u32, u32),
        expected: &'static str,
    ) -> Result<u32, SettingsError> {
        let Some(value) = self.text(key) else {
            return Ok(default);
        };
        value
            .parse()
            .ok()
            .filter(|n| (min..=max).contains(n))
            .ok_or_else(|| SettingsError::Invalid {
                key: key.to_owned(),
                value: value.to_owned(),
                expected,
            })
    }

    /// Whether `key` is switched on: its value starts with `1`, `y` or `Y`.
    pub fn flag(&self, key: &str) -> bool {
        self.text(key)
            .is_some_and(|value| value.starts_with(['1', 'y', 'Y']))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const REQ: &str = "cert = /c\nkey = /k\nca=/ca\n";

    #[test]
    fn grammar() {
        let settings = Settings::parse(&format!(
            "{REQ}# c\n  port = 1\nx = 1  # note\r\nmax_parallel = 3\nmax_parallel = 5\nempty =\nbad-key = 1\nword\n"
        ));
        assert_eq!(settings.path("cert"), Some("/c"));
        assert_eq!(settings.text("port"), None);
        assert_eq!(settings.text("x"), Some("1  # note"));
        assert_eq!(settings.text("max_parallel"), Some("5"));
        assert_eq!(settings.text("empty"), None);
        assert_eq!(settings.warnings.len(), 4, "{:?}", settings.warnings);
    }

    #[test]
    fn no_key_is_required() {
        for text in ["", "cert=\n", "cert=0\n"] {
            assert_eq!(Settings::parse(text).path("cert"), None, "{text}");
        }
    }

    #[test]
    fn numbers_name_key_and_fault() {
        let settings = Settings::parse(&format!("{REQ}timeout = soon\n"));
        let error = settings
            .number("timeout", 60, (1, 100), "seconds, 1 to 100")
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "invalid value 'soon' for 'timeout': expected seconds, 1 to 100"
        );
        assert_eq!(settings.number("other", 60, (1, 100), ""), Ok(60));
    }

    proptest! {
        #[test]
        fn never_panics(text in "([a-z_ ]{0,5}[=# ]{0,2}[^\n]{0,10}\n){0,20}") {
            let _ = Settings::parse(&text);
        }
    }
}
