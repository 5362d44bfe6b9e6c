//! `run` (dispatcher.md §3.1).

use crate::fleet::Fault;
use crate::front::cli::dispatch::{Fanout, Results};
use crate::front::cli::session::{self, Session};
use crate::front::cli::table::{
    ALL, ASYNC, FAILED_OF, FOLD, JSON, JSON_LINES, QUIET, SORT, STRICT, TAGS,
};
use crate::front::cli::{Ctx, Exit, Fatal, out, parse::Args, render};
use crate::jval::{self, Object, Value};
use crate::store::files::locks::{self, LockError};
use crate::store::files::runs;
use crate::tasks::{self, Outcome};
use ctrl_exec_host::syslog::Level;
use ctrl_exec_protocol::hook::HookRequest;
use ctrl_exec_protocol::log_line::Line;
use ctrl_exec_protocol::time::Utc;
use ctrl_exec_protocol::wire::messages::RunRequest;

/// Most output kept in the record of a sync run; beyond it the record has the ends only.
const MAX_STORED: usize = 16 << 20;

/// Runs a script on agents.
pub fn run(ctx: &Ctx, args: &Args) -> Result<Exit, Fatal> {
    let selected = args.has(&ALL) || args.has(&TAGS) || args.has(&FAILED_OF);
    let Some((script, hosts)) = args.words.split_last() else {
        return Err(Fatal("no script given".to_owned()));
    };
    if hosts.is_empty() && !selected {
        return Err(Fatal(
            "run needs at least one host and a script: run <host>... <script> [-- <arg>...]"
                .to_owned(),
        ));
    }
    let config = ctx.config()?;
    let words = session::select(ctx, args, hosts)?;
    if session::list(ctx, args, &words)? {
        return Ok(0);
    }
    let credentials = session::credentials(args)?;
    let script_args = args.rest.clone().unwrap_or_default();
    let hook = HookRequest {
        script: script.clone(),
        args: script_args.clone(),
        ..session::hook_request("run", &words, credentials.clone())
    };
    if !session::authorise(ctx, &config, args, hook)? {
        return Ok(1);
    }
    let held = match locks::acquire(&ctx.locks_dir(), &words, script) {
        Ok(held) => held,
        Err(LockError::Held(pairs)) => return Ok(locked(ctx, args, pairs)),
        Err(error) => return Err(error.into()),
    };
    let targets = session::resolve(&ctx.registry(), args, &words)?;
    let session = Session::open(ctx, config, args, false)?;
    let request = RunRequest {
        script: script.clone(),
        args: script_args,
        reqid: session::new_reqid()?,
        username: credentials.0,
        token: credentials.1,
        run_async: args.has(&ASYNC),
        ..RunRequest::default()
    };
    let run = Run {
        ctx,
        args,
        session,
        words,
        request,
    };
    let exit = run.dispatch(targets)?;
    drop(held);
    Ok(exit)
}

fn locked(ctx: &Ctx, args: &Args, pairs: Vec<String>) -> Exit {
    ctx.log(
        Level::Warning,
        &Line::new("lock-conflict").field("LOCKS", pairs.join(",")),
    );
    if args.has(&JSON) {
        out::line(jval::line(&jval::object([
            ("ok", jval::int(0)),
            ("error", jval::string("locked")),
            ("code", jval::int(4)),
            ("conflicts", jval::strings(&pairs)),
        ])));
    } else {
        out::error(format_args!("Locked: {}", pairs.join(", ")));
    }
    1
}

struct Run<'a> {
    ctx: &'a Ctx,
    args: &'a Args,
    session: Session,
    words: Vec<String>,
    request: RunRequest,
}

