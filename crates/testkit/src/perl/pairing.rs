//! Both ends of pairing in 0.12.3 (pki-and-pairing.md §7).

use super::response;
use super::tls::{Lost, Stream};
use crate::ca::{Asked, Ca, Leaf};
use crate::wait::PATIENCE;
use ctrl_exec_protocol::json::Fields;
use ctrl_exec_protocol::tls::{Identity, pairing_client_config, pairing_server_config};
use ctrl_exec_protocol::wire::pairing::{Ack, Approval, Outcome, PairRequest, Refusal};
use ctrl_exec_protocol::x509::cert::KeyKind;
use ctrl_exec_protocol::x509::verify;
use rustls::{ClientConnection, StreamOwned};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How late each of the two session tickets is.
const LATE: Duration = Duration::from_millis(150);
/// Largest request that is read.
const REQUEST: usize = 65_536;
/// The id that every request is queued under.
const REQID: &str = "00112233aabbccdd";

/// The listener of a dispatcher in pairing mode, whose operator approves what can be signed.
pub struct Listener {
    /// Where it listens, on 127.0.0.1.
    pub port: u16,
    events: Mutex<Receiver<Result<PairRequest, String>>>,
}

impl Listener {
    /// Starts one that shows `leaf` and signs with `ca`.
    pub fn start(leaf: &Leaf, ca: &Arc<Ca>) -> Self {
        let identity = Identity::from_pem(&leaf.cert, &leaf.key).unwrap();
        let config = pairing_server_config(&identity, &verify::system_clock()).unwrap();
        let mut config = (*config).clone();
        config.session_storage = rustls::server::ServerSessionMemoryCache::new(8);
        config.send_tls13_tickets = 2;
        let config = Arc::new(config);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (sender, events) = channel();
        let ca = Arc::clone(ca);
        std::thread::spawn(move || {
            for tcp in listener.incoming().flatten() {
                match Stream::accept(tcp, &config, LATE) {
                    Ok(stream) => {
                        let (ca, sender) = (Arc::clone(&ca), sender.clone());
                        std::thread::spawn(move || child(stream, &ca, &sender));
                    }
                    // A bare connection, such as the probe of its own client.
                    Err(Lost::Handshake) => {}
                    Err(Lost::Pipe(error)) => {
                        let _ = sender.send(Err(format!("killed by SIGPIPE: {error}")));
                        return;
                    }
                }
            }
        });
        Self {
            port,
            events: Mutex::new(events),
        }
    }

    /// The next request that was queued, or how the process died.
    ///
    /// # Errors
    /// It is dead, or nothing came in time.
    pub fn next(&self) -> Result<PairRequest, String> {
        let event = self.events.lock().unwrap().recv_timeout(PATIENCE);
        event.unwrap_or_else(|error| Err(error.to_string()))
    }
}

/// What follows the handshake: one request, and one or two answers.
fn child(mut stream: Stream, ca: &Ca, queued: &Sender<Result<PairRequest, String>>) {
    let mut length = None;
    while let Some(line) = stream.line() {
        if line.is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':') {
            if name.eq_ignore_ascii_case("content-length") {
                length = length.or_else(|| value.trim().parse().ok());
            }
        }
    }
    let refused = match length {
        None => Err(Refusal::InvalidRequest.render()),
        Some(length) if length > REQUEST => Err(Refusal::TooLarge.render()),
        // One read, whatever the length says.
        Some(length) => {
            PairRequest::parse(&stream.sysread(length)).map_err(|refusal| refusal.render())
        }
    };
    let request = match refused {
        Ok(request) => request,
        Err(body) => {
            stream.send(&response(200, &body));
            stream.close();
            return;
        }
    };
    stream.send(&response(200, &Ack::render_pending(REQID)));
    if let Some(approval) = sign(ca, &request) {
        let body = Outcome::Approved(approval).render();
        stream.send(&response(200, &body));
    }
    let _ = queued.send(Ok(request));
    stream.close();
}

/// What `approve` makes of a request: 0.12.3 signs RSA keys of 2048 bits and more, and nothing else.
pub fn sign(ca: &Ca, request: &PairRequest) -> Option<Approval> {
    let KeyKind::Rsa { bits: 2048.. } = Asked::of(&request.csr).key else {
        return None;
    };
    Some(Approval {
        cert: ca.sign_csr(&request.csr, &[0xaa, 7]),
        ca: ca.pem.clone(),
        nonce: request.nonce.clone(),
        dispatcher_serial: "ab01".into(),
        dispatcher_id: "disp".into(),
    })
}

/// The client of an agent of 0.12.3: a bare probe, then one request of HTTP/1.0 without `Host`.
/// Returns what was acknowledged, and a function that waits for the outcome.
pub fn request_pairing(
    dispatcher: SocketAddr,
    hostname: &str,
    csr: &str,
) -> (Ack, impl FnOnce() -> Outcome) {
    drop(TcpStream::connect(dispatcher).unwrap());
    let tcp = TcpStream::connect(dispatcher).unwrap();
    tcp.set_read_timeout(Some(PATIENCE)).unwrap();
    let nonce = "00112233445566778899aabbccddeeff";
    let body = Fields::with_room(4)
        .text("nonce", nonce)
        .text("csr", csr)
        .integer("port", 7443)
        .text("hostname", hostname)
        .text("ip", "127.0.0.1")
        .finish();
    let config = pairing_client_config(&verify::system_clock()).unwrap();
    let name = ctrl_exec_protocol::tls::server_name("dispatcher.invalid");
    let conn = ClientConnection::new(config, name).unwrap();
    let mut stream = StreamOwned::new(conn, tcp);
    let length = body.len();
    let request = format!(
        "POST /pair HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let ack = Ack::parse(&one_answer(&mut stream)).unwrap();
    let outcome = move || {
        let outcome = Outcome::parse(&one_answer(&mut stream)).unwrap();
        if let Outcome::Approved(approval) = &outcome {
            assert_eq!(approval.nonce, nonce, "nonce mismatch in pairing result");
        }
        outcome
    };
    (ack, outcome)
}

/// The body of a response, by the one read that the reference gives it: all of it must be in one
/// record.
fn one_answer(stream: &mut StreamOwned<ClientConnection, TcpStream>) -> Vec<u8> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.trim().parse::<usize>().unwrap())
    });
    let mut body = vec![0; length.expect("no Content-Length in pairing acknowledgement")];
    let count = stream.read(&mut body).unwrap();
    body.truncate(count);
    body
}
