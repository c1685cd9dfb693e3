//! `grayling explain`: the arm of a user and the reason, from a running proxy or computed from a
//! config file.
//!
//! Invariants: both ways use `domain::decide`, the function that the proxy uses. Offline, trips and
//! holds are unknown, and the output mentions that. The user id is processed as in a request:
//! `normalise` and `max_bytes` of the config apply.

use super::client::{AdminArgs, AdminClient, encoded, one_of};
use super::text::{self, Colour, Hue, percent, shown};
use super::{block_on, config_of};
use crate::admin::dto::ExplainBody;
use crate::domain::config::{Config, Identity, normalise};
use crate::domain::decide::{Effective, Reason, decide, enters, is_held_back};
use crate::domain::segment::Subject;
use crate::domain::wave::Exposure;
use crate::stats::cohort::BUCKETS;
use std::borrow::Cow;
use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  grayling explain --user alice                      as the running proxy decides
  grayling explain --user alice -c grayling.toml     as the file says; asks no proxy")]
pub struct Args {
    /// The user id, as sent in requests.
    #[arg(long, value_name = "ID")]
    user: String,
    /// The release; optional if there is only one.
    #[arg(long, value_name = "R")]
    release: Option<String>,
    /// Compute it from this config file.
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["admin", "token_file"])]
    config: Option<PathBuf>,
    #[command(flatten)]
    admin: AdminArgs,
    /// Print the answer as JSON.
    #[arg(long)]
    json: bool,
}

/// Where the answer comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ExplainSource {
    Proxy,
    File,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let (answer, source) = match &args.config {
        Some(path) => (offline(&config_of(path)?, &args.user, args.release)?, ExplainSource::File),
        None => {
            let client = AdminClient::new(&args.admin)?;
            (block_on(online(&client, &args.user, args.release))?, ExplainSource::Proxy)
        }
    };
    if args.json {
        text::print_json(&answer)?;
    } else {
        text::print(&render(&answer, &args.user, source, Colour::of_stdout()))?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn online(client: &AdminClient, user: &str, release: Option<String>) -> anyhow::Result<ExplainBody> {
    let release = client.release(release, "explain --user ID --release").await?;
    let path = format!("/api/v1/explain?user={}&release={}", encoded(user), encoded(&release));
    Ok(client.get(&path).await?)
}

fn offline(config: &Config, user: &str, release: Option<String>) -> anyhow::Result<ExplainBody> {
    let names = || config.releases.iter().map(|r| r.name.clone()).collect::<Vec<_>>();
    let name = release.map_or_else(|| one_of(names(), "explain --user ID --release"), Ok)?;
    let Some(release) = config.release(&name) else {
        let listed = names().iter().map(|n| shown(n)).collect::<Vec<_>>().join(", ");
        anyhow::bail!("the config has no release `{}`; it has: {listed}", shown(&name));
    };
    let id = as_found(&config.identity, user.as_bytes());
    let subject = Subject { user_id: id.as_deref(), headers: None, address: None };
    // With waves: the reach at the end of the plan, since a file does not record progress.
    let all = Exposure { weight: release.weight, segments: release.segments.len() };
    // A weight set by hand is never complete by itself.
    let all = if release.waves.is_empty() { all.held_back(release.holdback) } else { all };
    let decision = decide(release, Effective::At(all), &subject);
    let wave = enters(release, &subject).map(|i| release.waves[i].name.clone());
    let segment = match decision.reason {
        Reason::Segment(i) => Some(release.segments[i].name.clone()),
        Reason::Excluded(i) => Some(release.excluded[i].name.clone()),
        Reason::NoUserId | Reason::Tripped | Reason::Weight => None,
    };
    Ok(ExplainBody {
        release: name,
        bucket: decision.bucket.map(|b| b.index()),
        arm: decision.arm.label().to_owned(),
        reason: decision.reason.label().to_owned(),
        enters_at: decision.bucket.map(|b| b.enters_at().percent()),
        weight: Some(release.weight.percent()),
        segment,
        wave,
        held_back: is_held_back(release, &subject),
        power: None,
    })
}

/// The id as the proxy would extract it from a request that carries `sent`; `None` if it would
/// extract none.
fn as_found<'a>(identity: &Identity, sent: &'a [u8]) -> Option<Cow<'a, [u8]>> {
    let id = normalise(identity.normalise, sent);
    (!id.is_empty() && id.len() <= identity.max_bytes).then_some(id)
}

