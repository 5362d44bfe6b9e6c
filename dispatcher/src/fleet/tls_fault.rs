//! What a failed handshake means to the people of a fleet: the TLS library's words name its types.

use super::error::Fault;
use ctrl_exec_protocol::text::Untrusted;
use ctrl_exec_protocol::time::Utc;

/// How the library reports a certificate that it refuses, before the reason.
const INVALID: &str = "invalid peer certificate: ";
/// How it reports what the other side said before it hung up.
const ALERT: &str = "received fatal alert: ";

/// The fault behind the text of a failed handshake with the agent registered as `name`.
pub(super) fn explain(text: &str, name: &str) -> Fault {
    if let Some(reason) = text.strip_prefix(INVALID) {
        return certificate(reason, name);
    }
    match text.strip_prefix(ALERT) {
        Some(alert) => Fault::Tls(said(alert).to_owned()),
        None if text.contains("NoCertificatesPresented") => {
            Fault::Tls("it showed no certificate: is that an agent?".to_owned())
        }
        None => Fault::Tls(plain(text)),
    }
}

/// A certificate that we refuse.
fn certificate(reason: &str, name: &str) -> Fault {
    if let Some((_, after)) = reason.split_once("certificate is not valid after ") {
        return Fault::Expired {
            end: date(after),
            name: name.to_owned(),
        };
    }
    if reason.starts_with("certificate expired") || reason.starts_with("Expired") {
        return Fault::Expired {
            end: "an unknown date".to_owned(),
            name: name.to_owned(),
        };
    }
    if let Some((_, after)) = reason.split_once("certificate is not valid before ") {
        return Fault::Tls(format!(
            "its certificate begins on {}, in the future: is the clock here right?",
            date(after)
        ));
    }
    // All CAs made by default bear one name, so another CA's certificate shows as a bad signature.
    if reason.starts_with("BadSignature") || reason.starts_with("UnknownIssuer") {
        return Fault::ForeignCa;
    }
    Fault::Tls(
        match reason {
            r if r.contains("CaOutOfDate") => {
                "the CA certificate here has ended or not begun: 'ced doctor' tells"
            }
            r if r.contains("InvalidPurpose") => {
                "its certificate may not be used by an agent: pair it again"
            }
            r if r.contains("IsCa") => "it shows the certificate of a CA: pair it again",
            r if r.contains("UnsupportedSignature") => {
                "its certificate is signed in a way that is not accepted: pair it again"
            }
            r if r.contains("CriticalExtension") => {
                "its certificate has an extension that is not understood: pair it again"
            }
            _ => "its certificate cannot be read: pair it again",
        }
        .to_owned(),
    )
}

/// What the agent said of us.
fn said(alert: &str) -> &'static str {
    match alert {
        "UnknownCA" | "DecryptError" => {
            "the agent refuses this dispatcher's certificate as one of another CA: paired with \
             another dispatcher?"
        }
        "CertificateExpired" => {
            "the agent finds this dispatcher's certificate expired: 'ced doctor' here, and the \
             agent's clock"
        }
        "BadCertificate"
        | "UnsupportedCertificate"
        | "CertificateUnknown"
        | "CertificateRevoked"
        | "AccessDenied" => "the agent refuses this dispatcher's certificate; its log says why",
        "CertificateRequired" => "the agent asked for a certificate and got none",
        "ProtocolVersion" | "HandshakeFailure" => "it speaks no TLS that is accepted here",
        _ => "the agent broke the handshake off",
    }
}

/// The date in `1795830646 (UNIX)...`.
fn date(after: &str) -> String {
    let digits: String = after.chars().take_while(char::is_ascii_digit).collect();
    digits
        .parse()
        .map_or_else(|_| "an unknown date".to_owned(), |end| Utc(end).openssl())
}

/// Other words of the library, bounded and without what a terminal would obey.
fn plain(text: &str) -> String {
    let text = match text {
        "received corrupt message of type InvalidContentType" => "it does not speak TLS",
        "peer is incompatible: NoCipherSuitesInCommon" => "it speaks no TLS that is accepted here",
        text => text,
    };
    Untrusted::new(text).at_most(200).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ctrl_exec_protocol::x509::verify::VerifyError;
    use rustls::{AlertDescription, CertificateError, Error, OtherError};
    use std::sync::Arc;
    use std::time::Duration;

    fn shown(error: Error) -> String {
        let fault = explain(&error.to_string(), "r1");
        super::super::CallError {
            sent: false,
            fault,
            address: "10.0.0.1".into(),
            port: 7443,
        }
        .to_string()
    }

    /// Built from the library's own types, so that a change of its words fails here.
    #[test]
    fn the_library_is_translated() {
        let time =
            |seconds| rustls::pki_types::UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let expired = CertificateError::ExpiredContext {
            time: time(1_800_000_000),
            not_after: time(1_795_830_646),
        };
        let text = shown(expired.into());
        assert!(
            text.contains("ended on Nov 28 01:50:46 2026 GMT: ced renew r1 --allow-expired"),
            "{text}"
        );
        let future = CertificateError::NotValidYetContext {
            time: time(1_700_000_000),
            not_before: time(1_795_830_646),
        };
        assert!(shown(future.into()).contains("begins on Nov 28"));
        for foreign in [
            CertificateError::BadSignature,
            CertificateError::UnknownIssuer,
        ] {
            let text = shown(foreign.into());
            assert!(text.contains("its certificate is of another CA"), "{text}");
        }
        for (error, words) in [
            (VerifyError::CaOutOfDate, "CA certificate here has ended"),
            (VerifyError::IsCa, "certificate of a CA"),
            (VerifyError::UnsupportedSignature, "not accepted"),
            (VerifyError::CriticalExtension, "extension"),
        ] {
            let other = CertificateError::Other(OtherError(Arc::new(error)));
            let text = shown(other.into());
            assert!(text.contains(words), "{text}");
            assert!(!text.contains("Other"), "{text}");
        }
        for alert in [
            AlertDescription::UnknownCA,
            AlertDescription::CertificateExpired,
            AlertDescription::BadCertificate,
            AlertDescription::HandshakeFailure,
            AlertDescription::InternalError,
        ] {
            let text = shown(Error::AlertReceived(alert));
            assert!(!text.contains("alert"), "{text}");
        }
    }
}
