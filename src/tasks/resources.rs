//! Reads the resource use of the two versions: every few seconds, for each release with resources,
//! the metrics of all servers of both upstreams, or results of a Prometheus server.
//! The judgement is in `domain`.
//!
//! Invariants: on the control plane's thread, one task per release, none for releases without
//! resources. A round ends within [`WITHIN`], and reads at most `PAGE_BYTES_MAX` of a page. An arm
//! has a reading only if each of its servers has one: a failed read is a lack with a reason, never
//! a number. Tasks end when this is dropped.

use super::call::{Call, CallError};
use crate::domain::config::{Address, MetricsPage, ResourceConfig, ResourceSource};
use crate::domain::resource::reading::{Expression, Malformed, NoReading, SeriesSums, sums};
use crate::domain::resource::{ArmUse, ResourceReading};
use crate::runtime::resources::{ResourceReadings, WITHIN};
use crate::runtime::shared::SharedState;
use crate::stats::arm::Arm;
use crate::telemetry::clock;
use bytes::Bytes;
use http::{Method, StatusCode};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep_until};

/// Large services have pages of a few hundred KiB.
const PAGE_BYTES_MAX: usize = 8 << 20;
/// One value, or a short error message.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// The delay until a changed file takes effect.
const FOLLOW: Duration = Duration::from_millis(250);
/// A reason is one line on a page.
const WHY_CHARS: usize = 200;

/// The input of a task; a change starts another task.
#[derive(Clone, PartialEq)]
struct ScrapeInput {
    resources: Vec<ResourceConfig>,
    interval: Duration,
    /// Of stable and of new.
    pages: [Vec<MetricsPage>; 2],
}

struct RunningScrape {
    wanted: ScrapeInput,
    task: AbortHandle,
}

