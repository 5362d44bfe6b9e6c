//! The tool bridge: scripts with a schema sidecar become tools of the Model Context Protocol (MCP).
//!
//! It talks to the HTTP API only, with the caller's token, so an assistant can do exactly what that
//! token may do. `docs/reference/MCP.md` describes it for its users.
#![forbid(unsafe_code)]

pub mod api;
pub mod argv;
pub mod call;
pub mod catalogue;
pub mod config;
pub mod events;
pub mod http;
pub mod names;
pub mod present;
pub mod runs;
pub mod schema;
pub mod server;
pub mod text;
pub mod tools;
