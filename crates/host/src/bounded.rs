//! Reading with a bound: all of a file or stream, or an error that says it is too large. Never a
//! part of it, never more memory than the bound, never a wait for a FIFO's writer.

use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::Path;

/// How a file is opened and how much of it may be read.
///
/// Unless told otherwise, symbolic links are followed and only a regular file is read.
///
/// ```
/// use ctrl_exec_host::bounded::Bounded;
/// let hosts = Bounded::new(1 << 20).text("/etc/hosts".as_ref());
/// let none = Bounded::new(10).no_follow().optional("/no/such".as_ref());
/// assert!(none.unwrap().is_none());
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Bounded {
    most: u64,
    follow: bool,
    any_kind: bool,
}

impl Bounded {
    /// Reads at most `most` bytes. A file that holds exactly so many is read.
    pub fn new(most: u64) -> Self {
        Self {
            most,
            follow: true,
            any_kind: false,
        }
    }

    /// Refuses a symbolic link as the last part of the path: for directories that a lesser user
    /// may write.
    #[must_use]
    pub fn no_follow(self) -> Self {
        Self {
            follow: false,
            ..self
        }
    }

    /// Also reads what is no regular file, such as `/dev/stdin`. This may wait.
    #[must_use]
    pub fn any_kind(self) -> Self {
        Self {
            any_kind: true,
            ..self
        }
    }

    /// Opens a file as said, and checks by its descriptor that it is a regular one.
    ///
    /// # Errors
    /// The operating system's; [`ErrorKind::InvalidInput`] for what is no regular file.
    pub fn open(&self, path: &Path) -> io::Result<File> {
        let mut flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY;
        if !self.follow {
            flags |= OFlags::NOFOLLOW;
        }
        if !self.any_kind {
            flags |= OFlags::NONBLOCK;
        }
        let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
        if !self.any_kind && !file.metadata()?.is_file() {
            return Err(io::Error::new(
                ErrorKind::InvalidInput,
                "not a regular file",
            ));
        }
        Ok(file)
    }

    /// All that `from` has yet to give.
    ///
    /// # Errors
    /// The reader's; [`ErrorKind::FileTooLarge`] when there is more than the bound.
    pub fn read_from(&self, from: impl Read) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        from.take(self.most.saturating_add(1))
            .read_to_end(&mut bytes)?;
        if bytes.len() as u64 > self.most {
            return Err(io::Error::new(
                ErrorKind::FileTooLarge,
                format!("larger than {} bytes", self.most),
            ));
        }
        Ok(bytes)
    }

    /// The content of a file.
    ///
    /// # Errors
    /// Those of [`Bounded::open`] and [`Bounded::read_from`].
    pub fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.read_from(self.open(path)?)
    }

    /// The content of a file of UTF-8 text.
    ///
    /// # Errors
    /// Those of [`Bounded::read`]; [`ErrorKind::InvalidData`] when it is not UTF-8.
    pub fn text(&self, path: &Path) -> io::Result<String> {
        String::from_utf8(self.read(path)?)
            .map_err(|_| io::Error::new(ErrorKind::InvalidData, "not UTF-8 text"))
    }

    /// As [`Bounded::read`]; `None` when there is no such file.
    ///
    /// # Errors
    /// Those of [`Bounded::read`] but "not found".
    pub fn optional(&self, path: &Path) -> io::Result<Option<Vec<u8>>> {
        if_there(self.read(path))
    }

    /// As [`Bounded::text`]; `None` when there is no such file.
    ///
    /// # Errors
    /// Those of [`Bounded::text`] but "not found".
    pub fn optional_text(&self, path: &Path) -> io::Result<Option<String>> {
        if_there(self.text(path))
    }
}

fn if_there<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn exactly_the_bound_is_read_and_one_more_is_an_error() {
        let dir = TempDir::new("bounded-size");
        let path = dir.file("f");
        fs::write(&path, b"12345").unwrap();
        assert_eq!(Bounded::new(5).read(&path).unwrap(), b"12345");
        assert_eq!(
            Bounded::new(u64::MAX).optional(&path).unwrap().unwrap(),
            b"12345"
        );
        let error = Bounded::new(4).read(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FileTooLarge);
        assert_eq!(error.to_string(), "larger than 4 bytes");
        assert!(Bounded::new(4).optional(&path).is_err());
        let endless = Bounded::new(1000).read_from(io::repeat(b'x'));
        assert_eq!(endless.unwrap_err().kind(), ErrorKind::FileTooLarge);
        assert_eq!(Bounded::new(0).read_from(io::empty()).unwrap(), b"");
    }

    #[test]
    fn what_is_no_regular_file_is_refused_without_waiting() {
        let dir = TempDir::new("bounded-kind");
        let fifo = dir.file("fifo");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &fifo,
            rustix::fs::FileType::Fifo,
            Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        for path in [fifo.as_path(), dir.path(), Path::new("/dev/null")] {
            let error = Bounded::new(9).read(path).unwrap_err();
            assert_eq!(error.to_string(), "not a regular file");
        }
        let null = Bounded::new(9).any_kind().read(Path::new("/dev/null"));
        assert_eq!(null.unwrap(), b"");
    }

    #[test]
    fn links_are_followed_only_where_allowed() {
        let dir = TempDir::new("bounded-link");
        fs::write(dir.file("f"), b"x").unwrap();
        symlink(dir.file("f"), dir.file("link")).unwrap();
        symlink(dir.file("loop"), dir.file("loop")).unwrap();
        assert_eq!(Bounded::new(9).read(&dir.file("link")).unwrap(), b"x");
        assert!(
            Bounded::new(9)
                .no_follow()
                .optional(&dir.file("link"))
                .is_err()
        );
        assert!(Bounded::new(9).optional(&dir.file("loop")).is_err());
        assert_eq!(Bounded::new(9).optional(&dir.file("no")).unwrap(), None);
    }

    #[test]
    fn text_is_utf8() {
        let dir = TempDir::new("bounded-text");
        fs::write(dir.file("f"), b"\xff").unwrap();
        let error = Bounded::new(9).optional_text(&dir.file("f")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        fs::write(dir.file("f"), "ü").unwrap();
        assert_eq!(Bounded::new(9).text(&dir.file("f")).unwrap(), "ü");
    }
}
