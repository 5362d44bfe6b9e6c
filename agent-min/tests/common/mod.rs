//! A certificate authority, agents and callers for tests, all below one temporary directory.
#![allow(dead_code, reason = "each test program uses a part")]

use ctrl_exec_protocol::x509;
use ctrl_exec_protocol::x509::cert::{self, KeyKind};
use ctrl_exec_protocol::x509::keys::{self, KeyType};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rcgen::{CertificateSigningRequestParams, PublicKeyData, SerialNumber, date_time_ymd};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned};
use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Longer than anything takes on a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A directory that goes with the test.
pub struct TempDir(pub PathBuf);

impl TempDir {
    pub fn new() -> TempDir {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir =
            std::env::temp_dir().join(format!("ctrl-exec-agent-{}-{number}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        TempDir(dir)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

/// A certificate and its key, PEM.
#[derive(Clone)]
pub struct Leaf {
    pub cert: String,
    pub key: String,
}

/// A certificate authority.
pub struct Ca {
    params: CertificateParams,
    key: KeyPair,
    pub pem: String,
}

impl Ca {
    pub fn new() -> Ca {
        let key = key_pair(&keys::generate(KeyType::EcdsaP256).unwrap());
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, "ctrl-exec CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2100, 1, 1);
        let pem = pem(params.self_signed(&key).unwrap());
        Ca { params, key, pem }
    }

    /// A CA of this name, with a key of its own.
    pub fn named(name: &str) -> Ca {
        let mut ca = Ca::new();
        ca.params.distinguished_name = rcgen::DistinguishedName::new();
        ca.params.distinguished_name.push(DnType::CommonName, name);
        ca.pem = pem(ca.params.self_signed(&ca.key).unwrap());
        ca
    }

    /// The CA's certificate made anew with the same key, until another year.
    pub fn reissued(&self, until: i32) -> String {
        let mut params = self.params.clone();
        params.not_after = date_time_ymd(until, 1, 1);
        pem(params.self_signed(&self.key).unwrap())
    }

    /// A certificate of this CA for the name and key of `other`.
    pub fn vouch_for(&self, other: &Ca) -> String {
        let issuer = Issuer::from_params(&self.params, &self.key);
        pem(other.params.signed_by(&other.key, &issuer).unwrap())
    }

    /// A revocation list.
    pub fn crl(&self, number: u64, serials: &[&[u8]]) -> String {
        let params = rcgen::CertificateRevocationListParams {
            this_update: date_time_ymd(2026, 1, 1),
            next_update: date_time_ymd(2099, 1, 1),
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: serials
                .iter()
                .map(|serial| rcgen::RevokedCertParams {
                    serial_number: SerialNumber::from_slice(serial),
                    revocation_time: date_time_ymd(2026, 1, 1),
                    reason_code: None,
                    invalidity_date: None,
                })
                .collect(),
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        let issuer = Issuer::from_params(&self.params, &self.key);
        let list = params.signed_by(&issuer).unwrap();
        x509::pem::encode("X509 CRL", list.der())
    }

    pub fn leaf(&self, cn: &str, serial: &[u8]) -> Leaf {
        self.leaf_valid(cn, serial, 2020, 2100)
    }

    pub fn leaf_valid(&self, cn: &str, serial: &[u8], from: i32, until: i32) -> Leaf {
        self.leaf_for(
            &keys::generate(KeyType::EcdsaP256).unwrap(),
            cn,
            serial,
            from,
            until,
        )
    }

    pub fn leaf_for(&self, key: &str, cn: &str, serial: &[u8], from: i32, until: i32) -> Leaf {
        let public = key_pair(key);
        Leaf {
            cert: self.sign(&public, cn, serial, from, until),
            key: key.to_owned(),
        }
    }

    /// A certificate for the key of a CSR.
    pub fn sign_csr(&self, csr: &str, serial: &[u8]) -> String {
        let public = read_csr(csr).public_key;
        self.sign(&public, &Asked::of(csr).cn, serial, 2020, 2100)
    }

    fn sign(
        &self,
        key: &impl PublicKeyData,
        cn: &str,
        serial: &[u8],
        from: i32,
        until: i32,
    ) -> String {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, cn);
        params.serial_number = Some(SerialNumber::from_slice(serial));
        params.not_before = date_time_ymd(from, 1, 1);
        params.not_after = date_time_ymd(until, 1, 1);
        let issuer = Issuer::from_params(&self.params, &self.key);
        pem(params.signed_by(key, &issuer).unwrap())
    }
}

/// A key as `rcgen` signs with it.
fn key_pair(key: &str) -> KeyPair {
    KeyPair::try_from(&x509::pem::private_key(key).unwrap()).unwrap()
}

/// Reads a request and verifies its own signature.
fn read_csr(csr: &str) -> CertificateSigningRequestParams {
    let der = x509::pem::request(csr).unwrap();
    CertificateSigningRequestParams::from_der(&der.into()).unwrap()
}

/// What a certificate request asks for, once its own signature was found good.
pub struct Asked {
    pub cn: String,
    pub spki_der: Vec<u8>,
    pub key: KeyKind,
}

impl Asked {
    pub fn of(csr: &str) -> Asked {
        let request = read_csr(csr);
        let Some(rcgen::DnValue::Utf8String(cn)) =
            request.params.distinguished_name.get(&DnType::CommonName)
        else {
            panic!("no common name in {csr}");
        };
        let spki_der = request.public_key.subject_public_key_info();
        let key = cert::key_kind(&spki_der).unwrap();
        Asked {
            cn: cn.clone(),
            spki_der,
            key,
        }
    }
}

fn pem(certificate: rcgen::Certificate) -> String {
    x509::pem::encode("CERTIFICATE", certificate.der())
}

/// A host with an agent's files; the agent may run.
pub struct Host {
    pub dir: TempDir,
    pub port: u16,
    pub ca_pem: String,
    pub dispatcher: Leaf,
    pub agent: Leaf,
    pub running: Option<Child>,
}

/// The program under test; `CTRL_EXEC_AGENT_BIN` names another one, for another architecture, say.
fn program() -> PathBuf {
    std::env::var_os("CTRL_EXEC_AGENT_BIN")
        .unwrap_or_else(|| env!("CARGO_BIN_EXE_ctrl-exec-agent").into())
        .into()
}

impl Host {
    /// A paired host that trusts one dispatcher, `disp`, with serial 0xab01.
    pub fn new(ca: &Ca) -> Host {
        let agent = ca.leaf("agent.example", &[0xaa, 2]);
        let dispatcher = ca.leaf("ctrl-exec-dispatcher", &[0xab, 1]);
        Host::with(&ca.pem, agent, dispatcher, "ab01 disp\n")
    }

    pub fn with(ca_pem: &str, agent: Leaf, dispatcher: Leaf, map: &str) -> Host {
        let dir = TempDir::new();
        let port = free_port();
        let host = Host {
            dir,
            port,
            ca_pem: ca_pem.into(),
            dispatcher,
            agent,
            running: None,
        };
        for name in [
            "etc/ctrl-exec-agent",
            "var/lib/ctrl-exec-agent",
            "opt",
            "dev",
        ] {
            fs::create_dir_all(host.path(name)).unwrap();
        }
        host.write("etc/ctrl-exec-agent/agent.crt", &host.agent.cert);
        host.write("etc/ctrl-exec-agent/agent.key", &host.agent.key);
        host.write("etc/ctrl-exec-agent/ca.crt", ca_pem);
        host.write("var/lib/ctrl-exec-agent/ctrl-exec-dispatchers", map);
        host.configure("");
        host.write("etc/ctrl-exec-agent/scripts.conf", "");
        host
    }

    /// Writes agent.conf: what every test needs, `extra` lines, and a default profile.
    pub fn configure(&self, extra: &str) {
        let etc = self.path("etc/ctrl-exec-agent");
        let etc = etc.display();
        self.write(
            "etc/ctrl-exec-agent/agent.conf",
            &format!(
                "port = {}\nbind = 127.0.0.1\ncert = {etc}/agent.crt\nkey = {etc}/agent.key\n\
                 ca = {etc}/ca.crt\nallow_root = yes\n{}{extra}\n[profile default]\n",
                self.port,
                if extra.contains("rate_limit") {
                    ""
                } else {
                    "rate_limit_disable = 1\n"
                },
            ),
        );
    }

    /// Adds an executable script to the host and to the allowlist.
    pub fn script(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(&format!("opt/{name}"));
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        self.allow(&format!("{name} = {}", path.display()));
        path
    }

    pub fn allow(&self, line: &str) {
        let path = self.path("etc/ctrl-exec-agent/scripts.conf");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(path, format!("{text}{line}\n")).unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.0.join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// The program with this host's root.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program());
        command
            .args(arguments)
            .arg("--root")
            .arg(&self.dir.0)
            .stdin(Stdio::null());
        command
    }

    /// Starts the agent and waits until it listens.
    pub fn start(&mut self) {
        self.start_with(&[]);
    }

    /// As [`Host::start`], with additions to its environment.
    pub fn start_with(&mut self, env: &[(&str, &str)]) {
        let before = self.log().matches("ACTION=start").count();
        let log = fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(self.path("agent.log"))
            .unwrap();
        let child = self
            .command(&["serve"])
            .envs(env.iter().copied())
            .stderr(log)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        self.running = Some(child);
        wait_for("the agent to start", || {
            let child = self.running.as_mut().unwrap();
            if let Some(status) = child.try_wait().unwrap() {
                panic!(
                    "the agent ended with {status}: {}",
                    fs::read_to_string(self.path("agent.log")).unwrap()
                );
            }
            self.log().matches("ACTION=start").count() > before
        });
    }

    pub fn pid(&self) -> u32 {
        self.running.as_ref().unwrap().id()
    }

    pub fn signal(&self, signal: &str) {
        let status = Command::new("kill")
            .arg(signal)
            .arg(self.pid().to_string())
            .status()
            .unwrap();
        assert!(status.success());
    }

    /// Waits for the end of the agent.
    pub fn ended(&mut self) -> ExitStatus {
        let mut child = self.running.take().unwrap();
        let start = Instant::now();
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return status;
            }
            if start.elapsed() > PATIENCE {
                let _ = child.kill();
                panic!("the agent does not end");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn is_alive(&mut self) -> bool {
        self.running
            .as_mut()
            .is_some_and(|child| child.try_wait().unwrap().is_none())
    }

    /// What the agent logged (without a log socket it logs to standard error).
    pub fn log(&self) -> String {
        self.read("agent.log")
    }

    pub fn wait_log(&self, text: &str) {
        wait_for(&format!("'{text}' in the log:\n{}", self.log()), || {
            self.log().contains(text)
        });
    }

    pub fn reload(&self) {
        let before = self.log().matches("ACTION=reload").count();
        self.signal("-HUP");
        wait_for("the reload", || {
            self.log().matches("ACTION=reload").count() > before
        });
    }

    pub fn caller(&self) -> Caller {
        Caller::new(self.port, Some(&self.dispatcher))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(mut child) = self.running.take() {
            if std::thread::panicking() {
                eprintln!("--- agent.log of {}\n{}", self.dir.0.display(), self.log());
            }
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Something that calls agents.
#[derive(Clone)]
pub struct Caller {
    pub port: u16,
    pub config: Arc<ClientConfig>,
    pub source: Option<IpAddr>,
}

pub type Stream = StreamOwned<ClientConnection, TcpStream>;

impl Caller {
    pub fn new(port: u16, identity: Option<&Leaf>) -> Caller {
        Caller {
            port,
            config: client_config(identity, &[]),
            source: None,
        }
    }

    pub fn from(mut self, source: Ipv4Addr) -> Caller {
        self.source = Some(IpAddr::V4(source));
        self
    }

    /// Connects and does the handshake.
    pub fn connect(&self) -> std::io::Result<Stream> {
        let mut socket = tcp(self.port, self.source)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        socket.set_nodelay(true)?;
        let name = ServerName::try_from("agent.invalid").unwrap();
        let mut conn = ClientConnection::new(Arc::clone(&self.config), name).unwrap();
        while conn.is_handshaking() {
            conn.complete_io(&mut socket)?;
        }
        Ok(StreamOwned::new(conn, socket))
    }

    /// Sends raw bytes on a connection of their own and returns everything that comes back.
    pub fn raw(&self, request: &[u8]) -> std::io::Result<String> {
        let mut stream = self.connect()?;
        stream.write_all(request)?;
        stream.flush()?;
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer) {
            Err(error) if answer.is_empty() => return Err(error),
            _ => {}
        }
        Ok(String::from_utf8(answer).unwrap())
    }

    /// One request; the status and the body.
    pub fn call(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        split(&self.raw(request(method, path, body).as_bytes()).unwrap())
    }

    pub fn post(&self, path: &str, body: &str) -> (u16, String) {
        self.call("POST", path, body)
    }

    pub fn get(&self, path: &str) -> (u16, String) {
        self.call("GET", path, "")
    }
}

pub fn request(method: &str, path: &str, body: &str) -> String {
    format!(
        "{method} {path} HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Status and body of a response.
pub fn split(response: &str) -> (u16, String) {
    let (head, body) = response.split_once("\r\n\r\n").unwrap_or((response, ""));
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|word| word.parse().ok())
        .unwrap_or(0);
    (status, body.to_owned())
}

/// A connection from `source`, which may be any address of 127.0.0.0/8.
pub fn tcp(port: u16, source: Option<IpAddr>) -> std::io::Result<TcpStream> {
    use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
    let target = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
    let Some(source) = source else {
        return TcpStream::connect_timeout(&target, PATIENCE);
    };
    let fd = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    bind(&fd, &SocketAddr::new(source, 0))?;
    connect(&fd, &target)?;
    Ok(TcpStream::from(fd))
}

pub fn client_config(
    identity: Option<&Leaf>,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions = if versions.is_empty() {
        rustls::ALL_VERSIONS
    } else {
        versions
    };
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone(provider)));
    Arc::new(match identity {
        None => builder.with_no_client_auth(),
        Some(leaf) => {
            let cert = CertificateDer::from_pem_slice(leaf.cert.as_bytes()).unwrap();
            let key = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).unwrap();
            let key = rustls::crypto::ring::sign::any_supported_type(&key).unwrap();
            let certified = CertifiedKey::new(vec![cert.into_owned()], key);
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified)))
        }
    })
}

#[derive(Debug)]
struct Anyone(Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// A port on which nothing listens until the caller does.
pub fn free_port() -> u16 {
    ctrl_exec_testkit::ports::claim().unwrap()
}

/// Waits until `done`, or fails.
pub fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

pub fn fixture(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name);
    fs::read_to_string(path).unwrap()
}

/// Parsed JSON of a body.
pub fn object(body: &str) -> ctrl_exec_protocol::json::Object {
    ctrl_exec_protocol::json::parse_object(
        body.as_bytes(),
        &ctrl_exec_protocol::json::Bounds::ANSWER,
    )
    .unwrap_or_else(|error| panic!("{error}: {body}"))
}

pub fn text(body: &str, key: &str) -> String {
    ctrl_exec_protocol::json::text_of(&object(body), key)
}

pub fn int(body: &str, key: &str) -> i64 {
    ctrl_exec_protocol::json::int_of(&object(body), key)
        .unwrap_or_else(|| panic!("no integer {key}: {body}"))
}
