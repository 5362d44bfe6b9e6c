//! What the ctrl-exec programs agree on, each fact once.
//!
//! Everything here is a pure function, or a state machine that is fed with bytes: no sockets, no
//! files, no processes. Tests and fuzzers therefore reach all of it directly.
//!
//! Features keep the programs small: the executor uses the default set, which knows frames and
//! configuration only; `json`, `http` and `tls` add what travels over the network.
#![forbid(unsafe_code)]

pub mod base64;
pub mod capture;
pub mod config;
pub mod dispatcher_conf;
pub mod frame;
pub mod live;
pub mod log_line;
pub mod names;
pub mod program;
pub mod serial;
pub mod sorted_map;
pub mod text;
pub mod time;

#[cfg(feature = "json")]
pub mod hook;
#[cfg(feature = "json")]
pub mod json;
#[cfg(feature = "json")]
pub mod wire;

#[cfg(feature = "tls")]
pub mod tls;
#[cfg(feature = "tls")]
pub mod x509;

#[cfg(feature = "http")]
pub mod http;
