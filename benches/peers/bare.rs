//! A proxy that only forwards requests: the cost of the HTTP library alone, on a single-threaded
//! runtime with a connection pool.
//!
//! It has no users, versions, time-outs, added headers or metrics. So it is not a usable proxy, but
//! the lower bound for one on this library.
//! Started by `benches/peers/run --bare` and `benches/counts/run --bare` as `bare PORT ORIGIN`,
//! with TLS and HTTP/2 from clients as `bare PORT ORIGIN CERTIFICATE KEY`.

use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{HOST, HeaderValue};
use hyper::rt::Executor;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Request, Response, Uri, Version};
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::cell::RefCell;
use std::error::Error;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::LocalOptions;
use tokio::task::spawn_local;
use tokio_rustls::TlsAcceptor;

/// Idle connections to the origin.
type Pool = Rc<RefCell<Vec<SendRequest<Incoming>>>>;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(Ok(port)), Some(Ok(origin))) =
        (arguments.next().map(|port| port.parse()), arguments.next().map(|origin| origin.parse()))
    else {
        eprintln!("measured by `benches/peers/run --bare`; by hand: bare PORT ORIGIN");
        return Ok(());
    };
    let tls = arguments.next().zip(arguments.next()).map(|(certificate, key)| acceptor(&certificate, &key));
    let tls = tls.transpose()?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_io().build_local(LocalOptions::default())?;
    runtime.block_on(serve(port, origin, tls))
}

fn acceptor(certificate: &str, key: &str) -> Result<TlsAcceptor, Box<dyn Error>> {
    let chain = CertificateDer::pem_file_iter(certificate)?.collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_file(key)?;
    let mut config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn serve(port: u16, origin: SocketAddr, tls: Option<TlsAcceptor>) -> Result<(), Box<dyn Error>> {
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    let pool = Pool::default();
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (pool, tls) = (pool.clone(), tls.clone());
        spawn_local(async move {
            let service = service_fn(|request| pass_on(request, pool.clone(), origin));
            // An error at the end of a connection concerns only its client.
            let Some(tls) = tls else {
                let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                return;
            };
            if let Ok(stream) = tls.accept(stream).await {
                let _ = http2::Builder::new(Local).serve_connection(TokioIo::new(stream), service).await;
            }
        });
    }
}

/// Spawns each stream as a task on the thread of its connection.
#[derive(Clone)]
struct Local;

impl<F: Future<Output = ()> + 'static> Executor<F> for Local {
    fn execute(&self, future: F) {
        spawn_local(future);
    }
}

async fn pass_on(
    mut request: Request<Incoming>,
    pool: Pool,
    origin: SocketAddr,
) -> Result<Response<Incoming>, Box<dyn Error + Send + Sync>> {
    let free = pool.borrow_mut().pop().filter(SendRequest::is_ready);
    let mut sender = match free {
        Some(sender) => sender,
        None => connect(origin).await?,
    };
    if let Some(authority) = request.uri().authority() {
        let host = HeaderValue::from_str(authority.as_str())?;
        request.headers_mut().insert(HOST, host);
    }
    if let Some(path) = request.uri().path_and_query().cloned() {
        *request.uri_mut() = Uri::from(path);
    }
    *request.version_mut() = Version::HTTP_11;
    let response = sender.send_request(request).await?;
    spawn_local(async move {
        if sender.ready().await.is_ok() {
            pool.borrow_mut().push(sender);
        }
    });
    Ok(response)
}

async fn connect(origin: SocketAddr) -> Result<SendRequest<Incoming>, Box<dyn Error + Send + Sync>> {
    let stream = TcpStream::connect(origin).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    spawn_local(async move {
        let _ = connection.await;
    });
    Ok(sender)
}
