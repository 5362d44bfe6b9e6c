//! `GET /metrics`, in the text format 0.0.4 of Prometheus. No agent is a label: a fleet would be
//! thousands of series.

use crate::front::api::app::{App, VERSION};
use crate::front::api::call::Call;
use crate::front::api::meters::BOUNDS;
use crate::front::api::reply::Reply;
use crate::front::api::step::Step;
use crate::model::AppError;
use crate::pairing::{DIR, Queue};
use ctrl_exec_protocol::time::Utc;
use std::fmt::{Display, Write};
use std::sync::atomic::Ordering;

/// The media type of the format.
pub const MEDIA: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Days left of certificates that are told apart.
const DAYS: [i64; 4] = [7, 30, 90, 365];

/// What is counted here, and what the registry says now.
pub fn metrics(call: Call) -> Step {
    let request = call.hook_request("metrics");
    Step::ask(&call.app, request, |_| {
        Step::work(|app| Ok(Reply::new(200, MEDIA, text(app)?)))
    })
}

/// Writes families one after the other.
#[derive(Default)]
struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string cannot fail.
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn sample(&mut self, name: &str, labels: &str, value: impl Display) {
        let _ = writeln!(self.0, "{name}{labels} {value}");
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.family(name, kind, help);
        self.sample(name, "", value);
    }
}

fn text(app: &App) -> Result<String, AppError> {
    let mut page = Page::default();
    page.family("ctrl_exec_build_info", "gauge", "The version that runs.");
    let version = format!("{{version=\"{VERSION}\"}}");
    page.sample("ctrl_exec_build_info", &version, 1);
    agents(app, &mut page)?;
    let queue = Queue::new(app.dispatcher.root.path(DIR));
    let waiting = queue.pending()?.len();
    let help = "Pairing requests that wait for a decision.";
    page.one("ctrl_exec_pairing_requests", "gauge", help, waiting);
    requests(app, &mut page);
    runs(app, &mut page);
    Ok(page.0)
}

fn agents(app: &App, page: &mut Page) -> Result<(), AppError> {
    let listing = app.dispatcher.agents().list()?;
    let now = Utc::now();
    let (mut paired, mut expired, mut revoked) = (0_usize, 0_usize, 0_usize);
    let mut left = Vec::new();
    for record in &listing.records {
        let end = Utc::parse_openssl(record.expiry());
        match (record.revoked(), end) {
            (Some(_), _) => revoked += 1,
            (None, Some(end)) if end.0 < now.0 => expired += 1,
            (None, end) => {
                paired += 1;
                left.extend(end.map(|end| end.0 - now.0));
            }
        }
    }
    let name = "ctrl_exec_agents";
    page.family(name, "gauge", "Registered agents by state.");
    for (state, count) in [
        ("paired", paired),
        ("expired", expired),
        ("revoked", revoked),
        ("damaged", listing.damaged.len()),
    ] {
        page.sample(name, &format!("{{state=\"{state}\"}}"), count);
    }
    let name = "ctrl_exec_agent_certificates_ending";
    let help = "Certificates of paired agents that end within so many days.";
    page.family(name, "gauge", help);
    for bound in DAYS {
        let count = left.iter().filter(|left| **left < bound * 86_400).count();
        page.sample(name, &format!("{{days=\"{bound}\"}}"), count);
    }
    if let Some(least) = left.iter().min() {
        let help = "Time left of the certificate of a paired agent that ends first.";
        page.one(
            "ctrl_exec_agent_certificate_left_min_seconds",
            "gauge",
            help,
            least,
        );
    }
    Ok(())
}

fn requests(app: &App, page: &mut Page) {
    let meters = &app.meters;
    let name = "ctrl_exec_http_answers_total";
    page.family(name, "counter", "Answers by status.");
    for (status, count) in meters.answers() {
        page.sample(name, &format!("{{status=\"{status}\"}}"), count);
    }
    let gauges = [
        (
            "ctrl_exec_http_requests_in_flight",
            "Requests that are being worked on.",
            &meters.in_flight,
        ),
        (
            "ctrl_exec_http_connections",
            "Connections.",
            &meters.connections,
        ),
        (
            "ctrl_exec_http_streams",
            "Connections that follow runs.",
            &meters.streams,
        ),
    ];
    for (name, help, value) in gauges {
        page.one(name, "gauge", help, value.load(Ordering::Relaxed));
    }
    let help = "Requests that may be worked on at a time.";
    let most = app.settings.most_requests;
    page.one("ctrl_exec_http_requests_in_flight_max", "gauge", help, most);
}

fn runs(app: &App, page: &mut Page) {
    let name = "ctrl_exec_run_hosts_total";
    page.family(
        name,
        "counter",
        "Hosts of runs that this program waited for, by outcome.",
    );
    for (outcome, count) in app.meters.hosts() {
        page.sample(name, &format!("{{outcome=\"{outcome}\"}}"), count);
    }
    let name = "ctrl_exec_run_duration_seconds";
    page.family(
        name,
        "histogram",
        "How long runs took that this program waited for.",
    );
    let (counts, seconds) = app.meters.runs();
    let mut sum = 0;
    let bounds = BOUNDS.iter().map(u64::to_string).chain(["+Inf".to_owned()]);
    for (bound, count) in bounds.zip(counts) {
        sum += count;
        page.sample(
            &format!("{name}_bucket"),
            &format!("{{le=\"{bound}\"}}"),
            sum,
        );
    }
    page.sample(&format!("{name}_sum"), "", seconds);
    page.sample(&format!("{name}_count"), "", sum);
}
