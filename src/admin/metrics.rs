//! The definition of every metric (names, labels, help), and the exposition for Prometheus.
//!
//! A scrape sums the workers' counters and publishes them through the `metrics` crate into a
//! recorder of its own. So no state is kept between scrapes, and a series whose name left the
//! config is gone. Histograms are rendered here, because the crate takes samples and not sums.
//!
//! Invariants: label values are names from the config or words from this file, never from a
//! request. Weights and states are the *announced* ones, so that no crash reverts what a scrape has
//! shown. The metrics behind decisions are always present and exact; the rest only with `[metrics]
//! detail = "full"`.

use crate::domain::config::{MetricsDetail, Target};
use crate::domain::outcome::Outcome;
use crate::domain::proxy_header_error::ProxyHeaderError;
use crate::domain::rollout::RolloutState;
use crate::domain::verdict::Cause;
use crate::proxy::error::RequestError;
use crate::runtime::resources;
use crate::runtime::shared::SharedState;
use crate::runtime::snapshot::{CohortLabel, RouteCounts, Snapshot};
use crate::stats::arm::Arm;
use crate::stats::histogram::PROMETHEUS_LE;
use crate::telemetry::clock;
use crate::telemetry::counters::{ArmCounters, LatencySum};
use metrics::{counter, describe_counter, describe_gauge, gauge};
use metrics_exporter_prometheus::PrometheusBuilder;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

const REQUESTS: &str = "grayling_requests_total";
const CODES_UNREAD: &str = "grayling_result_codes_unread_total";
const ERRORS: &str = "grayling_errors_total";
const DURATION: &str = "grayling_request_duration_seconds";
const RESPONSE: &str = "grayling_upstream_response_seconds";
const IN_FLIGHT: &str = "grayling_requests_in_flight";
const WEBSOCKETS: &str = "grayling_websockets";
const NEW_UNDER_WAY: &str = "grayling_new_under_way";
const CONNECTIONS: &str = "grayling_connections";
const PROXY_HEADERS: &str = "grayling_proxy_headers_refused_total";
const WEIGHT: &str = "grayling_weight_ratio";
const WEIGHT_CONFIGURED: &str = "grayling_weight_configured_ratio";
const SHARE: &str = "grayling_share_ratio";
const STATE: &str = "grayling_release_state";
const MAINTENANCE: &str = "grayling_maintenance_left_seconds";
const WAVE: &str = "grayling_wave";
const WAVE_HELD: &str = "grayling_wave_held_seconds";
const ROLLBACKS: &str = "grayling_rollbacks_total";
const EVIDENCE: &str = "grayling_watchdog_evidence_ratio";
const WATCHDOG_STATE: &str = "grayling_watchdog_state";
const TICKS_LATE: &str = "grayling_watchdog_ticks_late_total";
const USER_ID_MISSING: &str = "grayling_user_id_missing_total";
const RELOAD_OK: &str = "grayling_config_last_reload_successful";
const RELOAD_OK_AT: &str = "grayling_config_last_reload_success_timestamp_seconds";
const RELOADS: &str = "grayling_config_reloads_total";
const DURABLE: &str = "grayling_state_durable";
const SAVE_SECONDS: &str = "grayling_state_last_save_seconds";
const LOG_DROPPED: &str = "grayling_log_lines_dropped_total";
const EVENT_STREAMS: &str = "grayling_event_streams";
const EVENTS_DROPPED: &str = "grayling_events_dropped_total";
const SERVERS_HEALTHY: &str = "grayling_upstream_servers_healthy";
const RESENT: &str = "grayling_resent_total";
const ALERTS_SENT: &str = "grayling_alerts_sent_total";
const ALERTS_DROPPED: &str = "grayling_alerts_dropped_total";
const ALERTS_WAITING: &str = "grayling_alerts_waiting";
const SPANS_SENT: &str = "grayling_trace_spans_sent_total";
const SPANS_DROPPED: &str = "grayling_trace_spans_dropped_total";
const TRACES_WAITING: &str = "grayling_traces_waiting";
const TRACE_CALLS_FAILED: &str = "grayling_trace_calls_failed_total";
const RESOURCE: &str = "grayling_resource_reading";
const RESOURCE_KNOWN: &str = "grayling_resource_known";
const BUILD: &str = "grayling_build_info";

