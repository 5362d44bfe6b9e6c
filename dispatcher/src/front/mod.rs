//! The ways in: each parses what is asked, calls the tasks and renders what came of them.

pub mod api;
pub mod cli;
mod file_limit;
