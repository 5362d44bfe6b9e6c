//! `GET /status/{reqid}/events`, and the events of `POST /run`.

use super::status::{self, owned};
use crate::front::api::app::App;
use crate::front::api::call::Call;
use crate::front::api::feed::{Driving, Feed};
use crate::front::api::meters::Meters;
use crate::front::api::pieces::Pieces;
use crate::front::api::reply::Reply;
use crate::front::api::step::Step;
use crate::front::api::tidy::Tidy;
use crate::model::{Mode, RunRecord};
use crate::tasks::run::Run;
use crate::tasks::{Event, Task};
use ctrl_exec_protocol::json::{Json, Members};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Every call ends by its own limits.
const LONG: Duration = Duration::from_secs(3600);
/// How often the record of a run is read that somebody else drives.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The events of a run that the caller may see. One that this process does not drive itself is
/// followed by its record.
pub fn events(call: Call) -> Step {
    owned(call, |call, record| {
        Step::Work(Box::new(move |app| {
            let reqid = call.param;
            let (feed, new) = app.hub.open(&reqid);
            if new {
                let Some(driving) = app.hub.drive(app.settings.most_requests) else {
                    app.hub.forget(&reqid);
                    return Step::Answer(Reply::overloaded());
                };
                let (app, fed) = (Arc::clone(app), Arc::clone(&feed));
                feed.join();
                let follow = move || {
                    follow(&app, record, &fed);
                    drop(driving);
                };
                if let Err(error) = spawn(follow) {
                    feed.leave();
                    return Step::Answer(no_thread(&error));
                }
                // The loop joins for the client; what was joined above kept the follower from leaving
                // before that.
                let place = feed.place_after(call.last_event.as_deref());
                return Step::Stream(feed, place, true);
            }
            let place = feed.place_after(call.last_event.as_deref());
            Step::Stream(feed, place, false)
        }))
    })
}

/// Drives a run that was begun, and streams it to whoever began it.
pub fn stream(app: &Arc<App>, run: Run, driving: Driving) -> Step {
    let (feed, _) = app.hub.open(run.reqid());
    let fed = Arc::clone(&feed);
    let meters = Arc::clone(&app.meters);
    let drive = move || {
        drive(run, &fed, &meters);
        drop(driving);
    };
    match spawn(drive) {
        Ok(()) => Step::Stream(feed, 0, false),
        Err(error) => Step::Answer(no_thread(&error)),
    }
}

/// Pulls a run to its end, and puts its events.
fn drive(mut run: Run, feed: &Feed, meters: &Meters) {
    let begun = Instant::now();
    feed.put_object("run", &head(run.record()));
    let mut pieces = Pieces::default();
    while run.left() > 0 {
        match run.next(LONG) {
            Some(Event::Begun(host)) => {
                feed.put_object("begun", &Members::of([("host", Json::text(host))]));
            }
            Some(Event::Output { host, piece }) => {
                if let Some(object) = pieces.object(&host, piece) {
                    feed.put_object("output", &object);
                }
            }
            Some(Event::Ended(mut result)) => {
                pieces.end(&result.host);
                result.tidy();
                meters.host(result.outcome);
                feed.put_object("ended", &result.object());
            }
            None => {}
        }
    }
    meters.run(begun.elapsed());
    done(run.record(), feed);
}

fn spawn(work: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    let builder = std::thread::Builder::new().name("api-run".into());
    builder.spawn(work).map(|_| ())
}

fn no_thread(error: &std::io::Error) -> Reply {
    Reply::error(
        500,
        "server error",
        format!("cannot start a thread: {error}"),
    )
}

/// What a run is about.
fn head(record: &RunRecord) -> Members {
    Members::of([
        ("reqid", Json::text(&*record.reqid)),
        ("script", Json::text(&*record.script)),
        ("hosts", Json::texts(record.hosts())),
    ])
}

fn done(record: &RunRecord, feed: &Feed) {
    let failed = record.failed_hosts().len();
    let last = Members::of([
        ("reqid", Json::text(&*record.reqid)),
        ("complete", Json::flag(record.complete)),
        ("failed", Json::count(failed)),
    ]);
    feed.put_object("done", &last);
    feed.end();
}

/// Puts what changes in a record, until the run is over or nobody follows any more.
fn follow(app: &Arc<App>, record: RunRecord, feed: &Feed) {
    feed.put_object("run", &head(&record));
    let reqid = record.reqid.clone();
    let (mut record, mut told) = (Some(record), Told::default());
    // Until the record is gone, at the latest.
    while let Some(now) = record {
        told.tell(&now, feed);
        if now.complete {
            done(&now, feed);
            return;
        }
        std::thread::sleep(LOOK_EVERY);
        if !feed.is_followed() {
            break;
        }
        let fresh = app.dispatcher.runs().load(&reqid).ok().flatten();
        record = fresh.and_then(|fresh| status::look(app, &reqid, fresh).ok().flatten());
    }
    app.hub.forget(&reqid);
    feed.end();
}

/// What has been told.
#[derive(Default)]
struct Told {
    results: usize,
    states: HashMap<String, String>,
}

impl Told {
    fn tell(&mut self, record: &RunRecord, feed: &Feed) {
        match &record.mode {
            Mode::Sync { results, .. } => {
                for result in results.iter().skip(self.results) {
                    feed.put("ended", &result.to_json());
                }
                self.results = results.len();
            }
            Mode::Async { entries } => {
                for (host, entry) in entries {
                    let mut object = entry.object();
                    object.set("host", Json::text(&**host));
                    let line = object.render();
                    if self.states.get(host) != Some(&line) {
                        feed.put("state", &line);
                        self.states.insert(host.clone(), line);
                    }
                }
            }
        }
    }
}