fn describe() {
    describe_counter!(REQUESTS, "Exchanges, by how they ended.");
    describe_counter!(ERRORS, "Requests that the proxy answered itself, or broke off, by the reason.");
    describe_counter!(
        CODES_UNREAD,
        "Answers whose result code was not read, because of the coding of the body."
    );
    describe_gauge!(IN_FLIGHT, "Exchanges that have not ended.");
    describe_gauge!(WEBSOCKETS, "WebSockets that are open.");
    describe_gauge!(NEW_UNDER_WAY, "Exchanges with new, tunnels among them, that have not ended.");
    describe_gauge!(CONNECTIONS, "Client connections.");
    describe_counter!(
        PROXY_HEADERS,
        "Connections of trusted proxies that were closed for their PROXY header."
    );
    describe_gauge!(WEIGHT, "Share of users in new that is in force.");
    describe_gauge!(WEIGHT_CONFIGURED, "Share of users in new that the file says.");
    describe_gauge!(SHARE, "Share of the last minute's requests that went to new.");
    describe_gauge!(STATE, "1 for the state that the release is in.");
    describe_gauge!(MAINTENANCE, "How much longer a maintenance lasts; 0: none is in force.");
    describe_gauge!(WAVE, "Number of the present wave, from 1; 0: before the first.");
    describe_gauge!(
        WAVE_HELD,
        "How long the present wave has been held although it is baked, or how long it was not watched while it should bake."
    );
    describe_counter!(ROLLBACKS, "Rollbacks announced since the start.");
    describe_gauge!(EVIDENCE, "Evidence against new, logarithmic: 0 none, 1 trips.");
    describe_gauge!(WATCHDOG_STATE, "1 for the state that the watchdog is in.");
    describe_counter!(TICKS_LATE, "Looks of the watchdog that came late: the machine starves.");
    describe_counter!(USER_ID_MISSING, "Requests without a user id: served by stable.");
    describe_gauge!(RELOAD_OK, "1 if the file as it stands is in force.");
    describe_gauge!(RELOAD_OK_AT, "When a file last came into force.");
    describe_counter!(RELOADS, "Reloads, by result.");
    describe_gauge!(DURABLE, "0: rollbacks are in memory only.");
    describe_gauge!(SAVE_SECONDS, "How long the last change was in memory only.");
    describe_counter!(LOG_DROPPED, "Log lines dropped because their reader was too slow.");
    describe_gauge!(EVENT_STREAMS, "Streams of events that are open: pages, mostly.");
    describe_counter!(EVENTS_DROPPED, "Events dropped because the reader of a stream was too slow.");
    describe_gauge!(
        SERVERS_HEALTHY,
        "Servers of an arm that are neither left aside nor down by their health probes."
    );
    describe_counter!(
        RESENT,
        "Requests sent again to an upstream, because a server of it said that it had not processed them."
    );
    describe_counter!(ALERTS_SENT, "Calls to a receiver of alerts, by result: each is one try.");
    describe_counter!(ALERTS_DROPPED, "Alerts that a receiver was never told of: it was away for too long.");
    describe_gauge!(ALERTS_WAITING, "Alerts that a receiver has not taken yet.");
    describe_counter!(SPANS_SENT, "Spans that the collector of traces has taken.");
    describe_counter!(SPANS_DROPPED, "Spans that no collector has taken, nor will.");
    describe_gauge!(TRACES_WAITING, "Requests whose spans wait to be sent.");
    describe_counter!(TRACE_CALLS_FAILED, "Calls to the collector of traces that failed.");
    describe_gauge!(
        RESOURCE,
        "What an arm uses of a resource, on an average of its servers, in the unit of the reading."
    );
    describe_gauge!(RESOURCE_KNOWN, "0: an arm's resource could not be read.");
    describe_gauge!(BUILD, "1, with the version that runs.");
}

