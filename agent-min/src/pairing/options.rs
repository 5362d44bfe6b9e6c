//! The options of `request-pairing`, and what they amount to.

use ctrl_exec_protocol::names::PAIRING_PORT;
use ctrl_exec_protocol::wire::pairing::LookupBy;
use ctrl_exec_protocol::x509::keys::KeyType;
use ctrl_exec_protocol::x509::verify::ChainVerifier;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Patience of an interactive request, in seconds: the dispatcher's 600 and some.
const INTERACTIVE_TIMEOUT: u32 = 660;
/// Default and largest patience of a background request, in seconds.
const BACKGROUND_TIMEOUT: u32 = 30;
const MAX_BACKGROUND_TIMEOUT: u32 = 600;

/// Options of the command.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The dispatcher's host name or address.
    pub dispatcher: Option<String>,
    /// Its pairing port.
    pub port: Option<u16>,
    /// Go on in the background once the request is queued.
    pub background: bool,
    /// Seconds to wait for the decision.
    pub timeout: Option<u32>,
    /// How the dispatcher is to find this host.
    pub lookup_by: Option<String>,
    /// Kind of the key, if it is not to follow the dispatcher's.
    pub key_type: Option<String>,
    /// The CA's certificate, carried here by hand: the dispatcher must then prove that it is of
    /// that CA.
    pub ca: Option<PathBuf>,
    /// Leave the CA that this host has for the dispatcher's.
    pub replace_ca: bool,
}

/// A request whose options are in order.
pub(super) struct Request {
    pub(super) dispatcher: String,
    pub(super) port: u16,
    pub(super) timeout: Duration,
    pub(super) lookup_by: Option<LookupBy>,
    pub(super) key_type: Option<KeyType>,
    pub(super) ca: Option<Arc<ChainVerifier>>,
    pub(super) replace_ca: bool,
}

/// Checks the options; an error is one line that names the fault.
pub(super) fn check(options: &Options, background: bool) -> Result<Request, String> {
    let dispatcher = options.dispatcher.clone().filter(|host| !host.is_empty());
    let dispatcher = dispatcher.ok_or("request-pairing needs --dispatcher HOST")?;
    let lookup_by = match options.lookup_by.as_deref() {
        None => None,
        Some(word) => Some(
            LookupBy::parse(word)
                .ok_or_else(|| format!("--lookup-by must be 'ip' or 'hostname', not '{word}'"))?,
        ),
    };
    let key_type = match options.key_type.as_deref() {
        None => None,
        Some(word) => match KeyType::parse(word) {
            None | Some(KeyType::Ed25519) => {
                return Err(format!(
                    "--key-type must be p256, p384 or rsa2048, not '{word}'"
                ));
            }
            known => known,
        },
    };
    let ca = match &options.ca {
        None => None,
        Some(path) => {
            let named = |fault: String| format!("--ca {}: {fault}", path.display());
            let text = std::fs::read_to_string(path).map_err(|error| named(error.to_string()))?;
            let ca = ChainVerifier::from_pem(&text).map_err(|error| named(error.to_string()))?;
            Some(Arc::new(ca))
        }
    };
    let default = if background {
        BACKGROUND_TIMEOUT
    } else {
        INTERACTIVE_TIMEOUT
    };
    let timeout = options.timeout.unwrap_or(default);
    if timeout == 0 || (background && timeout > MAX_BACKGROUND_TIMEOUT) {
        return Err(format!(
            "--timeout must be 1 to {MAX_BACKGROUND_TIMEOUT} seconds"
        ));
    }
    Ok(Request {
        dispatcher,
        port: options.port.unwrap_or(PAIRING_PORT),
        timeout: Duration::from_secs(timeout.into()),
        lookup_by,
        key_type,
        ca,
        replace_ca: options.replace_ca,
    })
}
