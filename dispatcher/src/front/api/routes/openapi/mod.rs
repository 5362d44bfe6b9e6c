//! The OpenAPI document (api.md §11), made from the table of routes.

mod live;

pub use live::live;

use super::{COMMON, Given, Param, ROUTES, Route};
use crate::front::api::app::VERSION;
use crate::front::api::call::Call;
use crate::front::api::reply::{JSON, Reply};
use crate::front::api::step::Step;
use crate::model::json::{self, Object, Value};
use std::sync::LazyLock;

/// The schemas that routes name.
const SCHEMAS: &str = include_str!("schemas.json");

/// The document as text.
static TEXT: LazyLock<String> = LazyLock::new(|| json::line(&object()));

/// `GET /openapi.json` (api.md §6.7).
pub fn document(_: Call) -> Step {
    Step::Answer(Reply::new(200, JSON, TEXT.as_bytes()))
}

/// The document, with a final newline.
pub fn text() -> String {
    format!("{}\n", *TEXT)
}

/// The document.
pub fn object() -> Object {
    let mut paths = Object::new();
    for route in ROUTES {
        let mut item = match paths.remove(route.path) {
            Some(Value::Object(item)) => item,
            _ => Object::new(),
        };
        let operation = Value::Object(operation(route));
        item.insert(route.method.to_ascii_lowercase(), operation);
        paths.insert(route.path.to_owned(), Value::Object(item));
    }
    let info = json::object([
        ("title", json::string("ctrl-exec API")),
        ("version", json::string(VERSION)),
        (
            "summary",
            json::string("Runs scripts on a fleet of agents."),
        ),
        (
            "license",
            Value::Object(json::object([
                ("name", json::string("Apache-2.0 OR MIT")),
                ("identifier", json::string("Apache-2.0 OR MIT")),
            ])),
        ),
    ]);
    let bearer = json::object([
        ("type", json::string("http")),
        ("scheme", json::string("bearer")),
    ]);
    let schemes = json::object([("bearer", Value::Object(bearer))]);
    let schemas = json::parse_object(SCHEMAS.as_bytes()).unwrap_or_default();
    let components = json::object([
        ("schemas", Value::Object(schemas)),
        ("securitySchemes", Value::Object(schemes)),
    ]);
    // With a hook or a token one is needed, without them it is not: both are true of some server.
    let with_token = json::object([("bearer", Value::Array(Vec::new()))]);
    json::object([
        ("openapi", json::string("3.1.0")),
        ("info", Value::Object(info)),
        ("servers", json::objects(["http", "https"].map(server))),
        ("security", json::objects([Object::new(), with_token])),
        ("paths", Value::Object(paths)),
        ("components", Value::Object(components)),
    ])
}

fn server(scheme: &str) -> Object {
    let variable = |value| Value::Object(json::object([("default", json::string(value))]));
    let variables = json::object([("host", variable("localhost")), ("port", variable("7445"))]);
    json::object([
        ("url", json::string(format!("{scheme}://{{host}}:{{port}}"))),
        ("variables", Value::Object(variables)),
    ])
}

fn operation(route: &Route) -> Object {
    let mut operation = json::object([
        ("operationId", json::string(route.id)),
        ("summary", json::string(route.summary)),
    ]);
    let mut params: Vec<Object> = route.params.iter().map(param).collect();
    if let Some((_, rest)) = route.path.split_once('{') {
        let name = rest.split_once('}').map_or(rest, |(name, _)| name);
        let schema = json::object([
            ("type", json::string("string")),
            ("pattern", json::string("^[a-f0-9]+$")),
        ]);
        params.push(json::object([
            ("name", json::string(name)),
            ("in", json::string("path")),
            ("required", Value::Bool(true)),
            ("schema", Value::Object(schema)),
        ]));
    }
    if !params.is_empty() {
        operation.insert("parameters".to_owned(), json::objects(params));
    }
    if let Some(taken) = &route.request {
        let body = json::object([
            ("required", Value::Bool(taken.required)),
            ("content", content(&[(JSON, taken.schema)])),
        ]);
        operation.insert("requestBody".to_owned(), Value::Object(body));
    }
    let mut responses = Object::new();
    for given in COMMON.iter().chain(route.answers) {
        responses.insert(given.status.to_string(), Value::Object(response(given)));
    }
    operation.insert("responses".to_owned(), Value::Object(responses));
    operation
}

fn param(param: &Param) -> Object {
    let schema = json::parse_object(param.schema.as_bytes()).unwrap_or_default();
    json::object([
        ("name", json::string(param.name)),
        ("in", json::string(param.place)),
        ("description", json::string(param.about)),
        ("required", Value::Bool(false)),
        ("schema", Value::Object(schema)),
    ])
}

fn response(given: &Given) -> Object {
    json::object([
        ("description", json::string(given.about)),
        ("content", content(given.media)),
    ])
}

fn content(media: &[(&str, &str)]) -> Value {
    let entry = |(kind, schema): &(&str, &str)| {
        let schema = if schema.is_empty() {
            json::object([("type", json::string("string"))])
        } else {
            let place = format!("#/components/schemas/{schema}");
            json::object([("$ref", json::string(place))])
        };
        let value = Value::Object(json::object([("schema", Value::Object(schema))]));
        ((*kind).to_owned(), value)
    };
    Value::Object(media.iter().map(entry).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_and_the_schemas_fit_each_other() {
        let schemas = json::parse_object(SCHEMAS.as_bytes()).expect("schemas.json is JSON");
        let named = ROUTES
            .iter()
            .flat_map(|route| {
                let answers = COMMON.iter().chain(route.answers);
                let answered = answers.flat_map(|given| given.media).map(|(_, name)| *name);
                answered.chain(route.request.iter().map(|taken| taken.schema))
            })
            .filter(|name| !name.is_empty());
        for name in named {
            assert!(schemas.contains_key(name), "{name}");
        }
        for route in ROUTES {
            for param in route.params {
                assert!(json::parse_object(param.schema.as_bytes()).is_some());
            }
        }
        let mut ids: Vec<&str> = ROUTES.iter().map(|route| route.id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), ROUTES.len());
    }
}
