//! Converts a request into HTTP/2 form, and back into HTTP/1.1 form.
//!
//! Invariants: a request to an HTTP/2 server has its authority in the target, and no `Host`.
//! `TE: trailers` is sent iff the client accepts trailers.

use http::header::{CONNECTION, HOST, TE};
use http::{HeaderValue, Request, Uri, Version};

/// Extension of a request whose client accepts trailers: `te: trailers`, RFC 9110 §10.1.4.
/// `TE` is a hop-by-hop field, so it is written anew for the server.
/// In HTTP/2 it stands alone (RFC 9113 §8.2.2): gRPC servers refuse a call without it.
/// In HTTP/1.1 `Connection` names it.
#[derive(Clone, Copy)]
pub struct TakesTrailers;

/// Asks an HTTP/1.1 server for trailers, if the client accepts them.
/// A request that asks for a WebSocket has a `Connection` of its own.
pub fn ask_for_trailers<B>(request: &mut Request<B>) {
    let asks = request.extensions().get::<TakesTrailers>().is_some();
    if asks && !request.headers().contains_key(CONNECTION) {
        request.headers_mut().insert(TE, HeaderValue::from_static("trailers"));
        request.headers_mut().insert(CONNECTION, HeaderValue::from_static("te"));
    }
}

/// RFC 9113 §8.3.1: scheme and authority stand in the target, without a `Host` field.
/// Returns the removed `Host` as well.
pub fn http2_form<B>(
    mut request: Request<B>,
    scheme: &'static str,
    server: &HeaderValue,
) -> (Request<B>, Option<HeaderValue>) {
    let host = request.headers_mut().remove(HOST);
    let path = request.uri().path_and_query().map_or("/", |p| p.as_str());
    let target = |authority: &HeaderValue| {
        Uri::builder().scheme(scheme).authority(authority.as_bytes()).path_and_query(path).build().ok()
    };
    // A Host that is not a valid authority is replaced by the server's own, which always is one.
    let uri = host.as_ref().and_then(target).or_else(|| target(server));
    if let Some(uri) = uri {
        *request.uri_mut() = uri;
    }
    request.headers_mut().remove(CONNECTION);
    if request.extensions().get::<TakesTrailers>().is_some() {
        request.headers_mut().insert(TE, HeaderValue::from_static("trailers"));
    }
    *request.version_mut() = Version::HTTP_2;
    (request, host)
}

/// Converts back, for another server that may speak HTTP/1.1.
pub fn http1_form<B>(mut request: Request<B>, host: Option<HeaderValue>) -> Request<B> {
    let path = request.uri().path_and_query().cloned();
    *request.uri_mut() = path.map_or_else(|| Uri::from_static("/"), Uri::from);
    *request.version_mut() = Version::HTTP_11;
    request.headers_mut().remove(TE);
    if let Some(host) = host {
        request.headers_mut().insert(HOST, host);
    }
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn te_trailers_is_there_only_if_the_client_takes_trailers() {
        let server = HeaderValue::from_static("127.0.0.1:9001");
        let mut request = Request::builder().uri("/x").header(HOST, "a.test").body(()).unwrap();
        let (plain, host) = http2_form(request.clone(), "http", &server);
        assert!(!plain.headers().contains_key(TE));
        assert_eq!(host.unwrap(), "a.test");

        request.extensions_mut().insert(TakesTrailers);
        let (http2, host) = http2_form(request, "http", &server);
        assert_eq!(http2.headers()[TE], "trailers");
        let http1 = http1_form(http2, host);
        assert_eq!(http1.headers().keys().collect::<Vec<_>>(), ["host"]);
        let mut asking = http1.clone();
        ask_for_trailers(&mut asking);
        assert_eq!(
            (&asking.headers()[TE], &asking.headers()[CONNECTION]),
            (&"trailers".parse().unwrap(), &"te".parse().unwrap())
        );
        let (again, _) = http2_form(asking, "http", &server);
        assert_eq!(again.headers()[TE], "trailers");
        assert!(!again.headers().contains_key(CONNECTION));
        let mut quiet = Request::builder().uri("/x").body(()).unwrap();
        ask_for_trailers(&mut quiet);
        assert!(quiet.headers().is_empty());
    }
}
