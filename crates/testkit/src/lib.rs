//! What the tests of several ctrl-exec programs, and the demo, share. No program that is installed
//! depends on it.
#![forbid(unsafe_code)]

pub mod ports;
