//! CA certificates and revocation lists that a dispatcher hands over: taken only when the CA signed
//! them, kept before they count, in force without a restart.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use common::*;
use ctrl_exec_protocol::wire::messages::TrustRequest;
use ctrl_exec_protocol::x509::handover::fingerprint;
use std::io::{Read, Write};

const CA: &str = "etc/ctrl-exec-agent/ca.crt";
const HANDED: &str = "var/lib/ctrl-exec-agent/ca.crt.handed";
const MAP: &str = "var/lib/ctrl-exec-agent/ctrl-exec-dispatchers";
const LIST: &str = "var/lib/ctrl-exec-agent/revoked-by-disp.crl";

fn hand(caller: &Caller, ca: &str, crl: &str) -> String {
    let request = TrustRequest {
        ca: ca.into(),
        crl: crl.into(),
    };
    let (status, body) = caller.post("/trust", &request.render());
    assert_eq!(status, 200, "{body}");
    body
}

fn is_refused(body: &str, why: &str) {
    assert_eq!(text(body, "status"), "error", "{body}");
    assert!(text(body, "error").contains(why), "{body}");
}

/// Whether a request of this caller is answered with 200, over a handshake of its own.
fn is_served(caller: &Caller) -> bool {
    let answer = caller.raw(request("POST", "/ping", "{}").as_bytes());
    answer.is_ok_and(|answer| split(&answer).0 == 200)
}

/// The digest of the CA certificates that the agent tells.
fn told(host: &Host) -> String {
    text(&host.caller().post("/ping", "{}").1, "ca")
}

fn killed(host: &mut Host) {
    host.signal("-KILL");
    host.ended();
}

fn code(host: &Host, mode: &str) -> Option<i32> {
    host.command(&[mode]).output().unwrap().status.code()
}

#[test]
fn a_reissued_ca_is_in_force_at_once_and_for_ever() {
    let ca = Ca::new();
    let mut host = Host::new(&ca);
    host.start();
    assert_eq!(told(&host), fingerprint(&ca.pem));
    let new = ca.reissued(2120);
    let body = hand(&host.caller(), &new, "");
    assert_eq!(text(&body, "ca"), fingerprint(&new));
    assert_eq!(told(&host), fingerprint(&new));
    host.wait_log("ACTION=trust CA=");
    assert_eq!(host.read(HANDED), new, "kept before it counts");
    // Again, which is nothing new.
    hand(&host.caller(), &new, "");

    killed(&mut host);
    host.start();
    assert_eq!(told(&host), fingerprint(&new));
    // Root puts it where the configuration says, under the running agent.
    assert_eq!(code(&host, "cert-staged"), Some(0));
    assert_eq!(code(&host, "promote-cert"), Some(0));
    assert_eq!(
        (host.read(CA), host.read(HANDED)),
        (new.clone(), String::new())
    );
    assert_eq!(code(&host, "cert-staged"), Some(1));
    host.reload();
    assert_eq!(told(&host), fingerprint(&new));
    // The one before would be a step back.
    is_refused(
        &hand(&host.caller(), &ca.pem, ""),
        "ends before the present one",
    );
}

#[test]
fn a_successor_is_trusted_beside_the_old_ca_until_that_is_dropped() {
    let ca = Ca::new();
    let new = Ca::named("ctrl-exec CA 2");
    let mut host = Host::new(&ca);
    host.write(MAP, "ab01 disp\nab02 disp\n");
    host.start();
    let successor = Caller::new(
        host.port,
        Some(&new.leaf("ctrl-exec-dispatcher", &[0xab, 2])),
    );
    assert!(!is_served(&successor));
    let cross = ca.vouch_for(&new);
    let both = format!("{}{}{cross}", ca.pem, new.pem);
    hand(&host.caller(), &both, "");
    assert!(is_served(&successor) && is_served(&host.caller()));
    assert_eq!(told(&host), fingerprint(&both));

    // A connection that was kept from before loses its worth with the CA.
    let mut kept = host.caller().connect().unwrap();
    let ping =
        "POST /ping HTTP/1.1\r\nHost: x\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\n{}";
    kept.write_all(ping.as_bytes()).unwrap();
    let mut first = [0; 16];
    kept.read_exact(&mut first).unwrap();
    assert!(first.starts_with(b"HTTP/1.1 200"), "{first:?}");
    let only = format!("{}{cross}", new.pem);
    hand(&successor, &only, "");
    assert!(is_served(&successor) && !is_served(&host.caller()));
    let _ = kept.write_all(ping.as_bytes());
    let mut rest = Vec::new();
    let _ = kept.read_to_end(&mut rest);
    let rest = String::from_utf8_lossy(&rest);
    assert_eq!(rest.matches("HTTP/1.1 200").count(), 0, "{rest}");

    killed(&mut host);
    host.start();
    assert!(is_served(&successor) && !is_served(&host.caller()));
    // The certificate that comes next is of the new CA; both are put in place in one go.
    let renewed = new.leaf_for(&host.agent.key, "agent.example", &[0xaa, 9], 2020, 2100);
    let body = ctrl_exec_protocol::wire::messages::RenewCompleteRequest {
        cert: renewed.cert.clone(),
        ..Default::default()
    };
    let (_, staged) = successor.post("/renew-complete", &body.render());
    assert_eq!(text(&staged, "status"), "ok", "{staged}");
    assert_eq!(code(&host, "promote-cert"), Some(0));
    assert_eq!(host.read(CA), only);
    assert_eq!(host.read("etc/ctrl-exec-agent/agent.crt"), renewed.cert);
    host.reload();
    assert!(is_served(&successor));
    assert_eq!(code(&host, "self-ping"), Some(0));
    // From here on the new CA vouches, for its own successor too.
    let third = Ca::named("ctrl-exec CA 3");
    let list = format!("{}{}", third.pem, new.vouch_for(&third));
    hand(&successor, &format!("{}{list}", new.pem), "");
    is_refused(&hand(&successor, &both, ""), "did not sign");
}

