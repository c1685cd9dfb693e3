//! The PROXY protocol, versions 1 and 2 (haproxy.org, proxy-protocol.txt, 2020/03/05; § cites it).
//! A proxy that forwards bytes unread sends the client's address first.
//!
//! Invariants: no byte after the header is taken from the stream, whatever the segmentation.
//! Bytes are peeked first, and only those of the header are read.
//! Nothing is decided on half a header.
//! At most [`V2_BYTES_MAX`] and one peek are kept.
//!
//! The caller decides which peers send a header. Its presence is never guessed (§2), because a
//! stranger that may send one may claim any address. Only the source address is used.
//! Destination and ports are checked and dropped; TLVs and checksums are skipped unread.
//!
//! Why not the `ppp` crate: it does not find the end of a header in a stream.
//! It rejects an incomplete line that ends in a space.
//! It takes a complete line without a word, or UNKNOWN with extra words, for an incomplete one.
//! It requires a matching family for LOCAL, which §2.2 says to ignore.
//! Tests compare this parser with it.

use crate::domain::proxy_header_error::ProxyHeaderError;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// §2.1: the longest possible line, with its CRLF.
pub const V1_BYTES_MAX: usize = 107;
/// The longest header of version 2 that is accepted; its length field would allow 64 KiB.
/// Known TLVs (host names, certificate names, ids of cloud endpoints) take some hundred bytes.
pub const V2_BYTES_MAX: usize = 4096;

/// §2.2: begins every header of version 2.
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// §2.1: begins every header of version 1.
const WORD: &[u8] = b"PROXY ";
/// §2.2: the signature, version and command, family and protocol, length.
const V2_FIXED_BYTES: usize = 16;
/// §2: every well-formed header fits into one segment of this size.
const LOOK_BYTES: usize = 536;

/// A complete header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProxyHeader {
    /// In bytes: the offset of the first byte of the connection itself.
    pub length: usize,
    /// The client's address. `None`: the proxy's own connection (LOCAL), or a client without an IP
    /// address (UNKNOWN, a UNIX socket).
    pub source: Option<IpAddr>,
}

/// Takes the header off the stream, and leaves the bytes after it in place.
///
/// # Errors
/// There is no valid header: close the connection.
pub async fn take(stream: &mut TcpStream, timeouts: Duration) -> Result<ProxyHeader, ProxyHeaderError> {
    match tokio::time::timeout(timeouts, read(stream)).await {
        Ok(Ok(read)) => read,
        Ok(Err(_)) => Err(ProxyHeaderError::Cut),
        Err(_) => Err(ProxyHeaderError::Slow),
    }
}

async fn read(stream: &mut TcpStream) -> io::Result<Result<ProxyHeader, ProxyHeaderError>> {
    let mut bytes = Vec::new();
    let mut look = vec![0; LOOK_BYTES];
    loop {
        let seen = stream.peek(&mut look).await?;
        if seen == 0 {
            return Ok(Err(ProxyHeaderError::Cut));
        }
        let before = bytes.len();
        bytes.extend_from_slice(&look[..seen]);
        match parse(&bytes) {
            Ok(Some(header)) => {
                stream.read_exact(&mut look[..header.length - before]).await?;
                return Ok(Ok(header));
            }
            // All bytes seen belong to the header. They are read, or the next peek would return
            // them again.
            Ok(None) => drop(stream.read_exact(&mut look[..seen]).await?),
            Err(refusal) => return Ok(Err(refusal)),
        }
    }
}

/// Parses the header at the start of `bytes`; `None`: more bytes are needed.
///
/// Invariants: once a result is not `None`, further bytes do not change it. The length of a header
/// is within `bytes`.
///
/// # Errors
/// No further bytes could make it a header.
pub fn parse(bytes: &[u8]) -> Result<Option<ProxyHeader>, ProxyHeaderError> {
    let may_begin = |with: &[u8]| bytes.iter().zip(with).all(|(a, b)| a == b);
    if may_begin(SIGNATURE) {
        binary(bytes)
    } else if may_begin(WORD) {
        line(bytes)
    } else {
        Err(ProxyHeaderError::Absent)
    }
}

