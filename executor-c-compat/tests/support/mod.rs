//! A temporary tree with configuration and scripts, and an executor that serves it.

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use ctrl_exec_protocol::frame::{Ended, Request, Response, ResponseDecoder};
use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::thread::UnshareFlags;

/// Generous, for a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The program under test; `CTRL_EXEC_EXEC_BIN` names another one, for another architecture, say.
fn binary() -> PathBuf {
    std::env::var_os("CTRL_EXEC_EXEC_BIN")
        .unwrap_or_else(|| env!("CARGO_BIN_EXE_ctrl-exec-exec").into())
        .into()
}

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Whether a root test can run; says so visibly when it cannot. Root of a container may lack what
/// it takes to make namespaces.
pub fn root_or_skip(test: &str) -> bool {
    let able = is_root() && can_mount();
    if !able {
        // Straight to the descriptor: the test harness swallows what `eprintln!` writes.
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED (needs root with CAP_SYS_ADMIN): {test}"
        );
    }
    able
}

pub fn can_mount() -> bool {
    let sets = rustix::thread::capabilities(None).unwrap();
    sets.effective
        .contains(rustix::thread::CapabilitySet::SYS_ADMIN)
}

/// The user whom the servers of root tests serve. Not one that scripts run as.
pub const PEER: &str = "daemon";

/// A directory outside /tmp, which a `writable` profile hides; for root one that only root may
/// change, as the executor demands. In texts given to the methods `@` stands for its path.
pub struct Site {
    pub dir: PathBuf,
}

impl Site {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let base = if is_root() { "/opt" } else { "/var/tmp" };
        let dir = PathBuf::from(format!("{base}/cee-{}-{number}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        for sub in [
            "opt",
            "run",
            "etc/ctrl-exec-agent",
            "var/lib/ctrl-exec-agent",
        ] {
            fs::create_dir_all(dir.join(sub)).unwrap();
        }
        // Whatever the umask was.
        for sub in ["", "opt", "etc", "etc/ctrl-exec-agent"] {
            fs::set_permissions(dir.join(sub), fs::Permissions::from_mode(0o755)).unwrap();
        }
        Self { dir }
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.dir.join(path)
    }

    pub fn text(&self, text: &str) -> String {
        text.replace('@', self.dir.to_str().unwrap())
    }

