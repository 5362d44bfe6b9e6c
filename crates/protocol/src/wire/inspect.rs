//! `POST /ping` and `GET /capabilities`: what an agent is and has.

use crate::json::{self, Bounds, Fields, JsonError, Raw, Scalar, Scalars};
use miniserde::Deserialize;
use std::borrow::Cow;

/// What an agent can do beyond the reference.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Features {
    /// `GET /runs`.
    pub runs: bool,
    /// `POST /cancel`.
    pub cancel: bool,
    /// `time_limit` in `POST /run`.
    pub time_limit: bool,
    /// Connections of a trusted dispatcher do not count against the rate limit.
    pub unpaced: bool,
    /// `stream` in `POST /run`.
    pub stream: bool,
    /// `POST /run-input`.
    pub stdin: bool,
}

impl Features {
    fn names(self) -> impl Iterator<Item = &'static str> {
        let named = [
            ("runs", self.runs),
            ("cancel", self.cancel),
            ("time_limit", self.time_limit),
            ("unpaced", self.unpaced),
            ("stream", self.stream),
            ("stdin", self.stdin),
        ];
        named
            .into_iter()
            .filter_map(|(name, has)| has.then_some(name))
    }

    /// Names that are not known are of a later version, and passed over.
    fn of(names: Scalars) -> Self {
        let mut features = Self::default();
        let names = match names {
            Scalars::List(names) => names,
            Scalars::Absent | Scalars::NotAnArray => Vec::new(),
        };
        for name in names {
            match name.text().as_str() {
                "runs" => features.runs = true,
                "cancel" => features.cancel = true,
                "time_limit" => features.time_limit = true,
                "unpaced" => features.unpaced = true,
                "stream" => features.stream = true,
                "stdin" => features.stdin = true,
                _ => {}
            }
        }
        features
    }

    fn put(&self, out: &mut Fields) {
        if *self != Self::default() {
            out.texts("features", self.names());
        }
    }
}

/// `POST /ping` answered. Its request is nothing but an id.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PingReply<'t> {
    /// Name of the agent's host.
    pub host: Cow<'t, str>,
    /// Version of the agent.
    pub version: Cow<'t, str>,
    /// notAfter of the agent's certificate in OpenSSL form, or `unknown`.
    pub expiry: Cow<'t, str>,
    /// Whether a renewed certificate waits for adoption.
    pub staged: bool,
    /// What it can do; nothing for one of the reference.
    pub features: Features,
    /// Digest of the CA certificates it trusts
    /// ([`fingerprint`](crate::x509::handover::fingerprint)); empty for one of the reference.
    pub ca: Cow<'t, str>,
    /// Number of the revocation list it has of the caller; 0 for none.
    pub crl: u64,
    /// Echoed.
    pub reqid: Cow<'t, str>,
}

#[derive(Deserialize)]
struct Told {
    status: Scalar,
    host: Scalar,
    version: Scalar,
    expiry: Scalar,
    staged: Scalar,
    features: Scalars,
    ca: Scalar,
    crl: Scalar,
    reqid: Scalar,
}

impl PingReply<'_> {
    /// Reads the body of an answer; `None` when it does not say `ok`.
    ///
    /// # Errors
    /// It is not a JSON object.
    pub fn parse(body: &[u8]) -> Result<Option<Self>, JsonError> {
        let told: Told = json::read_object(body, &Bounds::ANSWER)?;
        if told.status.text() != "ok" {
            return Ok(None);
        }
        Ok(Some(Self {
            host: told.host.text().into(),
            version: told.version.text().into(),
            expiry: told.expiry.text().into(),
            staged: told.staged.is_true(),
            features: Features::of(told.features),
            ca: told.ca.text().into(),
            crl: told.crl.count().unwrap_or_default(),
            reqid: told.reqid.text().into(),
        }))
    }

    /// The body.
    pub fn render(&self) -> String {
        let mut out = Fields::with_room(9);
        out.text("status", "ok")
            .text("host", &self.host)
            .text("version", &self.version)
            .text("expiry", &self.expiry)
            .flag("staged", self.staged);
        self.features.put(&mut out);
        if !self.ca.is_empty() {
            out.text("ca", &self.ca).count_if("crl", Some(self.crl));
        }
        out.text("reqid", &self.reqid).finish()
    }
}

/// `GET /capabilities` answered.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct CapabilitiesReply<'t> {
    /// Name of the agent's host.
    pub host: Cow<'t, str>,
    /// Version of the agent.
    pub version: Cow<'t, str>,
    /// The operator's words about the host.
    pub tags: Vec<(Cow<'t, str>, Cow<'t, str>)>,
    /// What may be run.
    pub scripts: Vec<ScriptEntry<'t>>,
    /// What it can do; nothing for one of the reference.
    pub features: Features,
}

/// A script that an agent may run.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ScriptEntry<'t> {
    /// Its name.
    pub name: Cow<'t, str>,
    /// Where it is.
    pub path: Cow<'t, str>,
    /// Whether it can be started.
    pub executable: bool,
    /// Its profile.
    pub profile: Cow<'t, str>,
    /// What its author says about its arguments, as JSON, and the version of that.
    pub schema: Option<(&'t str, Cow<'t, str>)>,
}

