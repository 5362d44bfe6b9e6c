//! `GET /runs` and `GET /agents`: what there is, in pages.

use crate::fleet::select::{TagFilter, glob};
use crate::front::api::call::Call;
use crate::front::api::reply::Reply;
use crate::front::api::step::Step;
use crate::model::AgentRecord;
use crate::model::{AppError, RunRecord};
use crate::tasks::Dispatcher;
use ctrl_exec_protocol::json::{Json, Members};
use ctrl_exec_protocol::time::Utc;

/// Entries of a page unless asked for.
const LIMIT: usize = 100;
/// Entries of a page at the most.
const MOST: usize = 1000;
/// Records that are read for one page of runs.
const LOOKED_AT: usize = 2000;

/// Names of the parameters of `GET /runs`.
pub const RUNS: &[&str] = &["script", "host", "result", "limit", "cursor"];
/// Names of the parameters of `GET /agents`.
pub const AGENTS: &[&str] = &["tags", "limit", "cursor"];

/// What is asked of a list.
struct Page {
    limit: usize,
    cursor: Option<String>,
}

/// `GET /runs`: the runs there are, those written last first.
pub fn runs(call: Call) -> Step {
    let page = match Page::read(&call, RUNS) {
        Ok(page) => page,
        Err(reply) => return Step::Answer(reply),
    };
    let filter = Filter {
        script: call.query_value("script"),
        host: call.query_value("host"),
        result: call.query_value("result"),
    };
    if let Some(other) = filter.result.as_deref().filter(|r| !RESULTS.contains(r)) {
        let detail = format!("result must be ok, failed or open, not {other}");
        return Step::Answer(Reply::bad(detail));
    }
    let request = call.hook_request("runs");
    Step::ask(&call.app, request, move |_| {
        Step::work(move |app| list_runs(&app.dispatcher, &page, &filter))
    })
}

/// `GET /agents`: the registered agents, by name. None of them is asked anything.
pub fn agents(call: Call) -> Step {
    let read = Page::read(&call, AGENTS).and_then(|page| {
        let tags = call.query_value("tags").map(|text| TagFilter::parse(&text));
        Ok((page, tags.transpose().map_err(Reply::bad)?))
    });
    let (page, tags) = match read {
        Ok(read) => read,
        Err(reply) => return Step::Answer(reply),
    };
    let request = call.hook_request("agents");
    Step::ask(&call.app, request, move |_| {
        Step::work(move |app| list_agents(&app.dispatcher, &page, tags.as_ref()))
    })
}

impl Page {
    fn read(call: &Call, known: &[&str]) -> Result<Self, Reply> {
        if let Some(other) = call.unknown_query(known) {
            return Err(Reply::bad(format!("unknown parameter {other}")));
        }
        let limit = match call.query_value("limit") {
            None => LIMIT,
            Some(text) => text
                .parse()
                .ok()
                .filter(|limit| (1..=MOST).contains(limit))
                .ok_or_else(|| Reply::bad(format!("limit must be a number from 1 to {MOST}")))?,
        };
        Ok(Self {
            limit,
            cursor: call.query_value("cursor"),
        })
    }

    /// The answer. `next`: where the following page begins.
    fn reply(name: &str, items: Vec<Members>, next: Option<&str>) -> Reply {
        let mut body = Members::of([(name, Json::list(items))]);
        body.set_text("next", next);
        Reply::ok(body)
    }
}

struct Filter {
    script: Option<String>,
    host: Option<String>,
    result: Option<String>,
}

const RESULTS: [&str; 3] = ["ok", "failed", "open"];

impl Filter {
    fn fits(&self, record: &RunRecord) -> bool {
        let host = |pattern: &str| record.hosts().iter().any(|name| glob(pattern, name));
        self.script
            .as_deref()
            .is_none_or(|script| record.script == script)
            && self.host.as_deref().is_none_or(host)
            && self
                .result
                .as_deref()
                .is_none_or(|word| word == result(record))
    }
}

