//! The findings of a diff of two plans.

use super::*;
use proptest::prelude::*;
use std::path::Path;

const BASE: &str = r#"
[upstream.v1]
servers = ["http://127.0.0.1:9001"]
[upstream.v2]
servers = ["http://127.0.0.1:9002"]
[segment.testers]
users = ["alice"]
[segment.plan]
header = { name = "x-plan", equals = "internal" }
[release.r]
stable = "v1"
new = "v2"
weight = "20%"
step_max = "50%"
segments = ["testers"]
excluded = ["plan"]
[[route]]
path = "/"
release = "r"
"#;

fn config(text: &str) -> Config {
    crate::config::parse(text, Path::new("/g/grayling.toml")).map_err(|r| r.to_string()).unwrap().config
}

fn after(edits: &[(&str, &str)]) -> Vec<String> {
    let mut text = BASE.to_string();
    for (from, to) in edits {
        assert!(text.contains(from), "{from}");
        text = text.replacen(from, to, 1);
    }
    let findings = compare(&config(BASE), &config(&text), &Standings::default());
    findings.into_iter().map(|f| format!("{:?}: {}", f.kind, f.message)).collect()
}

#[test]
fn an_edit_says_what_it_does() {
    type Row = (&'static [(&'static str, &'static str)], &'static [&'static str]);
    let table: &[Row] = &[
        (&[], &[]),
        (&[("20%", "30%")], &["Note: release `r`: weight 20% to 30%: 10% of users move to `new`"]),
        (&[("20%", "5%")], &["Note: release `r`: weight 20% to 5%: 15% of users move to `stable`"]),
        (
            &[("20%", "46%")],
            &[
                "Warning: release `r`: the weight goes up by more than 25 points, from 20% to 46%: 26% of users move to `new`",
            ],
        ),
        (
            &[("step_max", "salt = \"s\"\nstep_max"), ("20%", "50%")],
            &["Warning: release `r`: the salt changed, every user is dealt anew: 50% of users change arms"],
        ),
        (
            &[("step_max", "salt = \"s\"\nstep_max")],
            &["Warning: release `r`: the salt changed, every user is dealt anew: 32% of users change arms"],
        ),
        (
            &[("step_max", "watchdog.enabled = false\nstep_max")],
            &["Warning: release `r`: the watchdog is switched off"],
        ),
        (
            &[("[\"testers\"]", "[\"testers\", \"plan\"]"), ("excluded = [\"plan\"]", "")],
            &[
                "Warning: release `r`: `plan` joins `segments`, and whoever can send `x-plan` can enter",
                "Note: release `r`: `plan` leaves `excluded`",
            ],
        ),
        (&[("[\"alice\"]", "[\"alice\", \"bob\"]")], &["Note: segment `testers`: 2 users, 1 before"]),
        (
            &[("9002", "9003")],
            &[
                "Note: release `r`: other servers are behind `new` (http://127.0.0.1:9003; before: http://127.0.0.1:9002): another version, with fresh evidence; nobody was in `new`",
                "Note: upstream `v2`: gains http://127.0.0.1:9003",
                "Note: upstream `v2`: loses http://127.0.0.1:9002",
            ],
        ),
        (
            &[("[upstream.v1]", "[listen]\nhttp = \"0.0.0.0:80\"\n[upstream.v1]")],
            &[
                "Refused: `[listen] http` cannot change while running (`127.0.0.1:8080` to `0.0.0.0:80`): restart, or put it back",
            ],
        ),
        (
            &[("[upstream.v1]", "[state]\ndirectory = \"/var/g\"\n[upstream.v1]")],
            &[
                "Refused: `[state] directory` cannot change while running (`/g/state` to `/var/g`): restart, or put it back",
            ],
        ),
    ];
    for (edits, expected) in table {
        assert_eq!(after(edits), *expected, "{edits:?}");
    }
}

#[test]
fn a_raise_beyond_step_max_is_refused_even_if_the_same_edit_raises_step_max() {
    let refused = |edits: &[(&str, &str)]| {
        after(edits).into_iter().filter(|f| f.starts_with("Refused")).collect::<Vec<_>>()
    };
    assert_eq!(
        refused(&[("20%", "71%")]),
        ["Refused: release `r`: from 20% to 71% is more than `step_max` (50%) allows: 70% at most; \
              go there in smaller steps, or raise `step_max` in an edit of its own first"]
    );
    assert_eq!(refused(&[("20%", "70%")]), Vec::<String>::new());
    assert_eq!(refused(&[("20%", "71%"), ("50%", "100%")]).len(), 1);
    assert_eq!(refused(&[("20%", "40%"), ("50%", "10%")]).len(), 1);
    assert_eq!(
        refused(&[("[release.r]", "[release.s]"), ("20%", "51%"), ("release = \"r\"", "release = \"s\"")]),
        ["Refused: release `s` is new: from nothing to 51% is more than its `step_max` (50%) allows"]
    );
}

proptest! {
    #[test]
    fn the_share_moved_is_what_counting_users_finds(a in 0u32..=100, b in 0u32..=100, other_salt: bool) {
        let mut old = config(BASE);
        let release = |weight: u32, salt: &str| {
            let text = BASE.replacen("20%", &format!("{weight}%"), 1);
            let text = text.replacen("step_max", &format!("salt = \"{salt}\"\nstep_max"), 1);
            config(&text).releases.remove(0)
        };
        old.releases.clear();
        let (x, y) = (release(a, "one"), release(b, if other_salt { "two" } else { "one" }));
        let users = 4000;
        let count = (0..users)
            .map(|i| format!("user-{i}"))
            .filter(|id| {
                let arm = |r: &Release| r.weight.holds(r.salt.bucket(id.as_bytes()));
                arm(&x) != arm(&y)
            })
            .count();
        let found = count as f64 / f64::from(users);
        // Five standard deviations of a share of 4000.
        prop_assert!((found - moved(x.weight, y.weight, x.salt == y.salt).ratio()).abs() < 5.0 * 0.5 / f64::from(users).sqrt());
    }
}
