//! The document with the hosts and scripts that there are (api.md §11.2).

use super::object;
use crate::front::api::app::VERSION;
use crate::front::api::call::Call;
use crate::front::api::reply::Reply;
use crate::front::api::routes::discovery;
use crate::front::api::step::Step;
use crate::model::{AppError, Capabilities, HostResult, Kind, Script};
use crate::tasks::ping::Inquiry;
use ctrl_exec_protocol::json::{Json, Members};
use ctrl_exec_protocol::time::Utc;
use std::collections::BTreeMap;

/// The schemas whose hosts are told.
const WITH_HOSTS: [&str; 3] = ["PingRequest", "RunRequest", "DiscoveryRequest"];

/// By script, then by version of its schema (none first): who has it, and that schema.
type Scripts = BTreeMap<String, BTreeMap<Option<String>, Variant>>;

#[derive(Default)]
struct Variant {
    hosts: Vec<String>,
    schema: Option<Json>,
}

/// `GET /openapi-live.json` (api.md §6.8). Only the gate is asked, as in the reference; but a token
/// that is good for a part is not for this.
pub fn live(call: Call) -> Step {
    let Some(permit) = call.permit else {
        return Step::Answer(Reply::error(500, "server error", "no permit"));
    };
    if call.app.tokens.is_limited(&call.token) {
        let error = AppError {
            code: Some(3),
            ..AppError::new(Kind::Denied, "insufficient privilege")
        };
        return Step::Answer(Reply::of(&error, call.app.settings.generic_denials));
    }
    let inquiry = Inquiry {
        token: call.token,
        source_ip: call.peer.to_string(),
        ..Inquiry::default()
    };
    Step::work(move |app| {
        let names = app.dispatcher.agents().names()?;
        let mut scripts = Scripts::new();
        if !names.is_empty() {
            let words = names.clone();
            let inquiry = Inquiry { words, ..inquiry };
            discovery::each(app, &inquiry, &permit, |result| note(&mut scripts, result))?;
        }
        Ok(Reply::json(200, &filled_in(&names, scripts)))
    })
}

fn note(scripts: &mut Scripts, result: &HostResult<Capabilities>) {
    if result.reply.status.as_deref() != Some("ok") {
        return;
    }
    for script in result.reply.scripts.iter().flatten() {
        let Some(name) = &script.name else { continue };
        let version = version(script);
        let variants = scripts.entry(name.clone()).or_default();
        let variant = variants.entry(version).or_default();
        if !variant.hosts.contains(&result.host) {
            variant.hosts.push(result.host.clone());
        }
        if variant.schema.is_none() {
            variant.schema = script.more.get("schema").map(Json::from);
        }
    }
}

/// The version of its schema, where it has one.
fn version(script: &Script) -> Option<String> {
    script.more.get("schema")?;
    let version = script.more.text("schema_version");
    Some(
        version
            .map(std::borrow::Cow::into_owned)
            .unwrap_or_default(),
    )
}

fn filled_in(names: &[String], scripts: Scripts) -> Members {
    let mut document = object();
    change(&mut document, &["info"], &mut |info| {
        let version = format!("{VERSION}+{}", Utc::now().0);
        info.set("version", Json::text(version));
    });
    let requests = ["components", "schemas"];
    if !names.is_empty() {
        for schema in WITH_HOSTS {
            let path = [&requests[..], &[schema, "properties", "hosts", "items"]].concat();
            change(&mut document, &path, &mut |items| {
                // A reference beside an enum would still be one to whatever it says.
                *items =
                    Members::of([("type", Json::text("string")), ("enum", Json::texts(names))]);
            });
        }
    }
    if !scripts.is_empty() {
        let path = [&requests[..], &["RunRequest", "properties", "script"]].concat();
        change(&mut document, &path, &mut |script| {
            script.set("enum", Json::texts(scripts.keys()));
        });
        let listed: Members = scripts
            .into_iter()
            .map(|(name, variants)| (name, Json::list(variants.into_iter().map(variant))))
            .collect();
        document.set("x-ctrl-exec-scripts", listed);
    }
    document
}

fn variant((version, mut variant): (Option<String>, Variant)) -> Members {
    variant.hosts.sort_unstable();
    let mut object = Members::of([("hosts", Json::texts(&variant.hosts))]);
    if let Some(schema) = variant.schema {
        object.set("schema", schema);
        let version = version.unwrap_or_default();
        object.set("schema_version", Json::text(version));
    }
    object
}

/// Changes the object at the end of a path of members, if there is one.
fn change(object: &mut Members, path: &[&str], what: &mut dyn FnMut(&mut Members)) {
    let Some((first, rest)) = path.split_first() else {
        return what(object);
    };
    if let Some(mut inner) = object.object(first) {
        change(&mut inner, rest, what);
        object.set(first, inner);
    }
}
