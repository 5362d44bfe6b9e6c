//! `POST /rotate-serial` and `POST /trust`: whom an agent trusts.

use crate::json::{self, Bounds, Fields, JsonError, Scalar};
use miniserde::Deserialize;

/// `POST /rotate-serial`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct RotateRequest {
    /// Serial as received.
    pub serial: String,
    /// `add` or `remove`, not yet checked.
    pub action: String,
    /// Token for the hook.
    pub token: String,
}

#[derive(Default, Deserialize)]
struct Asked {
    serial: Scalar,
    action: Scalar,
    token: Scalar,
}

impl RotateRequest {
    /// Reads a body; what is not a JSON object counts as an empty one.
    pub fn parse(body: &[u8]) -> Self {
        let asked: Asked = json::read_object(body, &Bounds::REQUEST).unwrap_or_default();
        let action = match asked.action {
            Scalar::Null => "add".to_owned(),
            action => action.text(),
        };
        Self {
            serial: asked.serial.text(),
            action,
            token: asked.token.text(),
        }
    }

    /// The body.
    pub fn render(&self) -> String {
        Fields::with_room(2)
            .text("serial", &self.serial)
            .text("action", &self.action)
            .finish()
    }
}

/// Its answer when it was done. [`super::messages::error_of`] reads the others.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct RotateReply {
    /// What was done.
    pub action: String,
    /// To which serial.
    pub serial: String,
    /// Id of the dispatcher that it belongs to.
    pub dispatcher: String,
}

impl RotateReply {
    /// The body.
    pub fn render(&self) -> String {
        Fields::with_room(4)
            .text("status", "ok")
            .text("action", &self.action)
            .text("serial", &self.serial)
            .text("dispatcher", &self.dispatcher)
            .finish()
    }
}

/// `POST /trust`: what a dispatcher hands its agent beyond its own serial. The reference answers it
/// with 404.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct TrustRequest {
    /// The CA certificates to be trusted from now on, PEM; empty to leave them
    /// ([`handover`](crate::x509::handover)).
    pub ca: String,
    /// A revocation list, PEM; empty to leave it ([`crl`](crate::x509::crl)).
    pub crl: String,
}

#[derive(Default, Deserialize)]
struct Handed {
    ca: Scalar,
    crl: Scalar,
}

impl TrustRequest {
    /// Reads a body; what is not a JSON object counts as an empty one.
    pub fn parse(body: &[u8]) -> Self {
        let handed: Handed = json::read_object(body, &Bounds::REQUEST).unwrap_or_default();
        Self {
            ca: handed.ca.text(),
            crl: handed.crl.text(),
        }
    }

    /// The body.
    pub fn render(&self) -> String {
        let some = |text: &str| !text.is_empty();
        let mut out = Fields::with_room(2);
        out.text_if("ca", Some(&*self.ca).filter(|ca| some(ca)))
            .text_if("crl", Some(&*self.crl).filter(|crl| some(crl)));
        out.finish()
    }
}

/// Its answer: what the agent has now.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct TrustReply {
    /// Digest of its CA certificates.
    pub ca: String,
    /// Number of the caller's revocation list.
    pub crl: u64,
}

impl TrustReply {
    /// Reads the body of an answer; `None` when it does not say `ok`.
    ///
    /// # Errors
    /// It is not a JSON object.
    pub fn parse(body: &[u8]) -> Result<Option<Self>, JsonError> {
        let told: ToldTrust = json::read_object(body, &Bounds::ANSWER)?;
        Ok((told.status.text() == "ok").then(|| Self {
            ca: told.ca.text(),
            crl: told.crl.count().unwrap_or_default(),
        }))
    }

    /// The body.
    pub fn render(&self) -> String {
        Fields::with_room(3)
            .text("status", "ok")
            .text("ca", &self.ca)
            .count_if("crl", Some(self.crl))
            .finish()
    }
}

#[derive(Deserialize)]
struct ToldTrust {
    status: Scalar,
    ca: Scalar,
    crl: Scalar,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotate_defaults() {
        assert_eq!(RotateRequest::parse(b"{nope").action, "add");
        assert_eq!(RotateRequest::parse(b"{}").action, "add");
        let request = RotateRequest::parse(br#"{"serial":12,"action":""}"#);
        assert_eq!(
            (request.serial.as_str(), request.action.as_str()),
            ("12", "")
        );
        // Serials are digits of any length, however they are sent.
        let long = "123456789012345678901234567890";
        let body = format!("{{\"serial\":{long}}}");
        assert_eq!(RotateRequest::parse(body.as_bytes()).serial, long);
        let request = RotateRequest {
            serial: "0a".into(),
            action: "remove".into(),
            token: String::new(),
        };
        assert_eq!(request.render(), r#"{"serial":"0a","action":"remove"}"#);
        assert_eq!(RotateRequest::parse(request.render().as_bytes()), request);
        let reply = RotateReply {
            action: "add".into(),
            serial: "0a".into(),
            dispatcher: "d".into(),
        };
        assert_eq!(
            reply.render(),
            r#"{"status":"ok","action":"add","serial":"0a","dispatcher":"d"}"#
        );
    }

    #[test]
    fn what_is_handed_over_reads_back() {
        for request in [
            TrustRequest::default(),
            TrustRequest {
                ca: "a\n".into(),
                crl: String::new(),
            },
            TrustRequest {
                ca: String::new(),
                crl: "c\n".into(),
            },
        ] {
            assert_eq!(TrustRequest::parse(request.render().as_bytes()), request);
        }
        for body in ["", "[]", r#"{"ca":[],"crl":{}}"#] {
            assert_eq!(
                TrustRequest::parse(body.as_bytes()),
                TrustRequest::default()
            );
        }
        let reply = TrustReply {
            ca: "4f".into(),
            crl: 1_795_830_646,
        };
        assert_eq!(
            reply.render(),
            r#"{"status":"ok","ca":"4f","crl":1795830646}"#
        );
        assert_eq!(
            TrustReply::parse(reply.render().as_bytes()),
            Ok(Some(reply))
        );
        assert_eq!(TrustReply::parse(br#"{"status":"error"}"#), Ok(None));
    }
}
