//! One connection: read a frame, decide, run, answer. Runs in a process of its own.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ctrl_exec_protocol::config::{AgentConf, Decision, Permit, ScriptsConf, decision};
use ctrl_exec_protocol::frame::{Request, Response};
use ctrl_exec_protocol::log_line::Line;
use rustix::event::{PollFd, PollFlags};

use crate::cgroup::Base;
use crate::conf::Conf;
use crate::confine::Containment;
use crate::guard::Guarded;
use crate::identity::Identity;
use crate::input::{Bounds, Received, Share, receive};
use crate::relay::Relay;
use crate::run::{Setting, run};
use crate::trusted_path::{Writers, walk};
use crate::{report, sys};

/// A peer that reads nothing of its answer for this long has lost interest.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// What a connection is served with.
pub struct Service<'a> {
    /// The configuration, which is looked at anew once the request is there.
    pub conf: &'a mut Conf,
    /// What scripts may not change.
    pub guarded: &'a Guarded,
    /// Where control groups are made.
    pub cgroups: &'a Base,
    /// The user who is served.
    pub peer_uid: u32,
    /// Whether this executor has root's powers.
    pub privileged: bool,
    /// Whether files that others may change are obeyed and run all the same.
    pub unsafe_paths: bool,
    /// As many scripts as allowed are running already.
    pub busy: bool,
    /// A peer has this long to send its whole request.
    pub frame_timeout: Duration,
    /// This connection's place in the table of what is held.
    pub share: Share,
}

/// Serves the connection.
pub fn serve(mut stream: UnixStream, service: &mut Service<'_>) {
    if stream.set_nonblocking(true).is_err() {
        return;
    }
    let limit = match service.conf.current().0 {
        Ok(agent) => agent.conf.executor_max_input,
        Err(_) => AgentConf::default().executor_max_input,
    };
    let (conf, busy) = (&mut *service.conf, service.busy);
    let bounds = Bounds {
        time: service.frame_timeout,
        share: &service.share,
        limit: usize::try_from(limit).unwrap_or(usize::MAX),
    };
    let mut judge = |script: &[u8]| {
        if busy {
            return Err("too many scripts running".to_owned());
        }
        let name = String::from_utf8_lossy(script);
        let (agent, scripts) = usable(conf)?;
        match decision::resolve(agent, scripts, &name, &realpath) {
            Decision::Allow(_) => Ok(()),
            Decision::Deny(deny) => Err(deny.message()),
        }
    };
    let mut request = match receive(&mut stream, &bounds, &mut judge) {
        Received::Request(request) => request,
        Received::Refused(reason, known) => {
            let name = String::from_utf8_lossy(&known.script);
            report::warning(&log(&known, "deny", &name).field("REASON", &reason));
            let response = Response::refusal(&format!("executor: {reason}"));
            return send(&mut stream, &response.encode(false));
        }
        Received::Nothing => return,
    };
    let mut relay = None;
    let response = respond(&mut request, service, &stream, &mut relay);
    service.share.release();
    let bytes = match relay {
        Some(relay) => relay.finish(&response.encode(true)),
        None => response.encode(request.extended),
    };
    send(&mut stream, &bytes);
}

fn respond(
    request: &mut Request,
    service: &mut Service<'_>,
    peer: &UnixStream,
    relay: &mut Option<Relay>,
) -> Response {
    let name = String::from_utf8_lossy(&request.script).into_owned();
    let deny = |reason: &str| {
        report::warning(&log(request, "deny", &name).field("REASON", reason));
        Response::refusal(&format!("executor: {reason}"))
    };
    let judges_paths = service.privileged && !service.unsafe_paths;
    if judges_paths {
        if let Some(fault) = exposed_conf(&service.conf.paths()).into_iter().next() {
            return deny(&format!("configuration refused: {fault}"));
        }
    }
    let (agent, scripts) = match usable(service.conf) {
        Ok(both) => both,
        Err(reason) => return deny(&reason),
    };
    let permit = match decision::resolve(agent, scripts, &name, &realpath) {
        Decision::Allow(permit) => permit,
        Decision::Deny(reason) => return deny(&reason.message()),
    };
    let identity = match identity(&permit) {
        Ok(identity) => identity,
        // Who is not known cannot be judged; the script has not been touched.
        Err(fault) => {
            report::warning(&log(request, "deny", &name).field("REASON", &fault));
            return Response {
                exit: crate::confine::EXIT_REFUSED,
                ..Response::refusal(&format!("executor: {fault}"))
            };
        }
    };
    if service.privileged {
        if let Err(fault) = not_the_peer(&permit, &identity, service.peer_uid) {
            return deny(&fault);
        }
    }
    if judges_paths {
        if let Some(fault) = exposed_script(&permit, &identity, agent).into_iter().next() {
            return deny(&format!("script refused: {fault}"));
        }
    }
    let own_limit = permit.profile.timeout.unwrap_or(agent.script_timeout);
    let limits = [(own_limit > 0).then_some(own_limit), request.time_limit];
    let seconds = limits.into_iter().flatten().min();
    let setting = Setting {
        guarded: service.guarded,
        cgroups: service.cgroups,
        privileged: service.privileged,
        max_output: usize::try_from(agent.max_output).unwrap_or(usize::MAX),
        time_limit: seconds.map(|seconds| Duration::from_secs(seconds.into())),
        containment: Containment::of(permit.profile, identity.uid()),
        identity: &identity,
    };
    let response = run(&permit, request, &setting, peer, relay);
    report::info(&outcome(
        log(request, "run", &name).field("PROFILE", permit.profile_name),
        &response,
    ));
    response
}

