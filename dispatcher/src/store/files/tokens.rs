//! The tokens of the HTTP API: who holds one, and what for. Of a token only its hash is kept, so
//! that whoever reads the file can use none. When each was used last is kept elsewhere, where the
//! API's user may write: it cannot make itself a token.

use ctrl_exec_host::bounded::Bounded;
use ctrl_exec_host::durable::{self, Perm};
use ctrl_exec_host::paths::Root;
use ctrl_exec_host::random;
use ctrl_exec_protocol::json::{Bounds, Json, Members, Raw};
use ctrl_exec_protocol::time::Utc;
use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Where they are, below the root.
pub const FILE: &str = "/etc/ctrl-exec/api-tokens.json";
/// When each was used last, below the root.
pub const USED: &str = "/var/lib/ctrl-exec/api/token-use.json";

/// Largest file that is read.
const MAX_FILE: u64 = 4 << 20;
/// What every token begins with, so that it is known for one where it turns up.
const MARK: &str = "ced_";
/// Bytes of a SHA-256 digest.
const DIGEST: usize = 32;

/// What a token is good for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Role {
    /// Look.
    View,
    /// Look and run.
    Run,
    /// Look and decide who is paired.
    Approve,
    /// Everything.
    Admin,
}

impl Role {
    /// Their words.
    pub const WORDS: [&str; 4] = ["view", "run", "approve", "admin"];

    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::View => "view",
            Self::Run => "run",
            Self::Approve => "approve",
            Self::Admin => "admin",
        }
    }

    /// Reads the word.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::View, Self::Run, Self::Approve, Self::Admin]
            .into_iter()
            .find(|role| role.word() == word)
    }

    /// Whether it allows what takes `needed`.
    pub fn allows(self, needed: Self) -> bool {
        self == Self::Admin || self == needed || needed == Self::View
    }
}

/// One token.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Token {
    /// Its name.
    pub name: String,
    /// What it is good for.
    pub role: Role,
    /// Only these scripts (patterns); empty: all.
    pub scripts: Vec<String>,
    /// Only these hosts (patterns over registry names); empty: all.
    pub hosts: Vec<String>,
    /// When it was made.
    pub created: Utc,
    /// When it ends.
    pub expires: Option<Utc>,
    /// The hash of it.
    digest: [u8; DIGEST],
}

impl Token {
    /// A new token that ends at `expires`, and its secret, which nobody can find out afterwards.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn new(name: &str, role: Role, expires: Option<Utc>) -> io::Result<(Self, String)> {
        let secret = format!("{MARK}{}", BASE64URL_NOPAD.encode(&random::bytes::<32>()?));
        let token = Self {
            name: name.to_owned(),
            role,
            scripts: Vec::new(),
            hosts: Vec::new(),
            created: Utc::now(),
            expires,
            digest: digest(&secret),
        };
        Ok((token, secret))
    }

    /// Whether it has ended.
    pub fn has_expired(&self, now: Utc) -> bool {
        self.expires.is_some_and(|end| end.0 <= now.0)
    }

    /// Whether it is good for part of the fleet or of the scripts only.
    pub fn is_limited(&self) -> bool {
        !self.scripts.is_empty() || !self.hosts.is_empty()
    }

    /// It as JSON, without the hash.
    pub fn object(&self) -> Members {
        let mut object = Members::of([
            ("name", Json::text(&*self.name)),
            ("role", Json::text(self.role.word())),
            ("scripts", Json::texts(&self.scripts)),
            ("hosts", Json::texts(&self.hosts)),
            ("created", Json::text(self.created.iso())),
        ]);
        let expires = self.expires.map(Utc::iso);
        object.set_text("expires", expires.as_deref());
        object
    }

    fn read(object: &Members) -> Option<Self> {
        let text = |key| object.get(key).and_then(Raw::string).unwrap_or_default();
        let expires = match object.get("expires") {
            None => None,
            Some(_) => Some(Utc::parse_iso(&text("expires"))?),
        };
        // What is no list of texts must not be read as no limit.
        let limits = |key: &str| {
            let list = object.get(key).filter(|list| list.is_array())?;
            list.items()
                .map(Raw::string)
                .collect::<Option<Vec<String>>>()
        };
        let digest = HEXLOWER.decode(text("sha256").as_bytes()).ok()?;
        Some(Self {
            name: Some(text("name"))
                .filter(|name| !name.is_empty())?
                .to_owned(),
            role: Role::parse(&text("role"))?,
            scripts: limits("scripts")?,
            hosts: limits("hosts")?,
            created: Utc::parse_iso(&text("created"))?,
            expires,
            digest: digest.try_into().ok()?,
        })
    }
}

/// The token whose secret this is. Every one is compared, and each in the same time.
pub fn find<'a>(tokens: &'a [Token], secret: &str) -> Option<&'a Token> {
    let wanted = digest(secret);
    let mut found = None;
    for token in tokens {
        let differ = wanted
            .iter()
            .zip(&token.digest)
            .fold(0, |sum, (a, b)| sum | (a ^ b));
        if std::hint::black_box(differ) == 0 {
            found = Some(token);
        }
    }
    found
}

fn digest(secret: &str) -> [u8; DIGEST] {
    let digest = ring::digest::digest(&ring::digest::SHA256, secret.as_bytes());
    let mut bytes = [0; DIGEST];
    for (to, from) in bytes.iter_mut().zip(digest.as_ref()) {
        *to = *from;
    }
    bytes
}

/// The file of the tokens.
#[derive(Clone, Debug)]
pub struct TokenFile {
    path: PathBuf,
    used: PathBuf,
}

