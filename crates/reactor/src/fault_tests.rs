//! Whole conversations in which any read and write may be short or blocked, from many seeds.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;
use std::time::Duration;

use ctrl_exec_protocol::http::{render_request, render_response};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{PrivatePkcs8KeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use crate::{
    ChildExit, ChildSpec, ClientLimits, CloseReason, Config, Event, Phase, Reactor, ServerLimits,
    Then,
};

struct Tls {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

fn tls() -> Tls {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(ca.der().clone()).unwrap();
    let leaf = || {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let cert = params.signed_by(&key, &ca).unwrap().der().clone();
        (
            vec![cert],
            PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        )
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots.clone()), provider.clone());
    let (chain, key) = leaf();
    let server = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(chain, key)
        .unwrap();
    let (chain, key) = leaf();
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .unwrap();
    Tls {
        server: Arc::new(server),
        client: Arc::new(client),
    }
}

/// Two requests on one connection, the second with a response of some size; both ends suffer.
fn conversation(tls: &Tls, seed: u32, size: usize) {
    let mut reactor = Reactor::new(Config::default()).unwrap();
    reactor.fault_seed = Some(seed);
    let listener = reactor.listen("127.0.0.1:0".parse().unwrap(), 8).unwrap();
    let address = reactor.listener_addr(listener).unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let limits = Arc::new(ClientLimits::default());
    let client = reactor.connect(address, &tls.client, name, &limits);
    let first = "a".repeat(size % 5000);
    assert!(reactor.request(
        client,
        render_request("POST", "/1", "h", Some(&first), true)
    ));
    let server_limits = Arc::new(ServerLimits::default());
    let mut responses = 0;
    let mut reasons = Vec::new();
    while reasons.len() < 2 {
        match reactor
            .next(Some(Duration::from_secs(60)))
            .unwrap()
            .expect("no event is lost")
        {
            Event::Incoming { conn, .. } => {
                assert!(reactor.serve(conn, &tls.server, &server_limits));
            }
            Event::Request { conn, request } if request.path() == "/1" => {
                assert_eq!(request.body.len(), size % 5000);
                assert!(reactor.send(conn, render_response(200, "one", true), Then::KeepAlive));
            }
            Event::Request { conn, .. } => {
                let body = "b".repeat(size);
                assert!(reactor.send(conn, render_response(200, &body, false), Then::Close));
            }
            Event::Response { conn, response } => {
                responses += 1;
                if responses == 1 {
                    assert_eq!(response.body, b"one");
                    let request = render_request("GET", "/2", "h", None, false);
                    assert!(reactor.request(conn, request));
                } else {
                    assert_eq!(response.body.len(), size);
                    assert!(reactor.close(conn));
                }
            }
            Event::Closed { conn, reason } => reasons.push((conn == client, reason)),
            _ => {}
        }
    }
    assert_eq!(responses, 2);
    for (is_client, reason) in reasons {
        // The client leaves when it has the response, and need not wait for the close_notify.
        let left_early = CloseReason::Reset {
            phase: Phase::Write,
        };
        let expected = if is_client {
            CloseReason::Local
        } else {
            CloseReason::Done
        };
        assert!(
            reason == expected || (!is_client && reason == left_early),
            "{reason:?}"
        );
    }
    assert_eq!((reactor.buffered_bytes(), reactor.live_conns()), (0, 0));
}

#[test]
fn conversations_survive_short_and_blocked_io() {
    let tls = tls();
    for seed in 1..=60 {
        conversation(&tls, seed, usize::try_from(seed).unwrap() * 1700);
    }
}

#[test]
fn a_big_response_survives_too() {
    conversation(&tls(), 7, 1_500_000);
}

#[test]
fn children_survive_it() {
    for seed in 1..=10 {
        let mut reactor = Reactor::new(Config::default()).unwrap();
        reactor.fault_seed = Some(seed);
        let script = "cat; head -c 100000 /dev/zero >&2; exit 3";
        let spec = ChildSpec {
            args: vec!["-c".into(), script.into()],
            env: [("PATH".into(), "/usr/bin:/bin".into())].into(),
            stdin: vec![b'x'; 30_000],
            ..ChildSpec::new("/bin/sh")
        };
        reactor.spawn(spec).unwrap();
        let event = reactor.next(Some(Duration::from_secs(60))).unwrap();
        let Some(Event::Child { result, .. }) = event else {
            panic!("{event:?}")
        };
        assert_eq!(result.exit, ChildExit::Code(3));
        assert_eq!(result.stdout.into_bytes().len(), 30_000);
        assert_eq!(result.stderr.dropped, 100_000 - 65_536);
    }
}
