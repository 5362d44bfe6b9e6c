//! A dispatcher and its agents below one directory.

use crate::binaries::Binaries;
use crate::process::{Running, wait_until};
use ctrl_exec_testkit::ports;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;
use std::{fs, io};

/// Patience with a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A script of an agent: its name, and its text.
pub type Script<'a> = (&'a str, &'a str);

/// The stage: `server` is the dispatcher's root, every agent has one of its own.
#[derive(Debug)]
pub struct World {
    /// The directory that holds everything.
    pub dir: PathBuf,
    /// Programs in use.
    pub binaries: Binaries,
    /// Port of the pairing listener.
    pub pairing_port: u16,
    keep: bool,
    agents: Vec<Agent>,
}

/// One agent.
#[derive(Debug)]
pub struct Agent {
    /// Name it pairs under.
    pub name: String,
    /// Port it serves on.
    pub port: u16,
    running: Option<Running>,
}

/// What both sides showed while an agent was paired.
#[derive(Debug)]
pub struct Pairing {
    /// Queue id.
    pub reqid: String,
    /// Code the agent printed.
    pub agent_code: String,
    /// Code the dispatcher listed.
    pub dispatcher_code: String,
}

impl World {
    /// An empty stage in a new directory below the system's temporary directory.
    ///
    /// # Errors
    /// When directories or files cannot be made.
    pub fn new(binaries: Binaries, label: &str) -> io::Result<Self> {
        let base = std::env::temp_dir();
        let dir = (0..1000)
            .map(|n| base.join(format!("ctrl-exec-{label}-{}-{n}", std::process::id())))
            .find(|dir| fs::create_dir(dir).is_ok())
            .ok_or_else(|| io::Error::other(format!("no directory below {}", base.display())))?;
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o700))?;
        let world = Self {
            dir,
            binaries,
            pairing_port: ports::claim()?,
            keep: false,
            agents: Vec::new(),
        };
        let etc = world.dir.join("server/etc/ctrl-exec");
        fs::create_dir_all(&etc)?;
        fs::create_dir_all(world.dir.join("server/var/lib/ctrl-exec"))?;
        let path = |file: &str| etc.join(file).display().to_string();
        fs::write(
            etc.join("ctrl-exec.conf"),
            format!(
                "cert = {}\nkey = {}\nca = {}\nca_dir = {}\ndispatcher_id = demo\nread_timeout = 60\n",
                path("dispatcher.crt"),
                path("dispatcher.key"),
                path("ca.crt"),
                etc.display()
            ),
        )?;
        Ok(world)
    }

    /// Leaves the directory in place when the stage is dropped.
    pub fn keep(&mut self) {
        self.keep = true;
    }

    /// `ctrl-exec-dispatcher --root …`, started in the stage's directory.
    pub fn dispatcher(&self) -> Command {
        let mut command = Command::new(&self.binaries.dispatcher);
        command
            .args(["--root", "server"])
            .current_dir(&self.dir)
            .env_remove("ENVEXEC_TOKEN");
        command
    }

    /// `ctrl-exec-agent --root …` of the agent called `name`.
    pub fn agent(&self, name: &str) -> Command {
        let mut command = Command::new(&self.binaries.agent);
        command.args(["--root", name]).current_dir(&self.dir);
        command
    }

    /// Runs a dispatcher command to its end.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn dispatch(&self, args: &[&str]) -> io::Result<Output> {
        self.dispatcher().args(args).stdin(Stdio::null()).output()
    }

    /// The directory of an agent's root.
    pub fn agent_dir(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The agent called `name`, if there is one.
    pub fn find(&self, name: &str) -> Option<&Agent> {
        self.agents.iter().find(|agent| agent.name == name)
    }

    /// Lays out the root of an unpaired agent with its scripts. `extra` is added to `agent.conf`.
    ///
    /// # Errors
    /// When files cannot be written.
    pub fn add_agent(&mut self, name: &str, scripts: &[Script<'_>], extra: &str) -> io::Result<()> {
        let root = self.dir.join(name);
        let (etc, lib, opt) = (
            root.join("etc/ctrl-exec-agent"),
            root.join("var/lib/ctrl-exec-agent"),
            root.join("opt/ctrl-exec-scripts"),
        );
        for dir in [&etc, &lib, &opt] {
            fs::create_dir_all(dir)?;
        }
        let port = ports::claim()?;
        let mut conf = format!(
            "port = {port}\nbind = 127.0.0.1\nhostname = {name}\ncert = {0}/agent.crt\nkey = {0}/agent.key\nca = {0}/ca.crt\nscript_dirs = {1}\nrate_limit_volume = 1000/60/60\n",
            etc.display(),
            opt.display()
        );
        let user = rustix::process::geteuid();
        if user.is_root() {
            conf.push_str("allow_root = yes\n");
        }
        let _ = write!(
            conf,
            "{extra}\n[tags]\nrole = router\nsite = {name}\n[profile default]\nrun_as = {user}\n",
            user = user.as_raw()
        );
        fs::write(etc.join("agent.conf"), conf)?;
        let mut allowlist = String::from("# name = path\n");
        for (script, text) in scripts {
            let path = opt.join(format!("{script}.sh"));
            write_program(&path, text)?;
            let _ = writeln!(allowlist, "{script} = {}", path.display());
        }
        fs::write(etc.join("scripts.conf"), allowlist)?;
        self.agents.push(Agent {
            name: name.to_owned(),
            port,
            running: None,
        });
        Ok(())
    }

    /// Starts the pairing listener and waits until it accepts connections.
    ///
    /// # Errors
    /// When it ends or does not listen in time.
    pub fn start_pairing_mode(&self) -> io::Result<Running> {
        let port = self.pairing_port.to_string();
        let mut listener =
            Running::start(self.dispatcher().args(["pairing-mode", "--port", &port]))?;
        wait_for_port(&mut listener, self.pairing_port)?;
        Ok(listener)
    }

    /// Asks for pairing on behalf of `name`, approves it, and waits for the agent's end.
    ///
    /// # Errors
    /// When a step fails; the error holds what the programs printed.
    pub fn pair(&self, name: &str, show: &mut dyn FnMut(&str, &str)) -> io::Result<Pairing> {
        let port = self.pairing_port.to_string();
        let args = [
            "request-pairing",
            "--dispatcher",
            "127.0.0.1",
            "--port",
            &port,
            "--lookup-by",
            "ip",
        ];
        let mut client = Running::start(self.agent(name).args(args))?;
        let agent_code = client.wait_for(PATIENCE, six_digits)?;
        show(
            &format!("ctrl-exec-agent --root {name} {}", args.join(" ")),
            &client.output(),
        );

        let queue = self.dir.join("server/var/lib/ctrl-exec/pairing");
        wait_until("the request in the queue", PATIENCE, || {
            queued(&queue, name).is_some()
        })?;
        let list = self.dispatch(&["list-requests"])?;
        let listed = String::from_utf8_lossy(&list.stdout).into_owned();
        show("ctrl-exec-dispatcher --root server list-requests", &listed);
        let row = listed
            .lines()
            .find(|line| line.split_whitespace().nth(1) == Some(name));
        let row = row.ok_or_else(|| io::Error::other(format!("{name} is not listed: {listed}")))?;
        let reqid = row.split_whitespace().next().unwrap_or_default().to_owned();
        let dispatcher_code = six_digits(row)
            .ok_or_else(|| io::Error::other(format!("no code is listed: {listed}")))?;

        let approve = self.dispatch(&["approve", &reqid, "--code", &agent_code])?;
        show(
            &format!("ctrl-exec-dispatcher --root server approve {reqid} --code {agent_code}"),
            &both(&approve),
        );
        let status = client.wait(PATIENCE)?;
        if !approve.status.success() || !status.success() {
            return Err(io::Error::other(format!(
                "pairing of {name} failed: {}{}",
                both(&approve),
                client.output()
            )));
        }
        Ok(Pairing {
            reqid,
            agent_code,
            dispatcher_code,
        })
    }

    /// Starts the agent called `name` and waits until it accepts connections.
    ///
    /// # Errors
    /// When it ends or does not listen in time.
    pub fn start_agent(&mut self, name: &str) -> io::Result<()> {
        let mut running = Running::start(self.agent(name).arg("serve"))?;
        let agent = self
            .agents
            .iter_mut()
            .find(|agent| agent.name == name)
            .ok_or_else(|| io::Error::other(format!("no agent {name}")))?;
        wait_for_port(&mut running, agent.port)?;
        agent.running = Some(running);
        Ok(())
    }

    /// Ends the agent called `name`, as a service manager would.
    pub fn stop_agent(&mut self, name: &str) {
        for agent in self.agents.iter_mut().filter(|agent| agent.name == name) {
            agent.running = None;
        }
    }

    /// The process of the agent called `name`.
    pub fn running(&self, name: &str) -> Option<&Running> {
        self.find(name).and_then(|agent| agent.running.as_ref())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.agents.clear();
        if !self.keep {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

/// Standard output and standard error of a finished command, one after the other.
pub fn both(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// The first word of exactly six digits.
pub fn six_digits(text: &str) -> Option<String> {
    text.split(|c: char| !c.is_ascii_alphanumeric())
        .find(|word| word.len() == 6 && word.bytes().all(|b| b.is_ascii_digit()))
        .map(str::to_owned)
}

/// Writes an executable file.
///
/// # Errors
/// When it cannot be written.
pub fn write_program(path: &Path, text: &str) -> io::Result<()> {
    fs::write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
}

fn wait_for_port(running: &mut Running, port: u16) -> io::Result<()> {
    running.wait_for(PATIENCE, |_| {
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()
    })?;
    Ok(())
}

/// The queue file that holds a request of `name`.
fn queued(queue: &Path, name: &str) -> Option<PathBuf> {
    let needle = format!("\"{name}\"");
    fs::read_dir(queue)
        .ok()?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| {
            path.extension().is_some_and(|ext| ext == "json")
                && fs::read_to_string(path).is_ok_and(|text| text.contains(&needle))
        })
}
