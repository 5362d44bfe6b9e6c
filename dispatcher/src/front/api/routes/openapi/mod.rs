//! The OpenAPI document (api.md §11), made from the table of routes.

mod live;

pub use live::live;

use super::{COMMON, Given, Param, ROUTES, Route};
use crate::front::api::app::VERSION;
use crate::front::api::call::Call;
use crate::front::api::reply::{JSON, Reply};
use crate::front::api::step::Step;
use ctrl_exec_protocol::json::{Bounds, Json, Members};
use std::sync::LazyLock;

/// The schemas that routes name.
const SCHEMAS: &str = include_str!("schemas.json");

/// The document as text.
static TEXT: LazyLock<String> = LazyLock::new(|| object().render());

/// `GET /openapi.json` (api.md §6.7).
pub fn document(_: Call) -> Step {
    Step::Answer(Reply::new(200, JSON, TEXT.as_bytes()))
}

/// The document, with a final newline.
pub fn text() -> String {
    format!("{}\n", *TEXT)
}

/// The document.
pub fn object() -> Members {
    let mut paths = Members::new();
    for route in ROUTES {
        let mut item = paths.object(route.path).unwrap_or_default();
        item.set(&route.method.to_ascii_lowercase(), operation(route));
        paths.set(route.path, item);
    }
    let info = Members::of([
        ("title", Json::text("ctrl-exec API")),
        ("version", Json::text(VERSION)),
        ("summary", Json::text("Runs scripts on a fleet of agents.")),
        (
            "license",
            Json::from(Members::of([
                ("name", Json::text("Apache-2.0 OR MIT")),
                ("identifier", Json::text("Apache-2.0 OR MIT")),
            ])),
        ),
    ]);
    let bearer = Members::of([
        ("type", Json::text("http")),
        ("scheme", Json::text("bearer")),
    ]);
    let schemes = Members::of([("bearer", Json::from(bearer))]);
    let schemas = Members::parse(SCHEMAS.as_bytes(), &Bounds::RECORD).unwrap_or_default();
    let components = Members::of([
        ("schemas", Json::from(schemas)),
        ("securitySchemes", Json::from(schemes)),
    ]);
    // With a hook or a token one is needed, without them it is not: both are true of some server.
    let with_token = Members::of([("bearer", Json::list([]))]);
    Members::of([
        ("openapi", Json::text("3.1.0")),
        ("info", Json::from(info)),
        ("servers", Json::list(["http", "https"].map(server))),
        ("security", Json::list([Members::new(), with_token])),
        ("paths", Json::from(paths)),
        ("components", Json::from(components)),
    ])
}

fn server(scheme: &str) -> Members {
    let variable = |value| Json::from(Members::of([("default", Json::text(value))]));
    let variables = Members::of([("host", variable("localhost")), ("port", variable("7445"))]);
    Members::of([
        ("url", Json::text(format!("{scheme}://{{host}}:{{port}}"))),
        ("variables", Json::from(variables)),
    ])
}

fn operation(route: &Route) -> Members {
    let mut operation = Members::of([
        ("operationId", Json::text(route.id)),
        ("summary", Json::text(route.summary)),
    ]);
    let mut params: Vec<Members> = route.params.iter().map(param).collect();
    if let Some((_, rest)) = route.path.split_once('{') {
        let name = rest.split_once('}').map_or(rest, |(name, _)| name);
        let schema = Members::of([
            ("type", Json::text("string")),
            ("pattern", Json::text("^[a-f0-9]+$")),
        ]);
        params.push(Members::of([
            ("name", Json::text(name)),
            ("in", Json::text("path")),
            ("required", Json::flag(true)),
            ("schema", Json::from(schema)),
        ]));
    }
    if !params.is_empty() {
        operation.set("parameters", Json::list(params));
    }
    if let Some(taken) = &route.request {
        let body = Members::of([
            ("required", Json::flag(taken.required)),
            ("content", content(&[(JSON, taken.schema)])),
        ]);
        operation.set("requestBody", body);
    }
    let mut responses = Members::new();
    for given in COMMON.iter().chain(route.answers) {
        responses.set(&given.status.to_string(), response(given));
    }
    operation.set("responses", Json::from(responses));
    operation
}

fn param(param: &Param) -> Members {
    let schema = Members::parse(param.schema.as_bytes(), &Bounds::RECORD).unwrap_or_default();
    Members::of([
        ("name", Json::text(param.name)),
        ("in", Json::text(param.place)),
        ("description", Json::text(param.about)),
        ("required", Json::flag(false)),
        ("schema", Json::from(schema)),
    ])
}

fn response(given: &Given) -> Members {
    Members::of([
        ("description", Json::text(given.about)),
        ("content", content(given.media)),
    ])
}

fn content(media: &[(&str, &str)]) -> Json {
    let entry = |(kind, schema): &(&str, &str)| {
        let schema = if schema.is_empty() {
            Members::of([("type", Json::text("string"))])
        } else {
            let place = format!("#/components/schemas/{schema}");
            Members::of([("$ref", Json::text(place))])
        };
        let value = Json::from(Members::of([("schema", Json::from(schema))]));
        ((*kind).to_owned(), value)
    };
    media.iter().map(entry).collect::<Members>().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_and_the_schemas_fit_each_other() {
        let schemas =
            Members::parse(SCHEMAS.as_bytes(), &Bounds::RECORD).expect("schemas.json is JSON");
        let named = ROUTES
            .iter()
            .flat_map(|route| {
                let answers = COMMON.iter().chain(route.answers);
                let answered = answers.flat_map(|given| given.media).map(|(_, name)| *name);
                answered.chain(route.request.iter().map(|taken| taken.schema))
            })
            .filter(|name| !name.is_empty());
        for name in named {
            assert!(schemas.contains(name), "{name}");
        }
        for route in ROUTES {
            for param in route.params {
                assert!(Members::parse(param.schema.as_bytes(), &Bounds::RECORD).is_ok());
            }
        }
        let mut ids: Vec<&str> = ROUTES.iter().map(|route| route.id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), ROUTES.len());
    }
}
