//! What a program says to whoever runs it, on standard error: the `log` facade with `env_logger`
//! behind it. Records of what was done go to the system log instead ([`crate::syslog`]).

use crate::stderr;
use env_logger::{Builder, Env, Target, WriteStyle};
use log::{Level, LevelFilter};
use std::io::{self, Write};

/// Sends what the program logs by the macros of `log` to standard error, as `ident: text`. Which
/// of it is `RUST_LOG`'s to say; warnings and errors by default. Never blocks: what standard error
/// does not take at once is dropped and counted.
pub fn init(ident: &'static str) {
    let mut builder = Builder::new();
    builder
        .filter_level(LevelFilter::Warn)
        .parse_env(Env::default())
        .write_style(WriteStyle::Never)
        .target(Target::Pipe(Box::new(Stderr)))
        .format(move |out, record| {
            let text = record.args();
            match record.level() {
                Level::Error => writeln!(out, "{ident}: {text}"),
                Level::Warn => writeln!(out, "{ident}: warning: {text}"),
                Level::Info => writeln!(out, "{ident}: {text}"),
                Level::Debug => writeln!(out, "{ident}: debug: {}: {text}", record.target()),
                Level::Trace => writeln!(out, "{ident}: trace: {}: {text}", record.target()),
            }
        });
    // A second call, as tests make it, keeps the first logger.
    let _ = builder.try_init();
}

/// Takes each formatted text whole.
struct Stderr;

impl Write for Stderr {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        stderr::write(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
