//! `status` and `wait` (dispatcher.md §3.2, §3.3, §12.3).

use crate::fleet::Call;
use crate::fleet::address;
use crate::front::cli::session::Session;
use crate::front::cli::table::{JSON, PORT, TIMEOUT};
use crate::front::cli::{Ctx, Exit, Fatal, out, parse::Args, render};
use crate::jval::{self, Object, Value};
use crate::store::files::runs;
use crate::tasks::{self, Fetched};
use ctrl_exec_protocol::names;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How long `wait` waits unless told otherwise.
const DEFAULT_WAIT: u64 = 300;
/// How long after its time a question of `wait` that is under way may still be answered.
const GRACE: Duration = Duration::from_secs(1);
/// Pauses between the questions of `wait`, the last one repeated: together with the submission
/// they stay below 10 connections in any 60 s, which is where agents' rate limit bites. The
/// reference asks every 2 s and is shut out.
const PAUSES: [u64; 6] = [2, 3, 5, 8, 12, 15];

/// Shows the state of a run.
pub fn status(ctx: &Ctx, args: &Args) -> Result<Exit, Fatal> {
    let mut follower = Follower::new(ctx, args)?;
    Ok(match follower.aggregate()? {
        Some(record) => {
            show(args, &record);
            0
        }
        None => not_found(args),
    })
}

/// Waits until a run is complete.
pub fn wait(ctx: &Ctx, args: &Args) -> Result<Exit, Fatal> {
    let limit = Duration::from_secs(args.number(&TIMEOUT).unwrap_or(DEFAULT_WAIT));
    let deadline = Instant::now() + limit;
    let mut follower = Follower::new(ctx, args)?;
    // An agent that never comes to an end must not hold us beyond our own time.
    follower.session.plan.deadline = Some(deadline + GRACE);
    let mut pauses = PAUSES.iter();
    let mut pause = Duration::ZERO;
    loop {
        let Some(record) = follower.aggregate()? else {
            return Ok(not_found(args));
        };
        if jval::truthy(&record, "complete") {
            show(args, &record);
            return Ok(u8::from(failed(&record)));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            show(args, &record);
            return Ok(2);
        }
        pause = pauses
            .next()
            .map_or(pause, |seconds| Duration::from_secs(*seconds));
        std::thread::sleep(pause.min(left));
    }
}

struct Follower<'a> {
    ctx: &'a Ctx,
    args: &'a Args,
    reqid: &'a str,
    session: Session,
}

impl<'a> Follower<'a> {
    fn new(ctx: &'a Ctx, args: &'a Args) -> Result<Self, Fatal> {
        let config = ctx.config()?;
        let step = config.read_timeout()?;
        let session = Session::with_timeout(ctx, config, args, true, step)?;
        Ok(Self {
            ctx,
            args,
            reqid: &args.words[0],
            session,
        })
    }

    /// Asks the agents that have not finished and updates the record. `None` when there is none.
    fn aggregate(&mut self) -> Result<Option<Object>, Fatal> {
        let store = self.ctx.runs();
        let Some(record) = store
            .load(self.reqid)
            .filter(|_| names::is_reqid(self.reqid))
        else {
            return Ok(None);
        };
        if jval::str_or_empty(&record, "mode") != "async" {
            return Ok(Some(record));
        }
        let open: Vec<&str> = runs::host_entries(&record)
            .filter(|(_, entry)| runs::is_open(entry))
            .map(|(name, _)| name)
            .collect();
        if open.is_empty() {
            return Ok(Some(record));
        }
        let targets =
            address::resolve_or_pass(&self.ctx.registry(), &open, self.args.number(&PORT))?;
        let calls: Vec<Call> = targets
            .into_iter()
            .map(|target| {
                let identity = self.session.identity(&target);
                tasks::result_call(target, identity, self.reqid)
            })
            .collect();
        let fetched: HashMap<String, Fetched> = self
            .session
            .engine
            .all(calls, self.session.plan.clone())
            .iter()
            .zip(&open)
            .map(|(answer, name)| ((*name).to_owned(), tasks::result_of(answer)))
            .collect();
        // Another poller may have written meanwhile: what it found to be over stays so.
        let updated = store.update(self.reqid, |record| {
            if let Some(Value::Object(hosts)) = record.get_mut("hosts") {
                for (name, fetched) in &fetched {
                    if let Some(Value::Object(entry)) = hosts.get_mut(name) {
                        if runs::is_open(entry) {
                            fetched.apply(entry);
                        }
                    }
                }
            }
            runs::recompute(record);
        });
        match updated {
            Ok(record) => Ok(record),
            // Somebody who may not write the record can still see what is new.
            Err(_) => Ok(Some(applied(record, &fetched))),
        }
    }
}

fn applied(mut record: Object, fetched: &HashMap<String, Fetched>) -> Object {
    if let Some(Value::Object(hosts)) = record.get_mut("hosts") {
        for (name, fetched) in fetched {
            if let Some(Value::Object(entry)) = hosts.get_mut(name) {
                fetched.apply(entry);
            }
        }
    }
    runs::recompute(&mut record);
    record
}

/// Whether a complete run failed anywhere. Of a sync record the results count; the reference dies
/// there.
fn failed(record: &Object) -> bool {
    !runs::failed_hosts(record).is_empty()
}

fn show(args: &Args, record: &Object) {
    if args.has(&JSON) {
        let mut record = record.clone();
        record.insert("ok".to_owned(), jval::int(1));
        out::line(jval::line(&record));
    } else {
        out::raw(&render::record(record));
    }
}

fn not_found(args: &Args) -> Exit {
    let reqid = &args.words[0];
    if args.has(&JSON) {
        out::line(jval::line(&jval::object([
            ("ok", jval::int(0)),
            ("error", jval::string("not found")),
            ("reqid", jval::string(reqid.as_str())),
        ])));
    } else {
        out::error(format_args!("Request '{}' not found", out::clean(reqid)));
    }
    1
}
