//! The table of routes. It drives both what is done and what the OpenAPI document says: there is no
//! second list.

mod cancel;
mod discovery;
mod events;
mod lists;
mod meta;
mod metrics;
pub mod openapi;
mod pairing;
mod paths;
mod ping;
mod run;
mod status;

use super::call::Call;
use super::reply::{JSON, Reply};
use super::step::Step;

/// One method of one path.
#[derive(Debug)]
pub struct Route {
    /// The method.
    pub method: &'static str,
    /// The path; `{…}` stands for lower-case hex digits.
    pub path: &'static str,
    /// `operationId`.
    pub id: &'static str,
    /// What it does, in a sentence.
    pub summary: &'static str,
    /// The body it takes.
    pub request: Option<Taken>,
    /// Parameters of query and headers.
    pub params: &'static [Param],
    /// The answers besides those in [`COMMON`].
    pub answers: &'static [Given],
    /// What is done.
    pub handler: fn(Call) -> Step,
}

/// A body that a route takes.
#[derive(Debug)]
pub struct Taken {
    /// Name of its schema.
    pub schema: &'static str,
    /// Whether there must be one.
    pub required: bool,
}

/// A parameter.
#[derive(Debug)]
pub struct Param {
    /// Its name.
    pub name: &'static str,
    /// `query` or `header`.
    pub place: &'static str,
    /// What it means.
    pub about: &'static str,
    /// Its schema, as JSON.
    pub schema: &'static str,
}

/// An answer.
#[derive(Debug)]
pub struct Given {
    /// The status.
    pub status: u16,
    /// When.
    pub about: &'static str,
    /// Media types with the names of their schemas. An empty name: any text.
    pub media: &'static [(&'static str, &'static str)],
}

impl Given {
    const fn json(
        status: u16,
        about: &'static str,
        schema: &'static [(&'static str, &'static str)],
    ) -> Self {
        Self {
            status,
            about,
            media: schema,
        }
    }
}

const ERROR: &[(&str, &str)] = &[(JSON, "ErrorResponse")];

/// Server-sent events.
const EVENTS: &str = "text/event-stream";

const TEXT: &str = r#"{"type":"string"}"#;

const PAGE_LIMIT: Param = Param {
    name: "limit",
    place: "query",
    about: "Entries of a page.",
    schema: r#"{"type":"integer","minimum":1,"maximum":1000,"default":100}"#,
};

const PAGE_CURSOR: Param = Param {
    name: "cursor",
    place: "query",
    about: "The next of the page before.",
    schema: TEXT,
};

/// Answers that every route may give.
pub const COMMON: &[Given] = &[
    Given::json(400, "The request makes no sense.", ERROR),
    Given::json(
        403,
        "The auth hook, or what stands in for it, denies.",
        ERROR,
    ),
    Given::json(413, "The body has more than 1,048,576 bytes.", ERROR),
    Given::json(
        431,
        "More than 32 header lines, or a head of more than 16 KiB.",
        ERROR,
    ),
    Given::json(500, "A file or the operating system failed.", ERROR),
    Given::json(503, "Too many requests at once.", ERROR),
];

