//! What the tests of the real binary share: a root directory of our own, the reference's
//! directories to take over, and an agent that answers as it is told.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    dead_code,
    unused_imports
)]

pub use ctrl_exec_testkit::{agent, fleet, perl, ports};

use ctrl_exec_dispatcher::ca::{self, Authority, CaDir, CaOptions, IdentityFiles};
use ctrl_exec_protocol::time::Utc;
use ctrl_exec_protocol::tls::Identity;
use ctrl_exec_protocol::x509::csr;
use ctrl_exec_protocol::x509::keys::{self, KeyType};
use ctrl_exec_testkit::json::{self as jval, Object, Value};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

pub const BIN: &str = env!("CARGO_BIN_EXE_ctrl-exec-dispatcher");

/// A root directory with a dispatcher in it.
pub struct Root {
    dir: PathBuf,
}

/// How a command ended.
#[derive(Debug)]
pub struct Ended {
    pub exit: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Root {
    /// An empty root with a configuration.
    pub fn empty() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let dir = std::env::temp_dir().join(format!(
            "ctrl-exec-test-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        ));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(dir.join("etc/ctrl-exec")).unwrap();
        let root = Self { dir };
        root.configure("");
        root
    }

    /// A root that is there already.
    pub fn at(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// A root with a CA and a dispatcher of ours.
    pub fn new() -> Self {
        let root = Self::empty();
        let ca = root.authority_or_new();
        let files = IdentityFiles::new(
            root.path("etc/ctrl-exec/dispatcher.crt"),
            root.path("etc/ctrl-exec/dispatcher.key"),
        );
        ca::setup_dispatcher(&ca, &files, None, KeyType::EcdsaP256, 825, Utc::now()).unwrap();
        root
    }

    /// The directories the reference left, in place of ours.
    pub fn of_reference() -> Self {
        let root = Self::empty();
        copy(&fixture("reference-dispatcher"), &root.dir);
        root.configure("dispatcher_id = perl-disp\n");
        root
    }

    pub fn path(&self, below: &str) -> PathBuf {
        self.dir.join(below)
    }

    /// Writes the configuration: our paths, then these lines.
    pub fn configure(&self, more: &str) {
        let etc = self.path("etc/ctrl-exec");
        let etc = etc.display();
        let text = format!(
            "cert = {etc}/dispatcher.crt\nkey = {etc}/dispatcher.key\nca = {etc}/ca.crt\n{more}"
        );
        std::fs::write(self.path("etc/ctrl-exec/ctrl-exec.conf"), text).unwrap();
    }

    pub fn authority(&self) -> Authority {
        Authority::load(&CaDir::new(self.path("etc/ctrl-exec"))).unwrap()
    }

    fn authority_or_new(&self) -> Authority {
        let dir = CaDir::new(self.path("etc/ctrl-exec"));
        // Old enough for certificates that were made some time ago.
        let then = Utc(Utc::now().0 - 200 * 86_400);
        ca::setup_ca(&dir, &CaOptions::default(), then).unwrap()
    }

    /// An agent's identity of this CA, good for `days`.
    pub fn agent_identity(&self, cn: &str, days: u32) -> (Identity, String) {
        self.agent_identity_made(cn, days, 0)
    }

    /// The same, made so many days ago.
    pub fn agent_identity_made(&self, cn: &str, days: u32, ago: i64) -> (Identity, String) {
        let key = keys::generate(KeyType::EcdsaP256).unwrap();
        let request = csr::create(&keys::PrivateKey::from_pem(&key).unwrap(), cn).unwrap();
        let issued = self
            .authority()
            .sign_csr(&request, None, None, days, Utc(Utc::now().0 - ago * 86_400))
            .unwrap();
        (Identity::from_pem(&issued.pem, &key).unwrap(), key)
    }

    pub fn ca_pem(&self) -> String {
        std::fs::read_to_string(self.path("etc/ctrl-exec/ca.crt")).unwrap()
    }

    /// Registers an agent that is reached by address.
    pub fn register(&self, name: &str, address: SocketAddr) {
        self.register_json(
            name,
            &format!(
                r#"{{"hostname":"{name}","ip":"{}","port":{},"lookup_by":"ip","paired":"2026-11-22T13:32:16Z","expiry":"Feb 24 13:32:16 2029 GMT","reqid":"d8e1eeea3bf5ffd8","tags":{{}},"dispatcher_serial":"2","serial_status":"current","serial_broadcast":"","serial_confirmed":"2026-11-22T13:32:16Z"}}"#,
                address.ip(),
                address.port()
            ),
        );
    }

    pub fn register_json(&self, name: &str, json: &str) {
        let dir = self.path("var/lib/ctrl-exec/agents");
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join(format!("{name}.json")), json).unwrap();
    }

    /// The record of an agent.
    pub fn record(&self, name: &str) -> Object {
        object(
            &std::fs::read_to_string(self.path(&format!("var/lib/ctrl-exec/agents/{name}.json")))
                .unwrap(),
        )
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(BIN);
        command
            .arg("--root")
            .arg(&self.dir)
            .args(args)
            .env("USER", "op")
            .env_remove("ENVEXEC_TOKEN")
            .stdin(Stdio::null());
        command
    }

    pub fn run(&self, args: &[&str]) -> Ended {
        Ended::of(&self.command(args).output().unwrap())
    }

    /// Runs a command that must succeed and print one line of JSON.
    pub fn json(&self, args: &[&str]) -> Object {
        self.json_any(args, 0)
    }

    /// The same with another exit status.
    pub fn json_any(&self, args: &[&str], exit: i32) -> Object {
        let ended = self.run(args);
        assert_eq!(ended.exit, exit, "{args:?}: {ended:?}");
        object(&ended.stdout)
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

impl Ended {
    pub fn of(output: &Output) -> Self {
        Self {
            exit: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

pub fn object(text: &str) -> Object {
    jval::parse_object(text.as_bytes()).unwrap_or_else(|| panic!("no JSON object: {text}"))
}

/// The objects of an array member.
pub fn items<'a>(object: &'a Object, key: &str) -> Vec<&'a Object> {
    match object.get(key) {
        Some(Value::Array(items)) => items
            .iter()
            .map(|item| match item {
                Value::Object(item) => item,
                other => panic!("{other:?}"),
            })
            .collect(),
        other => panic!("{key}: {other:?}"),
    }
}

pub fn text<'a>(object: &'a Object, key: &str) -> &'a str {
    jval::str_or_empty(object, key)
}

pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

pub fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::write(&target, std::fs::read(entry.path()).unwrap()).unwrap();
        }
    }
}
