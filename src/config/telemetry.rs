//! `[metrics]` and `[traces]`: the telemetry of requests besides the log.
//!
//! Invariants: without `[traces]` there are no traces; no fault shows the path of an endpoint,
//! which may be a secret.

use super::alerts::address;
use super::keys::choices::DETAIL;
use super::reader::{ConfigReader, TableScope};
use crate::config::keys::single_sections;
use crate::domain::config::{MetricsDetail, Scheme, TracesConfig};

/// The conventional port of OTLP over gRPC, which is another protocol.
const GRPC_PORT: u16 = 4317;
const EXAMPLE: &str = "http://127.0.0.1:4318/v1/traces";

pub fn metrics(r: &mut ConfigReader<'_>, root: &TableScope<'_>) -> MetricsDetail {
    let scope = r.scope(root, &single_sections::METRICS);
    r.choice(&scope, "detail", &DETAIL)
}

pub fn traces(r: &mut ConfigReader<'_>, root: &TableScope<'_>) -> Option<TracesConfig> {
    let scope = r.scope(root, &single_sections::TRACES);
    scope.table?;
    let sample = r.percent(&scope, "sample").value;
    if r.value(&scope, "endpoint").is_none() {
        let help = format!("add `endpoint = \"{EXAMPLE}\"`, or remove `[traces]`");
        r.absent(&scope.span, "`[traces]` has no `endpoint`", "there is nobody to tell", Some(help));
        return None;
    }
    let endpoint = r.parsed(&scope, "endpoint", address)?;
    if endpoint.value.port == GRPC_PORT {
        let why = "4317 is where collectors take OTLP over gRPC; this is OTLP over HTTP";
        r.fault(
            &endpoint.span,
            "`endpoint` is of another protocol",
            why,
            Some(format!("write `\"{EXAMPLE}\"`")),
        );
        return None;
    }
    if endpoint.value.path == "/" {
        let help = format!("add the path, as in `\"{EXAMPLE}\"`");
        r.warn(
            &endpoint.span,
            "`endpoint` has no path",
            "collectors take traces at `/v1/traces`",
            Some(help),
        );
    }
    let tls = match endpoint.value.scheme {
        Scheme::Http => None,
        Scheme::Https => Some(super::tls::by_the_system(r, &endpoint.span)?),
    };
    Some(TracesConfig { address: endpoint.value, tls, sample })
}