fn render(answer: &ExplainBody, user: &str, source: ExplainSource, colour: Colour) -> String {
    let (user, arm) = (shown(user), colour.paint(Hue::Bold, &shown(&answer.arm)));
    // A file contains the plan of the waves, not their progress.
    let once = match &answer.wave {
        Some(wave) if source == ExplainSource::File => format!(" from wave `{}` on", shown(wave)),
        _ => String::new(),
    };
    let mut out = format!("{user} gets {arm} in {}{once}: {}\n", shown(&answer.release), why(answer));
    if let Some(bucket) = answer.bucket {
        let _ =
            writeln!(out, "  bucket     {} of {}", text::count(bucket.into()), text::count(BUCKETS.into()));
    }
    if let Some(enters_at) = answer.enters_at {
        let _ = writeln!(out, "  enters at  {}", percent(enters_at));
    }
    if let Some(wave) = &answer.wave {
        let _ = writeln!(out, "  wave       enters in `{}`", shown(wave));
    }
    if answer.held_back {
        out.push_str("  held back  on stable until the release is complete (`holdback`)\n");
    }
    if let Some(weight) = answer.weight {
        let place = if source == ExplainSource::File { "in the file" } else { "in force" };
        let _ = writeln!(out, "  weight     {} {place}", percent(weight));
    }
    if let Some(power) = &answer.power {
        let _ = writeln!(out, "  to see     {}", shown(power));
    }
    if source == ExplainSource::File {
        out.push_str(
            "\nThis is what the file says. Rollbacks are not in it, nor what segments by header or network make of a\n\
             request: `grayling explain` without -c asks the running proxy.\n",
        );
    }
    out
}

fn why(answer: &ExplainBody) -> String {
    let segment = answer.segment.as_deref().map_or("one".to_owned(), |s| format!("`{}`", shown(s)));
    match (answer.reason.as_str(), answer.arm.as_str()) {
        ("weight", "new") => "the user's bucket is below the weight".into(),
        ("weight", _) => "the user's bucket is not below the weight".into(),
        ("segment", _) => format!("the segment {segment} is in new whatever the weight"),
        ("excluded", _) => format!("the segment {segment} is never in new"),
        ("tripped", _) => "the release is held at 0% (`grayling status` says why)".into(),
        ("no_user_id", _) => {
            "that is no user id (empty, or longer than `max_bytes`), and such requests go to stable".into()
        }
        (other, _) => shown(other),
    }
}

#[cfg(test)]
mod tests {
    use super::super::client::scripted::admin;
    use super::*;
    use serde_json::json;

    #[tokio::test]
    async fn the_proxy_is_asked_with_the_user_id_as_typed() {
        let answer = json!({"release": "cbs-v2", "bucket": 412345, "arm": "stable", "reason": "weight",
                            "enters_at": 41.2346, "weight": 5.0});
        let target = "GET /api/v1/explain?user=al%26ice%20%C3%BC&release=cbs%2Dv2";
        let server = admin(&[(target, 200, answer)]).await;
        let answer = online(&server.client, "al&ice ü", Some("cbs-v2".into())).await.unwrap();
        let expected = "\
al&ice ü gets stable in cbs-v2: the user's bucket is not below the weight
  bucket     412,345 of 1,000,000
  enters at  41.2346%
  weight     5% in force
";
        assert_eq!(render(&answer, "al&ice ü", ExplainSource::Proxy, Colour::Plain), expected);
    }

    #[test]
    fn each_reason_is_told_in_words() {
        let answer = |reason: &str, arm: &str, segment: Option<&str>| ExplainBody {
            release: "r".into(),
            bucket: None,
            arm: arm.into(),
            reason: reason.into(),
            enters_at: None,
            weight: None,
            segment: segment.map(str::to_owned),
            wave: None,
            held_back: false,
            power: None,
        };
        let told = |a: ExplainBody| render(&a, "u", ExplainSource::Proxy, Colour::Plain);
        assert_eq!(
            told(answer("weight", "new", None)),
            "u gets new in r: the user's bucket is below the weight\n"
        );
        assert_eq!(
            told(answer("segment", "new", Some("testers"))),
            "u gets new in r: the segment `testers` is in new whatever the weight\n"
        );
        assert_eq!(
            told(answer("excluded", "stable", Some("vip"))),
            "u gets stable in r: the segment `vip` is never in new\n"
        );
        assert!(told(answer("tripped", "stable", None)).contains("held at 0%"));
        assert!(told(answer("no_user_id", "stable", None)).contains("go to stable"));
    }

