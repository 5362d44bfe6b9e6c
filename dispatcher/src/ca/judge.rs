//! `webpki` as the second judge of agents' certificates. Our own verifier is what an agent has room
//! for, and the trust root of a fleet: where there is room, a version 3 leaf needs the consent of
//! both. (`webpki` knows no version 1, which the reference issues.)

use ctrl_exec_protocol::x509::pem::{self, PemError};
use ctrl_exec_protocol::x509::verify::{Judge, Role};
use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use std::time::Duration;
use webpki::{EndEntityCert, KeyUsage};

/// The certificates of the CA, as `webpki` takes them.
#[derive(Debug)]
pub struct WebPki {
    anchors: Vec<TrustAnchor<'static>>,
}

impl WebPki {
    /// Reads the text of a CA file. A CA certificate that `webpki` cannot read vouches for nobody.
    ///
    /// # Errors
    /// Not PEM.
    pub fn from_pem(ca_pem: &str) -> Result<Self, PemError> {
        let anchors = pem::certificates(ca_pem)?
            .iter()
            .filter_map(|der| Some(webpki::anchor_from_trusted_cert(der).ok()?.to_owned()))
            .collect();
        Ok(Self { anchors })
    }
}

impl Judge for WebPki {
    fn judge(&self, leaf: &[u8], role: Role, now: i64) -> Result<(), String> {
        let seconds = u64::try_from(now).map_err(|_| "the clock is before 1970".to_owned())?;
        let now = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let usage = match role {
            Role::Client => KeyUsage::client_auth(),
            Role::Server => KeyUsage::server_auth(),
        };
        let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms;
        let der = CertificateDer::from(leaf);
        EndEntityCert::try_from(&der)
            .and_then(|leaf| {
                leaf.verify_for_usage(algorithms.all, &self.anchors, &[], now, usage, None, None)
                    .map(|_| ())
            })
            .map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ca::{CaDir, CaOptions, setup_ca};
    use crate::testing::TempDir;
    use ctrl_exec_protocol::time::Utc;
    use ctrl_exec_protocol::x509::csr;
    use ctrl_exec_protocol::x509::keys::{KeyType, PrivateKey, generate};
    use ctrl_exec_protocol::x509::verify::{ChainVerifier, VerifyError};

    #[test]
    fn what_our_ca_issues_is_accepted_by_both_and_a_dispute_is_a_refusal() {
        let now = Utc::now();
        let dir = TempDir::new();
        let ca = |name: &str| {
            let dir = CaDir::new(dir.path().join(name));
            setup_ca(&dir, &CaOptions::default(), now).unwrap()
        };
        let (ours, other) = (ca("a"), ca("b"));
        let key = PrivateKey::from_pem(&generate(KeyType::EcdsaP256).unwrap()).unwrap();
        let request = csr::create(&key, "r1").unwrap();
        let issued = ours.sign_csr(&request, None, None, 365, now).unwrap();
        let leaf = pem::certificates(&issued.pem).unwrap().remove(0);
        let verify = |judge: &str| {
            let judge = WebPki::from_pem(judge).unwrap();
            ChainVerifier::from_pem(ours.pem())
                .unwrap()
                .confirmed_by(Box::new(judge))
                .verify(&leaf, Role::Server, now.0)
                .map(|facts| facts.version)
        };
        assert_eq!(verify(ours.pem()), Ok(3));
        assert!(matches!(verify(other.pem()), Err(VerifyError::Disputed(_))));
        let judge = WebPki::from_pem(ours.pem()).unwrap();
        assert_eq!(judge.judge(&leaf, Role::Client, now.0), Ok(()));
        let late = now.0 + 400 * 86_400;
        assert!(judge.judge(&leaf, Role::Server, late).is_err());
        assert!(judge.judge(&leaf, Role::Server, -1).is_err());
        assert!(judge.judge(b"junk", Role::Server, now.0).is_err());
    }
}
