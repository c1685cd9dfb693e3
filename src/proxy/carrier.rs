//! The task that carries a response to its client: of an HTTP/1.1 connection, or of an HTTP/2
//! stream.

use super::cancel_token::CancelToken;
use super::stream::StreamState;
use std::rc::Rc;

#[derive(Clone)]
pub enum Carrier {
    /// HTTP/1.1: one exchange at a time, or a tunnel.
    Connection(Rc<CancelToken>),
    /// HTTP/2.
    Stream(Rc<StreamState>),
}

impl Carrier {
    /// Ends the task.
    pub fn token(&self) -> &CancelToken {
        match self {
            Carrier::Connection(token) => token,
            Carrier::Stream(state) => &state.cancel,
        }
    }

    /// A piece of the response body was handed over.
    /// Only an HTTP/2 stream times the wait that follows.
    pub fn piece_offered(&self) {
        if let Carrier::Stream(state) = self {
            state.piece_offered();
        }
    }

    /// The client wants the next piece.
    pub fn piece_wanted(&self) {
        if let Carrier::Stream(state) = self {
            state.piece_wanted();
        }
    }
}
