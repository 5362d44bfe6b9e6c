//! Who may do what over HTTP (api.md §5.1). A token of ours says what its holder may do at the
//! most. Then the hook has the last word; where there is none, only holders of tokens are let in,
//! and where there are no tokens either, `api_auth_default` says, for this machine alone.

use super::{Permit, Question, line, question};
use crate::fleet::select::glob;
use crate::model::host_word;
use crate::model::{AppError, Kind};
use crate::store::files::tokens::{Role, Token, TokenFile, find};
use crate::tasks::dispatcher::Dispatcher;
use ctrl_exec_host::syslog::Level;
use ctrl_exec_protocol::hook::HookRequest;
use ctrl_exec_protocol::log_line::Line;
use ctrl_exec_protocol::time::Utc;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Codes of denials that no hook gave, with the meaning that they have for hooks.
const DENIED: i32 = 1;
const BAD_CREDENTIALS: i32 = 2;
const NO_PRIVILEGE: i32 = 3;

/// How often at most it is written down when tokens were used.
const NOTE_EVERY: Duration = Duration::from_secs(60);

/// What is asked, with what the hook is not told of it.
#[derive(Debug)]
pub struct Asked {
    /// The question to the hook.
    pub request: HookRequest,
    /// The script it is about.
    pub script: String,
    /// The hosts it is about, as words.
    pub hosts: Vec<String>,
}

impl From<HookRequest> for Asked {
    fn from(request: HookRequest) -> Self {
        Self {
            script: request.script.clone(),
            hosts: request.hosts.clone(),
            request,
        }
    }
}

/// The tokens, read again when their file changes.
#[derive(Debug)]
pub struct Tokens {
    file: TokenFile,
    cached: Mutex<Option<(Stamp, Read)>>,
    used: Mutex<Used>,
}

/// File, time and size.
type Stamp = Option<(u64, i64, i64, u64)>;
/// What the file holds, or why it cannot be read.
type Read = Result<Option<Arc<[Token]>>, String>;

#[derive(Debug, Default)]
struct Used {
    at: BTreeMap<String, i64>,
    noted: Option<Instant>,
}

impl Tokens {
    /// Those of a file.
    pub fn new(file: TokenFile) -> Self {
        Self {
            file,
            cached: Mutex::default(),
            used: Mutex::default(),
        }
    }

    /// The tokens as they are now; `None` where there never was one.
    ///
    /// # Errors
    /// The file and its fault.
    pub fn now(&self) -> Read {
        let meta = std::fs::metadata(self.file.path()).ok();
        let stamp = meta.map(|meta| (meta.ino(), meta.mtime(), meta.mtime_nsec(), meta.len()));
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, read)) = cached.as_ref().filter(|(known, _)| *known == stamp) {
            return read.clone();
        }
        let read = self
            .file
            .load()
            .map(|tokens| tokens.map(Arc::from))
            .map_err(|error| {
                let path = self.file.path().display();
                format!("the tokens in {path} cannot be read: {error}")
            });
        *cached = Some((stamp, read.clone()));
        read
    }

    /// Whether this secret is that of a token for a part of the fleet or of the scripts.
    pub fn is_limited(&self, secret: &str) -> bool {
        let known = self.now().ok().flatten();
        let token = known.as_deref().and_then(|known| find(known, secret));
        token.is_some_and(Token::is_limited)
    }

    /// Notes that a token was used; on disk before long, if that may be written.
    fn note(&self, name: &str) {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.at.insert(name.to_owned(), Utc::now().0);
        if used.noted.is_some_and(|noted| noted.elapsed() < NOTE_EVERY) {
            return;
        }
        used.noted = Some(Instant::now());
        let (file, at) = (self.file.clone(), std::mem::take(&mut used.at));
        // Off the loop: it waits for the disk. Nobody is kept out because it fails.
        let _ = std::thread::Builder::new()
            .name("token-use".into())
            .spawn(move || file.note_used(&at));
    }
}

/// [`question`] for a caller over HTTP.
///
/// # Errors
/// A denial, or a bad setting.
pub fn api_question(
    dispatcher: &Dispatcher,
    tokens: &Tokens,
    asked: &Asked,
) -> Result<Question, AppError> {
    let request = &asked.request;
    let deny = |code: i32, reason: &str| {
        let line = line(request, "deny", reason).field("DISPATCHER", "");
        dispatcher.log.log(Level::Warning, &line);
        Err(AppError {
            code: Some(code),
            ..AppError::new(Kind::Denied, reason)
        })
    };
    let known = match tokens.now() {
        Ok(known) => known,
        Err(fault) => {
            let line = Line::new("token-fail").field("ERROR", fault);
            dispatcher.log.log(Level::Err, &line);
            return deny(DENIED, "the tokens cannot be read");
        }
    };
    let token = match request.token.as_str() {
        "" => None,
        secret => known.as_deref().and_then(|known| find(known, secret)),
    };
    if let Some(token) = token {
        if token.has_expired(Utc::now()) {
            return deny(BAD_CREDENTIALS, "bad credentials");
        }
        if !may(token, asked) {
            return deny(NO_PRIVILEGE, "insufficient privilege");
        }
        tokens.note(&token.name);
    }
    // The hook has the last word, also on tokens that are none of ours.
    if dispatcher.config.auth_hook().is_some() {
        return question(dispatcher, request);
    }
    let pass = |reason: &str| {
        let line = line(request, "pass", reason).field("DISPATCHER", "");
        dispatcher.log.log(Level::Info, &line);
        Ok(Question::None(Permit(())))
    };
    if let Some(token) = token {
        return pass(&format!("token {}", token.name));
    }
    if known.is_some() {
        return deny(BAD_CREDENTIALS, "bad credentials");
    }
    if !dispatcher.config.api_auth_default() {
        return deny(DENIED, "no auth hook configured");
    }
    let source = request.source_ip.parse::<IpAddr>();
    if !source.is_ok_and(|source| source.is_loopback()) {
        return deny(
            DENIED,
            "without an auth hook or a token only this machine is served",
        );
    }
    pass("no-hook-allow")
}

/// Whether the holder of a token may do this.
fn may(token: &Token, asked: &Asked) -> bool {
    let (needed, whole) = match asked.request.action {
        "api" => return true,
        "ping" | "status" => (Role::View, false),
        // Of everybody's runs and agents: not for those who may see a part.
        "runs" | "agents" | "metrics" => (Role::View, true),
        "run" | "cancel" => (Role::Run, false),
        "pairing" | "pair" => (Role::Approve, true),
        _ => (Role::Admin, true),
    };
    let hosts = || asked.hosts.iter().map(|word| host_word::split(word).0);
    token.role.allows(needed)
        && !(whole && token.is_limited())
        && (asked.script.is_empty() || fits(&token.scripts, &asked.script))
        && hosts().all(|name| fits(&token.hosts, name))
}

/// Whether a list of patterns lets this in; an empty one lets in everything.
fn fits(patterns: &[String], text: &str) -> bool {
    patterns.is_empty() || patterns.iter().any(|pattern| glob(pattern, text))
}