impl Run<'_> {
    fn dispatch(&self, targets: Vec<crate::fleet::Target>) -> Result<Exit, Fatal> {
        let request = &self.request;
        let mode = if request.run_async { "async" } else { "sync" };
        let line = Line::new("dispatch")
            .field("SCRIPT", &request.script)
            .field("HOSTS", self.words.join(","))
            .field("REQID", &request.reqid)
            .field("MODE", mode);
        self.ctx.log(Level::Info, &line);
        let body = tasks::RunBody::new(request);
        let calls: Vec<_> = targets
            .into_iter()
            .map(|target| {
                let identity = self.session.identity(&target);
                tasks::run_call(target, identity, &body)
            })
            .collect();
        let streamed = !self.has(&JSON) && !self.has(&SORT) && !self.has(&FOLD);
        if request.run_async && streamed && !self.has(&JSON_LINES) {
            out::line(format_args!("Submitted async run  req:{}", request.reqid));
        }
        let asked = request.clone();
        let mut cut = Vec::new();
        let mut kept = 0;
        let mut results = Fanout::new(&self.session, calls, self.args)?.run(
            move |call, answer| {
                let name = &call.target.name;
                let result = if asked.run_async {
                    tasks::async_result(name, &asked.script, &asked.reqid, &answer)
                } else {
                    tasks::run_result(name, &asked.script, &asked.reqid, &answer)
                };
                let interrupted =
                    matches!(&answer.result, Err(error) if error.fault == Fault::Interrupted);
                (result, interrupted)
            },
            |call, result, interrupted| {
                if interrupted {
                    cut.push(call.target.name.clone());
                }
                self.log_result(result, call);
                if self.has(&JSON_LINES) {
                    out::line(jval::line(&*result));
                } else if streamed {
                    out::raw(&self.text(result));
                } else {
                    return;
                }
                // What was printed is kept for the record only, and that has its limit.
                kept += output_size(result);
                if kept > MAX_STORED {
                    strip_output(result);
                }
            },
        )?;
        self.store(&results, &cut);
        if self.has(&SORT) {
            results
                .results
                .sort_by(|a, b| name_of(&a.1).cmp(name_of(&b.1)));
        }
        self.show(&results, streamed);
        Ok(self.exit(&results))
    }

    fn show(&self, results: &Results, streamed: bool) {
        let objects = results.results.iter().map(|(_, result)| result);
        if self.has(&JSON_LINES) {
            return;
        }
        if self.has(&JSON) {
            let mut object = jval::object([
                ("ok", jval::int(1)),
                ("results", jval::objects(objects.cloned())),
            ]);
            if self.request.run_async {
                object.insert("reqid".to_owned(), jval::string(&*self.request.reqid));
            }
            out::line(jval::line(&object));
            return;
        }
        if !streamed {
            if self.request.run_async {
                out::line(format_args!(
                    "Submitted async run  req:{}",
                    self.request.reqid
                ));
            }
            if self.has(&FOLD) && !self.request.run_async {
                out::raw(&render::folded(objects));
            } else {
                objects.for_each(|result| out::raw(&self.text(result)));
            }
        }
        if self.request.run_async {
            out::line(format_args!(
                "Check progress with: ctrl-exec-dispatcher status {}",
                self.request.reqid
            ));
        }
        if !self.has(&QUIET) {
            summary(results);
        }
    }

    fn text(&self, result: &Object) -> String {
        if self.request.run_async {
            render::async_result(result)
        } else {
            render::run_result(result)
        }
    }

    fn exit(&self, results: &Results) -> Exit {
        let objects = || results.results.iter().map(|(_, result)| result);
        if self.has(&STRICT) {
            return strict_exit(objects());
        }
        let good = if self.request.run_async {
            objects().any(|result| jval::str_or_empty(result, "status") == "accepted")
        } else {
            objects().all(|result| jval::integer(result, "exit") == Some(0))
        };
        u8::from(!good)
    }

    /// Keeps a record: of async runs for `status` and `wait`, of sync ones for `--failed-of`
    /// (the reference's command line keeps none of those). A run without a record still ran.
    fn store(&self, results: &Results, cut: &[String]) {
        let request = &self.request;
        let record = if request.run_async {
            let entries = results
                .results
                .iter()
                .map(|(_, result)| {
                    let name = name_of(result).to_owned();
                    let interrupted = cut.contains(&name);
                    (name, tasks::async_entry(result, interrupted))
                })
                .collect();
            runs::async_record(&request.reqid, &request.script, Utc::now().0, entries)
        } else {
            sync_record(request, &self.words, results)
        };
        if let Err(error) = self.ctx.runs().save(&request.reqid, &record) {
            let line = Line::new("run-store-fail")
                .field("REQID", &request.reqid)
                .field("ERROR", &error);
            self.ctx.log(Level::Warning, &line);
            if request.run_async {
                out::error(format_args!(
                    "Warning: no record of this run could be written ({error}); status and wait \
                     will not know it."
                ));
            }
        }
    }

    fn log_result(&self, result: &Object, call: &crate::fleet::Call) {
        let action = if self.request.run_async {
            "run-async"
        } else {
            "run"
        };
        let mut line = Line::new(action)
            .field("SCRIPT", &self.request.script)
            .field(
                "TARGET",
                format_args!("{}:{}", call.target.address(), call.target.port()),
            )
            .field("RTT", jval::str_or_empty(result, "rtt"))
            .field("REQID", &self.request.reqid);
        for (key, name) in [("exit", "EXIT"), ("status", "STATUS"), ("error", "ERROR")] {
            if let Some(value) = jval::text(result, key) {
                line = line.field(name, value);
            }
        }
        let level = match (
            jval::str_or_empty(result, "status"),
            result.contains_key("error"),
        ) {
            ("busy", _) => Level::Warning,
            (_, true) => Level::Err,
            _ => Level::Info,
        };
        self.ctx.log(level, &line);
    }

    fn has(&self, flag: &super::super::table::Flag) -> bool {
        self.args.has(flag)
    }
}

