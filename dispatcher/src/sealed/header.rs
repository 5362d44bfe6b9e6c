//! The beginning of a file: for whom its key is wrapped, and a proof that nobody changed that.

use super::SealError;
use super::file_key::FileKey;
use super::stanza::Stanza;
use data_encoding::BASE64_NOPAD;

const VERSION: &str = "age-encryption.org/v1\n";
const COLUMNS: usize = 64;
/// Largest header read: thousands of keys.
const MAX_HEADER: usize = 1 << 20;

/// A header as read.
#[derive(Debug)]
pub(super) struct Header<'a> {
    pub stanzas: Vec<Stanza>,
    /// What the proof is over: everything up to and with the three dashes.
    proved: &'a [u8],
    proof: Vec<u8>,
    /// What comes after the header.
    pub payload: &'a [u8],
}

impl<'a> Header<'a> {
    pub fn parse(file: &'a [u8]) -> Result<Self, SealError> {
        let mut lines = Lines {
            file: file
                .strip_prefix(VERSION.as_bytes())
                .ok_or(SealError::Foreign)?,
        };
        let mut stanzas = Vec::new();
        loop {
            if file.len() - lines.file.len() > MAX_HEADER {
                return Err(SealError::Damaged("its header"));
            }
            let before = lines.file;
            let line = lines.next()?;
            if let Some(proof) = line.strip_prefix("--- ") {
                let proof = BASE64_NOPAD
                    .decode(proof.as_bytes())
                    .map_err(|_| SealError::Damaged("its header"))?;
                let read = file.len() - before.len() + "---".len();
                return Ok(Self {
                    stanzas,
                    proved: &file[..read],
                    proof,
                    payload: lines.file,
                });
            }
            let args = line
                .strip_prefix("-> ")
                .ok_or(SealError::Damaged("its header"))?;
            let args = args.split(' ').map(str::to_owned).collect();
            let mut body = String::new();
            while body.len() <= MAX_HEADER {
                let line = lines.next()?;
                body.push_str(line);
                if line.len() < COLUMNS {
                    break;
                }
            }
            let body = BASE64_NOPAD
                .decode(body.as_bytes())
                .map_err(|_| SealError::Damaged("its header"))?;
            stanzas.push(Stanza { args, body });
        }
    }

    /// Checks the proof.
    pub fn verify(&self, key: &FileKey) -> Result<(), SealError> {
        key.verify_header(self.proved, &self.proof)
    }

    /// The text of a header.
    pub fn write(stanzas: &[Stanza], key: &FileKey) -> Result<Vec<u8>, SealError> {
        let mut text = VERSION.to_owned();
        for stanza in stanzas {
            text.push_str("-> ");
            text.push_str(&stanza.args.join(" "));
            text.push('\n');
            let mut body = BASE64_NOPAD.encode(&stanza.body);
            while body.len() >= COLUMNS {
                let rest = body.split_off(COLUMNS);
                text.push_str(&body);
                text.push('\n');
                body = rest;
            }
            text.push_str(&body);
            text.push('\n');
        }
        text.push_str("---");
        let proof = BASE64_NOPAD.encode(&key.prove_header(text.as_bytes())?);
        text.push(' ');
        text.push_str(&proof);
        text.push('\n');
        Ok(text.into_bytes())
    }
}

struct Lines<'a> {
    file: &'a [u8],
}

impl<'a> Lines<'a> {
    fn next(&mut self) -> Result<&'a str, SealError> {
        let window = &self.file[..self.file.len().min(MAX_HEADER)];
        let Some(end) = window.iter().position(|byte| *byte == b'\n') else {
            return Err(if window.len() < self.file.len() {
                SealError::Damaged("its header")
            } else {
                SealError::Truncated
            });
        };
        let line = std::str::from_utf8(&self.file[..end])
            .ok()
            .filter(|line| line.bytes().all(|b| (0x20..0x7f).contains(&b)))
            .ok_or(SealError::Damaged("its header"))?;
        self.file = &self.file[end + 1..];
        Ok(line)
    }
}