/// The whole scrape, in the text format of Prometheus.
pub fn render(shared: &SharedState) -> String {
    let detail = shared.snapshot().config.metrics;
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    metrics::with_local_recorder(&recorder, || {
        describe();
        decisive(shared);
        traces(shared);
        let snapshot = shared.commits.announced();
        requests(&snapshot);
        let rejected = shared.rejected.iter().map(|c| c.read()).sum();
        let (none, outcome) = ("none", Outcome::Rejected.label());
        counter!(REQUESTS, "release" => none, "arm" => none, "cohort" => none, "route" => none, "outcome" => outcome)
            .absolute(rejected);
        // The most usual one exists from the start.
        counter!(ERRORS, "detail" => RequestError::NoRoute.detail()).absolute(0);
        for (detail, count) in shared.errors.read() {
            counter!(ERRORS, "detail" => detail).absolute(count);
        }
        releases(shared, &snapshot);
        if detail == MetricsDetail::Full {
            details(shared, &snapshot);
            let process = metrics_process::Collector::default();
            process.describe();
            process.collect();
        }
    });
    let mut text = handle.render();
    histograms(shared, detail, &mut text);
    text
}

/// Metrics of the process that decisions and alerts need.
fn decisive(shared: &SharedState) {
    let gauges = &shared.gauges;
    counter!(TICKS_LATE).absolute(gauges.ticks_late.load(Relaxed));
    gauge!(RELOAD_OK).set(f64::from(u8::from(gauges.last_reload_ok.load(Relaxed))));
    gauge!(DURABLE).set(f64::from(u8::from(shared.state_error().is_none())));
    for (receiver, count) in shared.alerts.read() {
        counter!(ALERTS_DROPPED, "receiver" => receiver.clone()).absolute(count.dropped);
        gauge!(ALERTS_WAITING, "receiver" => receiver).set(count.waiting as f64);
    }
    let revision = option_env!("GRAYLING_REVISION").unwrap_or("unknown");
    gauge!(BUILD, "version" => env!("CARGO_PKG_VERSION"), "revision" => revision).set(1.0);
}

/// Metrics of the trace export, if it is configured.
fn traces(shared: &SharedState) {
    if shared.snapshot().config.traces.is_none() {
        return;
    }
    let traces = &shared.traces;
    counter!(SPANS_SENT).absolute(traces.sent.load(Relaxed));
    counter!(SPANS_DROPPED, "cause" => "no_room").absolute(traces.no_room.load(Relaxed));
    counter!(SPANS_DROPPED, "cause" => "refused").absolute(traces.refused.load(Relaxed));
    gauge!(TRACES_WAITING).set(traces.waiting() as f64);
    counter!(TRACE_CALLS_FAILED).absolute(traces.calls_failed.load(Relaxed));
}

/// All other metrics, for `detail = "full"`.
fn details(shared: &SharedState, snapshot: &Snapshot) {
    let gauges = &shared.gauges;
    gauge!(CONNECTIONS).set(gauges.connections.load(Relaxed) as f64);
    for refusal in ProxyHeaderError::ALL {
        counter!(PROXY_HEADERS, "cause" => refusal.label()).absolute(gauges.proxy_headers_refused(refusal));
    }
    gauge!(RELOAD_OK_AT).set(gauges.reload_ok_at_ms.load(Relaxed) as f64 / 1e3);
    counter!(RELOADS, "result" => "success").absolute(gauges.reloads_ok.load(Relaxed));
    counter!(RELOADS, "result" => "failure").absolute(gauges.reloads_failed.load(Relaxed));
    gauge!(SAVE_SECONDS).set(shared.commits.gap().unwrap_or_default().as_secs_f64());
    counter!(LOG_DROPPED).absolute(shared.log.dropped());
    for (receiver, count) in shared.alerts.read() {
        counter!(ALERTS_SENT, "receiver" => receiver.clone(), "result" => "success").absolute(count.taken);
        counter!(ALERTS_SENT, "receiver" => receiver, "result" => "failure").absolute(count.failed);
    }
    for upstream in &snapshot.upstreams {
        let resent = upstream.load.resent.load(Relaxed);
        counter!(RESENT, "upstream" => upstream.config.name.clone()).absolute(resent);
    }
    gauge!(EVENT_STREAMS).set(gauges.event_streams.load(Relaxed) as f64);
    counter!(EVENTS_DROPPED).absolute(gauges.events_dropped.load(Relaxed));
    for release in &snapshot.releases {
        for arm in Arm::BOTH {
            let tunnels = release.counters.arm(arm).tunnels() as f64;
            gauge!(WEBSOCKETS, "release" => release.release.name.clone(), "arm" => arm.label()).set(tunnels);
        }
    }
    gauge!(WEBSOCKETS, "release" => "none", "arm" => "none").set(shared.direct.tunnels() as f64);
}