impl<'t> CapabilitiesReply<'t> {
    /// Reads the body of an answer; `None` when it does not say `ok`.
    ///
    /// # Errors
    /// It is not a JSON object, or holds too much.
    pub fn parse(body: &'t [u8]) -> Result<Option<Self>, JsonError> {
        let raw = Raw::parse(body, &Bounds::ANSWER)?;
        if !raw.is_object() {
            return Err(JsonError::NotAnObject);
        }
        let mut reply = Self::default();
        let mut ok = false;
        for (name, value) in raw.members() {
            match name.as_ref() {
                "status" => ok = value.scalar().text() == "ok",
                "host" => reply.host = value.scalar().text().into(),
                "version" => reply.version = value.scalar().text().into(),
                "tags" => {
                    let tags = value.members();
                    reply.tags = tags
                        .map(|(key, tag)| (key, tag.scalar().text().into()))
                        .collect();
                }
                "scripts" => reply.scripts = value.items().map(ScriptEntry::of).collect(),
                "features" => {
                    let names = value.items().map(Raw::scalar).collect();
                    reply.features = Features::of(Scalars::List(names));
                }
                _ => {}
            }
        }
        Ok(ok.then_some(reply))
    }

    /// The body.
    pub fn render(&self) -> String {
        let mut tags = Fields::with_room(self.tags.len());
        for (key, value) in &self.tags {
            tags.text(key, value);
        }
        let mut scripts = String::from("[");
        for script in &self.scripts {
            if scripts.len() > 1 {
                scripts.push(',');
            }
            script.put(&mut scripts);
        }
        scripts.push(']');
        let mut out = Fields::with_room(6);
        out.text("status", "ok")
            .text("host", &self.host)
            .text("version", &self.version)
            .raw("tags", &tags.finish())
            .raw("scripts", &scripts);
        self.features.put(&mut out);
        out.finish()
    }
}

impl<'t> ScriptEntry<'t> {
    fn of(raw: Raw<'t>) -> Self {
        let mut entry = Self::default();
        let mut version = Cow::default();
        for (name, value) in raw.members() {
            match name.as_ref() {
                "name" => entry.name = value.scalar().text().into(),
                "path" => entry.path = value.scalar().text().into(),
                "executable" => entry.executable = value.scalar().is_true(),
                "profile" => entry.profile = value.scalar().text().into(),
                "schema" => entry.schema = Some((value.as_str(), Cow::default())),
                "schema_version" => version = value.scalar().text().into(),
                _ => {}
            }
        }
        if let Some((_, of_schema)) = &mut entry.schema {
            *of_schema = version;
        }
        entry
    }

    fn put(&self, out: &mut String) {
        let mut fields = Fields::with_room(6);
        fields
            .text("name", &self.name)
            .text("path", &self.path)
            .flag("executable", self.executable)
            .text("profile", &self.profile);
        if let Some((schema, version)) = &self.schema {
            fields.raw("schema", schema).text("schema_version", version);
        }
        out.push_str(&fields.finish());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Features = Features {
        runs: true,
        cancel: true,
        time_limit: true,
        unpaced: true,
        stream: true,
        stdin: true,
    };

    #[test]
    fn pings_read_back() {
        let mut reply = PingReply {
            host: "h".into(),
            version: "1".into(),
            expiry: "unknown".into(),
            reqid: "r".into(),
            ..PingReply::default()
        };
        assert_eq!(
            reply.render(),
            r#"{"status":"ok","host":"h","version":"1","expiry":"unknown","staged":false,"reqid":"r"}"#
        );
        assert_eq!(
            PingReply::parse(reply.render().as_bytes()),
            Ok(Some(reply.clone()))
        );
        reply.features = ALL;
        reply.staged = true;
        assert!(
            reply.render().contains(
                r#""features":["runs","cancel","time_limit","unpaced","stream","stdin"],"#
            )
        );
        assert_eq!(PingReply::parse(reply.render().as_bytes()), Ok(Some(reply)));
        let perl =
            PingReply::parse(br#"{"status":"ok","staged":0,"features":["later",["x"],"runs"]}"#);
        let features = perl.unwrap().unwrap().features;
        assert_eq!(
            features,
            Features {
                runs: true,
                ..Features::default()
            }
        );
        assert_eq!(PingReply::parse(br#"{"error":"x"}"#), Ok(None));
        assert!(PingReply::parse(b"7").is_err());
    }

    #[test]
    fn capabilities_hand_schemas_on_as_they_are() {
        let schema = r#"{"n":1.50,"a":[ 1e3 ]}"#;
        let reply = CapabilitiesReply {
            host: "h".into(),
            version: "1".into(),
            tags: vec![("site".into(), "a \"b\"".into())],
            scripts: vec![
                ScriptEntry {
                    name: "s".into(),
                    path: "/s".into(),
                    executable: true,
                    profile: "full".into(),
                    schema: Some((schema, "v".into())),
                },
                ScriptEntry {
                    name: "t".into(),
                    ..ScriptEntry::default()
                },
            ],
            features: ALL,
        };
        let body = reply.render();
        assert_eq!(
            body,
            format!(
                "{}{}{}",
                r#"{"status":"ok","host":"h","version":"1","tags":{"site":"a \"b\""},"scripts":[{"name":"s","path":"/s","executable":true,"profile":"full","schema":"#,
                schema,
                r#","schema_version":"v"},{"name":"t","path":"","executable":false,"profile":""}],"features":["runs","cancel","time_limit","unpaced","stream","stdin"]}"#
            )
        );
        assert_eq!(CapabilitiesReply::parse(body.as_bytes()), Ok(Some(reply)));
        let empty = CapabilitiesReply::default();
        assert_eq!(
            empty.render(),
            r#"{"status":"ok","host":"","version":"","tags":{},"scripts":[]}"#
        );
        assert_eq!(CapabilitiesReply::parse(b"{}"), Ok(None));
        assert!(CapabilitiesReply::parse(b"[]").is_err());
    }
}