fn result(record: &RunRecord) -> &'static str {
    match (record.complete, record.has_failure()) {
        (_, true) => "failed",
        (true, false) => "ok",
        (false, false) => "open",
    }
}

fn list_runs(dispatcher: &Dispatcher, page: &Page, filter: &Filter) -> Result<Reply, AppError> {
    let store = dispatcher.runs();
    let ids = store.ids()?;
    let from = match &page.cursor {
        None => 0,
        Some(cursor) => match ids.iter().position(|id| id == cursor) {
            Some(at) => at + 1,
            None => {
                return Ok(Reply::bad(
                    "cursor: that run is gone; begin again without it",
                ));
            }
        },
    };
    let mut found = Vec::new();
    let mut last = None;
    for id in ids.iter().skip(from).take(LOOKED_AT) {
        if found.len() == page.limit {
            break;
        }
        last = Some(id);
        // One that is gone or cannot be read is left out.
        if let Ok(Some(record)) = store.load(id) {
            if filter.fits(&record) {
                found.push(run(&record));
            }
        }
    }
    // The last of all has nothing after it.
    let next = last.filter(|id| Some(*id) != ids.last());
    Ok(Page::reply("runs", found, next.map(String::as_str)))
}

/// A run as the list shows it: neither who ordered it nor its arguments or output.
fn run(record: &RunRecord) -> Members {
    let mut object = Members::of([
        ("reqid", Json::text(&*record.reqid)),
        ("script", Json::text(&*record.script)),
        ("hosts", Json::texts(record.hosts())),
        ("result", Json::text(result(record))),
        ("complete", Json::flag(record.complete)),
    ]);
    object.set_integer("created", record.created);
    object.set_integer("completed", record.completed);
    object
}

fn list_agents(
    dispatcher: &Dispatcher,
    page: &Page,
    tags: Option<&TagFilter>,
) -> Result<Reply, AppError> {
    let agents = dispatcher.agents();
    let names = agents.names()?;
    let from = page.cursor.as_ref().map_or(0, |cursor| {
        names.partition_point(|name| name.as_str() <= cursor.as_str())
    });
    let now = Utc::now();
    let mut found = Vec::new();
    let mut last = None;
    for name in names.iter().skip(from) {
        if found.len() == page.limit {
            break;
        }
        last = Some(name);
        match agents.load(name) {
            Ok(Some(record)) if tags.is_none_or(|tags| tags.matches(&record)) => {
                found.push(agent(&record, now));
            }
            Ok(_) => {}
            Err(_) if tags.is_none() => found.push(Members::of([
                ("name", Json::text(&**name)),
                ("state", Json::text("damaged")),
            ])),
            Err(_) => {}
        }
    }
    let next = last.filter(|name| Some(*name) != names.last());
    Ok(Page::reply("agents", found, next.map(String::as_str)))
}

fn agent(record: &AgentRecord, now: Utc) -> Members {
    let end = Utc::parse_openssl(record.expiry());
    let state = match (record.revoked(), end) {
        (Some(_), _) => "revoked",
        (None, Some(end)) if end.0 < now.0 => "expired",
        _ => "paired",
    };
    let mut object = Members::of([
        ("name", Json::text(record.name())),
        ("state", Json::text(state)),
        ("ip", Json::text(record.ip())),
        ("port", Json::integer(i64::from(record.port()))),
        ("lookup_by", Json::text(record.lookup_by().word())),
        ("paired", Json::text(record.paired())),
        ("expiry", Json::text(record.expiry())),
        ("serial_status", Json::text(record.serial_status().word())),
        ("tags", record.tags.clone().unwrap_or_default().into()),
    ]);
    if let Some(end) = end {
        let days = (end.0 - now.0).div_euclid(86_400);
        object.set("days_left", Json::integer(days));
    }
    let version = record.agent_version.as_deref();
    object.set_text("version", version.filter(|version| !version.is_empty()));
    object
}
