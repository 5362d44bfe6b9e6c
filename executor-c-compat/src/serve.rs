//! The server: accepts connections and gives each a process (executor.md §2).

use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use ctrl_exec_protocol::config::AgentConf;
use ctrl_exec_protocol::log_line::Line;
use rustix::event::{PollFd, PollFlags};
use rustix::fs::Mode;
use rustix::process::{Gid, Pid, Uid, WaitOptions, waitpid};

use crate::cgroup::Base;
use crate::conf::Conf;
use crate::guard::Guarded;
use crate::input::Share;
use crate::probe::Kernel;
use crate::report;
use crate::sys::{self, Forked, User};
use crate::worker::{self, Service};

/// The shortest path that does not fit a unix socket address.
const SOCKET_PATH_LIMIT: usize = 108;
/// Connections beyond the limit that still get a process, to be told so.
const BUSY_ANSWERS: usize = 16;
const SIGNALS: [i32; 4] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGCHLD];

/// Most connections at a time, whatever the configuration says: places in the table of what they
/// hold.
const MAX_CONNECTIONS: usize = 1024;

/// How to serve.
pub struct Options {
    /// Prefix of the protected directories and of the log.
    pub root: PathBuf,
    /// Where to listen.
    pub socket: PathBuf,
    /// Who may connect, besides root.
    pub peer_user: String,
    /// A peer has this long to send its whole request.
    pub frame_timeout: Duration,
    /// Obey and run files that others than root may change.
    pub unsafe_paths: bool,
    /// Whether this process has root's powers.
    pub privileged: bool,
}

/// Serves until SIGTERM or SIGINT; SIGHUP only forgets what was read of the configuration.
/// Scripts that run then go on, and their answers are still delivered.
///
/// # Errors
/// A sentence, when the server cannot start or go on.
pub fn serve(options: &Options, mut conf: Conf) -> Result<(), String> {
    let peer = match sys::user_by_name(&options.peer_user) {
        Ok(Some(user)) => user,
        Ok(None) => return Err(format!("no such user: '{}'", options.peer_user)),
        Err(error) => return Err(format!("cannot look up '{}': {error}", options.peer_user)),
    };
    let cgroups = if options.privileged {
        let cgroups = Base::prepare();
        report_kernel(&mut conf, &cgroups)?;
        report_paths(&conf, options.unsafe_paths);
        cgroups
    } else {
        Base::default()
    };
    report_conf(&mut conf);
    sys::close_on_exec_all();
    let signals = sys::signal_fd(&SIGNALS).map_err(|error| format!("signals: {error}"))?;
    let table =
        sys::shared_counters(MAX_CONNECTIONS).map_err(|error| format!("memory: {error}"))?;
    let listener = listen(&options.socket, &peer).map_err(|error| {
        format!(
            "cannot listen on {}: {}",
            options.socket.display(),
            report::text(&error)
        )
    })?;
    let own = std::fs::canonicalize(&options.socket).unwrap_or_else(|_| options.socket.clone());
    let identity = inode(&own);
    let guarded = Guarded::new(&options.root, conf.paths(), Some(own.clone()));
    let server = Server {
        listener,
        signals,
        peer_uid: peer.uid,
        children: Vec::new(),
        table,
    };
    let result = match server.run(&mut conf) {
        Ok(Ended::Child { stream, busy, slot }) => {
            // From here on this is another process, without the server's descriptors.
            sys::unblock(&SIGNALS);
            worker::serve(
                stream,
                &mut Service {
                    conf: &mut conf,
                    guarded: &guarded,
                    cgroups: &cgroups,
                    peer_uid: peer.uid,
                    privileged: options.privileged,
                    unsafe_paths: options.unsafe_paths,
                    busy,
                    frame_timeout: options.frame_timeout,
                    share: Share::new(table, slot),
                },
            );
            sys::exit_now(0);
        }
        Ok(Ended::Signal) => Ok(()),
        Err(fault) => Err(fault),
    };
    if identity.is_some() && inode(&own) == identity {
        let _ = std::fs::remove_file(&own);
    }
    result
}

/// Why [`Server::run`] returned.
enum Ended {
    /// A signal asked for it.
    Signal,
    /// This is the process for a connection.
    Child {
        stream: UnixStream,
        /// Only to say that there are too many.
        busy: bool,
        /// Its place in the table of what is held.
        slot: usize,
    },
}

struct Server {
    listener: UnixListener,
    signals: OwnedFd,
    peer_uid: u32,
    /// The processes of connections, and the places they have in the table.
    children: Vec<(Pid, usize)>,
    table: &'static [AtomicU32],
}

