//! Default paths below a root directory (`--root DIR`, design §4).

use std::path::{Path, PathBuf};

/// The prefix of every *default* absolute path. Paths that a configuration file names are used as
/// they are.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Root(Option<PathBuf>);

impl Root {
    /// The system itself: paths stay as they are.
    pub fn system() -> Self {
        Self(None)
    }

    /// Default paths are taken below `dir`. `/` means the system.
    pub fn at(dir: impl Into<PathBuf>) -> Self {
        let dir = dir.into();
        if dir == Path::new("/") {
            Self(None)
        } else {
            Self(Some(dir))
        }
    }

    /// The place of the default path `absolute`.
    pub fn path(&self, absolute: &str) -> PathBuf {
        match &self.0 {
            None => PathBuf::from(absolute),
            Some(dir) => dir.join(absolute.trim_start_matches('/')),
        }
    }

    /// Whether paths are those of the system.
    pub fn is_system(&self) -> bool {
        self.0.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_only_when_asked() {
        assert_eq!(Root::system().path("/etc/x"), Path::new("/etc/x"));
        assert_eq!(Root::at("/").path("/etc/x"), Path::new("/etc/x"));
        assert_eq!(Root::at("/tmp/r").path("/etc/x"), Path::new("/tmp/r/etc/x"));
        assert_eq!(Root::at("rel").path("/etc/x"), Path::new("rel/etc/x"));
        assert!(Root::at("/").is_system() && !Root::at("/r").is_system());
    }
}
