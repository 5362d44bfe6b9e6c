//! `ctrl-exec-dispatcher`: see `docs/DISPATCHER.md`.

fn main() {}
