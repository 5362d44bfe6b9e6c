//! The command line of the program.

use super::app::Source;
use ctrl_exec_host::paths::Root;
use std::ffi::OsString;
use std::path::PathBuf;

/// What `--help` says.
pub const HELP: &str = "\
usage: ctrl-exec-api [--config FILE]
  --config FILE   read this configuration (default /etc/ctrl-exec/ctrl-exec.conf)
  --root DIR      take default paths below DIR
  --openapi       print the OpenAPI document and exit
  --version       print the version and exit
  --help          print this and exit
";

/// What is asked.
pub enum Parsed {
    /// Serve.
    Serve(Source),
    /// Print the document.
    OpenApi,
    /// Print the help.
    Help,
    /// Print the version.
    Version,
}

/// Reads the arguments.
///
/// # Errors
/// What is wrong, in words.
pub fn parse(args: impl Iterator<Item = OsString>) -> Result<Parsed, String> {
    let mut args = pico_args::Arguments::from_vec(args.collect());
    if args.contains(["-h", "--help"]) {
        return Ok(Parsed::Help);
    }
    if args.contains("--version") {
        return Ok(Parsed::Version);
    }
    let openapi = args.contains("--openapi");
    let mut path = |name| {
        args.opt_value_from_os_str(name, |text| Ok::<_, String>(PathBuf::from(text)))
            .map_err(|error| error.to_string())
    };
    let config = path("--config")?;
    let root = path("--root")?;
    if let Some(other) = args.finish().first() {
        return Err(format!("unknown argument '{}'", other.to_string_lossy()));
    }
    if openapi {
        return Ok(Parsed::OpenApi);
    }
    let root = root.map_or_else(Root::system, Root::at);
    Ok(Parsed::Serve(Source { root, config }))
}
