//! The client of the admin API: one HTTP/1.1 exchange per call, over a connection of its own.
//!
//! Invariants: a call ends within [`TIMEOUT`]. A response is read up to [`ANSWER_BYTES_MAX`].
//! Every error contains what to type. The token is sent in the request only, and never stands in an
//! error.

use super::text::shown;
use crate::admin::dto::{ErrorBody, RunningBody, StatusBody};
use crate::domain::tokens::token_to_send;
use crate::net::http_call::{self, HttpCall, HttpCallError};
use anyhow::Context;
use bytes::Bytes;
use http::uri::Authority;
use http::{Method, StatusCode, header};
use http_body_util::Full;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(5);
const ANSWER_BYTES_MAX: usize = 64 << 20;
const DEFAULT: &str = "http://127.0.0.1:9900";

/// The address of the proxy's admin API, and the credentials.
#[derive(Debug, Default, Clone, clap::Args)]
pub struct AdminArgs {
    /// The admin API of the proxy [default: http://127.0.0.1:9900, or the variable GRAYLING_ADMIN]
    // Not clap's `default` and `env`: clap would treat the variable as a flag that conflicts with
    // `explain -c`.
    #[arg(long, value_name = "URL")]
    pub admin: Option<String>,
    /// A file with the token on its first line: `token` or `name token`.
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
}

pub struct AdminClient {
    authority: Authority,
    token: Option<String>,
    /// For a whole call.
    timeout: Duration,
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("nothing listens on {0}: is `grayling run` up? Another address: --admin URL")]
    Refused(Authority),
    #[error("cannot reach {0} ({1}): is the address right? Another one: --admin URL")]
    Unreachable(Authority, std::io::Error),
    #[error("{0} did not answer in time: is that the admin address of grayling? Another one: --admin URL")]
    TimedOut(Authority),
    #[error("{0} does not answer as grayling's admin API does ({1}): another address: --admin URL")]
    Strange(Authority, String),
    /// The server's own text.
    #[error("{}{}", shown(&.body.error), .body.hint.as_deref().map(|h| format!("\n  hint: {}", shown(h))).unwrap_or_default())]
    Answer { status: StatusCode, body: ErrorBody },
}

impl AdminClient {
    pub fn new(args: &AdminArgs) -> anyhow::Result<AdminClient> {
        let named = std::env::var("GRAYLING_ADMIN").ok().filter(|url| !url.is_empty());
        let url = args.admin.clone().or(named).unwrap_or_else(|| DEFAULT.to_owned());
        let token = args.token_file.as_deref().map(read_token).transpose()?;
        Ok(AdminClient { authority: parse_url(&url)?, token, timeout: TIMEOUT })
    }

    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let (status, body) = self.exchange(Method::GET, path, Bytes::new()).await?;
        self.read(status, &body)
    }

    /// A response that is not JSON.
    pub async fn bytes(&self, path: &str) -> Result<Bytes, ClientError> {
        let (status, body) = self.exchange(Method::GET, path, Bytes::new()).await?;
        if status.is_success() { Ok(body) } else { Err(self.refusal(status, &body)) }
    }

    /// The address of the proxy.
    pub fn address(&self) -> String {
        format!("http://{}", self.authority)
    }

    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> anyhow::Result<T> {
        let body = serde_json::to_vec(body)?;
        let (status, body) = self.exchange(Method::POST, path, body.into()).await?;
        Ok(self.read(status, &body)?)
    }

    /// `GET` that accepts every status, for responses that are meaningful in each.
    pub async fn fetch_in_any_status<T: DeserializeOwned>(
        &self,
        path: &str,
    ) -> Result<(StatusCode, T), ClientError> {
        let (status, body) = self.exchange(Method::GET, path, Bytes::new()).await?;
        match serde_json::from_slice(&body) {
            Ok(value) => Ok((status, value)),
            Err(fault) => Err(self.strange(status, &body, &fault)),
        }
    }

    /// The running config, for `check --against`.
    pub fn running(admin: Option<&str>, token_file: Option<&Path>) -> anyhow::Result<RunningBody> {
        let args = AdminArgs { admin: admin.map(str::to_owned), token_file: token_file.map(Path::to_owned) };
        let client = AdminClient::new(&args)?;
        super::block_on(async move { Ok(client.get("/api/v1/config").await?) })
    }

    /// `named`, or the only release.
    pub async fn release(&self, named: Option<String>, command: &str) -> anyhow::Result<String> {
        if let Some(name) = named {
            return Ok(name);
        }
        let status: StatusBody = self.get("/api/v1/status").await?;
        let names: Vec<String> = status.releases.into_iter().map(|r| r.name).collect();
        one_of(names, command)
    }

    fn read<T: DeserializeOwned>(&self, status: StatusCode, body: &[u8]) -> Result<T, ClientError> {
        if !status.is_success() {
            return Err(self.refusal(status, body));
        }
        serde_json::from_slice(body).map_err(|fault| self.strange(status, body, &fault))
    }

    fn refusal(&self, status: StatusCode, body: &[u8]) -> ClientError {
        match serde_json::from_slice(body) {
            Ok(body) => ClientError::Answer { status, body },
            Err(fault) => self.strange(status, body, &fault),
        }
    }

    fn strange(&self, status: StatusCode, body: &[u8], fault: &serde_json::Error) -> ClientError {
        let told = if body.is_empty() { "an empty body".to_owned() } else { fault.to_string() };
        ClientError::Strange(self.authority.clone(), format!("status {}, {told}", status.as_u16()))
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        let strange = |fault: &str| ClientError::Strange(self.authority.clone(), shown(fault));
        let mut request = http_call::request(method.clone(), self.authority.as_str(), path)
            .header(header::ACCEPT, "application/json");
        if method == Method::POST {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.body(Full::new(body)).map_err(|fault| strange(&fault.to_string()))?;
        let call = HttpCall {
            // URLs write IPv6 in brackets; the resolver needs the bare address.
            host: self.authority.host().trim_start_matches('[').trim_end_matches(']'),
            port: self.authority.port_u16().unwrap_or(80),
            tls: None,
            request,
            body_bytes_max: ANSWER_BYTES_MAX,
            within: self.timeout,
        };
        let answer = call.make().await.map_err(|fault| match fault {
            HttpCallError::Connect(fault) if fault.kind() == std::io::ErrorKind::ConnectionRefused => {
                ClientError::Refused(self.authority.clone())
            }
            HttpCallError::Connect(fault) => ClientError::Unreachable(self.authority.clone(), fault),
            HttpCallError::TimedOut => ClientError::TimedOut(self.authority.clone()),
            HttpCallError::TooLong(_) | HttpCallError::Broken(_) => strange(&fault.to_string()),
        })?;
        Ok((answer.status(), answer.into_body()))
    }
}

