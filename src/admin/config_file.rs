//! `GET /api/v1/config/file`: the config file on the disk and its faults, to compare with the
//! config in force.
//!
//! Invariants: it changes nothing, and applies nothing. A file system that hangs delays only this
//! response.

use super::dto;
use crate::runtime::shared::SharedState;
use crate::telemetry::clock;
use axum::Json;
use axum::extract::State;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

/// Limit of the text; the rest is cut off.
const BYTES_MAX: u64 = 4 << 20;

pub async fn file(State(shared): State<Arc<SharedState>>) -> Json<dto::ConfigFileBody> {
    let source = shared.source();
    let path = source.path.clone();
    let read = tokio::task::spawn_blocking(move || read(&path)).await;
    let (text, error) = match read.unwrap_or(Err(FileError::NoResult)) {
        Ok(text) => (Some(text), None),
        Err(error) => (None, Some(error.to_string())),
    };
    Json(dto::ConfigFileBody {
        path: source.path,
        text,
        error,
        last_error: source.last_error,
        last_report: source.last_report,
        loaded_at: clock::rfc3339(source.loaded_at_ms),
    })
}

/// Why the response has no text.
#[derive(Debug, thiserror::Error)]
enum FileError {
    /// The task that reads it ended without a result.
    #[error("it cannot be read")]
    NoResult,
    #[error(transparent)]
    Io(#[from] io::Error),
}

fn read(path: &Path) -> Result<String, FileError> {
    let mut bytes = vec![];
    File::open(path)?.take(BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
