//! A server in Rust (axum) on the inherited socket, which `listenfd` takes, that names its release: RELEASE_DIR is read
//! once, while booting. The recipe is `tests/servers/rust.md`.

use std::error::Error;
use std::future::{pending, ready};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use axum::http::{HeaderValue, header};
use axum::middleware::map_response;
use axum::response::Response;
use axum::routing::get;
use axum::serve::Listener;
use axum::{Router, serve};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::sleep;

/// The inherited socket, on which nothing more is accepted once the stop signal has come.
struct UntilStopped(TcpListener, watch::Receiver<bool>);

impl Listener for UntilStopped {
    type Io = TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        tokio::select! {
            biased;
            () = async { drop(self.1.wait_for(|stopping| *stopping).await) } => pending().await,
            accepted = Listener::accept(&mut self.0) => accepted,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // What a release has beside its program: without it the program ends, and the release is refused.
    let greeting = std::fs::read_to_string("greeting.txt").map_err(|error| format!("greeting.txt: {error}"))?;
    let release = PathBuf::from(std::env::var_os("RELEASE_DIR").ok_or("no RELEASE_DIR")?);
    let release = release.file_name().unwrap_or_default().to_string_lossy();
    let body = format!("release={release} pid={} {greeting}", std::process::id());

    let listener = listenfd::ListenFd::from_env().take_tcp_listener(0)?.ok_or("no inherited socket")?;
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;

    let (stop, stopping) = watch::channel(false);
    let listener = UntilStopped(listener, stopping.clone());

    let last = map_response(move |mut answer: Response| {
        if *stopping.borrow() {
            answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        ready(answer)
    });
    let app = Router::new().route("/", get(async || body)).layer(last);

    // axum's own end closes connections that it has accepted and not yet read, and idle ones, on some of which a request is
    // under way. So first nothing more is accepted, and for half a second every answer says that the connection ends
    // with it.
    let mut term = signal(SignalKind::terminate())?;
    let drained = async move {
        term.recv().await;
        stop.send_replace(true);
        // Not a wait for something that could be awaited: a client's next request on a connection that it keeps has no sign
        // before it comes, so it gets this span to come and to be told that the connection ends.
        sleep(Duration::from_millis(500)).await;
    };
    serve(listener, app).with_graceful_shutdown(drained).await?;
    Ok(())
}