impl TokenFile {
    /// That below a root.
    pub fn at(root: &Root) -> Self {
        Self {
            path: root.path(FILE),
            used: root.path(USED),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The tokens; `None` where there never was one: a file without tokens lets in nobody.
    ///
    /// # Errors
    /// The operating system's, and a file that is damaged: going on without its limits would let in
    /// whom they keep out.
    pub fn load(&self) -> io::Result<Option<Vec<Token>>> {
        let Some(bytes) = Bounded::new(MAX_FILE).no_follow().optional(&self.path)? else {
            return Ok(None);
        };
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, "it is damaged");
        let object = Members::parse(&bytes, &Bounds::ANSWER).map_err(|_| damaged())?;
        let list = object.get("tokens").filter(|list| list.is_array());
        let items = list.ok_or_else(damaged)?.items();
        let tokens = items.map(|item| Token::read(&Members::from_raw(item)?));
        tokens
            .collect::<Option<Vec<Token>>>()
            .map(Some)
            .ok_or_else(damaged)
    }

    /// Writes them, for the owner and the directory's group.
    ///
    /// # Errors
    /// The operating system's.
    pub fn save(&self, tokens: &[Token]) -> io::Result<()> {
        let items = tokens.iter().map(|token| {
            let mut object = token.object();
            let digest = HEXLOWER.encode(&token.digest);
            object.set("sha256", Json::text(digest));
            object
        });
        let object = Members::of([("tokens", Json::list(items))]);
        let mut perm = Perm::mode(0o640);
        let group = self.path.parent().and_then(|dir| dir.metadata().ok());
        if let (Some(group), true) = (group, rustix::process::geteuid().is_root()) {
            perm = perm.owned_by(0, group.gid());
        }
        durable::write(
            &self.path,
            format!("{}\n", object.render()).as_bytes(),
            &perm,
        )
    }

    /// When each was used last, by name, in seconds since 1970; nothing where that is not known.
    pub fn used(&self) -> BTreeMap<String, i64> {
        let read = Bounded::new(MAX_FILE).no_follow().optional(&self.used);
        let bytes = read.ok().flatten().unwrap_or_default();
        let object = Members::parse(&bytes, &Bounds::ANSWER).unwrap_or_default();
        object
            .iter()
            .filter_map(|(name, _)| Some((name.to_owned(), object.integer(name)?)))
            .collect()
    }

    /// Notes when tokens were used.
    ///
    /// # Errors
    /// The operating system's.
    pub fn note_used(&self, used: &BTreeMap<String, i64>) -> io::Result<()> {
        if let Some(dir) = self.used.parent() {
            super::dirs::ensure(dir)?;
        }
        let mut all = self.used();
        for (name, at) in used {
            let last = all.entry(name.clone()).or_insert(*at);
            *last = (*last).max(*at);
        }
        let object: Members = all
            .into_iter()
            .map(|(name, at)| (name, Json::integer(at)))
            .collect();
        durable::write(&self.used, object.render().as_bytes(), &Perm::mode(0o640))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn what_is_written_is_read_and_holds_no_secret() {
        let dir = TempDir::new();
        let file = TokenFile::at(&Root::at(dir.path()));
        assert_eq!(file.load().unwrap(), None);
        std::fs::create_dir_all(file.path().parent().unwrap()).unwrap();
        let (mut one, secret) = Token::new("one", Role::Run, Some(Utc(4_000_000_000))).unwrap();
        one.hosts = vec!["ap*".into()];
        let (two, other) = Token::new("two", Role::View, None).unwrap();
        assert_ne!(secret, other);
        file.save(&[one.clone(), two.clone()]).unwrap();
        let text = std::fs::read_to_string(file.path()).unwrap();
        assert!(!text.contains(&secret) && !text.contains(&secret[4..]));
        let tokens = file.load().unwrap().unwrap();
        assert_eq!(tokens, [one, two]);
        assert_eq!(find(&tokens, &secret).unwrap().name, "one");
        for wrong in ["", "ced_", &secret[1..], &secret.to_uppercase()] {
            assert!(find(&tokens, wrong).is_none(), "{wrong}");
        }
        assert!(tokens[0].has_expired(Utc(4_000_000_000)));
        assert!(!tokens[0].has_expired(Utc(3_999_999_999)));
        for damaged in ["", "{", "[]", "{}", "{\"tokens\":[{}]}", "{\"tokens\":[1]}"] {
            std::fs::write(file.path(), damaged).unwrap();
            assert!(file.load().is_err(), "{damaged}");
        }
        let open = text.replace("[\"ap*\"]", "\"ap*\"");
        std::fs::write(file.path(), open).unwrap();
        assert!(
            file.load().is_err(),
            "a limit that cannot be read is no freedom"
        );
        let used = BTreeMap::from([("one".to_owned(), 7)]);
        file.note_used(&used).unwrap();
        file.note_used(&BTreeMap::from([
            ("one".to_owned(), 5),
            ("two".to_owned(), 6),
        ]))
        .unwrap();
        assert_eq!(file.used()["one"], 7);
        assert_eq!(file.used()["two"], 6);
    }

    #[test]
    fn roles() {
        let allowed = |role: Role| {
            let all = [Role::View, Role::Run, Role::Approve, Role::Admin];
            all.into_iter()
                .filter(|needed| role.allows(*needed))
                .count()
        };
        let counts = [Role::View, Role::Run, Role::Approve, Role::Admin].map(allowed);
        assert_eq!(counts, [1, 2, 2, 4]);
    }
}
