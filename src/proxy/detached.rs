//! The completion of a request whose client has left.
//!
//! Invariant: a request that may have side effects, and was received whole, runs on to its response
//! head. A POST that was sent may have been carried out.

use super::request_body::RequestBodyState;
use super::response_body::ResponseBody;
use super::worker::Worker;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

/// An exchange in flight. If its client must not cancel it, and the request was received whole, a
/// drop lets it run on by itself to the response head. (A POST that was sent may have been carried
/// out.)
pub struct CompleteDetached<F: Future + 'static> {
    future: Option<Pin<Box<F>>>,
    /// `Some` for a request that may have side effects.
    context: Option<DetachedContext>,
}

/// The context of an exchange that continues without its client.
pub struct DetachedContext {
    pub worker: Rc<Worker>,
    pub body_state: Rc<RequestBodyState>,
    /// How long it may wait for the response head.
    pub at_most: Duration,
}

impl<F: Future<Output = http::Response<ResponseBody>> + 'static> CompleteDetached<F> {
    pub fn new(future: F, context: Option<DetachedContext>) -> Self {
        // Boxed: hyper reserves room for it as long as the connection is open.
        CompleteDetached { future: Some(Box::pin(future)), context }
    }
}

impl<F: Future<Output = http::Response<ResponseBody>> + 'static> Future for CompleteDetached<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let Some(future) = &mut self.future else { return Poll::Pending };
        let response = ready!(future.as_mut().poll(cx));
        self.future = None;
        Poll::Ready(response)
    }
}

impl<F: Future + 'static> Drop for CompleteDetached<F> {
    fn drop(&mut self) {
        if let Some(DetachedContext { worker, body_state, at_most }) = &self.context
            && body_state.is_whole()
            && let Some(future) = self.future.take()
        {
            body_state.client_gone.set(true);
            worker.detach(*at_most, until_head(future));
        }
    }
}

/// `F`'s output is a response; dropping it ends its exchange.
async fn until_head<F: Future + 'static>(future: Pin<Box<F>>) {
    drop(future.await);
}