/// §2.1. Nothing in a line is parsed before its end has arrived.
fn line(bytes: &[u8]) -> Result<Option<ProxyHeader>, ProxyHeaderError> {
    let bytes = &bytes[..bytes.len().min(V1_BYTES_MAX)];
    let Some(end) = bytes.windows(2).position(|pair| pair == b"\r\n") else {
        return if bytes.len() == V1_BYTES_MAX { Err(ProxyHeaderError::TooLong) } else { Ok(None) };
    };
    let words: Vec<&[u8]> = bytes[..end].split(|byte| *byte == b' ').collect();
    let source = match words[..] {
        // §2.1: the rest of the line is ignored.
        [_, b"UNKNOWN", ..] => None,
        [_, b"TCP4", from, to, from_port, to_port] => {
            Some(endpoints::<Ipv4Addr>([from, to], [from_port, to_port])?.into())
        }
        [_, b"TCP6", from, to, from_port, to_port] => {
            Some(endpoints::<Ipv6Addr>([from, to], [from_port, to_port])?.into())
        }
        _ => return Err(ProxyHeaderError::Malformed),
    };
    Ok(Some(ProxyHeader { length: end + 2, source: source.map(|ip: IpAddr| ip.to_canonical()) }))
}

/// The source of two addresses of one family.
fn endpoints<T: FromStr>(addresses: [&[u8]; 2], ports: [&[u8]; 2]) -> Result<T, ProxyHeaderError> {
    let address = |word| std::str::from_utf8(word).ok().and_then(|text| text.parse::<T>().ok());
    match addresses.map(address) {
        [Some(source), Some(_)] if ports.into_iter().all(is_port) => Ok(source),
        _ => Err(ProxyHeaderError::Malformed),
    }
}

/// Decimal, without a leading zero.
fn is_port(word: &[u8]) -> bool {
    let digits = word.iter().all(u8::is_ascii_digit) && (word == b"0" || !word.starts_with(b"0"));
    digits && std::str::from_utf8(word).is_ok_and(|text| text.parse::<u16>().is_ok())
}

/// §2.2.
fn binary(bytes: &[u8]) -> Result<Option<ProxyHeader>, ProxyHeaderError> {
    let Some(&[version_command, family_protocol, high, low]) = bytes.get(SIGNATURE.len()..V2_FIXED_BYTES)
    else {
        return Ok(None);
    };
    let is_local = match version_command {
        0x20 => true,
        0x21 => false,
        _ => return Err(ProxyHeaderError::Malformed),
    };
    let length = V2_FIXED_BYTES + usize::from(u16::from_be_bytes([high, low]));
    if length > V2_BYTES_MAX {
        return Err(ProxyHeaderError::TooLong);
    }
    let Some(block) = bytes.get(V2_FIXED_BYTES..length) else { return Ok(None) };
    let source = if is_local { None } else { address(family_protocol, block)? };
    Ok(Some(ProxyHeader { length, source }))
}

/// §2.2: the source address leads the block: an IPv4 pair takes 12 bytes, an IPv6 pair 36, a UNIX
/// pair 216; TLVs follow.
fn address(family_protocol: u8, block: &[u8]) -> Result<Option<IpAddr>, ProxyHeaderError> {
    let (family, protocol) = (family_protocol >> 4, family_protocol & 0x0f);
    let source: Option<IpAddr> = match family {
        0 => None,
        1 if block.len() >= 12 => block.first_chunk::<4>().map(|octets| IpAddr::from(*octets)),
        2 if block.len() >= 36 => block.first_chunk::<16>().map(|octets| IpAddr::from(*octets)),
        3 if block.len() >= 216 => None,
        _ => return Err(ProxyHeaderError::Malformed),
    };
    match protocol {
        // Unspecified: the addresses are to be ignored.
        0 => Ok(None),
        1 | 2 => Ok(source.map(|ip| ip.to_canonical())),
        _ => Err(ProxyHeaderError::Malformed),
    }
}

#[cfg(test)]
mod tests;
