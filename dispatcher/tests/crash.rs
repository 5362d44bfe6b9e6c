//! SIGKILL at whatever moment: signing, approving and rotating never leave a dispatcher that
//! cannot go on. Each round kills a real process a little later than the one before, from its
//! first instruction to beyond its end.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use ctrl_exec_dispatcher::ca::{self, Authority, CaDir, IdentityFiles};
use ctrl_exec_dispatcher::model::AgentRecord;
use ctrl_exec_dispatcher::pairing::{Decision, Identified, Queue};
use ctrl_exec_dispatcher::store::files::registry::Registry;
use ctrl_exec_protocol::time::Utc;
use ctrl_exec_protocol::wire::pairing::{self, LookupBy, PairRequest};
use ctrl_exec_protocol::x509::csr;
use ctrl_exec_protocol::x509::keys::{self, KeyType, PrivateKey};

/// Moments tried for each operation.
const ROUNDS: u32 = 40;

struct Root(PathBuf);

impl Root {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir =
            std::env::temp_dir().join(format!("ctrl-exec-crash-{}-{number}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        let etc = dir.join("etc/ctrl-exec");
        std::fs::create_dir_all(&etc).unwrap();
        let path = |name: &str| etc.join(name).display().to_string();
        let config = format!(
            "cert = {}\nkey = {}\nca = {}\n",
            path("d.crt"),
            path("d.key"),
            path("ca.crt")
        );
        std::fs::write(etc.join("ctrl-exec.conf"), config).unwrap();
        Self(dir)
    }

    fn ready() -> Self {
        let root = Self::new();
        root.ok(&["setup-ca"]);
        root.ok(&["setup-ctrl-exec"]);
        root
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ctrl-exec-dispatcher"));
        command.arg("--root").arg(&self.0).args(args);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    }

    fn ok(&self, args: &[&str]) {
        assert!(self.command(args).status().unwrap().success(), "{args:?}");
    }

    /// Runs a command and kills it after `delay`, if it still lives.
    fn killed(&self, args: &[&str], delay: Duration) {
        let mut child = self.command(args).spawn().unwrap();
        std::thread::sleep(delay);
        let _ = child.kill();
        child.wait().unwrap();
    }

    /// How long a command takes undisturbed.
    fn time(&self, args: &[&str]) -> Duration {
        let began = Instant::now();
        self.ok(args);
        began.elapsed()
    }

    fn etc(&self) -> PathBuf {
        self.0.join("etc/ctrl-exec")
    }

    fn files(&self) -> IdentityFiles {
        IdentityFiles::new(self.etc().join("d.crt"), self.etc().join("d.key"))
    }

    fn registry(&self) -> Registry {
        Registry::new(self.0.join("var/lib/ctrl-exec/agents"))
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The moments from the start of an operation to a little after its end.
fn moments(whole: Duration) -> impl Iterator<Item = Duration> {
    (0..ROUNDS).map(move |round| whole * round * 5 / (ROUNDS * 4))
}

#[test]
fn setup_ca() {
    let whole = Root::new().time(&["setup-ca"]);
    for delay in moments(whole) {
        let root = Root::new();
        root.killed(&["setup-ca"], delay);
        let ca = CaDir::new(root.etc());
        let there = ca.cert().exists();
        // Whatever was left, the next run makes a whole CA of it, or finds one.
        assert_eq!(
            root.command(&["setup-ca"]).status().unwrap().success(),
            !there
        );
        Authority::load(&ca).unwrap();
        assert!(ca.serial().exists());
    }
}

#[test]
fn the_dispatchers_pair() {
    let root = Root::ready();
    let whole = root.time(&["setup-ctrl-exec"]);
    let mut serials = std::collections::HashSet::new();
    for delay in moments(whole) {
        root.killed(&["setup-ctrl-exec"], delay);
        let identity = root.files().load().unwrap();
        serials.insert(identity.facts().serial_hex.clone());
        let counter = std::fs::read_to_string(root.etc().join("ca.serial")).unwrap();
        assert!(
            counter.trim().bytes().all(|b| b.is_ascii_hexdigit()),
            "{counter}"
        );
    }
    assert!(serials.len() > 1, "some of them came through");
}

#[test]
fn approving() {
    let root = Root::ready();
    let queue = Queue::new(root.0.join("var/lib/ctrl-exec/pairing"));
    let key = PrivateKey::from_pem(&keys::generate(KeyType::EcdsaP256).unwrap()).unwrap();
    let request = |name: &str| PairRequest {
        hostname: name.to_owned(),
        csr: csr::create(&key, name).unwrap(),
        ..PairRequest::default()
    };
    let add = |name: &str| {
        let none = Identified::default();
        queue
            .add(&request(name), "127.0.0.1", &none, Utc::now())
            .unwrap()
            .id
    };
    let code = |id: &str| pairing::code(&queue.undecided(id).unwrap().csr);
    let first = add("first");
    let whole = root.time(&["approve", &first, "--code", &code(&first)]);
    for (number, delay) in moments(whole).enumerate() {
        let name = format!("agent{number}");
        let id = add(&name);
        let code = code(&id);
        root.killed(&["approve", &id, "--code", &code], delay);
        match queue.decision(&id) {
            Some(Decision::Approved) => {
                let (_, bytes) = queue.answer(&id).unwrap();
                assert!(bytes.ends_with(b"}"), "whole");
            }
            Some(Decision::Denied) => panic!("denied"),
            // Undecided: it can be approved as if nothing had been.
            None => root.ok(&["approve", &id, "--code", &code]),
        }
        // An agent with a certificate is one in the registry.
        assert_eq!(root.registry().require(&name).unwrap().paired_cn(), name);
        queue.finish(&id).unwrap();
    }
    assert_eq!(
        root.registry().list().unwrap().records.len(),
        ROUNDS as usize + 1
    );
}

#[test]
fn rotating() {
    let register = |root: &Root| {
        let serial = ca::trust_serial(&root.files().cert).unwrap();
        let mut record = AgentRecord::new("a");
        // Nobody listens there: the broadcast fails at once.
        record.hostname = Some("a".to_owned());
        record.ip = Some("127.0.0.1".to_owned());
        record.lookup_by = Some(LookupBy::Ip);
        record.port = Some(1);
        record.confirm_serial(&serial, Utc::now());
        root.registry().register(&record).unwrap();
        serial
    };
    let root = Root::ready();
    register(&root);
    let whole = root.time(&["rotate-cert"]);
    let mut rotated = 0;
    for delay in moments(whole) {
        let root = Root::ready();
        let old = register(&root);
        root.killed(&["rotate-cert"], delay);
        // The next maintenance puts in order whatever was left.
        let _ = root.command(&["maintain"]).status().unwrap();
        let current = root.files().load().unwrap().facts().serial_hex.clone();
        let record = root.registry().require("a").unwrap();
        assert_eq!(
            record.dispatcher_serial(),
            old,
            "the agent was never reached"
        );
        if current == old {
            assert_eq!(record.serial_status().word(), "current");
            continue;
        }
        rotated += 1;
        // A pair that the agent trusts is still there, and the agent is to be told with it.
        let previous = root.files().suffixed(".prev").load().unwrap();
        assert_eq!(previous.facts().serial_hex, old);
        assert_eq!(record.serial_status().word(), "pending");
        let state = std::fs::read_to_string(root.0.join("var/lib/ctrl-exec/rotation.json"));
        let state = state.unwrap();
        assert!(state.contains(&current) && state.contains(&old), "{state}");
        assert!(
            no_leftovers(&root.etc()),
            "{:?}",
            std::fs::read_dir(root.etc()).unwrap()
        );
    }
    assert!(rotated > 0, "some of them came through");
}

/// Nothing half-made lies under a name that somebody would read.
fn no_leftovers(dir: &Path) -> bool {
    std::fs::read_dir(dir).unwrap().all(|entry| {
        !entry
            .unwrap()
            .file_name()
            .to_string_lossy()
            .ends_with(".new")
    })
}
