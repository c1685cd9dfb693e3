//! `POST /api/v1/releases/R/maintenance`: begins, extends or ends a maintenance.
//!
//! Invariants: a body that is contradictory or incomplete changes nothing, and the response
//! contains what to send.

use super::auth::{Actor, refuse};
use super::dto::{JsonObject, MaintenanceRequest};
use super::routes::{answered, too_long};
use crate::config::values;
use crate::domain::maintenance::{MaintenanceError, check_change, check_length};
use crate::runtime::shared::{ChangeOrigin, SharedState};
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::{Extension, Json};
use std::sync::Arc;
use std::time::Duration;

const EXAMPLE: &str = "{\"for\": \"30m\", \"change\": \"CHG-123\"}, or {\"end\": true}";

type MaintenanceAnswer = Result<Json<JsonObject<MaintenanceRequest>>, JsonRejection>;

pub async fn maintain(
    State(shared): State<Arc<SharedState>>,
    Extension(Actor(actor)): Extension<Actor>,
    Path(name): Path<String>,
    body: MaintenanceAnswer,
) -> Response {
    let request = match body {
        Ok(Json(JsonObject(request))) => request,
        Err(fault) => return refuse(StatusCode::BAD_REQUEST, fault.body_text(), Some(EXAMPLE.into())),
    };
    if let Some(answer) = too_long(request.reason.as_deref()) {
        return answer;
    }
    let origin = ChangeOrigin { actor, reason: request.reason.clone().filter(|r| !r.trim().is_empty()) };
    let asked = match asked(&request) {
        Ok(asked) => asked,
        Err(why) => return refuse(StatusCode::BAD_REQUEST, why.to_string(), Some(EXAMPLE.into())),
    };
    let changed = match asked {
        Asked::End => shared.end_maintenance(&name, &origin),
        Asked::Begin { change, length } => shared.maintain(&name, &origin, change, length),
    };
    answered(&shared, &name, changed).await
}

#[derive(PartialEq, Eq, Debug)]
enum Asked<'r> {
    Begin { change: &'r str, length: Duration },
    End,
}

/// Why a body is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum MaintenanceBodyError {
    #[error("`end` ends the present maintenance: it goes without `for` and `change`")]
    EndWithMore,
    #[error("a maintenance says how long it lasts: `for` is missing")]
    NoLength,
    #[error("a maintenance names its change: `change` is missing")]
    NoChange,
    #[error("`for`: {0}")]
    Length(#[source] LengthError),
    #[error(transparent)]
    Change(#[from] MaintenanceError),
}

/// Why a text is not a length of a maintenance.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum LengthError {
    #[error("{why}{}", .help.as_ref().map(|help| format!(": {help}")).unwrap_or_default())]
    NoDuration { why: String, help: Option<String> },
    #[error(transparent)]
    NotAllowed(#[from] MaintenanceError),
}

impl From<values::InvalidValue> for LengthError {
    fn from(values::InvalidValue { why, help }: values::InvalidValue) -> Self {
        LengthError::NoDuration { why, help }
    }
}

fn asked(request: &MaintenanceRequest) -> Result<Asked<'_>, MaintenanceBodyError> {
    if request.end {
        return match (&request.length, &request.change) {
            (None, None) => Ok(Asked::End),
            _ => Err(MaintenanceBodyError::EndWithMore),
        };
    }
    let length = request.length.as_deref().ok_or(MaintenanceBodyError::NoLength)?;
    let change = request.change.as_deref().ok_or(MaintenanceBodyError::NoChange)?;
    let length = length_of(length).map_err(MaintenanceBodyError::Length)?;
    Ok(Asked::Begin { change: check_change(change)?, length })
}

/// Parses a length.
///
/// # Errors
/// It is not a length, or not one that a maintenance may have.
pub fn length_of(text: &str) -> Result<Duration, LengthError> {
    Ok(check_length(values::duration(text)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> MaintenanceRequest {
        serde_json::from_str(body).unwrap()
    }

    #[test]
    fn a_body_begins_one_or_ends_one() {
        let request = read(r#"{"for": "30m", "change": " CHG-123 ", "reason": "r"}"#);
        let length = Duration::from_secs(1800);
        assert_eq!(asked(&request), Ok(Asked::Begin { change: "CHG-123", length }));
        assert_eq!(asked(&read(r#"{"end": true}"#)), Ok(Asked::End));
        for (body, why) in [
            ("{}", "`for` is missing"),
            (r#"{"for": "30m"}"#, "`change` is missing"),
            (r#"{"change": "c"}"#, "`for` is missing"),
            (r#"{"for": "30", "change": "c"}"#, "a duration needs its unit"),
            (r#"{"for": "25h", "change": "c"}"#, "24 h at most"),
            (r#"{"for": "0s", "change": "c"}"#, "no time"),
            (r#"{"for": "1h", "change": " "}"#, "names its change"),
            (r#"{"for": "1h", "end": true}"#, "goes without"),
        ] {
            let fault = asked(&read(body)).unwrap_err().to_string();
            assert!(fault.contains(why), "{body}: {fault}");
        }
        assert!(serde_json::from_str::<MaintenanceRequest>(r#"{"four": "1h"}"#).is_err());
    }
}