/// Every route.
pub const ROUTES: &[Route] = &[
    Route {
        method: "GET",
        path: "/",
        id: "getIndex",
        summary: "What there is.",
        request: None,
        params: &[],
        answers: &[Given::json(
            200,
            "The list of routes.",
            &[(JSON, "IndexResponse")],
        )],
        handler: meta::index,
    },
    Route {
        method: "GET",
        path: "/health",
        id: "getHealth",
        summary: "Whether the server answers.",
        request: None,
        params: &[],
        answers: &[Given::json(200, "It does.", &[(JSON, "HealthResponse")])],
        handler: meta::health,
    },
    Route {
        method: "POST",
        path: "/ping",
        id: "pingAgents",
        summary: "Reaches agents. One that does not answer is a result, not an error.",
        request: Some(Taken {
            schema: "PingRequest",
            required: true,
        }),
        params: &[],
        answers: &[
            Given::json(200, "What each agent said.", &[(JSON, "PingResponse")]),
            Given::json(404, "Hosts that are not registered.", ERROR),
        ],
        handler: ping::ping,
    },
    Route {
        method: "POST",
        path: "/run",
        id: "runScript",
        summary: "Runs a script on agents, and waits for it unless async is true.",
        request: Some(Taken {
            schema: "RunRequest",
            required: true,
        }),
        params: &[Param {
            name: "Accept",
            place: "header",
            about: "text/event-stream: events while it goes on, instead of one answer in the end.",
            schema: TEXT,
        }],
        answers: &[
            Given::json(
                200,
                "How it ended on each host.",
                &[(JSON, "RunResponse"), (EVENTS, "")],
            ),
            Given::json(
                202,
                "What became of the submissions.",
                &[(JSON, "AsyncSubmitResponse")],
            ),
            Given::json(404, "Hosts that are not registered.", ERROR),
            Given::json(409, "The script is running there.", ERROR),
        ],
        handler: run::run,
    },
    Route {
        method: "GET",
        path: "/discovery",
        id: "discoverAgentsGet",
        summary: "What every agent offers.",
        request: None,
        params: &[],
        answers: &[
            Given::json(200, "By host.", &[(JSON, "DiscoveryResponse")]),
            Given::json(404, "Hosts that are not registered.", ERROR),
        ],
        handler: discovery::discovery,
    },
    Route {
        method: "POST",
        path: "/discovery",
        id: "discoverAgentsPost",
        summary: "What these agents offer; without hosts, every agent.",
        request: Some(Taken {
            schema: "DiscoveryRequest",
            required: false,
        }),
        params: &[],
        answers: &[
            Given::json(200, "By host.", &[(JSON, "DiscoveryResponse")]),
            Given::json(404, "Hosts that are not registered.", ERROR),
        ],
        handler: discovery::discovery,
    },
    Route {
        method: "GET",
        path: "/status/{reqid}",
        id: "getRunStatus",
        summary: "How far a run is. What may not be seen is not there.",
        request: None,
        params: &[],
        answers: &[
            Given::json(200, "Its record.", &[(JSON, "StatusResponse")]),
            Given::json(404, "No such run, or not for this caller.", ERROR),
        ],
        handler: status::status,
    },
    Route {
        method: "GET",
        path: "/status/{reqid}/events",
        id: "followRun",
        summary: "The events of a run: those there were, then those to come, until it is over.",
        request: None,
        params: &[Param {
            name: "Last-Event-ID",
            place: "header",
            about: "Go on after this event.",
            schema: TEXT,
        }],
        answers: &[
            Given::json(200, "The events.", &[(EVENTS, "")]),
            Given::json(404, "No such run, or not for this caller.", ERROR),
        ],
        handler: events::events,
    },
    Route {
        method: "POST",
        path: "/cancel",
        id: "cancelRun",
        summary: "Ends a run on its agents, with everything that its script has started.",
        request: Some(Taken {
            schema: "CancelRequest",
            required: true,
        }),
        params: &[],
        answers: &[
            Given::json(200, "What each agent said.", &[(JSON, "CancelResponse")]),
            Given::json(404, "No such run, or hosts that are not registered.", ERROR),
            Given::json(409, "It has ended on all its hosts.", ERROR),
        ],
        handler: cancel::cancel,
    },
    Route {
        method: "GET",
        path: "/pairing",
        id: "listPairingRequests",
        summary: "The pairing requests that wait for a decision.",
        request: None,
        params: &[],
        answers: &[Given::json(
            200,
            "The requests.",
            &[(JSON, "PairingResponse")],
        )],
        handler: pairing::list,
    },
    Route {
        method: "POST",
        path: "/pairing/{id}",
        id: "decidePairingRequest",
        summary: "Approves or denies a pairing request.",
        request: Some(Taken {
            schema: "PairingDecision",
            required: true,
        }),
        params: &[],
        answers: &[
            Given::json(200, "It is decided.", &[(JSON, "PairingDecided")]),
            Given::json(404, "No such request.", ERROR),
            Given::json(
                409,
                "Decided already, another code, or no right to sign.",
                ERROR,
            ),
        ],
        handler: pairing::decide,
    },
    Route {
        method: "GET",
        path: "/runs",
        id: "listRuns",
        summary: "The runs there are, those written last first.",
        request: None,
        params: &[
            Param {
                name: "script",
                place: "query",
                about: "Only of this script.",
                schema: TEXT,
            },
            Param {
                name: "host",
                place: "query",
                about: "Only on this host; * and ? stand for any characters.",
                schema: TEXT,
            },
            Param {
                name: "result",
                place: "query",
                about: "Only those that ended so, or are under way.",
                schema: r#"{"enum":["ok","failed","open"]}"#,
            },
            PAGE_LIMIT,
            PAGE_CURSOR,
        ],
        answers: &[Given::json(
            200,
            "A page of them.",
            &[(JSON, "RunsResponse")],
        )],
        handler: lists::runs,
    },
    Route {
        method: "GET",
        path: "/agents",
        id: "listAgents",
        summary: "The registered agents, by name, as the registry has them.",
        request: None,
        params: &[
            Param {
                name: "tags",
                place: "query",
                about: "Only with these tags: key=value[,key=value...].",
                schema: TEXT,
            },
            PAGE_LIMIT,
            PAGE_CURSOR,
        ],
        answers: &[Given::json(
            200,
            "A page of them.",
            &[(JSON, "AgentsResponse")],
        )],
        handler: lists::agents,
    },
    Route {
        method: "GET",
        path: "/metrics",
        id: "getMetrics",
        summary: "What is counted, in the text format of Prometheus.",
        request: None,
        params: &[],
        answers: &[Given::json(200, "The metrics.", &[(metrics::MEDIA, "")])],
        handler: metrics::metrics,
    },
    Route {
        method: "GET",
        path: "/openapi.json",
        id: "getOpenapi",
        summary: "This document.",
        request: None,
        params: &[],
        answers: &[Given::json(
            200,
            "The document.",
            &[(JSON, "OpenApiDocument")],
        )],
        handler: openapi::document,
    },
    Route {
        method: "GET",
        path: "/openapi-live.json",
        id: "getOpenapiLive",
        summary: "This document with the hosts and scripts that there are just now.",
        request: None,
        params: &[],
        answers: &[Given::json(
            200,
            "The document.",
            &[(JSON, "OpenApiDocument")],
        )],
        handler: openapi::live,
    },
];

/// The gate before every route (api.md §5.3), then the route.
pub fn enter(call: Call) -> Step {
    let app = std::sync::Arc::clone(&call.app);
    Step::ask(&app, call.hook_request("api"), move |permit| {
        dispatch(Call {
            permit: Some(permit),
            ..call
        })
    })
}

fn dispatch(mut call: Call) -> Step {
    let mut allowed: Vec<&str> = Vec::new();
    for route in ROUTES {
        let Some(param) = paths::fits(route.path, &call.path) else {
            continue;
        };
        // A query on a route that takes none makes another path of it, as in the reference.
        if call.query.is_some() && !route.params.iter().any(|param| param.place == "query") {
            continue;
        }
        if route.method == call.method {
            call.param = param.to_owned();
            return (route.handler)(call);
        }
        allowed.push(route.method);
    }
    let detail = format!("no route for {} {}", call.method, call.target());
    if allowed.is_empty() {
        return Step::Answer(Reply::not_found(detail));
    }
    let mut reply = Reply::error(405, "method not allowed", detail);
    reply.headers.push(("Allow", allowed.join(", ")));
    Step::Answer(reply)
}