    /// Writes a shell script to `opt/NAME`.
    pub fn script(&self, name: &str, body: &str) {
        let path = self.dir.join("opt").join(name);
        fs::write(&path, format!("#!/bin/sh\n{}\n", self.text(body))).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    pub fn agent_conf(&self) -> PathBuf {
        self.path("etc/ctrl-exec-agent/agent.conf")
    }

    pub fn scripts_conf(&self) -> PathBuf {
        self.path("etc/ctrl-exec-agent/scripts.conf")
    }

    pub fn conf(&self, agent: &str, scripts: &str) {
        for (path, text) in [(self.agent_conf(), agent), (self.scripts_conf(), scripts)] {
            fs::write(&path, self.text(text)).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        }
    }

    /// Each of `lines` is a name, an optional profile and a script body.
    pub fn scripts(&self, agent: &str, lines: &[(&str, &str, &str)]) {
        let mut list = String::new();
        for (name, profile, body) in lines {
            self.script(name, body);
            list += &format!("{name} = @/opt/{name} profile={profile}\n");
        }
        self.conf(agent, &list);
    }

    pub fn exec(&self) -> Command {
        Command::new(binary())
    }

    pub fn run(&self, args: &[&str]) -> (i32, String, String) {
        let output = self
            .exec()
            .args(args.iter().map(|arg| self.text(arg)))
            .output()
            .unwrap();
        (
            output.status.code().unwrap(),
            String::from_utf8(output.stdout).unwrap(),
            String::from_utf8(output.stderr).unwrap(),
        )
    }

    pub fn socket(&self) -> PathBuf {
        self.path("run/exec.sock")
    }

    /// The `serve` command. Peers: root and `peer`.
    pub fn serve(&self, peer: &str) -> Command {
        let mut command = self.exec();
        command
            .arg("--root")
            .arg(&self.dir)
            .arg("serve")
            .arg(self.socket());
        command
            .arg(self.agent_conf())
            .arg(self.scripts_conf())
            .arg(peer);
        command
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        command.stderr(fs::File::create(self.path("log")).unwrap());
        command
    }

    pub fn start(&self) -> Server {
        self.start_command(self.serve(PEER))
    }

    pub fn start_command(&self, mut command: Command) -> Server {
        let child = command.spawn().unwrap();
        let mut server = Server {
            child,
            socket: self.socket(),
            log: self.path("log"),
        };
        let started = Instant::now();
        while !self.socket().exists() {
            let ended = server.child.try_wait().unwrap();
            assert!(ended.is_none(), "{ended:?}: {}", server.log());
            assert!(started.elapsed() < PATIENCE, "{}", server.log());
            std::thread::sleep(Duration::from_millis(5));
        }
        server
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

pub struct Server {
    pub child: Child,
    socket: PathBuf,
    log: PathBuf,
}

impl Server {
    pub fn connect(&self) -> UnixStream {
        let started = Instant::now();
        loop {
            match UnixStream::connect(&self.socket) {
                Ok(stream) => {
                    stream.set_read_timeout(Some(PATIENCE)).unwrap();
                    return stream;
                }
                // Between bind and listen, or the backlog is full.
                Err(error) if started.elapsed() < PATIENCE => {
                    assert!(self.socket.exists(), "{error}");
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Runs a script without arguments and input.
    pub fn call(&self, script: &str) -> Reply {
        self.request(&request(script, b"", &[]))
    }

    pub fn request(&self, request: &Request) -> Reply {
        self.send(request).reply()
    }

    /// Sends a request; the answer is read later.
    pub fn send(&self, request: &Request) -> Pending {
        let mut stream = self.connect();
        stream.write_all(&request.encode().unwrap()).unwrap();
        Pending { stream }
    }

    /// Sends any bytes and half-closes; returns everything that comes back.
    pub fn raw(&self, bytes: &[u8]) -> Vec<u8> {
        let mut stream = self.connect();
        // The server may have closed already.
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        answer
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    pub fn ended(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub struct Pending {
    pub stream: UnixStream,
}

impl Pending {
    pub fn reply(self) -> Reply {
        self.reply_of_at_most(1 << 20)
    }

    /// Keeps so many bytes of each stream.
    pub fn reply_of_at_most(mut self, most: usize) -> Reply {
        let mut bytes = Vec::new();
        self.stream.read_to_end(&mut bytes).unwrap();
        Reply::read(&bytes, most)
    }
}

pub struct Reply {
    pub exit: i32,
    pub stdout: String,
    pub stderr: String,
    pub response: Response,
}

impl Reply {
    pub fn of(bytes: &[u8]) -> Self {
        Self::read(bytes, 1 << 20)
    }

    fn read(bytes: &[u8], most: usize) -> Self {
        let mut decoder = ResponseDecoder::new(most);
        decoder.push(bytes);
        let response = decoder.finish().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self {
            exit: response.exit,
            stdout: text(response.stdout.bytes()),
            stderr: text(response.stderr.bytes()),
            response,
        }
    }
}

pub fn request(script: &str, stdin: &[u8], args: &[&str]) -> Request {
    Request {
        live: false,
        reqid: b"r".to_vec(),
        dispatcher: b"d".to_vec(),
        script: script.as_bytes().to_vec(),
        stdin: stdin.to_vec(),
        args: args.iter().map(|arg| arg.as_bytes().to_vec()).collect(),
        extended: false,
        time_limit: None,
    }
}

/// The value of a line `KEY:\tvalue` of /proc/self/status.
pub fn status<'a>(text: &'a str, key: &str) -> &'a str {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(":\t"));
    line.unwrap_or_else(|| panic!("no {key} in {text}")).trim()
}

pub fn exists(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

/// Runs `setup` in the server's process before the program starts.
#[allow(unsafe_code)]
pub fn before(
    command: &mut Command,
    setup: impl FnMut() -> std::io::Result<()> + Send + Sync + 'static,
) {
    // SAFETY: the closures of these tests make system calls only.
    unsafe { command.pre_exec(setup) };
}

/// A mount namespace of the process's own, so that its mounts end with it.
#[allow(unsafe_code)]
pub fn own_mounts() -> std::io::Result<()> {
    // SAFETY: not `FILES`.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }?;
    let flags = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    Ok(mount_change("/", flags)?)
}

pub fn extended(script: &str, args: &[&str]) -> Request {
    Request {
        extended: true,
        ..request(script, b"", args)
    }
}

pub fn ended(reply: &Reply) -> Ended {
    reply
        .response
        .ended
        .expect("the executor tells how it ended")
}

pub fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub fn processes() -> Vec<(i32, String)> {
    fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let line = fs::read(entry.path().join("cmdline")).ok()?;
            Some((pid, String::from_utf8_lossy(&line).into_owned()))
        })
        .collect()
}

pub fn parent_of(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(1)?
        .parse()
        .ok()
}
