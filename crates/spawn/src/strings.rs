//! Program, arguments and environment as the kernel takes them.

use std::ffi::{OsStr, c_char};
use std::io;
use std::marker::PhantomData;
use std::os::unix::ffi::OsStrExt;
use std::ptr;

/// Program, arguments and environment: one run of bytes, each string ended by a zero.
#[derive(Debug)]
pub struct Strings {
    bytes: Vec<u8>,
    count: usize,
    /// How many of them are program and arguments; the rest is environment.
    words: usize,
    own_environment: bool,
    spoiled: bool,
}

/// The pointers that `posix_spawn` takes: program and arguments, a null, the environment, a null.
pub(crate) struct Pointers<'a> {
    all: Vec<*mut c_char>,
    /// Where the environment begins; 0: it is the caller's.
    environment: usize,
    /// What they point to.
    of: PhantomData<&'a [u8]>,
}

impl Strings {
    /// The program's path, which is also the name it is told it was called by. Its environment is
    /// the caller's until [`Strings::clear_env`].
    pub fn new(program: &OsStr) -> Strings {
        let mut strings = Strings {
            bytes: Vec::with_capacity(512),
            count: 0,
            words: 0,
            own_environment: false,
            spoiled: false,
        };
        strings.arg(program);
        strings
    }

    /// Adds an argument. All of them come before the environment.
    pub fn arg(&mut self, word: &OsStr) {
        debug_assert_eq!(self.count, self.words, "arguments come first");
        self.put(word);
        self.end();
        self.words = self.count;
    }

    /// From now on the environment is what [`Strings::env`] adds.
    pub fn clear_env(&mut self) {
        self.own_environment = true;
    }

    /// Adds a variable to an environment that was cleared.
    pub fn env(&mut self, name: &OsStr, value: &OsStr) {
        self.put(name);
        self.bytes.push(b'=');
        self.put(value);
        self.end();
    }

    fn put(&mut self, word: &OsStr) {
        let word = word.as_bytes();
        self.spoiled |= word.contains(&0);
        self.bytes.extend_from_slice(word);
    }

    fn end(&mut self) {
        self.bytes.push(0);
        self.count += 1;
    }

    /// # Errors
    /// A string has a zero in it, so that the program would see something else.
    pub(crate) fn pointers(&self) -> io::Result<Pointers<'_>> {
        if self.spoiled {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let mut all = Vec::with_capacity(self.count + 2);
        for string in self.bytes.split_inclusive(|byte| *byte == 0) {
            if all.len() == self.words {
                all.push(ptr::null_mut());
            }
            all.push(string.as_ptr().cast_mut().cast());
        }
        if all.len() == self.words {
            all.push(ptr::null_mut());
        }
        all.push(ptr::null_mut());
        Ok(Pointers {
            all,
            environment: if self.own_environment {
                self.words + 1
            } else {
                0
            },
            of: PhantomData,
        })
    }
}

impl Pointers<'_> {
    /// Program and arguments.
    pub(crate) fn words(&self) -> *const *mut c_char {
        self.all.as_ptr()
    }

    /// The environment, unless it is the caller's.
    pub(crate) fn environment(&self) -> Option<*const *mut c_char> {
        (self.environment > 0).then(|| self.all[self.environment..].as_ptr())
    }
}
