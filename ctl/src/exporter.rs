//! `ctl exporter`: serves a site's metrics over HTTP, and whether it is well.
//!
//! In a process of its own, so that no scrape and no scanner reaches the master. Whatever comes over the network is bounded: the
//! connections, how long each may take, and what the master is asked. Every other command runs without any of this.

use std::convert::Infallible;
use std::future::pending;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex as Blocking, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio::sync::{Mutex, Semaphore};
use tokio::task;
use tokio::time::timeout;

use crate::exit::Failure;
use crate::exporter_site::{Look, Site};
use crate::metrics_text::Dialect;
use crate::wait::{Interrupts, Until};

/// Where it listens unless it is told: the ports that Prometheus' list gives to exporters, 9100 to 9999, are all taken.
pub(crate) const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9097);

/// Connections at a time; the next ones wait in the kernel's queue.
const CONNECTIONS: usize = 128;
/// For a request's head.
const HEAD: Duration = Duration::from_secs(2);
/// For a whole connection, which is one request: its head, the scrape before it, its own, and the answer.
const WHOLE: Duration = Duration::from_secs(30);
/// Until the next try when no connection can be taken, for want of descriptors say.
const AGAIN: Duration = Duration::from_secs(1);
/// A request's head in bytes; the least that the library takes.
const LARGEST: usize = 8 << 10;

const TEXT: &str = "text/plain; charset=utf-8";

/// Serves until this process is told to end. `listens` is told the address.
///
/// # Errors
/// When it cannot listen.
pub(crate) fn run(listen: SocketAddr, site: Site, listens: impl FnOnce(SocketAddr)) -> Result<(), Failure> {
    // Before there is any other thread, which would get the signals instead.
    let interrupts = Interrupts::catch();
    let cannot = |e: std::io::Error| Failure::other(format!("cannot listen on {listen}: {e}"));
    let listener = std::net::TcpListener::bind(listen).map_err(cannot)?;
    let address = listener.local_addr().map_err(cannot)?;
    listener.set_nonblocking(true).map_err(cannot)?;
    // One thread for the network, and one to wait for the master.
    let runtime = Builder::new_current_thread().enable_all().max_blocking_threads(1).build().map_err(cannot)?;
    let listener = {
        let _entered = runtime.enter();
        tokio::net::TcpListener::from_std(listener).map_err(cannot)?
    };
    // It ends with this process: a scrape that is under way then is not waited for.
    thread::Builder::new().spawn(move || runtime.block_on(serve(listener, site))).map_err(cannot)?;
    listens(address);
    let until = Until { interrupts: interrupts.as_ref(), ..Until::default() };
    until.wait(None).map_err(|e| Failure::other(format!("waiting for a signal: {}", e.desc())))?;
    Ok(())
}

/// What the connections share.
struct Exporter {
    site: Arc<Blocking<Site>>,
    /// The last look at the site, and when that was begun.
    last: Mutex<Option<(Instant, Arc<Look>)>>,
}

async fn serve(listener: TcpListener, site: Site) {
    let exporter = Arc::new(Exporter { site: Arc::new(Blocking::new(site)), last: Mutex::new(None) });
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let exporter = Arc::clone(&exporter);
                task::spawn(async move {
                    // Out of time, it is simply closed.
                    let _ = timeout(WHOLE, exporter.connection(stream)).await;
                    drop(place);
                });
            }
            // For want of descriptors, say: nothing tells when there will be some.
            Err(_) => {
                let _ = timeout(AGAIN, pending::<()>()).await;
            }
        }
    }
}

impl Exporter {
    async fn connection(self: Arc<Self>, stream: TcpStream) {
        let service = service_fn(move |request| {
            let exporter = Arc::clone(&self);
            async move { Ok::<_, Infallible>(exporter.answer(&request).await) }
        });
        // A client that goes away before it has its answer is no news to anybody.
        let _ = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            .max_buf_size(LARGEST)
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), service)
            .await;
    }

    async fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let path = request.uri().path();
        if !matches!(path, "/metrics" | "/healthz") {
            return page(StatusCode::NOT_FOUND, TEXT, "there are /metrics and /healthz\n".into());
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut page = page(StatusCode::METHOD_NOT_ALLOWED, TEXT, "GET and HEAD are understood\n".into());
            page.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return page;
        }
        let Some(look) = self.look().await else {
            return page(StatusCode::INTERNAL_SERVER_ERROR, TEXT, "the site could not be looked at\n".into());
        };
        if path == "/metrics" {
            let dialect = dialect(request);
            return page(StatusCode::OK, dialect.content_type(), look.text(dialect));
        }
        let (well, said) = look.health();
        page(if well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, TEXT, said)
    }

    /// A look at the site that was begun after this was called: however many ask at the same time, the master is asked one
    /// question at a time, and all who came before it share its answer.
    async fn look(&self) -> Option<Arc<Look>> {
        let came = Instant::now();
        let mut last = self.last.lock().await;
        if let Some((begun, look)) = &*last
            && *begun >= came
        {
            return Some(Arc::clone(look));
        }
        let begun = Instant::now();
        let site = Arc::clone(&self.site);
        let asked = task::spawn_blocking(move || site.lock().unwrap_or_else(PoisonError::into_inner).look());
        let look = asked.await.ok()?;
        *last = Some((begun, Arc::clone(&look)));
        Some(look)
    }
}

fn page(status: StatusCode, kind: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut page = Response::new(Full::new(Bytes::from(text)));
    *page.status_mut() = status;
    page.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    page
}

/// OpenMetrics for those who say that they know it.
fn dialect(request: &Request<Incoming>) -> Dialect {
    let accepts = request.headers().get_all(ACCEPT).into_iter().filter_map(|value| value.to_str().ok());
    let knows = accepts.flat_map(|value| value.split(',')).any(|kind| {
        let kind = kind.split(';').next().unwrap_or_default();
        kind.trim().eq_ignore_ascii_case("application/openmetrics-text")
    });
    if knows { Dialect::OpenMetrics } else { Dialect::Prometheus }
}
