//! gRPC's health protocol: one call of `grpc.health.v1.Health/Check` over HTTP/2.
//!
//! Request and response hold one field each, so their protobuf is written and read here.
//!
//! Invariants: at most [`MESSAGE_BYTES_MAX`] of the response are kept.
//! The connection ends with the call, also when the call is dropped.

use super::health::http2_client;
use crate::domain::grpc::GrpcStatus;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, TE, USER_AGENT};
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};

/// A health response has two bytes.
const MESSAGE_BYTES_MAX: usize = 1024;

/// Compression flag and length before a message.
const PREFIX_BYTES: usize = 5;

/// Asks for the health of a service.
///
/// # Errors
/// Why it is not SERVING, as text for the log.
pub async fn check<S>(stream: S, target: Uri, service: &str, within: Duration) -> Result<(), String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let broken = |error: hyper::Error| format!("no answer: {error}");
    let request = Request::post(target)
        .header(USER_AGENT, "grayling-health")
        .header(CONTENT_TYPE, "application/grpc")
        .header(TE, "trailers")
        .header("grpc-timeout", format!("{}m", within.as_millis().min(99_999_999)))
        .body(Full::new(request_message(service)))
        .map_err(|error| format!("it cannot be asked: {error}"))?;
    let (mut sender, _connection) = http2_client(stream).await.map_err(broken)?;
    let (head, mut body) = sender.send_request(request).await.map_err(broken)?.into_parts();
    if head.status != StatusCode::OK {
        return Err(format!("status {}", head.status.as_u16()));
    }
    let (mut message, mut status) = (Vec::new(), GrpcStatus::of(&head.headers));
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(broken)?;
        if let Some(data) = frame.data_ref() {
            if message.len() + data.len() > MESSAGE_BYTES_MAX {
                return Err("its health response is too long".into());
            }
            message.extend_from_slice(data);
        }
        if let Some(trailers) = frame.trailers_ref() {
            status = GrpcStatus::of(trailers);
        }
    }
    match status {
        Some(GrpcStatus::OK) => {}
        // 12: the server does not know the protocol; 5: it does not know the service.
        Some(status) => return Err(format!("grpc-status {}", status.0)),
        None => return Err("no grpc-status".into()),
    }
    match serving_status(&message) {
        Some(1) => Ok(()),
        Some(0) => Err("UNKNOWN".into()),
        Some(2) => Err("NOT_SERVING".into()),
        Some(3) => Err("SERVICE_UNKNOWN".into()),
        Some(other) => Err(format!("serving status {other}")),
        None => Err("no health response".into()),
    }
}

/// `HealthCheckRequest { string service = 1; }`, with gRPC's prefix.
fn request_message(service: &str) -> Bytes {
    let mut message = Vec::new();
    if !service.is_empty() {
        // Field 1, with a length.
        message.push(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            message.push(length as u8 | 0x80);
            length >>= 7;
        }
        message.push(length as u8);
        message.extend_from_slice(service.as_bytes());
    }
    let mut framed = vec![0];
    framed.extend_from_slice(&(message.len() as u32).to_be_bytes());
    framed.extend_from_slice(&message);
    framed.into()
}

/// The `status` of `HealthCheckResponse { ServingStatus status = 1; }`, with gRPC's prefix.
/// `None`: it is no such message, or compressed.
fn serving_status(framed: &[u8]) -> Option<u64> {
    let (prefix, mut rest) = framed.split_at_checked(PREFIX_BYTES)?;
    let length = u32::from_be_bytes(prefix[1..].try_into().ok()?);
    if prefix[0] != 0 || rest.len() != length as usize {
        return None;
    }
    // A field with its default value is left out.
    let mut status = 0;
    while !rest.is_empty() {
        let tag = varint(&mut rest)?;
        match (tag >> 3, tag & 7) {
            (1, 0) => status = varint(&mut rest)?,
            (_, 0) => {
                varint(&mut rest)?;
            }
            (_, 1) => rest = rest.get(8..)?,
            (_, 2) => {
                let length = usize::try_from(varint(&mut rest)?).ok()?;
                rest = rest.get(length..)?;
            }
            (_, 5) => rest = rest.get(4..)?,
            _ => return None,
        }
    }
    Some(status)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn messages_are_those_of_the_protocol() {
        assert_eq!(&request_message("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&request_message("ab")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        let long = "x".repeat(300);
        assert_eq!(request_message(&long)[..8], [0, 0, 0, 1, 47, 0x0a, 0xac, 2]);
        assert_eq!(serving_status(&[0, 0, 0, 0, 0]), Some(0));
        assert_eq!(serving_status(&[0, 0, 0, 0, 2, 8, 1]), Some(1));
        // An unknown field before it.
        assert_eq!(serving_status(&[0, 0, 0, 0, 5, 0x12, 1, b'x', 8, 2]), Some(2));
        for bad in
            [&[][..], &[0, 0, 0, 0], &[1, 0, 0, 0, 2, 8, 1], &[0, 0, 0, 0, 3, 8, 1], &[0, 0, 0, 0, 1, 8]]
        {
            assert_eq!(serving_status(bad), None, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn any_response_is_survived(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let mut framed = vec![0];
            framed.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
            framed.extend_from_slice(&bytes);
            let _ = (serving_status(&framed), serving_status(&bytes));
        }
    }
}
