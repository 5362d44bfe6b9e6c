//! `POST /renew` and `POST /renew-complete`. The request of the former is nothing but an id.

use crate::json::{self, Bounds, Fields, JsonError, Scalar};
use miniserde::Deserialize;

/// The answer to `/renew`: a certificate request for the agent's own key.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct RenewReply {
    /// The request, PEM.
    pub csr: String,
    /// Echoed.
    pub reqid: String,
}

/// What `/renew-complete` brings: the new certificate.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct RenewCompleteRequest {
    /// The certificate, PEM; empty when there is none.
    pub cert: String,
    /// The CA's, which the agent checks against its own.
    pub ca: String,
    /// Request id.
    pub reqid: String,
}

/// The answer to `/renew-complete`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct RenewCompleteReply {
    /// Echoed.
    pub reqid: String,
}

#[derive(Deserialize)]
struct Told {
    status: Scalar,
    csr: Scalar,
    cert: Scalar,
    ca: Scalar,
    reqid: Scalar,
}

impl RenewReply {
    /// Reads the body of an answer; `None` when it does not say `ok`.
    ///
    /// # Errors
    /// It is not a JSON object.
    pub fn parse(body: &[u8]) -> Result<Option<Self>, JsonError> {
        let told: Told = json::read_object(body, &Bounds::ANSWER)?;
        let (csr, reqid) = (told.csr.text(), told.reqid.text());
        Ok((told.status.text() == "ok").then_some(Self { csr, reqid }))
    }

    /// The body.
    pub fn render(&self) -> String {
        Fields::with_room(3)
            .text("status", "ok")
            .text("csr", &self.csr)
            .text("reqid", &self.reqid)
            .finish()
    }
}

impl RenewCompleteRequest {
    /// Reads a body; what is not a JSON object counts as an empty one.
    pub fn parse(body: &[u8]) -> Self {
        match json::read_object::<Told>(body, &Bounds::REQUEST) {
            Ok(told) => Self {
                cert: told.cert.text(),
                ca: told.ca.text(),
                reqid: told.reqid.text(),
            },
            Err(_) => Self::default(),
        }
    }

    /// The body.
    pub fn render(&self) -> String {
        Fields::with_room(3)
            .text("cert", &self.cert)
            .text("ca", &self.ca)
            .text("reqid", &self.reqid)
            .finish()
    }
}

impl RenewCompleteReply {
    /// The body: the certificate waits for its adoption.
    pub fn render(&self) -> String {
        Fields::with_room(3)
            .text("status", "ok")
            .text("reqid", &self.reqid)
            .flag("staged", true)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_directions() {
        let reply = RenewReply {
            csr: "c\n".into(),
            reqid: "r".into(),
        };
        assert_eq!(reply.render(), r#"{"status":"ok","csr":"c\n","reqid":"r"}"#);
        assert_eq!(
            RenewReply::parse(reply.render().as_bytes()),
            Ok(Some(reply))
        );
        assert_eq!(
            RenewReply::parse(br#"{"status":"error","error":"x"}"#),
            Ok(None)
        );
        let request = RenewCompleteRequest {
            cert: "c".into(),
            ca: "a".into(),
            reqid: "r".into(),
        };
        assert_eq!(request.render(), r#"{"cert":"c","ca":"a","reqid":"r"}"#);
        assert_eq!(
            RenewCompleteRequest::parse(request.render().as_bytes()),
            request
        );
        assert_eq!(
            RenewCompleteRequest::parse(b"{"),
            RenewCompleteRequest::default()
        );
        assert_eq!(
            RenewCompleteReply { reqid: "r".into() }.render(),
            r#"{"status":"ok","reqid":"r","staged":true}"#
        );
    }
}
