//! What the server says of itself.

use super::ROUTES;
use crate::front::api::app::{IDENT, VERSION};
use crate::front::api::call::Call;
use crate::front::api::reply::Reply;
use crate::front::api::step::Step;
use crate::model::json;

/// `GET /` (api.md §6.1).
pub fn index(_: Call) -> Step {
    let listed = ROUTES.iter().filter(|route| route.path != "/");
    let endpoints = json::objects(listed.map(|route| {
        json::object([
            ("method", json::string(route.method)),
            ("path", json::string(route.path)),
        ])
    }));
    let body = json::object([
        ("name", json::string(IDENT)),
        ("version", json::string(VERSION)),
        ("spec", json::string("/openapi.json")),
        ("live_spec", json::string("/openapi-live.json")),
        ("endpoints", endpoints),
    ]);
    Step::Answer(Reply::json(200, &body))
}

/// `GET /health` (api.md §6.2).
pub fn health(_: Call) -> Step {
    let body = json::object([("version", json::string(VERSION))]);
    Step::Answer(Reply::ok(body))
}
