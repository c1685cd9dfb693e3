//! A proxy that does nothing but pass requests on: what the HTTP library alone costs, on a single-threaded runtime and with a pool of its own.
//!
//! It knows no users, no versions, no time-outs, no headers to add, and counts nothing: no proxy for anybody, but the floor of what can be built on
//! this library. Started by `benches/peers/run --bare` and `benches/counts/run --bare` as `bare PORT ORIGIN`.

use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use hyper::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use std::cell::RefCell;
use std::error::Error;
use std::net::SocketAddr;
use std::rc::Rc;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::LocalOptions;
use tokio::task::spawn_local;

/// Connections to the origin that are free.
type Pool = Rc<RefCell<Vec<SendRequest<Incoming>>>>;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(Ok(port)), Some(Ok(origin))) =
        (arguments.next().map(|port| port.parse()), arguments.next().map(|origin| origin.parse()))
    else {
        eprintln!("measured by `benches/peers/run --bare`; by hand: bare PORT ORIGIN");
        return Ok(());
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build_local(LocalOptions::default())?;
    runtime.block_on(serve(port, origin))
}

async fn serve(port: u16, origin: SocketAddr) -> Result<(), Box<dyn Error>> {
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    let pool = Pool::default();
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let pool = pool.clone();
        spawn_local(async move {
            let service = service_fn(|request| pass_on(request, pool.clone(), origin));
            // How a connection ends is its client's affair.
            let _ = Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
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
    if let Some(path) = request.uri().path_and_query().cloned() {
        *request.uri_mut() = Uri::from(path);
    }
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
