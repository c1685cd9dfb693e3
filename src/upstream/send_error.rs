//! Why a request was not answered by the server that it was sent to.
//!
//! Invariant: a request is unsent only if the library says so, and unprocessed only if the server
//! says so.

use http::Request;
use hyper::client::conn::TrySendError;

/// A request that could not be sent.
pub enum SendError<B> {
    /// No byte of it was sent; the request is handed back.
    Unsent(Box<Request<B>>),
    /// The server says that it has not processed the request, by GOAWAY (RFC 9113 §6.8) or by
    /// REFUSED_STREAM (§8.7).
    Unprocessed,
    /// The response head is over its limits.
    HeadTooBig,
    /// The connection failed after something was sent, or while the response head was being read.
    Broken,
}

impl<B> From<TrySendError<Request<B>>> for SendError<B> {
    fn from(mut error: TrySendError<Request<B>>) -> Self {
        match error.take_message() {
            // hyper hands back a request that it has not begun to send.
            Some(request) => SendError::Unsent(Box::new(request)),
            None => match error.into_error() {
                error if error.is_parse_too_large() => SendError::HeadTooBig,
                error if is_unprocessed(&error) => SendError::Unprocessed,
                _ => SendError::Broken,
            },
        }
    }
}

/// The library passes a GOAWAY on to the streams above its last stream alone. The end of a
/// connection without a GOAWAY proves nothing.
fn is_unprocessed(error: &hyper::Error) -> bool {
    let first = std::error::Error::source(error);
    let mut causes = std::iter::successors(first, |cause| cause.source());
    causes.find_map(|cause| cause.downcast_ref::<h2::Error>()).is_some_and(|error| {
        error.is_remote() && (error.is_go_away() || error.reason() == Some(h2::Reason::REFUSED_STREAM))
    })
}
