//! Faults of `[metrics]` and `[traces]`, and their meaning without any fault.

use super::*;
use crate::domain::config::MetricsDetail;
use crate::stats::cohort::Weight;

#[test]
fn each_fault_says_where_and_what_to_type() {
    let table: &[(&str, &str)] = &[
        (
            "[metrics]\ndetail = \"decidin\"\n",
            "g.toml:15:10: invalid `detail`: no such choice; did you mean `\"deciding\"`?",
        ),
        ("[metrics]\ndetails = \"full\"\n", "g.toml:15:1: unknown key `details`; did you mean `detail`?"),
        ("[trace]\nendpoint = \"http://h:1/\"\n", "g.toml:14:2: unknown key `trace`; did you mean `traces`?"),
        (
            "[traces]\nsample = \"5%\"\n",
            "g.toml:14:1: `[traces]` has no `endpoint`: there is nobody to tell; add `endpoint = \"http://127.0.0.1:4318/v1/traces\"`, or remove `[traces]`",
        ),
        (
            "[traces]\nendpoint = \"127.0.0.1:4318\"\n",
            "g.toml:15:12: invalid `endpoint`: an address starts with http:// or https://",
        ),
        (
            "[traces]\nendpoint = \"http://h:4317\"\n",
            "g.toml:15:12: `endpoint` is of another protocol: 4317 is where collectors take OTLP over gRPC; this is OTLP over HTTP; write `\"http://127.0.0.1:4318/v1/traces\"`",
        ),
        (
            "[traces]\nendpoint = \"http://h:4318/v1/traces\"\nsample = 5\n",
            "g.toml:16:10: invalid `sample`: a percentage needs its sign; write `\"5%\"`",
        ),
    ];
    for (text, wanted) in table {
        let told = lines(&format!("{BASE}{text}"));
        assert!(told.iter().any(|line| line.starts_with(wanted)), "{text}\n{told:?}");
    }
}

#[test]
fn nothing_is_traced_unless_a_collector_is_named() {
    let config = check(BASE).unwrap().config;
    assert_eq!((config.metrics, config.traces), (MetricsDetail::Full, None));
    let text = "[metrics]\ndetail = \"deciding\"\n[traces]\nendpoint = \"https://h/v1/traces\"\n";
    let config = check(&format!("{BASE}{text}")).unwrap().config;
    let traces = config.traces.unwrap();
    assert_eq!(config.metrics, MetricsDetail::Deciding);
    assert_eq!((traces.address.port, traces.sample), (443, Weight::from_parts(10_000)));
    assert!(traces.tls.is_some());
    let bare = check(&format!("{BASE}[traces]\nendpoint = \"http://h:4318\"\n")).unwrap();
    assert!(bare.warnings.lines().iter().any(|l| l.contains("collectors take traces at `/v1/traces`")));
}
