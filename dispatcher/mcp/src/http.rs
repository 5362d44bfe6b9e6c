//! Streamable HTTP: bounded connections, bodies and sessions before the SDK sees a request.

use crate::config::Config;
use crate::server::Bridge;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited, combinators::BoxBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// Most connections at once.
const MAX_CONNECTIONS: usize = 256;

/// Most sessions of revisions that have them.
const MAX_SESSIONS: usize = 256;

/// Largest request.
const MAX_BODY: usize = 1 << 20;

/// Time for the head of a request, and again for its body.
const PATIENCE: Duration = Duration::from_secs(30);

type Service = StreamableHttpService<Bridge, LocalSessionManager>;
type Answer = Response<BoxBody<Bytes, Infallible>>;

/// Serves until `stop`.
///
/// # Errors
/// When nothing can listen on the address.
pub async fn serve(
    bridge: Bridge,
    config: &Config,
    address: SocketAddr,
    stop: CancellationToken,
) -> io::Result<()> {
    let listener = TcpListener::bind(address).await.map_err(|error| {
        io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"))
    })?;
    let address = listener.local_addr()?;
    let mut hosts = vec![
        "localhost".to_owned(),
        "127.0.0.1".to_owned(),
        "::1".to_owned(),
        address.ip().to_string(),
    ];
    hosts.extend(config.hosts.iter().cloned());
    // A page that this very address serves is no stranger; the host names above keep others from
    // calling themselves so.
    let mut origins = config.origins.clone();
    for name in ["localhost", "127.0.0.1", "[::1]"] {
        origins.push(format!("http://{name}:{}", address.port()));
    }
    let settings = StreamableHttpServerConfig::default()
        .with_allowed_hosts(hosts)
        .with_allowed_origins(origins)
        .enforce_origin_validation()
        .with_max_request_body_bytes(MAX_BODY)
        .with_cancellation_token(stop.child_token());
    let sessions = Arc::new(LocalSessionManager::default());
    let service = Service::new(move || Ok(bridge.clone()), Arc::clone(&sessions), settings);
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    log::info!("listening on {address}");
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // No descriptors left, or the peer gone: neither is mended by haste.
                log::warn!("cannot accept a connection: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
            continue;
        };
        let (service, sessions) = (service.clone(), Arc::clone(&sessions));
        tokio::spawn(async move {
            let answer =
                service_fn(move |request| answer(request, service.clone(), Arc::clone(&sessions)));
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(PATIENCE)
                .max_buf_size(64 << 10)
                .serve_connection(TokioIo::new(stream), answer);
            if let Err(error) = connection.await {
                log::debug!("a connection ended: {error}");
            }
            drop(slot);
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    service: Service,
    sessions: Arc<LocalSessionManager>,
) -> Result<Answer, Infallible> {
    let (parts, body) = request.into_parts();
    let body = match tokio::time::timeout(PATIENCE, Limited::new(body, MAX_BODY).collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            return Ok(plain(
                StatusCode::PAYLOAD_TOO_LARGE,
                "the request is longer than 1 MiB\n",
            ));
        }
        Ok(Err(_)) => return Ok(plain(StatusCode::BAD_REQUEST, "the request is broken\n")),
        Err(_) => {
            return Ok(plain(
                StatusCode::REQUEST_TIMEOUT,
                "the request took too long\n",
            ));
        }
    };
    let opens = parts.method == http::Method::POST && !parts.headers.contains_key("mcp-session-id");
    if opens && sessions.sessions.read().await.len() >= MAX_SESSIONS {
        return Ok(plain(
            StatusCode::SERVICE_UNAVAILABLE,
            "too many sessions\n",
        ));
    }
    Ok(service
        .handle(Request::from_parts(parts, Full::new(body)))
        .await)
}

fn plain(status: StatusCode, text: &'static str) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from_static(text.as_bytes())).boxed());
    *answer.status_mut() = status;
    answer
}
