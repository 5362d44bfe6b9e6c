//! `POST /rotate-serial`: whom an agent trusts.

use crate::json::{self, Bounds, Fields, Scalar};
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
}
