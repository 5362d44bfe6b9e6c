//! What the server says of itself.

use super::ROUTES;
use crate::front::api::app::{IDENT, VERSION};
use crate::front::api::call::Call;
use crate::front::api::reply::Reply;
use crate::front::api::step::Step;
use ctrl_exec_protocol::json::{Json, Members};

/// `GET /` (api.md §6.1).
pub fn index(_: Call) -> Step {
    let listed = ROUTES.iter().filter(|route| route.path != "/");
    let endpoints = Json::list(listed.map(|route| {
        Members::of([
            ("method", Json::text(route.method)),
            ("path", Json::text(route.path)),
        ])
    }));
    let body = Members::of([
        ("name", Json::text(IDENT)),
        ("version", Json::text(VERSION)),
        ("spec", Json::text("/openapi.json")),
        ("live_spec", Json::text("/openapi-live.json")),
        ("endpoints", endpoints),
    ]);
    Step::Answer(Reply::json(200, &body))
}

/// `GET /health` (api.md §6.2).
pub fn health(_: Call) -> Step {
    let body = Members::of([("version", Json::text(VERSION))]);
    Step::Answer(Reply::ok(body))
}