fn requests(snapshot: &Snapshot) {
    let publish = |release: &str,
                   arm: &'static str,
                   cohort: &str,
                   route: &str,
                   read: &dyn Fn(Outcome) -> u64| {
        for outcome in Outcome::ALL {
            let n = read(outcome);
            // A series appears with its first request; the most used ones exist from the start.
            if n > 0 || outcome == Outcome::Ok {
                let (release, cohort, route) = (release.to_owned(), cohort.to_owned(), route.to_owned());
                let outcome = outcome.label();
                counter!(REQUESTS, "release" => release, "arm" => arm, "cohort" => cohort, "route" => route, "outcome" => outcome)
                    .absolute(n);
            }
        }
    };
    for route in snapshot.routes.iter() {
        match (&route.counts, route.target) {
            (RouteCounts::Release(arms), Target::Release(index)) => {
                let release = &snapshot.releases[index].release;
                for arm in Arm::BOTH {
                    for cohort in CohortLabel::all(release) {
                        let counts = &arms[arm.index()][cohort.index(release)];
                        let label = cohort.label(release);
                        publish(&release.name, arm.label(), label, &route.name, &|o| counts.read(o));
                    }
                }
            }
            (RouteCounts::Upstream { counts, .. }, _) => {
                publish("none", "none", "none", &route.name, &|o| counts.read(o));
            }
            (RouteCounts::Release(_), Target::Upstream(_)) => {}
        }
    }
}