impl Drop for RunningScrape {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Runs until it is dropped.
pub async fn run(shared: Arc<SharedState>) {
    let mut running: BTreeMap<String, RunningScrape> = BTreeMap::new();
    loop {
        let snapshot = shared.snapshot();
        let mut before = std::mem::take(&mut running);
        for release in snapshot.releases.iter().filter(|r| !r.release.resources.is_empty()) {
            let wanted = ScrapeInput {
                resources: release.release.resources.clone(),
                interval: release.release.resource_interval,
                pages: Arm::BOTH.map(|arm| release.upstream(arm).config.scrapes.clone()),
            };
            let name = &release.release.name;
            let kept = before.remove(name).filter(|running| running.wanted == wanted);
            let started = || {
                let task = read_again_and_again(shared.clone(), name.clone(), wanted.clone());
                RunningScrape { wanted: wanted.clone(), task: tokio::spawn(task).abort_handle() }
            };
            running.insert(name.clone(), kept.unwrap_or_else(started));
        }
        // Readings without a task are not shown.
        for (name, view) in shared.views().iter_mut() {
            if !running.contains_key(name) {
                view.resources.clear();
            }
        }
        drop(before);
        tokio::time::sleep(FOLLOW).await;
    }
}

async fn read_again_and_again(shared: Arc<SharedState>, release: String, wanted: ScrapeInput) {
    let mut previous = PreviousScrape::default();
    loop {
        let began = Instant::now();
        let readings = round(&wanted, &mut previous).await;
        let snapshot = shared.snapshot();
        let Some(of) = snapshot.releases.iter().find(|r| r.release.name == release) else { return };
        if let Some(view) = shared.views().get_mut(&release) {
            let mut before = std::mem::take(&mut view.resources);
            let next = |(resource, read): (&ResourceConfig, _)| {
                let at = before.iter().position(|seen| seen.resource.name == resource.name);
                ResourceReadings::next(at.map(|at| before.swap_remove(at)), resource, read, of, clock::now())
            };
            view.resources = wanted.resources.iter().zip(readings).map(next).collect();
        }
        sleep_until(began + wanted.interval).await;
    }
}

/// The previous scrape, by arm, server and resource: for rates.
type PreviousScrape = BTreeMap<(usize, usize, usize), SeriesSums>;

type ScrapeValue = (ResourceReading, [Option<String>; 2]);

/// One reading of each resource.
async fn round(wanted: &ScrapeInput, previous: &mut PreviousScrape) -> Vec<ScrapeValue> {
    let mut tasks = JoinSet::new();
    let expressions: Arc<Vec<(usize, Expression)>> = Arc::new(
        wanted
            .resources
            .iter()
            .enumerate()
            .filter_map(|(i, resource)| match &resource.source {
                ResourceSource::Scraped(expression) => Some((i, expression.clone())),
                ResourceSource::Asked { .. } => None,
            })
            .collect(),
    );
    for arm in [0, 1] {
        for (server, page) in wanted.pages[arm].iter().enumerate().filter(|_| !expressions.is_empty()) {
            let (page, expressions) = (page.clone(), expressions.clone());
            tasks.spawn(async move { ScrapeResult::Page(arm, server, scrape(&page, &expressions).await) });
        }
        for (i, resource) in wanted.resources.iter().enumerate() {
            let ResourceSource::Asked { prometheus, new, stable } = &resource.source else { continue };
            let query = if arm == Arm::New.index() { new } else { stable };
            let (prometheus, query) = (prometheus.clone(), query.clone());
            tasks.spawn(async move { ScrapeResult::Value(arm, i, ask(&prometheus, &query).await) });
        }
    }
    let mut values: Vec<[Vec<f64>; 2]> = wanted.resources.iter().map(|_| Default::default()).collect();
    let mut lacks: Vec<[Option<String>; 2]> = wanted.resources.iter().map(|_| Default::default()).collect();
    while let Some(came) = tasks.join_next().await {
        // Only a bug ends a task without a result: its value is then missing, below.
        let Ok(came) = came else { continue };
        let mut take = |arm: usize, i: usize, read: Result<f64, NoValue>| match read {
            Ok(value) => values[i][arm].push(value),
            Err(why) => {
                let shown = || why.to_string().chars().take(WHY_CHARS).collect();
                lacks[i][arm].get_or_insert_with(shown);
            }
        };
        match came {
            ScrapeResult::Value(arm, i, read) => take(arm, i, read.map_err(NoValue::Query)),
            ScrapeResult::Page(arm, server, scraped) => {
                let place = &wanted.pages[arm][server].address;
                for (n, (i, expression)) in expressions.iter().enumerate() {
                    let key = (arm, server, *i);
                    let before = previous.remove(&key);
                    let read = match &scraped {
                        Err(source) => Err(NoValue::Page { place: place.clone(), source: source.clone() }),
                        Ok(sums) => {
                            let read = expression.value(before.as_ref(), &sums[n]);
                            previous.insert(key, sums[n].clone());
                            read.map_err(|source| NoValue::Lack { place: place.clone(), source })
                        }
                    };
                    take(arm, *i, read);
                }
            }
        }
    }
    let read = |resource: &ResourceConfig, values: [Vec<f64>; 2]| {
        let used = |arm: Arm| {
            let needed = match resource.source {
                ResourceSource::Scraped(_) => wanted.pages[arm.index()].len(),
                ResourceSource::Asked { .. } => 1,
            };
            let values = &values[arm.index()];
            ArmUse::of(values).filter(|_| values.len() == needed)
        };
        ResourceReading { new: used(Arm::New), stable: used(Arm::Stable) }
    };
    let readings = wanted.resources.iter().zip(values).map(|(resource, values)| read(resource, values));
    readings.zip(lacks).collect()
}

enum ScrapeResult {
    /// Sums of each expression.
    Page(usize, usize, Result<Vec<SeriesSums>, ScrapeError>),
    Value(usize, usize, Result<f64, ScrapeError>),
}

/// Why a version has no value of a resource: by the first of its servers that gave none.
#[derive(Debug, thiserror::Error)]
enum NoValue {
    #[error(transparent)]
    Query(ScrapeError),
    #[error("{place}: {source}")]
    Page { place: Address, source: ScrapeError },
    #[error("{place}: {source}")]
    Lack { place: Address, source: NoReading },
}

#[derive(Debug, Clone, PartialEq, thiserror::Error)]
enum ScrapeError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("answered {0}")]
    Status(StatusCode),
    #[error("its metrics are not UTF-8")]
    NotText,
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("Prometheus says: {0}")]
    Refused(String),
    #[error("Prometheus answered what it should not: {0}")]
    Strange(&'static str),
    #[error("Prometheus has no value for it now")]
    Nothing,
    #[error("the query gives {0} values, and one is needed: wrap it in sum(…), avg(…) or max(…)")]
    Many(usize),
    #[error("not a number")]
    NotANumber,
}

async fn fetch(page: &MetricsPage, path: &str, bytes_max: usize) -> Result<(StatusCode, Bytes), ScrapeError> {
    let headers = [("accept", "text/plain;version=0.0.4, application/json;q=0.5, */*;q=0.1".to_owned())];
    let call = Call {
        to: &page.address,
        tls: page.tls.as_ref(),
        method: Method::GET,
        path,
        headers: &headers,
        body: Bytes::new(),
        answer_bytes_max: bytes_max,
        within: WITHIN,
    };
    let answer = call.make().await?;
    Ok((answer.status, answer.body))
}