/// Both files, or why they permit nothing.
fn usable(conf: &mut Conf) -> Result<(&AgentConf, &ScriptsConf), String> {
    let (agent, scripts) = conf.current();
    let agent = agent.as_ref().map_err(|error| {
        log::error!("{error}");
        "config error".to_owned()
    })?;
    let scripts = scripts.as_ref().map_err(|error| {
        log::error!("{error}");
        "script not permitted".to_owned()
    })?;
    Ok((&agent.conf, &scripts.conf))
}

/// Resolves a path that exists.
pub fn realpath(path: &Path) -> Option<PathBuf> {
    std::fs::canonicalize(path).ok()
}

/// Who a permitted script runs as.
///
/// # Errors
/// A sentence.
pub fn identity(permit: &Permit<'_>) -> Result<Identity, String> {
    match &permit.profile.run_as {
        Some(user) => Identity::of(user),
        None => Err(decision::no_run_as(permit.profile_name)),
    }
}

/// The user who is served must not be the one a script runs as: that script could pass itself off
/// as the agent, and ask for any other. Root is served in any case.
///
/// # Errors
/// A sentence.
pub fn not_the_peer(permit: &Permit<'_>, identity: &Identity, peer: u32) -> Result<(), String> {
    if peer != 0 && identity.uid() == peer {
        return Err(format!(
            "profile '{}' runs as the user whose requests the executor obeys (uid {peer}): give it another run_as",
            permit.profile_name
        ));
    }
    Ok(())
}

/// Who could change the configuration besides root. What does not exist is another fault.
pub fn exposed_conf(paths: &[&Path; 2]) -> Vec<String> {
    let mut faults = Vec::new();
    for path in paths {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
        match walk(&path) {
            Ok(walk) => faults.extend(walk.exposed_conf().iter().map(ToString::to_string)),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => faults.push(format!("{}: {}", path.display(), report::text(&error))),
        }
    }
    faults.sort();
    faults.dedup();
    faults
}

/// Who could change the script that is run besides root and its own user, or put another in its
/// place.
pub fn exposed_script(permit: &Permit<'_>, identity: &Identity, conf: &AgentConf) -> Vec<String> {
    let writers = match Writers::of(&conf.script_writers) {
        Ok(writers) => writers,
        Err(fault) => return vec![fault],
    };
    // As it is written, so that directories with links on the way are judged as well.
    let (written, judged) = match (walk(Path::new(permit.path)), walk(&permit.real)) {
        (Ok(written), Ok(judged)) => (written, judged),
        // What does not exist, or not for anybody, fails when it is executed.
        _ => return Vec::new(),
    };
    if !written.is_same(&judged) || judged.real != permit.real {
        return vec![format!("{} changed while it was looked at", permit.path)];
    }
    let faults = written.exposed_script(&writers, identity.uid());
    faults.iter().map(ToString::to_string).collect()
}

fn log(request: &Request, action: &'static str, name: &str) -> Line {
    Line::new(action)
        .field("SCRIPT", name)
        .field("REQID", String::from_utf8_lossy(&request.reqid))
        .field("DISPATCHER", String::from_utf8_lossy(&request.dispatcher))
}

fn outcome(line: Line, response: &Response) -> Line {
    let line = line.field("EXIT", response.exit);
    let ended = response.ended.unwrap_or_default();
    let reasons = [
        (ended.oom, "oom"),
        (ended.time_limit, "time-limit"),
        (ended.cancelled, "cancelled"),
    ];
    let reasons: Vec<&str> = reasons
        .into_iter()
        .filter_map(|(is, word)| is.then_some(word))
        .collect();
    let line = match ended.signal {
        Some(signal) => line.field("SIGNAL", signal),
        None => line,
    };
    if reasons.is_empty() {
        line
    } else {
        line.field("ENDED", reasons.join(","))
    }
}

fn send(stream: &mut UnixStream, mut rest: &[u8]) {
    let mut deadline = Instant::now() + ANSWER_TIMEOUT;
    while !rest.is_empty() {
        match stream.write(rest) {
            Ok(count) => {
                rest = &rest[count..];
                deadline = Instant::now() + ANSWER_TIMEOUT;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    break;
                }
                // An interrupted or failed wait only means another round.
                let mut fds = [PollFd::new(&*stream, PollFlags::OUT)];
                let _ = sys::poll(&mut fds, Some(left));
            }
            Err(_) => break,
        }
    }
    if !rest.is_empty() {
        log::warn!("a peer went away before its answer");
    }
    // A connection that is closed with something unread looks broken to the peer.
    let mut buffer = [0; 1024];
    while matches!(stream.read(&mut buffer), Ok(1..)) {}
}
