//! One way into a file.

/// The file's key, wrapped for one recipient.
#[derive(Debug)]
pub(super) struct Stanza {
    /// Type and arguments.
    pub args: Vec<String>,
    /// The wrapped key.
    pub body: Vec<u8>,
}

impl Stanza {
    /// Whether it takes a passphrase.
    pub fn is_passphrase(&self) -> bool {
        self.args.first().is_some_and(|kind| kind == "scrypt")
    }
}