fn releases(shared: &SharedState, snapshot: &Snapshot) {
    let views = shared.views();
    for release in &snapshot.releases {
        let name = || release.release.name.clone();
        gauge!(WEIGHT, "release" => name()).set(release.effective.weight().ratio());
        gauge!(WEIGHT_CONFIGURED, "release" => name()).set(release.weight_in_file().ratio());
        gauge!(NEW_UNDER_WAY, "release" => name()).set(release.counters.under_way.count() as f64);
        for state in RolloutState::ALL {
            let here = f64::from(u8::from(state == release.state));
            gauge!(STATE, "release" => name(), "state" => state.label()).set(here);
        }
        let left = release.maintenance.as_ref().map(|(_, until)| until.saturating_sub(clock::now()));
        gauge!(MAINTENANCE, "release" => name()).set(left.unwrap_or_default().as_secs_f64());
        if !release.release.waves.is_empty() {
            gauge!(WAVE, "release" => name()).set(release.present.map_or(0.0, |i| i as f64 + 1.0));
            let wave_status = views.get(&release.release.name).and_then(|v| v.wave_status.as_ref());
            let held =
                wave_status.filter(|(stage, _)| *stage == release.stage).and_then(|(_, o)| o.held.as_ref());
            let held = held.map_or(0.0, |h| h.lasting.as_secs_f64());
            gauge!(WAVE_HELD, "release" => name()).set(held);
        }
        let missing = release.counters.user_id_missing.iter().map(|c| c.read()).sum();
        counter!(USER_ID_MISSING, "release" => name()).absolute(missing);
        for arm in Arm::BOTH {
            let in_flight = release.counters.arm(arm).in_flight();
            gauge!(IN_FLIGHT, "release" => name(), "arm" => arm.label()).set(in_flight as f64);
            if release.release.outcome.body.is_some() {
                let unread = release.counters.codes_unread[arm.index()].read();
                counter!(CODES_UNREAD, "release" => name(), "arm" => arm.label()).absolute(unread);
            }
            let healthy = release.upstream(arm).healthy();
            gauge!(SERVERS_HEALTHY, "release" => name(), "arm" => arm.label()).set(healthy as f64);
        }
        let Some(view) = views.get(&release.release.name) else { continue };
        for resource in &release.release.resources {
            let seen = resources::seen(release, view, resource, clock::now());
            let newest = seen.map(|seen| seen.newest).unwrap_or_default();
            for (arm, used) in [(Arm::Stable, newest.stable), (Arm::New, newest.new)] {
                let known = f64::from(u8::from(used.is_some()));
                let (arm, of) = (arm.label(), || resource.name.to_string());
                gauge!(RESOURCE_KNOWN, "release" => name(), "arm" => arm, "resource" => of()).set(known);
                if let Some(used) = used {
                    gauge!(RESOURCE, "release" => name(), "arm" => arm, "resource" => of()).set(used.mean);
                }
            }
        }
        if let Some(share) = view.share(Duration::from_secs(60)) {
            gauge!(SHARE, "release" => name()).set(share);
        }
        if let Some(judgement) = &view.judgement {
            let mut strongest: BTreeMap<&str, f64> = BTreeMap::new();
            for signal in &judgement.signals {
                let ratio = strongest.entry(signal.signal).or_default();
                *ratio = ratio.max(signal.evidence_ratio);
            }
            for (signal, ratio) in strongest {
                gauge!(EVIDENCE, "release" => name(), "signal" => signal).set(ratio);
            }
            for state in crate::domain::verdict::WatchdogState::ALL {
                let here = f64::from(u8::from(state == judgement.state));
                gauge!(WATCHDOG_STATE, "release" => name(), "state" => state.label()).set(here);
            }
        }
    }
    drop(views);
    // Exposed from 0 on: a series that began with its first rollback would hide that one from
    // `increase()`.
    for release in &snapshot.releases {
        for cause in Cause::ALL {
            counter!(ROLLBACKS, "release" => release.release.name.clone(), "cause" => cause.label())
                .absolute(0);
        }
    }
    for ((release, cause), n) in shared.commits.rollbacks() {
        counter!(ROLLBACKS, "release" => release, "cause" => cause).absolute(n);
    }
    let direct = shared.direct.in_flight();
    gauge!(IN_FLIGHT, "release" => "none", "arm" => "none").set(direct as f64);
}

type MetricReading = fn(&ArmCounters) -> LatencySum;

fn histograms(shared: &SharedState, detail: MetricsDetail, text: &mut String) {
    let snapshot = shared.commits.announced();
    let mut arms: Vec<(&str, &str, &ArmCounters)> = vec![("none", "none", &shared.direct)];
    for release in &snapshot.releases {
        for arm in Arm::BOTH {
            arms.push((&release.release.name, arm.label(), release.counters.arm(arm)));
        }
    }
    let mut families: Vec<(&str, &str, MetricReading)> =
        vec![(RESPONSE, "Until the head of the upstream's response.", ArmCounters::response)];
    // Not counted either where it is not shown: see the end of an exchange.
    if detail == MetricsDetail::Full {
        families.push((DURATION, "Whole exchanges, to the last byte.", ArmCounters::duration));
    }
    for (name, help, read) in families {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} histogram");
        for (release, arm, counters) in &arms {
            let (sum, release) = (read(counters), escaped(release));
            let labels = format!("release=\"{release}\",arm=\"{arm}\"");
            for (us, le) in PROMETHEUS_LE {
                let _ = writeln!(text, "{name}_bucket{{{labels},le=\"{le}\"}} {}", sum.histogram.at_most(us));
            }
            let total = sum.histogram.total();
            let _ = writeln!(text, "{name}_bucket{{{labels},le=\"+Inf\"}} {total}");
            let _ = writeln!(text, "{name}_sum{{{labels}}} {}", sum.sum_us as f64 / 1e6);
            let _ = writeln!(text, "{name}_count{{{labels}}} {total}");
        }
        text.push('\n');
    }
}

fn escaped(label: &str) -> String {
    label.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