async fn scrape(
    page: &MetricsPage,
    expressions: &[(usize, Expression)],
) -> Result<Vec<SeriesSums>, ScrapeError> {
    let (status, bytes) = fetch(page, &page.address.path, PAGE_BYTES_MAX).await?;
    let at = clock::now();
    if !status.is_success() {
        return Err(ScrapeError::Status(status));
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| ScrapeError::NotText)?;
    let wanted: Vec<_> = expressions.iter().flat_map(|(_, expression)| expression.series()).collect();
    let mut found = sums(text, &wanted)?.into_iter();
    let each = |(_, of): &(usize, Expression)| SeriesSums {
        at,
        of: found.by_ref().take(of.series().count()).collect(),
    };
    Ok(expressions.iter().map(each).collect())
}

async fn ask(prometheus: &MetricsPage, query: &str) -> Result<f64, ScrapeError> {
    let base = prometheus.address.path.trim_end_matches('/');
    let path = format!("{base}/api/v1/query?query={}", utf8_percent_encode(query, NON_ALPHANUMERIC));
    let (status, bytes) = fetch(prometheus, &path, ANSWER_BYTES_MAX).await?;
    answered(status, &bytes)
}

/// The one value in a response of Prometheus' HTTP API (`/api/v1/query`).
fn answered(status: StatusCode, bytes: &[u8]) -> Result<f64, ScrapeError> {
    let Ok(answer) = serde_json::from_slice::<Value>(bytes) else {
        return Err(if status.is_success() {
            ScrapeError::Strange("no JSON")
        } else {
            ScrapeError::Status(status)
        });
    };
    if answer["status"] != "success" {
        let why = answer["error"].as_str().unwrap_or("an error without a word");
        return Err(ScrapeError::Refused(why.to_owned()));
    }
    let result = &answer["data"]["result"];
    let point = match (answer["data"]["resultType"].as_str(), result.as_array().map(Vec::as_slice)) {
        (Some("scalar"), _) => result,
        (Some("vector"), Some([])) => return Err(ScrapeError::Nothing),
        (Some("vector"), Some([one])) => &one["value"],
        (Some("vector"), Some(many)) => return Err(ScrapeError::Many(many.len())),
        _ => return Err(ScrapeError::Strange("the query gives neither a scalar nor a vector")),
    };
    let value = point[1].as_str().and_then(|text| text.parse::<f64>().ok());
    value.filter(|value| value.is_finite()).ok_or(ScrapeError::NotANumber)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mutate::{cases, damaged};
    use proptest::prelude::*;

    const VECTOR: &str = r#"{"status":"success","data":{"resultType":"vector","result":[{"metric":{"a":"b"},"value":[1700000000.1,"12.5"]}]}}"#;
    const SCALAR: &str = r#"{"status":"success","data":{"resultType":"scalar","result":[1700000000.1,"3"]}}"#;
    const ERROR: &str = r#"{"status":"error","errorType":"bad_data","error":"parse error"}"#;

    fn of(text: &str) -> Result<f64, ScrapeError> {
        answered(StatusCode::OK, text.as_bytes())
    }

    #[test]
    fn an_answer_of_prometheus_is_one_value_or_a_reason() {
        assert_eq!(of(VECTOR), Ok(12.5));
        assert_eq!(of(SCALAR), Ok(3.0));
        assert_eq!(of(ERROR), Err(ScrapeError::Refused("parse error".into())));
        assert_eq!(of(&VECTOR.replace("12.5", "NaN")), Err(ScrapeError::NotANumber));
        assert_eq!(of(&VECTOR.replace("12.5", "+Inf")), Err(ScrapeError::NotANumber));
        let result = |list: &str| {
            format!(r#"{{"status":"success","data":{{"resultType":"vector","result":{list}}}}}"#)
        };
        assert_eq!(of(&result("[]")), Err(ScrapeError::Nothing));
        assert_eq!(of(&result(r#"[{"value":[1,"1"]},{"value":[1,"2"]}]"#)), Err(ScrapeError::Many(2)));
        assert!(matches!(of(&VECTOR.replace("vector", "matrix")), Err(ScrapeError::Strange(_))));
        assert_eq!(
            answered(StatusCode::BAD_GATEWAY, b"<html>"),
            Err(ScrapeError::Status(StatusCode::BAD_GATEWAY))
        );
    }

    proptest! {
        #![proptest_config(cases(300))]

        #[test]
        fn a_damaged_answer_of_prometheus_is_a_number_or_a_reason(bytes in damaged([VECTOR, SCALAR, ERROR], [
            "{", "}", "[", "]", "[]", "{}", "null", "\"", ",", ":", "1e999", "\"NaN\"", "\"1e999\"", "\"vector\"", "\"matrix\"", "\"status\"", "é", "\0",
        ])) {
            let read = answered(StatusCode::OK, &bytes);
            prop_assert!(read.is_err() || read.is_ok_and(f64::is_finite));
        }
    }
}
