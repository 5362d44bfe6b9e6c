//! The event loop of the ctrl-exec programs: TLS servers and clients, timers, child processes and
//! signals, all bounded, over `mio` and `rustls`.
//!
//! A program owns one [`Reactor`] and pulls [`Event`]s out of it with [`Reactor::next`]; it
//! answers with method calls. There are no callbacks, and no threads but for name
//! resolution and other work that blocks, where asked for. Nothing blocks except the wait inside `next`, and nothing grows without a
//! limit that is named in [`Config`], [`ServerLimits`], [`ClientLimits`], [`RawLimits`] or
//! [`ChildSpec`].
//!
//! See `docs/design/REACTOR.md` for the states of a connection and how to write a program on this.
#![forbid(unsafe_code)]

mod child;
mod conn;
mod event;
#[cfg(test)]
mod fault_tests;
#[cfg(test)]
mod faults;
mod limits;
mod link;
mod offload;
mod reactor;
mod signals;
mod stream;
mod timers;

pub use child::{Captured, ChildExit, ChildResult, ChildSpec, EndedBy, Output, SpawnError};
pub use ctrl_exec_protocol::http;
pub use event::{
    ChildId, CloseReason, ConnId, Event, JobId, ListenerId, Phase, QueryId, Signal, TimerId,
};
pub use limits::{ClientLimits, Config, Floor, RawLimits, SLOWEST, ServerLimits, Then};
pub use reactor::{Reactor, Waker};
