//! What the configuration says about the server (api.md §1.2).

use crate::ca::IdentityFiles;
use crate::config::{Config, ConfigError};
use crate::model::AppError;
use ctrl_exec_protocol::tls;
use ctrl_exec_protocol::x509::verify::{ChainVerifier, system_clock};
use rustls::ServerConfig;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

/// The port unless configured.
const PORT: u32 = 7445;

/// Settings of the server, checked.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where it listens.
    pub bind: SocketAddr,
    /// TLS, where configured.
    pub tls: Option<Arc<ServerConfig>>,
    /// Requests that are worked on at a time.
    pub most_requests: usize,
    /// Connections at a time.
    pub most_conns: usize,
    /// Denials do not say why.
    pub generic_denials: bool,
}

impl Settings {
    /// Reads them. Files of TLS are read here.
    ///
    /// # Errors
    /// A value or a file that does not do, with its key.
    pub fn read(config: &Config) -> Result<Self, AppError> {
        let text = |key| config.settings().text(key);
        let port = config.number("api_port", PORT, (0, 65_535), "a port from 0 to 65535")?;
        let bind = text("api_bind").unwrap_or("127.0.0.1");
        let address: IpAddr = match bind {
            "localhost" => IpAddr::from([127, 0, 0, 1]),
            other => other
                .trim_start_matches('[')
                .trim_end_matches(']')
                .parse()
                .map_err(|_| invalid(config, "api_bind", bind, "an address, such as 127.0.0.1"))?,
        };
        let expected = "a number of requests from 1 to 65535";
        let most = config.number("api_max_children", 64, (1, 65_535), expected)?;
        let expected = "a number of connections from 16 to 65535";
        let conns = config.number("api_max_connections", 4096, (16, 65_535), expected)?;
        Ok(Self {
            bind: SocketAddr::new(address, u16::try_from(port).unwrap_or(0)),
            tls: server_tls(config)?,
            most_requests: usize::try_from(most).unwrap_or(64),
            most_conns: usize::try_from(conns).unwrap_or(4096),
            generic_denials: config.settings().flag("auth_deny_generic"),
        })
    }
}

/// TLS of the server: all of its keys, or none.
fn server_tls(config: &Config) -> Result<Option<Arc<ServerConfig>>, AppError> {
    let path = |key| config.settings().path(key);
    let (cert, key) = match (path("api_cert"), path("api_key"), path("api_client_ca")) {
        (None, None, None) => return Ok(None),
        (Some(cert), Some(key), _) => (cert, key),
        (Some(_), None, _) => return Err(half(config, "api_cert", "api_key")),
        (None, Some(_), _) => return Err(half(config, "api_key", "api_cert")),
        (None, None, Some(_)) => return Err(half(config, "api_client_ca", "api_cert")),
    };
    let identity = IdentityFiles::new(cert, key).load()?;
    let clients = match path("api_client_ca") {
        None => None,
        Some(ca) => {
            let setup = |error: &dyn std::fmt::Display| {
                AppError::new(
                    crate::model::Kind::Setup,
                    format!("api_client_ca {}: {error}", Path::new(ca).display()),
                )
            };
            let pem = std::fs::read_to_string(ca).map_err(|error| setup(&error))?;
            let trust = ChainVerifier::from_pem(&pem).map_err(|error| setup(&error))?;
            Some(Arc::new(trust))
        }
    };
    let server = tls::api_server_config(&identity, clients, &system_clock());
    let server = server.map_err(|error| AppError::system(format!("TLS: {error}")))?;
    Ok(Some(server))
}

/// Half of TLS would be none, and everything in clear text.
fn half(config: &Config, set: &str, missing: &str) -> AppError {
    AppError::new(
        crate::model::Kind::Setup,
        format!(
            "config {}: {set} is set and {missing} is not: without both there would be no TLS",
            config.path().display()
        ),
    )
}

fn invalid(config: &Config, key: &str, value: &str, expected: &'static str) -> AppError {
    let error = ctrl_exec_protocol::dispatcher_conf::SettingsError::Invalid {
        key: key.to_owned(),
        value: value.to_owned(),
        expected,
    };
    ConfigError::Settings(config.path().to_owned(), error).into()
}
