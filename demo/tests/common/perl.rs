//! An agent of release 0.12.3 with a service manager that starts it again: it answers what that
//! release answers and knows nothing of what came later. (The one of the test kit ends with the
//! first handshake that a killed dispatcher breaks off, as the real one does.)

use ctrl_exec_protocol::http::{Limits, RequestParser, render_response};
use ctrl_exec_protocol::tls::{self, Identity};
use ctrl_exec_protocol::x509::verify::{ChainVerifier, system_clock};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

/// Serves with the certificate of a paired agent for as long as the test lives.
pub fn serve(listener: TcpListener, cert: &str, key: &str, ca: &str) {
    let identity = Identity::from_pem(cert, key).unwrap();
    let trust = Arc::new(ChainVerifier::from_pem(ca).unwrap());
    let config = tls::agent_server_config(&identity, trust, &system_clock()).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let config = Arc::clone(&config);
            std::thread::spawn(move || answer(stream, config));
        }
    });
}

fn answer(mut tcp: TcpStream, config: Arc<rustls::ServerConfig>) {
    let Ok(mut tls) = rustls::ServerConnection::new(config) else {
        return;
    };
    let mut stream = rustls::Stream::new(&mut tls, &mut tcp);
    let mut parser = RequestParser::new(Limits::AGENT_REQUEST);
    let request = loop {
        let mut buffer = [0; 4096];
        match stream.read(&mut buffer) {
            Ok(n) if n > 0 && parser.push(&buffer[..n]).is_ok() => {}
            _ => return,
        }
        if let Some(request) = parser.take() {
            break request;
        }
    };
    let (status, body) = match &*request.path() {
        "/ping" => (
            200,
            r#"{"status":"ok","host":"perl","version":"0.12.3","expiry":"Jan  1 00:00:00 2040 GMT","staged":0}"#,
        ),
        "/run" => (
            200,
            r#"{"script":"ok","exit":0,"stdout":"fine\n","stderr":""}"#,
        ),
        "/rotate-serial" => (200, r#"{"status":"ok"}"#),
        _ => (404, r#"{"error":"not found"}"#),
    };
    let _ = stream.write_all(&render_response(status, body, false));
    tls.send_close_notify();
    let _ = tls.complete_io(&mut tcp);
    let _ = tcp.read(&mut [0; 16]);
}
