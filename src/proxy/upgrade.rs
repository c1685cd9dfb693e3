//! A request that asks for a WebSocket, and its completion when the upstream has agreed.

use super::client::Client;
use super::headers::{self, X_GRAYLING_ARM};
use super::record::RequestRecord;
use super::request_body::RequestBody;
use super::response_body::ResponseBody;
use super::tunnel::Tunnel;
use super::websocket::{self, Handshake};
use crate::upstream::pool::ConnectionLease;
use http::Response;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use std::rc::Rc;
use std::time::Duration;

/// A request that asks for a tunnel.
pub struct UpgradeRequest {
    pub handshake: Handshake,
    /// The client's side, once the 101 is written.
    pub upgrade: OnUpgrade,
    pub client: Rc<Client>,
}

impl UpgradeRequest {
    /// The upstream has agreed: ends the exchange, passes the tunnel to the client's connection,
    /// and returns the response for the client.
    pub fn complete(
        self,
        record: Box<RequestRecord>,
        response: Response<Incoming>,
        lease: ConnectionLease<RequestBody>,
        now: Duration,
    ) -> Response<ResponseBody> {
        let exposed = record.exposed_arm();
        let (counted, on_new) = record.end_with_tunnel(now);
        let (mut parts, body) = response.into_parts();
        drop(body);
        headers::drop_hop_by_hop(&mut parts.headers);
        websocket::set_switched_fields(&mut parts.headers);
        if let Some(arm) = exposed {
            parts.headers.insert(X_GRAYLING_ARM, headers::arm_value(arm));
        }
        // hyper adds it to every 101 that it reads.
        if let Some(server) = parts.extensions.remove::<OnUpgrade>() {
            let tunnel = Tunnel::new(self.upgrade, server, on_new, lease.switched(), counted);
            self.client.progress.switched();
            self.client.tunnel.replace(Some(tunnel));
        }
        Response::from_parts(parts, ResponseBody::nothing())
    }
}