/// The only name, or an error with what to type.
pub fn one_of(mut names: Vec<String>, command: &str) -> anyhow::Result<String> {
    match names.len() {
        0 => anyhow::bail!("the config has no release"),
        1 => Ok(names.remove(0)),
        _ => {
            let listed = names.iter().map(|n| shown(n)).collect::<Vec<_>>().join(", ");
            anyhow::bail!(
                "there are several releases ({listed}): say which, as in `grayling {command} {}`",
                names[0]
            )
        }
    }
}

/// A name or a user id, escaped for a path segment or a query.
pub fn encoded(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

fn parse_url(url: &str) -> anyhow::Result<Authority> {
    let url_shown = shown(url);
    let rest = url.strip_prefix("http://").with_context(|| {
        if url.starts_with("https://") {
            format!("`{url_shown}`: the admin API speaks plain HTTP; type http://HOST:PORT")
        } else {
            format!("`{url_shown}` is not the URL of an admin API; type http://HOST:PORT, as in {DEFAULT}")
        }
    })?;
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let authority = rest.parse::<Authority>().ok().filter(|a| a.port_u16().is_some() && !rest.contains('@'));
    authority.with_context(|| format!("`{url_shown}` is not of the form http://HOST:PORT, as in {DEFAULT}"))
}

fn read_token(path: &Path) -> anyhow::Result<String> {
    let file = path.display();
    let bytes = std::fs::read(path).with_context(|| format!("cannot read the token file {file}"))?;
    token_to_send(&bytes).map_err(|why| anyhow::anyhow!("the token file {file}: {why}"))
}

/// A scripted admin server, for the tests of every command.
#[cfg(test)]
pub(super) mod scripted {
    use super::{AdminArgs, AdminClient};
    use crate::admin::dto::ErrorBody;
    use axum::Router;
    use axum::body::{Bytes, to_bytes};
    use axum::extract::Request;
    use axum::http::StatusCode;
    use std::sync::{Arc, Mutex};

    pub struct Scripted {
        pub client: AdminClient,
        /// Each request: `METHOD target [authorization] [content-type] body`.
        pub seen: Arc<Mutex<Vec<String>>>,
    }

    /// Answers each `METHOD target` as listed, all else with 404. Lives as long as the test's
    /// runtime.
    pub async fn admin(script: &[(&str, u16, serde_json::Value)]) -> Scripted {
        let script: Vec<_> = script.iter().map(|(r, s, b)| ((*r).to_owned(), *s, b.to_string())).collect();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let recorded = seen.clone();
        let answer = move |request: Request| {
            let (script, recorded) = (script.clone(), recorded.clone());
            async move {
                let (parts, body) = request.into_parts();
                let wanted = format!("{} {}", parts.method, parts.uri);
                let body: Bytes = to_bytes(body, 1 << 20).await.unwrap();
                let header = |name| parts.headers.get(name).map_or("-", |v| v.to_str().unwrap()).to_owned();
                recorded.lock().unwrap().push(format!(
                    "{wanted} [{}] [{}] {}",
                    header("authorization"),
                    header("content-type"),
                    String::from_utf8_lossy(&body)
                ));
                let missing = ErrorBody {
                    error: "no such release".into(),
                    hint: Some("`grayling status` lists them".into()),
                };
                let found = script.iter().find(|(listed, ..)| *listed == wanted);
                let (status, body) = match found {
                    Some((_, status, body)) => (*status, body.clone()),
                    None => (404, serde_json::to_string(&missing).unwrap()),
                };
                (StatusCode::from_u16(status).unwrap(), body)
            }
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, Router::new().fallback(answer)).await });
        let client = AdminClient::new(&AdminArgs { admin: Some(url), token_file: None }).unwrap();
        Scripted { client, seen }
    }

    impl Scripted {
        pub fn requests(&self) -> Vec<String> {
            self.seen.lock().unwrap().clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn at(url: &str) -> anyhow::Result<AdminClient> {
        AdminClient::new(&AdminArgs { admin: Some(url.to_owned()), token_file: None })
    }

    #[test]
    fn an_address_that_cannot_be_asked_says_what_to_type() {
        for url in
            ["http://127.0.0.1:9900", "http://127.0.0.1:9900/", "http://[::1]:9900", "http://gray:9900"]
        {
            assert!(at(url).is_ok(), "{url}");
        }
        for (url, told) in [
            ("127.0.0.1:9900", "is not the URL of an admin API; type http://HOST:PORT"),
            ("https://gray:9900", "speaks plain HTTP"),
            ("http://gray", "not of the form http://HOST:PORT"),
            ("http://gray:9900/api", "not of the form"),
            ("http://me@gray:9900", "not of the form"),
            ("http://:9900:1", "not of the form"),
            ("", "is not the URL of an admin API"),
        ] {
            let fault = at(url).err().unwrap().to_string();
            assert!(fault.contains(told), "{url}: {fault}");
        }
    }

    #[tokio::test]
    async fn nobody_there_is_told_with_the_address() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let fault = at(&format!("http://{address}")).unwrap().get::<Value>("/").await.unwrap_err();
        assert_eq!(
            fault.to_string(),
            format!("nothing listens on {address}: is `grayling run` up? Another address: --admin URL")
        );
    }

    #[tokio::test]
    async fn a_server_that_never_answers_is_given_up() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = at(&format!("http://{}", silent.local_addr().unwrap())).unwrap();
        client.timeout = Duration::from_millis(50);
        let fault = client.get::<Value>("/").await.unwrap_err();
        assert!(matches!(fault, ClientError::TimedOut(_)), "{fault}");
    }

    #[tokio::test]
    async fn the_servers_refusal_is_shown_with_its_hint() {
        let server = scripted::admin(&[]).await;
        let fault = server.client.get::<Value>("/api/v1/status").await.unwrap_err();
        assert_eq!(fault.to_string(), "no such release\n  hint: `grayling status` lists them");
        assert!(matches!(fault, ClientError::Answer { status: StatusCode::NOT_FOUND, .. }));
    }

    #[tokio::test]
    async fn an_answer_of_something_else_is_not_taken_for_ours() {
        let server = scripted::admin(&[("GET /a", 200, json!("hello")), ("GET /b", 500, json!([]))]).await;
        for path in ["/a", "/b"] {
            let fault = server.client.get::<StatusBody>(path).await.unwrap_err();
            assert!(fault.to_string().contains("does not answer as grayling's admin API does"), "{fault}");
        }
    }

    #[tokio::test]
    async fn the_token_of_the_file_is_sent() {
        let mut server = scripted::admin(&[("GET /", 200, json!(1)), ("POST /", 200, json!(2))]).await;
        let path = std::env::temp_dir().join(format!("grayling-client-token-{}", std::process::id()));
        for (text, sent) in [("s3cret\n", "Bearer s3cret"), ("alice s3cret\nbob x\n", "Bearer s3cret")] {
            std::fs::write(&path, text).unwrap();
            server.client.token = Some(read_token(&path).unwrap());
            let _: Value = server.client.get("/").await.unwrap();
            let _: Value = server.client.post("/", &json!({})).await.unwrap();
            let requests = server.requests();
            assert_eq!(
                requests[requests.len() - 2..],
                [format!("GET / [{sent}] [-] "), format!("POST / [{sent}] [application/json] {{}}")]
            );
        }
        for text in ["", "# alice\n", "a b c\n", "tök\n", "a\u{1}\n"] {
            std::fs::write(&path, text).unwrap();
            assert!(read_token(&path).is_err(), "{text:?}");
        }
        std::fs::remove_file(&path).unwrap();
        assert!(read_token(&path).unwrap_err().to_string().contains("cannot read the token file"));
    }

    #[test]
    fn a_release_may_be_left_out_only_where_there_is_one() {
        let of = |names: &[&str]| one_of(names.iter().map(|n| (*n).to_owned()).collect(), "rollback");
        assert_eq!(of(&["cbs-v2"]).unwrap(), "cbs-v2");
        assert_eq!(of(&[]).unwrap_err().to_string(), "the config has no release");
        assert_eq!(
            of(&["a", "b"]).unwrap_err().to_string(),
            "there are several releases (a, b): say which, as in `grayling rollback a`"
        );
    }
}