impl Server {
    /// Drops the listening socket and the signal descriptor in the child, too.
    fn run(mut self, conf: &mut Conf) -> Result<Ended, String> {
        loop {
            let mut fds = [
                PollFd::new(&self.listener, PollFlags::IN),
                PollFd::new(&self.signals, PollFlags::IN),
            ];
            match sys::poll(&mut fds, None) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(format!("poll: {error}")),
            }
            if self.handle_signals(conf) {
                return Ok(Ended::Signal);
            }
            match self.listener.accept() {
                Ok((stream, _)) => {
                    if let Some(child) = self.connected(stream, conf) {
                        return Ok(child);
                    }
                }
                Err(error) => pause_after(&error)?,
            }
        }
    }

    /// Whether it is time to end.
    fn handle_signals(&mut self, conf: &mut Conf) -> bool {
        let mut end = false;
        while let Some(signal) = sys::next_signal(&self.signals) {
            match i32::try_from(signal) {
                Ok(libc::SIGCHLD) => {}
                Ok(libc::SIGHUP) => conf.forget(),
                _ => end = true,
            }
        }
        // Several deaths may share one signal.
        while let Ok(Some((pid, _))) = waitpid(None, WaitOptions::NOHANG) {
            let Some(at) = self.children.iter().position(|(child, _)| *child == pid) else {
                continue;
            };
            let (_, slot) = self.children.swap_remove(at);
            // It may have been killed before it could.
            Share::new(self.table, slot).release();
        }
        end
    }

    /// Gives the connection a process. Returns something in that process only.
    fn connected(&mut self, stream: UnixStream, conf: &mut Conf) -> Option<Ended> {
        let refuse = |reason: std::fmt::Arguments<'_>| {
            report::warning(&Line::new("connection-refused").field("REASON", reason));
            None
        };
        match sys::peer_uid(&stream) {
            Ok(uid) if uid == self.peer_uid || uid == 0 => {}
            Ok(uid) => return refuse(format_args!("uid {uid} is not served")),
            Err(error) => return refuse(format_args!("{error}")),
        }
        // Read here too, so that the child inherits a parsed copy and rarely has to parse.
        let limit = match conf.current().0 {
            Ok(agent) => agent.conf.executor_max_children,
            Err(_) => AgentConf::default().executor_max_children,
        };
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let limit = limit.min(MAX_CONNECTIONS - BUSY_ANSWERS);
        let running = self.children.len();
        if running >= limit.saturating_add(BUSY_ANSWERS) {
            return refuse(format_args!("too many"));
        }
        let is_free = |slot: &usize| !self.children.iter().any(|(_, taken)| taken == slot);
        let slot = (0..MAX_CONNECTIONS)
            .find(is_free)
            .unwrap_or(MAX_CONNECTIONS);
        match sys::fork() {
            Ok(Forked::Child) => {
                let busy = running >= limit;
                return Some(Ended::Child { stream, busy, slot });
            }
            Ok(Forked::Parent(pid)) => self.children.push((pid, slot)),
            Err(error) => return refuse(format_args!("cannot fork: {error}")),
        }
        None
    }
}

/// Says at once what cannot work later.
fn report_kernel(conf: &mut Conf, cgroups: &Base) -> Result<(), String> {
    let kernel = Kernel::probe(cgroups).map_err(|error| format!("cannot fork: {error}"))?;
    if let Some(fault) = kernel.fatal() {
        return Err(fault.to_owned());
    }
    if let (Ok(agent), _) = conf.current() {
        for fault in kernel.faults(&agent.conf) {
            log::warn!("{fault}");
        }
        for warning in kernel.warnings(&agent.conf) {
            log::warn!("{warning}");
        }
    }
    Ok(())
}

/// Files that others may change refuse every request, which is better known at once.
fn report_paths(conf: &Conf, unsafe_paths: bool) {
    if unsafe_paths {
        log::warn!("--unsafe-paths: files that others than root may change are obeyed and run");
        return;
    }
    for fault in worker::exposed_conf(&conf.paths()) {
        log::error!("every request will be refused: {fault}");
    }
}

/// A fault in the configuration refuses requests, not the start: it may be mended meanwhile.
fn report_conf(conf: &mut Conf) {
    let [agent_path, scripts_path] = conf.paths().map(|path| path.display().to_string());
    let (agent, scripts) = conf.current();
    for (path, result) in [
        (agent_path, agent.as_ref().map(|file| &file.warnings)),
        (scripts_path, scripts.as_ref().map(|file| &file.warnings)),
    ] {
        match result {
            Ok(warnings) => {
                for warning in warnings {
                    log::warn!("{path}: {warning}");
                }
            }
            Err(error) => log::error!("{error}"),
        }
    }
}

fn listen(path: &Path, peer: &User) -> io::Result<UnixListener> {
    if path.as_os_str().len() >= SOCKET_PATH_LIMIT {
        return Err(io::Error::other(
            "path is too long for a socket (107 bytes)",
        ));
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // The socket is closed to everybody from the moment it exists.
    let umask = rustix::process::umask(Mode::from_raw_mode(0o177));
    let bound = UnixListener::bind(path);
    rustix::process::umask(umask);
    let listener = bound?;
    let owner = (Some(Uid::from_raw(peer.uid)), Some(Gid::from_raw(peer.gid)));
    // Reported only, as in the reference: root's own clients can still connect.
    if let Err(error) = rustix::fs::chown(path, owner.0, owner.1) {
        log::warn!("cannot give the socket to the peer user: {error}");
    }
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn pause_after(error: &io::Error) -> Result<(), String> {
    use rustix::io::Errno;
    match Errno::from_io_error(error) {
        Some(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => Ok(()),
        Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
            log::warn!("cannot accept: {}", report::text(error));
            let _ = sys::poll(&mut [], Some(Duration::from_millis(200)));
            Ok(())
        }
        _ => Err(format!("cannot accept: {error}")),
    }
}

fn inode(path: &Path) -> Option<(u64, u64)> {
    std::fs::symlink_metadata(path)
        .ok()
        .map(|meta| (meta.dev(), meta.ino()))
}
