//! The client of a connection: the facts that each of its requests uses.

use super::cancel_token::CancelToken;
use super::headers;
use super::tunnel::Tunnel;
use crate::net::listen::ConnectionState;
use crate::net::tls::CertificateNames;
use http::HeaderValue;
use std::cell::Cell;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

/// A client connection.
pub struct Client {
    /// The peer's address, or the source in its PROXY header.
    pub address: IpAddr,
    /// The address, as sent to upstreams.
    pub address_value: HeaderValue,
    /// "http" or "https".
    pub scheme: &'static str,
    /// The names in its client certificate.
    pub names: Option<CertificateNames>,
    pub progress: Arc<ConnectionState>,
    /// For HTTP/1.1 and for a tunnel: ends the connection.
    pub cancel: Rc<CancelToken>,
    /// The tunnel that the connection becomes when HTTP ends.
    pub tunnel: Cell<Option<Tunnel>>,
    /// Why HTTP has ended, if it has not ended well.
    pub fault: Cell<Option<hyper::Error>>,
}

impl Client {
    pub fn new(address: IpAddr, scheme: &'static str, names: Option<CertificateNames>) -> Self {
        let address_value = headers::address_value(address);
        Client {
            address,
            address_value,
            scheme,
            names,
            progress: Arc::default(),
            cancel: Rc::default(),
            tunnel: Cell::new(None),
            fault: Cell::new(None),
        }
    }
}