    fn config(weight: u32) -> Config {
        use crate::domain::config;
        use crate::domain::config::Normalise;
        use crate::domain::segment::Segment;
        use crate::stats::cohort::{Salt, Weight};
        use std::sync::Arc;
        use std::time::Duration;
        let segment = |name: &str, user: &str| {
            Arc::new(Segment { name: name.into(), users: [user].into_iter().collect(), ..Default::default() })
        };
        let (testers, vip) = (segment("testers", "tess"), segment("vip", "vera"));
        let release = config::Release {
            name: "cbs-v2".into(),
            stable: 0,
            new: 1,
            salt_text: "cbs-v2".into(),
            salt: Salt::new("cbs-v2"),
            attempt: 1,
            weight: Weight::from_parts(weight),
            step_max: Weight::FULL,
            holdback: Weight::ZERO,
            soak: Duration::ZERO,
            segments: vec![testers],
            waves: vec![],
            open_hours: None,
            critical: vec![],
            excluded: vec![vip],
            on_unreachable: config::OnUnreachable::Stable,
            on_anomaly: config::OnAnomaly::Rollback,
            on_both_bad: config::OnAnomaly::Rollback,
            same_version: false,
            warm_up: Duration::from_secs(60),
            outcome: Default::default(),
            resources: vec![],
            resource_interval: Duration::from_secs(5),
            watchdog: config::WatchdogConfig {
                enabled: true,
                alpha: 0.001,
                errors_max: 0.05,
                latency_p99_max: Duration::from_secs(2),
                stated: [false; 2],
                mode: config::WatchdogMode::Enforce,
                latency_tolerance: 0.2,
                latency_notice: 0.03,
                margins: crate::domain::gates::Margins { errors: 0.001, latency: 0.1, tail: 0.5 },
                latency_floor: Duration::from_millis(2),
                by_route: true,
                hold_when_blind: false,
                harm_users_max: 0,
                tick: Duration::from_millis(100),
            },
        };
        let any = "127.0.0.1:0".parse().unwrap();
        Config {
            listen: config::Listen {
                http: vec![any],
                https: vec![],
                admin: any,
                workers: 1,
                trusted_proxies: vec![],
                proxy_protocol: false,
                expose_arm: false,
            },
            tls: None,
            admin: config::Admin { tokens: None, hosts: vec![], local_changes: true },
            identity: Identity { from: vec![], normalise: Normalise::Lowercase, max_bytes: 16 },
            upstreams: vec![],
            segments: vec![],
            releases: vec![Arc::new(release)],
            routes: vec![],
            limits: config::RequestLimits {
                header_bytes: 1,
                header_count: 1,
                response_head: config::ResponseHeadLimits { bytes: 1, fields: 1 },
                uri_bytes: 1,
                connections: 1,
                requests_in_flight: 1,
                header_timeout: Duration::ZERO,
                body_idle_timeout: Duration::ZERO,
                request_buffer: 0,
                keepalive_timeout: Duration::ZERO,
                drain: Duration::ZERO,
                abandoned_max: None,
                stream_grace: Duration::ZERO,
            },
            state: config::StateConfig {
                directory: "state".into(),
                on_failure: config::OnStateFailure::StableOnly,
                when_empty: config::WhenEmpty::Start,
                failed_users: config::FailedUserIds::Off,
            },
            log: config::LogConfig {
                format: config::LogFormat::Json,
                sample: Weight::ZERO,
                slow: Duration::ZERO,
                user_key: None,
            },
            metrics: config::MetricsDetail::Full,
            traces: None,
            alerts: vec![],
        }
    }

    #[test]
    fn offline_decides_as_the_proxy_does() {
        let ask = |weight: u32, user: &str| {
            let a = offline(&config(weight), user, None).unwrap();
            (a.arm, a.reason, a.segment)
        };
        let is = |arm: &str, reason: &str, segment: Option<&str>| {
            (arm.to_owned(), reason.to_owned(), segment.map(str::to_owned))
        };
        assert_eq!(ask(0, "  TESS "), is("new", "segment", Some("testers")));
        assert_eq!(ask(1_000_000, "vera"), is("stable", "excluded", Some("vip")));
        assert_eq!(ask(1_000_000, "alice"), is("new", "weight", None));
        assert_eq!(ask(0, "alice"), is("stable", "weight", None));
        for no_id in ["", "   ", "longer than sixteen bytes"] {
            assert_eq!(ask(1_000_000, no_id), is("stable", "no_user_id", None));
        }
    }

    #[test]
    fn offline_enters_at_is_the_weight_from_which_the_user_is_in() {
        let at = offline(&config(0), "alice", None).unwrap();
        let bucket = at.bucket.unwrap();
        assert_eq!(offline(&config(bucket), "alice", None).unwrap().arm, "stable");
        assert_eq!(offline(&config(bucket + 1), "alice", None).unwrap().arm, "new");
        assert_eq!(at.enters_at, Some(f64::from(bucket + 1) / 10_000.0));
    }

    #[test]
    fn a_user_who_is_held_back_is_told_so() {
        let with = |holdback: u32| {
            let mut config = config(1_000_000);
            if let Some(release) = config.releases.first_mut().and_then(std::sync::Arc::get_mut) {
                release.holdback = crate::stats::cohort::Weight::from_parts(holdback);
            }
            config
        };
        let bucket = offline(&with(0), "alice", None).unwrap().bucket.unwrap();
        // From this user's bucket up.
        let back = offline(&with(1_000_000 - bucket), "alice", None).unwrap();
        assert_eq!((back.arm.as_str(), back.held_back), ("stable", true));
        let told = render(&back, "alice", ExplainSource::File, Colour::Plain);
        assert!(told.contains("  held back  on stable until the release is complete"), "{told}");
        let below = offline(&with(1_000_000 - bucket - 1), "alice", None).unwrap();
        assert_eq!((below.arm.as_str(), below.held_back), ("new", false));
        assert!(!offline(&with(500_000), "tess", None).unwrap().held_back, "her segment is in new");
    }

    #[test]
    fn a_release_that_is_not_there_is_told_with_those_that_are() {
        let fault = offline(&config(0), "alice", Some("cbs".into())).unwrap_err();
        assert_eq!(fault.to_string(), "the config has no release `cbs`; it has: cbs-v2");
    }
}
