//! `ctrl-exec-mcp`: see the library.
#![forbid(unsafe_code)]

use ctrl_exec_mcp::api::Api;
use ctrl_exec_mcp::config::{Asked, Config, HELP};
use ctrl_exec_mcp::http;
use ctrl_exec_mcp::server::Bridge;
use rmcp::ServiceExt;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Exit status for a wrong command line or environment, as `ced` has it.
const USAGE: u8 = 3;

fn main() -> ExitCode {
    let settings = env_logger::Env::default().default_filter_or("warn,ctrl_exec_mcp=info");
    env_logger::Builder::from_env(settings).init();
    let asked = Config::read(pico_args::Arguments::from_env(), |name| {
        std::env::var(name).ok()
    });
    let config = match asked {
        Ok(Asked::Help) => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Ok(Asked::Version) => {
            println!("ctrl-exec-mcp {}", env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        Ok(Asked::Serve(config)) => *config,
        Err(error) => {
            eprintln!("Error: {error}");
            return ExitCode::from(USAGE);
        }
    };
    // The only provider that is built in; a second installation would be a mistake of ours.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let api = match Api::new(&config) {
        Ok(api) => api,
        Err(error) => {
            eprintln!("Error: {error}");
            return ExitCode::from(USAGE);
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let ended = match runtime {
        Ok(runtime) => {
            let ended = runtime.block_on(serve(config, api));
            // What blocks on standard input cannot be waited for.
            runtime.shutdown_background();
            ended
        }
        Err(error) => Err(error.to_string()),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("Error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(config: Config, api: Api) -> Result<(), String> {
    let stop = CancellationToken::new();
    let mut term = signal(SignalKind::terminate()).map_err(|error| error.to_string())?;
    let mut int = signal(SignalKind::interrupt()).map_err(|error| error.to_string())?;
    let stopping = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        stopping.cancel();
    });
    let bridge = Bridge::new(config.clone(), api);
    if let Some(address) = config.http {
        return http::serve(bridge, &config, address, stop)
            .await
            .map_err(|error| error.to_string());
    }
    if let Some(pause) = config.refresh {
        tokio::spawn(bridge.clone().look_for_changes(pause));
    }
    let running = match bridge
        .serve_with_ct(rmcp::transport::stdio(), stop.clone())
        .await
    {
        Ok(running) => running,
        // The client went, or the program was told to end, before anything was said.
        Err(
            rmcp::service::ServerInitializeError::ConnectionClosed(_)
            | rmcp::service::ServerInitializeError::Cancelled,
        ) => return Ok(()),
        Err(error) => return Err(error.to_string()),
    };
    running.waiting().await.map_err(|error| error.to_string())?;
    Ok(())
}