fn sync_record(request: &RunRequest, words: &[String], results: &Results) -> Object {
    let size: usize = results
        .results
        .iter()
        .map(|(_, result)| output_size(result))
        .sum();
    let kept = results.results.iter().map(|(_, result)| {
        let mut result = result.clone();
        if size > MAX_STORED {
            strip_output(&mut result);
        }
        result
    });
    jval::object([
        ("reqid", jval::string(&*request.reqid)),
        ("script", jval::string(&*request.script)),
        ("mode", jval::string("sync")),
        ("hosts", jval::strings(words)),
        ("results", jval::objects(kept)),
        ("completed", jval::int(Utc::now().0)),
        ("complete", Value::Bool(true)),
    ])
}

fn output_size(result: &Object) -> usize {
    ["stdout", "stderr"]
        .iter()
        .map(|key| jval::str_or_empty(result, key).len())
        .sum()
}

fn strip_output(result: &mut Object) {
    for key in ["stdout", "stderr"] {
        result.remove(key);
    }
}

/// The registry name of a result.
pub fn name_of(result: &Object) -> &str {
    jval::str_or_empty(result, "host")
}

/// `--strict`: not reached before refused before failed.
pub fn strict_exit<'a>(results: impl Iterator<Item = &'a Object>) -> Exit {
    match results.map(Outcome::of).max() {
        None | Some(Outcome::Ok) => 0,
        Some(Outcome::Failed) => 1,
        Some(Outcome::Refused) => 4,
        Some(Outcome::Unreached | Outcome::Skipped) => 5,
    }
}

/// On standard error, when several hosts were called and not all did well.
pub fn summary(results: &Results) {
    let mut counts = [0_usize; 5];
    for (_, result) in &results.results {
        counts[Outcome::of(result) as usize] += 1;
    }
    if results.results.len() < 2 || counts[0] == results.results.len() {
        return;
    }
    let words = ["ok", "failed", "refused", "not reached", "not started"];
    let parts: Vec<String> = counts
        .iter()
        .zip(words)
        .filter(|(count, _)| **count > 0)
        .map(|(count, word)| format!("{count} {word}"))
        .collect();
    out::error(format_args!(
        "{} hosts: {}",
        results.results.len(),
        parts.join(", ")
    ));
}