#[test]
fn what_the_ca_did_not_sign_is_refused_and_changes_nothing() {
    let ca = Ca::new();
    let mut host = Host::new(&ca);
    host.start();
    let stranger = Ca::new();
    let new = Ca::named("ctrl-exec CA 2");
    let leaf = ca.leaf("x", &[1]).cert;
    for (list, why) in [
        (stranger.pem.clone(), "did not sign"),
        (format!("{}{}", ca.pem, stranger.pem), "did not sign"),
        (format!("{}{}", ca.pem, new.pem), "did not sign"),
        (
            format!("{}{}", new.pem, stranger.vouch_for(&new)),
            "did not sign",
        ),
        // The old CA vouches for one, and another comes along.
        (
            format!("{}{}", stranger.pem, ca.vouch_for(&new)),
            "did not sign",
        ),
        (ca.reissued(2090), "ends before"),
        (leaf, "unreadable"),
        ("junk".to_owned(), "unreadable"),
    ] {
        is_refused(&hand(&host.caller(), &list, ""), why);
        assert_eq!(
            (told(&host), host.read(HANDED)),
            (fingerprint(&ca.pem), String::new())
        );
    }
    // Who is not trusted hands nothing over, and who is, nothing as a whole that is half good.
    let other = Caller::new(host.port, Some(&ca.leaf("agent", &[0xaa, 7])));
    let good = TrustRequest {
        ca: ca.reissued(2120),
        crl: String::new(),
    };
    assert_eq!(other.post("/trust", &good.render()).0, 403);
    assert_eq!(told(&host), fingerprint(&ca.pem));

    // Planted in the agent's own directory: it does not count, and root removes it.
    host.write(HANDED, &stranger.pem);
    killed(&mut host);
    host.start();
    assert_eq!(told(&host), fingerprint(&ca.pem));
    assert_eq!(code(&host, "promote-cert"), Some(0));
    assert_eq!(
        (host.read(CA), host.read(HANDED)),
        (ca.pem.clone(), String::new())
    );
}

#[test]
fn the_newest_list_of_each_dispatcher_counts() {
    let ca = Ca::new();
    let mut host = Host::new(&ca);
    host.write(MAP, "ab01 disp\nab02 disp\nab03 second\nab04 second\n");
    host.start();
    let caller = |serial: u8| {
        let leaf = ca.leaf("ctrl-exec-dispatcher", &[0xab, serial]);
        Caller::new(host.port, Some(&leaf))
    };
    let number = |caller: &Caller| int(&caller.post("/ping", "{}").1, "crl");
    let (own, second, stolen) = (caller(1), caller(3), caller(4));
    let old_own = caller(2);
    assert_eq!(number(&own), 0);
    let first = ca.crl(100, &[&[0xab, 2]]);
    let answer = hand(&own, "", &first);
    assert_eq!(int(&answer, "crl"), 100);
    assert_eq!((number(&own), number(&second)), (100, 0));
    assert!(!is_served(&old_own) && is_served(&stolen));
    host.wait_log("ACTION=revoked-cert ");
    // A replay, and the same once more.
    let newer = ca.crl(101, &[&[0xab, 2], &[0xab, 4]]);
    hand(&own, "", &newer);
    assert!(!is_served(&stolen));
    is_refused(&hand(&own, "", &first), "older than");
    hand(&own, "", &newer);
    // The lists of two dispatchers add up; each has its own numbers.
    hand(&second, "", &ca.crl(7, &[]));
    assert_eq!((number(&own), number(&second)), (101, 7));
    assert!(!is_served(&stolen) && !is_served(&old_own));
    for (bad, why) in [
        (Ca::new().crl(200, &[]), "did not sign"),
        ("x".to_owned(), "no revocation list"),
    ] {
        is_refused(&hand(&own, "", &bad), why);
    }
    assert_eq!(number(&own), 101);

    let mut host = host;
    killed(&mut host);
    host.start();
    assert_eq!((number(&own), number(&second)), (101, 7));
    assert!(!is_served(&stolen) && !is_served(&old_own));
    // Taken back.
    hand(&own, "", &ca.crl(102, &[]));
    assert!(is_served(&stolen) && is_served(&old_own));
    // The list of a dispatcher that bars itself is the last it could hand over.
    hand(&own, "", &ca.crl(103, &[&[0xab, 1]]));
    assert!(!is_served(&own) && is_served(&second));

    host.write(LIST, "damaged");
    killed(&mut host);
    let refused = host.command(&["serve"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(78));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        said.contains("revoked-by-disp.crl: no revocation list"),
        "{said}"
    );
}
