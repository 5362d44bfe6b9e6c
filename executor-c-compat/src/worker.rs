//! One connection: read a frame, decide, run, answer. Runs in a process of its own.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use ctrl_exec_protocol::config::{Decision, decision};
use ctrl_exec_protocol::frame::{Request, RequestDecoder, RequestError, Response};
use ctrl_exec_protocol::log_line::Line;
use rustix::event::{PollFd, PollFlags, poll};

use crate::conf::Conf;
use crate::mounts::Guarded;
use crate::report;
use crate::run::{Setting, run};
use crate::timespec;

/// A peer has this long to send its whole request. The reference waits for ever.
const FRAME_TIMEOUT: Duration = Duration::from_secs(10);
/// A peer that reads nothing of its answer for this long has lost interest.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// What a connection is served with.
pub struct Service<'a> {
    /// The configuration, which is looked at anew once the request is there.
    pub conf: &'a mut Conf,
    /// The scripts' view of the file system.
    pub guarded: &'a Guarded,
    /// Whether this executor has root's powers.
    pub privileged: bool,
    /// As many scripts as allowed are running already.
    pub busy: bool,
}

/// Serves the connection.
pub fn serve(mut stream: UnixStream, service: &mut Service<'_>) {
    if stream.set_nonblocking(true).is_err() {
        return;
    }
    let mut request = match receive(&mut stream) {
        Ok(request) => request,
        Err(RequestError::Malformed) => {
            report::line(Line::new("malformed"));
            return send(
                &mut stream,
                &Response::refusal("executor: malformed request"),
                false,
            );
        }
        // As the reference: nothing that could be answered.
        Err(RequestError::BadTotal | RequestError::Truncated) => return,
    };
    let response = respond(&mut request, service);
    send(&mut stream, &response, request.extended);
}

fn respond(request: &mut Request, service: &mut Service<'_>) -> Response {
    let name = String::from_utf8_lossy(&request.script).into_owned();
    let deny = |reason: &str| {
        report::line(log(request, "deny", &name).field("REASON", reason));
        Response::refusal(&format!("executor: {reason}"))
    };
    if service.busy {
        return deny("too many scripts running");
    }
    let (agent, scripts) = service.conf.current();
    let agent = match agent {
        Ok(agent) => &agent.conf,
        Err(error) => {
            report::line(error);
            return deny("config error");
        }
    };
    let scripts = match scripts {
        Ok(scripts) => &scripts.conf,
        Err(error) => {
            report::line(error);
            return deny("script not permitted");
        }
    };
    let permit = match decision::resolve(agent, scripts, &name, &realpath) {
        Decision::Allow(permit) => permit,
        Decision::Deny(reason) => return deny(&reason.message()),
    };
    let seconds = permit.profile.timeout.unwrap_or(agent.script_timeout);
    let setting = Setting {
        guarded: service.guarded,
        privileged: service.privileged,
        max_output: usize::try_from(agent.max_output).unwrap_or(usize::MAX),
        timeout: (seconds > 0).then(|| Duration::from_secs(seconds.into())),
    };
    let response = run(&permit, request, &setting);
    report::line(
        log(request, "run", &name)
            .field("PROFILE", permit.profile_name)
            .field("EXIT", response.exit),
    );
    response
}

/// Resolves a path that exists.
pub fn realpath(path: &Path) -> Option<std::path::PathBuf> {
    std::fs::canonicalize(path).ok()
}

fn log(request: &Request, action: &'static str, name: &str) -> Line {
    Line::new(action)
        .field("SCRIPT", name)
        .field("REQID", String::from_utf8_lossy(&request.reqid))
        .field("DISPATCHER", String::from_utf8_lossy(&request.dispatcher))
}

fn receive(stream: &mut UnixStream) -> Result<Request, RequestError> {
    let deadline = Instant::now() + FRAME_TIMEOUT;
    let mut decoder = RequestDecoder::new();
    let mut buffer = [0; 16 * 1024];
    while !decoder.is_complete() {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => {
                decoder.push(&buffer[..count])?;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    report::line("a peer sent no complete request in time");
                    break;
                }
                wait(stream, PollFlags::IN, left);
            }
            Err(_) => break,
        }
    }
    decoder.finish()
}

fn send(stream: &mut UnixStream, response: &Response, extended: bool) {
    let bytes = response.encode(extended);
    let mut rest = bytes.as_slice();
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
                wait(stream, PollFlags::OUT, left);
            }
            Err(_) => break,
        }
    }
    if !rest.is_empty() {
        report::line("a peer went away before its answer");
    }
}

fn wait(stream: &UnixStream, flags: PollFlags, time: Duration) {
    // An interrupted or failed wait only means another round.
    let _ = poll(&mut [PollFd::new(stream, flags)], Some(&timespec(time)));
}
