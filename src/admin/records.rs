//! Serves the records of the state directory: the ledger's entries as JSON; its exact bytes and its
//! last hash, so that a client can verify the chain; and the users that `new` has failed.
//!
//! Invariants: nothing here changes anything. A response is bounded. The disk is read off the
//! control plane's thread.

use super::auth::refuse;
use super::dto;
use crate::runtime::shared::SharedState;
use crate::store::{checkpoints, ledger};
use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// Limit for `last`.
const LAST_MAX: usize = 1000;
/// Limit for the bytes of one response.
const PIECE_BYTES_MAX: usize = 4 << 20;

#[derive(Deserialize)]
pub struct Since {
    #[serde(default)]
    since: u64,
    /// Only this many, the latest.
    last: Option<usize>,
}

/// `GET /api/v1/ledger?since=N&last=N`.
pub async fn entries(
    State(shared): State<Arc<SharedState>>,
    query: Result<Query<Since>, QueryRejection>,
) -> Response {
    let Since { since, last } = match query {
        Ok(Query(query)) => query,
        Err(fault) => return malformed(&fault, "?since=NUMBER"),
    };
    let all = move |directory: PathBuf| match last {
        Some(n) => ledger::read_last(&directory, since, n.min(LAST_MAX)),
        None => ledger::read(&directory, since),
    };
    match read(&shared, all).await {
        Ok(entries) => Json(entries).into_response(),
        Err(refused) => refused,
    }
}

#[derive(Deserialize)]
pub struct From {
    #[serde(default)]
    from: u64,
}

/// `GET /api/v1/ledger/lines?from=BYTE`: the file's bytes from there on; empty at its end.
pub async fn lines(
    State(shared): State<Arc<SharedState>>,
    query: Result<Query<From>, QueryRejection>,
) -> Response {
    let from = match query {
        Ok(Query(query)) => query.from,
        Err(fault) => return malformed(&fault, "?from=BYTE"),
    };
    match read(&shared, move |directory| ledger::piece(&directory, from, PIECE_BYTES_MAX)).await {
        Ok(bytes) => ([(header::CONTENT_TYPE, "application/octet-stream")], bytes).into_response(),
        Err(refused) => refused,
    }
}

/// `GET /api/v1/ledger/end`: the last entry as the proxy knows it.
pub async fn end(State(shared): State<Arc<SharedState>>) -> Json<dto::LedgerEnd> {
    let end = shared.ledger_end();
    Json(dto::LedgerEnd { n: end.n, hash: end.hash })
}

/// Users in one request.
pub const HASHED_MAX: usize = 256;

#[derive(Deserialize)]
pub struct Numbers {
    numbers: String,
}

/// `GET /api/v1/ledger/hashed?numbers=HEX,HEX`: the hashes of users in the ledger's lists. The key
/// of the state directory is never sent. A number is the xxh3-64 of the normalised id.
pub async fn hashed(
    State(shared): State<Arc<SharedState>>,
    query: Result<Query<Numbers>, QueryRejection>,
) -> Response {
    let hint = "?numbers=HEX,HEX: 256 at most, 16 hexadecimal digits each";
    let text = match query {
        Ok(Query(query)) => query.numbers,
        Err(fault) => return malformed(&fault, hint),
    };
    let numbers: Result<Vec<u64>, _> =
        text.split(',').take(HASHED_MAX + 1).map(|hex| u64::from_str_radix(hex, 16)).collect();
    match numbers {
        Ok(numbers) if numbers.len() <= HASHED_MAX => {
            let hashes = numbers.iter().map(|number| shared.key.user(*number)).collect();
            Json(dto::HashedBody { key: shared.key.name().to_owned(), hashes }).into_response()
        }
        _ => refuse(StatusCode::BAD_REQUEST, "these are no numbers of users, or too many", Some(hint.into())),
    }
}

#[derive(Deserialize)]
pub struct AttemptQuery {
    release: String,
    attempt: u64,
}

/// `GET /api/v1/failed?release=R&attempt=N`: the users that `new` has failed in that attempt, in
/// the file's format; empty if there are none.
pub async fn failed(
    State(shared): State<Arc<SharedState>>,
    query: Result<Query<AttemptQuery>, QueryRejection>,
) -> Response {
    let AttemptQuery { release, attempt } = match query {
        Ok(Query(query)) => query,
        Err(fault) => return malformed(&fault, "?release=NAME&attempt=NUMBER"),
    };
    // It becomes part of a file name.
    if !release.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) {
        return refuse(StatusCode::BAD_REQUEST, "this is not the name of a release", None);
    }
    let file = crate::store::failed_users::file(&release, attempt);
    match read(&shared, move |directory| Ok(checkpoints::read(&directory, &file).unwrap_or_default())).await {
        Ok(bytes) => ([(header::CONTENT_TYPE, "application/octet-stream")], bytes).into_response(),
        Err(refused) => refused,
    }
}

async fn read<T: Send + 'static>(
    shared: &SharedState,
    read: impl FnOnce(PathBuf) -> io::Result<T> + Send + 'static,
) -> Result<T, Response> {
    let configured = || shared.snapshot().config.state.directory.clone();
    let directory = shared.directory.clone().unwrap_or_else(configured);
    let why = match tokio::task::spawn_blocking(move || read(directory)).await {
        Ok(Ok(read)) => return Ok(read),
        Ok(Err(error)) => format!("the ledger cannot be read: {error}"),
        Err(_) => "the ledger cannot be read".to_owned(),
    };
    Err(refuse(StatusCode::INTERNAL_SERVER_ERROR, why, None))
}

fn malformed(fault: &QueryRejection, hint: &str) -> Response {
    refuse(StatusCode::BAD_REQUEST, fault.body_text(), Some(hint.to_owned()))
}
