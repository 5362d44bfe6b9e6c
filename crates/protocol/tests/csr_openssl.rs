//! OpenSSL reads the requests that we make.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use ctrl_exec_protocol::x509::csr;
use ctrl_exec_protocol::x509::keys::{self, KeyType, PrivateKey};

/// What a Perl dispatcher needs: OpenSSL reads our request, finds the subject it expects and the
/// self-signature good, and signs it.
#[test]
fn openssl_reads_what_we_make() {
    let mut kinds = vec![KeyType::EcdsaP256, KeyType::EcdsaP384, KeyType::Ed25519];
    if cfg!(feature = "rsa-keygen") {
        kinds.push(KeyType::Rsa2048);
    }
    for kind in kinds {
        let key_pem = keys::generate(kind).unwrap();
        let key = PrivateKey::from_pem(&key_pem).unwrap();
        let request = csr::create(&key, "router1.example").unwrap();
        let Some(text) = openssl(&["req", "-verify", "-noout", "-text"], &request) else {
            eprintln!("SKIPPED: no openssl command");
            return;
        };
        assert!(
            text.contains("Subject: CN = router1.example") || text.contains("CN=router1.example")
        );
        assert!(text.contains("verify OK"), "{text}");
        if kind == KeyType::Rsa2048 {
            assert!(text.contains("Public-Key: (2048 bit)"));
            assert!(text.contains("sha256WithRSAEncryption"));
        }
        let public = openssl(&["pkey", "-pubout"], &key_pem).expect("openssl reads our key");
        assert!(public.contains("BEGIN PUBLIC KEY"), "{kind:?}: {public}");
    }
}

/// Runs `openssl` with `input` on stdin; stdout and stderr together. `None` without the command.
fn openssl(args: &[&str], input: &str) -> Option<String> {
    use std::io::Write;
    use std::process::{Command, Stdio};
    let mut child = Command::new("openssl")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .ok()?;
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    Some(String::from_utf8_lossy(&text).into_owned())
}
