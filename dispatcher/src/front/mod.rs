//! Front ends: parse what is asked, render what came of it, nothing else.

pub mod cli;
