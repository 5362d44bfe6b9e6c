//! What the environment and the command line say.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// Help text of the program.
pub const HELP: &str = "\
ctrl-exec-mcp: scripts of a ctrl-exec fleet as tools of the Model Context Protocol

Usage: ctrl-exec-mcp [--http [HOST:]PORT] [--max-tools N]

Without --http it speaks on standard input and output, as assistants start it.

  --http [HOST:]PORT   serve streamable HTTP there; HOST is 127.0.0.1 unless given
  --max-tools N        above N tools offer list_scripts and run_script (40)
  --help, --version

Environment:
  CTRLEXEC_API_URL      the HTTP API (http://localhost:7445)
  CTRLEXEC_TOKEN        token for standard input and output; over HTTP each caller
                        sends its own as Authorization: Bearer
  CTRLEXEC_USERNAME     name given to the API's auth hook
  CTRLEXEC_CA           file with certificates to trust for an https API
  CTRLEXEC_TIMEOUT      seconds until a run is given up (300)
  CTRLEXEC_MCP_HTTP     as --http
  CTRLEXEC_MCP_ORIGINS  web origins that may call, separated by commas (none)
  CTRLEXEC_MCP_HOSTS    names by which it is reached over HTTP, separated by commas
  CTRLEXEC_MCP_REFRESH  seconds between looks for changed tools, 0 for none (0)
  CTRLEXEC_MCP_TOOLS    as --max-tools
";

/// Settings of the bridge.
#[derive(Clone, Debug)]
pub struct Config {
    /// Base address of the HTTP API, without a slash at its end.
    pub api: String,
    /// The token of standard input and output.
    pub token: Option<String>,
    /// The user name that is told to the API.
    pub username: Option<String>,
    /// Certificates to trust for an `https` API, in place of the system's.
    pub ca: Option<PathBuf>,
    /// When a run is given up.
    pub timeout: Duration,
    /// Where HTTP is served; standard input and output otherwise.
    pub http: Option<SocketAddr>,
    /// Web origins that may call.
    pub origins: Vec<String>,
    /// Names of this host that callers may use.
    pub hosts: Vec<String>,
    /// How often it is looked whether the tools changed.
    pub refresh: Option<Duration>,
    /// With more tools than this, two general ones stand for all.
    pub max_tools: usize,
}

/// What the command line asks for.
#[derive(Debug)]
pub enum Asked {
    /// To serve.
    Serve(Box<Config>),
    /// The help text.
    Help,
    /// The version.
    Version,
}

impl Config {
    /// Reads the command line, and the environment through `env`.
    ///
    /// # Errors
    /// One line that names the option or variable and its fault.
    pub fn read(
        mut args: pico_args::Arguments,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Asked, String> {
        if args.contains(["-h", "--help"]) {
            return Ok(Asked::Help);
        }
        if args.contains(["-V", "--version"]) {
            return Ok(Asked::Version);
        }
        let option = |args: &mut pico_args::Arguments, name: &'static str| {
            args.opt_value_from_str::<_, String>(name)
                .map_err(|error| error.to_string())
        };
        let http = option(&mut args, "--http")?;
        let max_tools = option(&mut args, "--max-tools")?;
        if let Some(word) = args.finish().first() {
            return Err(format!("unknown argument {word:?}; see --help"));
        }
        // An empty variable is as good as none.
        let env = |name: &str| env(name).filter(|value| !value.is_empty());
        let list = |name: &str| -> Vec<String> {
            let text = env(name).unwrap_or_default();
            text.split(',')
                .map(|word| word.trim().to_owned())
                .filter(|word| !word.is_empty())
                .collect()
        };
        let seconds = |name: &str, default: u64| match env(name) {
            None => Ok(default),
            Some(text) => text
                .parse::<u64>()
                .ok()
                .filter(|n| *n <= 86_400)
                .ok_or(format!(
                    "{name}: {text:?} is no number of seconds up to 86400"
                )),
        };
        let api = env("CTRLEXEC_API_URL").unwrap_or_else(|| "http://localhost:7445".to_owned());
        let api = api.trim_end_matches('/').to_owned();
        if !(api.starts_with("http://") || api.starts_with("https://")) {
            return Err(format!(
                "CTRLEXEC_API_URL: {api:?} begins neither with http:// nor https://"
            ));
        }
        let token = env("CTRLEXEC_TOKEN");
        if token
            .as_ref()
            .is_some_and(|t| !t.bytes().all(|b| b.is_ascii_graphic()))
        {
            return Err("CTRLEXEC_TOKEN: only visible ASCII characters can be sent".to_owned());
        }
        let timeout = seconds("CTRLEXEC_TIMEOUT", 300)?;
        if timeout == 0 {
            return Err("CTRLEXEC_TIMEOUT: 0 seconds leave no time for a run".to_owned());
        }
        let refresh = seconds("CTRLEXEC_MCP_REFRESH", 0)?;
        let tools = max_tools.map(|text| ("--max-tools", text));
        let tools = tools.or_else(|| env("CTRLEXEC_MCP_TOOLS").map(|t| ("CTRLEXEC_MCP_TOOLS", t)));
        let max_tools = match tools {
            None => 40,
            Some((name, text)) => text
                .parse()
                .ok()
                .filter(|n| *n <= 1000)
                .ok_or(format!("{name}: {text:?} is no number up to 1000"))?,
        };
        let http = http.map(|text| ("--http", text));
        let http = http.or_else(|| env("CTRLEXEC_MCP_HTTP").map(|t| ("CTRLEXEC_MCP_HTTP", t)));
        let http = http
            .map(|(name, text)| address(&text).ok_or(format!("{name}: {text:?} is no [HOST:]PORT")))
            .transpose()?;
        Ok(Asked::Serve(Box::new(Self {
            api,
            token,
            username: env("CTRLEXEC_USERNAME"),
            ca: env("CTRLEXEC_CA").map(PathBuf::from),
            timeout: Duration::from_secs(timeout),
            http,
            origins: list("CTRLEXEC_MCP_ORIGINS"),
            hosts: list("CTRLEXEC_MCP_HOSTS"),
            refresh: (refresh > 0).then(|| Duration::from_secs(refresh)),
            max_tools,
        })))
    }
}

/// `PORT`, `ADDRESS:PORT` or `localhost:PORT`.
fn address(text: &str) -> Option<SocketAddr> {
    if let Ok(port) = text.parse::<u16>() {
        return Some((Ipv4Addr::LOCALHOST, port).into());
    }
    if let Some(port) = text.strip_prefix("localhost:") {
        return Some((Ipv4Addr::LOCALHOST, port.parse().ok()?).into());
    }
    let (host, port) = text.rsplit_once(':')?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    Some((host.parse::<IpAddr>().ok()?, port.parse().ok()?).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn read(args: &[&str], env: &[(&str, &str)]) -> Result<Config, String> {
        let env: HashMap<_, _> = env.iter().map(|(k, v)| (*k, (*v).to_owned())).collect();
        let args = pico_args::Arguments::from_vec(args.iter().map(Into::into).collect());
        match Config::read(args, |name| env.get(name).cloned())? {
            Asked::Serve(config) => Ok(*config),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn defaults_are_those_of_the_documents() {
        let config = read(&[], &[("CTRLEXEC_TOKEN", "")]).unwrap();
        assert_eq!(config.api, "http://localhost:7445");
        assert_eq!(config.timeout, Duration::from_secs(300));
        assert_eq!(config.max_tools, 40);
        assert!(config.http.is_none() && config.token.is_none() && config.refresh.is_none());
    }

    #[test]
    fn addresses() {
        for (text, expected) in [
            ("8080", Some("127.0.0.1:8080")),
            ("localhost:1", Some("127.0.0.1:1")),
            ("0.0.0.0:99", Some("0.0.0.0:99")),
            ("[::1]:7", Some("[::1]:7")),
            ("::1:7", Some("[::1]:7")),
            ("example.org:7", None),
            ("70000", None),
            ("", None),
        ] {
            assert_eq!(
                address(text),
                expected.map(|t| t.parse().unwrap()),
                "{text}"
            );
        }
    }

    #[test]
    fn faults_name_the_variable() {
        for (args, env, expected) in [
            (
                &[][..],
                &[("CTRLEXEC_TIMEOUT", "x")][..],
                "CTRLEXEC_TIMEOUT: \"x\"",
            ),
            (
                &[],
                &[("CTRLEXEC_TIMEOUT", "0")],
                "CTRLEXEC_TIMEOUT: 0 seconds",
            ),
            (
                &[],
                &[("CTRLEXEC_API_URL", "ftp://x")],
                "CTRLEXEC_API_URL: \"ftp://x\"",
            ),
            (
                &[],
                &[("CTRLEXEC_MCP_HTTP", "nowhere")],
                "CTRLEXEC_MCP_HTTP: \"nowhere\"",
            ),
            (
                &[],
                &[("CTRLEXEC_TOKEN", "a b")],
                "CTRLEXEC_TOKEN: only visible",
            ),
            (&["--http", "x"], &[], "--http: \"x\""),
            (&["--max-tools", "-1"], &[], "--max-tools: \"-1\""),
            (&["--nonsense"], &[], "unknown argument \"--nonsense\""),
        ] {
            let error = read(args, env).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
