//! A host with an agent of ours, below one temporary directory; the rest is in the testkit.
#![allow(dead_code, unused_imports, reason = "each test program uses a part")]

pub use ctrl_exec_testkit::ca::{Asked, Ca, Leaf};
pub use ctrl_exec_testkit::client::{
    Caller, Stream, client_config, client_config_that, request, split, tcp, versions_of_agent,
};
pub use ctrl_exec_testkit::json::{int, object, text};
pub use ctrl_exec_testkit::temp::TempDir;
pub use ctrl_exec_testkit::wait::{PATIENCE, wait_for};
pub use ctrl_exec_testkit::{perl, ports};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// A host with an agent's files; the agent may run.
pub struct Host {
    pub dir: TempDir,
    pub port: u16,
    pub ca_pem: String,
    pub dispatcher: Leaf,
    pub agent: Leaf,
    pub running: Option<Child>,
}

/// The program under test; `CTRL_EXEC_AGENT_BIN` names another one, for another architecture, say.
fn program() -> PathBuf {
    std::env::var_os("CTRL_EXEC_AGENT_BIN")
        .unwrap_or_else(|| env!("CARGO_BIN_EXE_ctrl-exec-agent").into())
        .into()
}

impl Host {
    /// A paired host that trusts one dispatcher, `disp`, with serial 0xab01.
    pub fn new(ca: &Ca) -> Host {
        let agent = ca.leaf("agent.example", &[0xaa, 2]);
        let dispatcher = ca.leaf("ctrl-exec-dispatcher", &[0xab, 1]);
        Host::with(&ca.pem, agent, dispatcher, "ab01 disp\n")
    }

    pub fn with(ca_pem: &str, agent: Leaf, dispatcher: Leaf, map: &str) -> Host {
        let dir = TempDir::new("agent");
        let port = ports::claim().unwrap();
        let host = Host {
            dir,
            port,
            ca_pem: ca_pem.into(),
            dispatcher,
            agent,
            running: None,
        };
        for name in [
            "etc/ctrl-exec-agent",
            "var/lib/ctrl-exec-agent",
            "opt",
            "dev",
        ] {
            fs::create_dir_all(host.path(name)).unwrap();
        }
        host.write("etc/ctrl-exec-agent/agent.crt", &host.agent.cert);
        host.write("etc/ctrl-exec-agent/agent.key", &host.agent.key);
        host.write("etc/ctrl-exec-agent/ca.crt", ca_pem);
        host.write("var/lib/ctrl-exec-agent/ctrl-exec-dispatchers", map);
        host.configure("");
        host.write("etc/ctrl-exec-agent/scripts.conf", "");
        host
    }

    /// Writes agent.conf: what every test needs, `extra` lines, and a default profile.
    pub fn configure(&self, extra: &str) {
        let etc = self.path("etc/ctrl-exec-agent");
        let etc = etc.display();
        self.write(
            "etc/ctrl-exec-agent/agent.conf",
            &format!(
                "port = {}\nbind = 127.0.0.1\ncert = {etc}/agent.crt\nkey = {etc}/agent.key\n\
                 ca = {etc}/ca.crt\nallow_root = yes\n{}{extra}\n[profile default]\n",
                self.port,
                if extra.contains("rate_limit") {
                    ""
                } else {
                    "rate_limit_disable = 1\n"
                },
            ),
        );
    }

    /// Adds an executable script to the host and to the allowlist.
    pub fn script(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(&format!("opt/{name}"));
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        self.allow(&format!("{name} = {}", path.display()));
        path
    }

    pub fn allow(&self, line: &str) {
        let path = self.path("etc/ctrl-exec-agent/scripts.conf");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(path, format!("{text}{line}\n")).unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// The program with this host's root.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program());
        command
            .args(arguments)
            .arg("--root")
            .arg(self.dir.path())
            .stdin(Stdio::null());
        command
    }

    /// Starts the agent and waits until it listens.
    pub fn start(&mut self) {
        self.start_with(&[]);
    }

    /// As [`Host::start`], with additions to its environment.
    pub fn start_with(&mut self, env: &[(&str, &str)]) {
        let before = self.log().matches("ACTION=start").count();
        let log = fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(self.path("agent.log"))
            .unwrap();
        let child = self
            .command(&["serve"])
            .envs(env.iter().copied())
            .stderr(log)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        self.running = Some(child);
        wait_for("the agent to start", || {
            let child = self.running.as_mut().unwrap();
            if let Some(status) = child.try_wait().unwrap() {
                panic!(
                    "the agent ended with {status}: {}",
                    fs::read_to_string(self.path("agent.log")).unwrap()
                );
            }
            self.log().matches("ACTION=start").count() > before
        });
    }

    pub fn pid(&self) -> u32 {
        self.running.as_ref().unwrap().id()
    }

    pub fn signal(&self, signal: &str) {
        let status = Command::new("kill")
            .arg(signal)
            .arg(self.pid().to_string())
            .status()
            .unwrap();
        assert!(status.success());
    }

    /// Waits for the end of the agent.
    pub fn ended(&mut self) -> ExitStatus {
        let mut child = self.running.take().unwrap();
        let start = Instant::now();
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return status;
            }
            if start.elapsed() > PATIENCE {
                let _ = child.kill();
                panic!("the agent does not end");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn is_alive(&mut self) -> bool {
        self.running
            .as_mut()
            .is_some_and(|child| child.try_wait().unwrap().is_none())
    }

    /// What the agent logged (without a log socket it logs to standard error).
    pub fn log(&self) -> String {
        self.read("agent.log")
    }

    pub fn wait_log(&self, text: &str) {
        wait_for(&format!("'{text}' in the log:\n{}", self.log()), || {
            self.log().contains(text)
        });
    }

    pub fn reload(&self) {
        let before = self.log().matches("ACTION=reload").count();
        self.signal("-HUP");
        wait_for("the reload", || {
            self.log().matches("ACTION=reload").count() > before
        });
    }

    pub fn caller(&self) -> Caller {
        Caller::new(self.port, Some(&self.dispatcher))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(mut child) = self.running.take() {
            if std::thread::panicking() {
                eprintln!(
                    "--- agent.log of {}\n{}",
                    self.dir.path().display(),
                    self.log()
                );
            }
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

pub fn fixture(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name);
    fs::read_to_string(path).unwrap()
}
