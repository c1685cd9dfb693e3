//! The keys of a release, and of the tables inside it.
//!
//! Invariant: the order of the keys is that of the reference and of messages.

use crate::config::keys::TextFormat::{Free, Stratum, Url};
use crate::config::keys::ValueKind::{
    Boolean, BooleanOr, Choice, Duration, Integer, Number, Percent, Size, Table, TableList, Text, TextList,
};
use crate::config::keys::choices::{ON_ANOMALY, ON_RESOURCE, ON_UNREACHABLE, OPEN, WATCHDOG_MODE};
use crate::config::keys::upstreams_and_routes::HEADER_MATCH;
use crate::config::keys::{Section, SectionExample, ValueKind, key};
use crate::stats::engine::STRATA_MAX;

const PERCENT: ValueKind = Percent { above_zero: false, max: "100%" };
const PERCENT_ABOVE_ZERO: ValueKind = Percent { above_zero: true, max: "100%" };
const SEGMENT_NAMES: ValueKind = TextList { format: Free, min: 0, max: 256 };

const LEVEL_RELOAD: &str =
    "at once; the evidence of this level starts anew, and takes one of ten budgets of alpha";
const MARGIN_RELOAD: &str = "at once; the present wave shows it anew";

pub static RELEASE: Section = Section {
    path: "release.*",
    doc: "A gray release. Its weight is set by hand (edit and save), or raised wave by wave. The name is \
          yours; a rollback is remembered under it.",
    keys: &[
        key("stable", Text(Free)).required().shown("v1").doc("The upstream with the trusted version."),
        key("new", Text(Free))
            .required()
            .reload("at once; raise `attempt` with it")
            .shown("v2")
            .doc("The upstream with the released version. It shares no server with stable."),
        key("salt", Text(Free))
            .absent("the release's name")
            .reload("at once; every user is assigned anew, with a warning")
            .shown("v2")
            .doc("The salt of the hash that assigns users to buckets."),
        key("attempt", Integer { min: 1, max: 1_000_000_000 })
            .default("1")
            .reload("at once; a higher one clears a rollback, a lower one is held at 0%")
            .doc("Raise it for a new build behind `new`, or to re-arm after a rollback."),
        key("weight", PERCENT)
            .default("0%")
            .reload("at once; more than 25 points up warn, more than step_max up are refused")
            .shown("5%")
            .doc("The share of users in `new`. Not allowed together with waves."),
        key("step_max", PERCENT_ABOVE_ZERO)
            .default("100%")
            .unit("percentage points")
            .reload("at once, but an edit that raises weight and step_max is held to the lower step_max")
            .doc("The most that one reload may raise the weight by, against 50 typed for 5.0."),
        key("holdback", Percent { above_zero: false, max: "50%" })
            .default("0%")
            .reload(
                "at once; a lower one is a raise, held to step_max, and the last wave bakes again; of a \
                 complete release it changes nothing",
            )
            .shown("1%")
            .doc(
                "This share of all users, those with the highest buckets, stays on stable until the release \
                 is complete. They are the control of the last wave. When that wave has passed every gate, \
                 the release is complete and they move to `new`. Beside a weight set by hand they stay until \
                 the file changes it.",
            ),
        key("soak", Duration { min: "0s", max: "90d" })
            .default("7d")
            .reload("at once, counted from when the release became complete")
            .doc(
                "How long the alarms stay active after the release is complete (`new` against its own past, \
                 slower than latency_notice). What takes `new` out is watched for ever.",
            ),
        key("segments", SEGMENT_NAMES)
            .default("[]")
            .shown("[\"testers\"]")
            .doc("Segments in `new` at any weight, unless tripped or excluded."),
        key("excluded", SEGMENT_NAMES)
            .default("[]")
            .shown("[\"vip\"]")
            .doc("Segments that are never in `new`."),
        key("on_unreachable", Choice(ON_UNREACHABLE.words)).default("stable").doc(
            "The requests that go to stable if no connection to `new` can be made and nothing was sent.",
        ),
        key("on_anomaly", Choice(ON_ANOMALY.words)).default("rollback").doc("The action on an anomaly."),
        key("on_both_bad", Choice(ON_ANOMALY.words)).default("freeze").doc(
            "The action if both arms exceed a ceiling for 30 s, perhaps because of `new`. \"rollback\" is a \
             precaution.",
        ),
        key("warm_up", Duration { min: "0s", max: "5m" })
            .default("60s")
            .reload("at once, from the next warm-up on")
            .doc(
                "Slowness is no evidence against `new` for this long after a raise from 0% or by a factor of \
                 two or more, and against a server for this long after its start (a new address, health that \
                 came back, refused connections that ended). It also lasts until at least 20 answers have \
                 come, and for 5 minutes in a wave at most. Failures count, and so does a `new` that leaves \
                 its users waiting.",
            ),
        key("same_version", Boolean).default("false").doc(
            "The servers of this file run the same builds as before, and have only moved. An edit that puts \
             other servers behind `stable` or `new` (none in common with those before) is another version: \
             while users are in `new`, or the release is rolled back, frozen or held, it is refused without \
             a higher `attempt` or this key. It declares one move: remove the line before the next one.",
        ),
        key("open_hours", Text(Free))
            .absent("at any time")
            .shown("Mon-Thu 09:00-16:00 Europe/London")
            .in_table(1)
            .doc(
                "When waves may open by themselves: days, hours, and an IANA time zone whose clocks count, \
                 summer time included. A span that ends before it begins ends on the next day. Days: \
                 \"Mon-Thu\", \"Mon,Wed,Sat-Sun\". Outside of them `grayling promote` needs \
                 `--despite open_hours`.",
            ),
        key("critical", TextList { format: Free, min: 0, max: STRATA_MAX })
            .default("[]")
            .reload("at once; a route that is added has shown nothing yet")
            .shown("[\"invoices\"]")
            .in_table(1)
            .doc(
                "Routes of this release, by name, that each have gates of their own with the same margins \
                 (failures, latency, its tail), apart from the gates of all together: five points more \
                 failures on a two-hundredth of the traffic do not show in the whole. A wave waits until \
                 each has shown enough, and `status` says how long that takes: 0.1 points on a route with a \
                 request of `new` a minute take days.",
            ),
        key("wave", TableList { section: &WAVE, min: 1, max: 64 })
            .reload("at once; `grayling check --against` says what becomes of the present wave")
            .in_table(1),
        key("resource", TableList { section: &RESOURCE, min: 0, max: 16 })
            .reload("at once; readings start anew"),
        key("resource_interval", Duration { min: "1s", max: "5m" })
            .default("5s")
            .doc("From one reading of all its resources to the next."),
        key("outcome", Table(&OUTCOME)).absent("5xx"),
        key("watchdog", Table(&WATCHDOG)).absent("on, with the defaults of its keys"),
    ],
    examples: &[
        SectionExample { name: "v2", lines: "" },
        SectionExample { name: "invoices", lines: "stable = \"v1\"\nnew = \"v3\"\n" },
    ],
};

pub static WAVE: Section = Section {
    path: "release.*.wave",
    doc: "One step of the plan of a release. Each wave bakes, is then judged by gates (errors and latency \
          within the margins, requests, users, servers, the share that really came, the watchdog), and opens \
          the next one when all pass, never on silence; the last one bakes too. Waves without a control \
          (weight 0% or 100%) are judged by ceilings alone, and say so. After an edit the past waves are \
          history, the later ones change, and the present one goes on as it now is.",
    keys: &[
        key("name", Text(Free))
            .absent("its weight, or else the segments that join")
            .reload(
                "at once; if the name of the present wave is gone, the release goes on in the last wave that \
                 reaches no further",
            )
            .shown("testers")
            .doc("Progress is remembered by it."),
        key("segments", SEGMENT_NAMES)
            .default("[]")
            .shown("[\"testers\"]")
            .doc("Segments that join `new` with this wave. Those of earlier waves stay."),
        key("weight", PERCENT)
            .absent("that of the wave before")
            .reload("at once; the present wave bakes again")
            .shown("0%")
            .doc("The share of users in `new`. It never goes down from wave to wave."),
        key("bake", Duration { min: "0s", max: "720h" }).default("10m").doc(
            "The time that the watchdog has watched before the wave is judged. A restart keeps that time.",
        ),
        key("requests_min", Integer { min: 1, max: 1_000_000_000 })
            .default("500")
            .doc("Minimum of requests of `new` in this wave."),
        key("users_min", Integer { min: 1, max: 1_000_000_000 }).default("5").shown("2").doc(
            "Minimum of distinct users in this wave, of each arm where there are two. They are counted \
             within 3%.",
        ),
        key("open", Choice(OPEN.words))
            .default("auto")
            .doc("How it opens, once the gates of the wave before have passed."),
    ],
    examples: &[
        SectionExample { name: "", lines: "" },
        SectionExample { name: "", lines: "weight = \"5%\"\nbake = \"1h\"\n" },
        SectionExample { name: "", lines: "weight = \"100%\"\nbake = \"24h\"\nopen = \"by-hand\"\n" },
    ],
};

pub static RESOURCE: Section = Section {
    path: "release.*.resource",
    doc: "A resource that the two versions use: its readings, their limit, and the action beyond it. It is a \
          gate of waves (`resources`), and a signal of the watchdog (`resource`). One reading is noise: only \
          in_a_row readings that all agree count. A reading that fails (no answer in 5 s, no such series, a \
          restart, a page that is not the text format) is neither within the limit nor over it: it never \
          trips, and waves hold. If both versions are over a ceiling, `new` is not blamed, and waves hold. \
          Without a control (weight 0% or 100%) only ceilings apply.",
    keys: &[
        key("name", Text(Free)).required().shown("cpu").doc("Label in metrics."),
        key("reading", Text(Free))
            .absent("none; this or `prometheus` is required")
            .shown("rate(process_cpu_seconds_total) / rate(http_requests_total)")
            .doc(
                "From the metrics of each server: the sum of a series (`process_open_fds`), of those with \
                 some labels (`http_requests_total{code=\"500\",path!=\"/\"}`), its growth a second since \
                 the reading before (`rate(SERIES)`), or one of these divided by another. The two versions \
                 do not get the same number of requests: divide what grows with the requests by their \
                 number.",
            ),
        key("prometheus", Text(Url))
            .absent("none; this or `reading` is required")
            .shown("http://127.0.0.1:9090")
            .in_table(1)
            .doc(
                "The address of a Prometheus server. Its HTTP API is asked for one value of each version. \
                 https is verified by the authorities of the system.",
            ),
        key("new", Text(Free))
            .absent("none; required with `prometheus`")
            .shown("sum(db_connections{version=\"v2\"}) / 200")
            .in_table(1)
            .doc(
                "The query for `new`: PromQL with one value as its result, as with sum(…) or max(…). No \
                 value is a reading that failed.",
            ),
        key("stable", Text(Free))
            .absent("none; required with `prometheus`")
            .shown("sum(db_connections{version=\"v1\"}) / 200")
            .in_table(1)
            .doc("The query for stable."),
        key("ceiling", Number { min: -1e300, max: 1e300 })
            .absent("none; this or times_stable_max is required")
            .shown("0.05")
            .doc("The maximum for any server of `new`, in the unit of the reading."),
        key("times_stable_max", Number { min: 1.0, max: 1e6 })
            .absent("none; this or ceiling is required")
            .shown("1.5")
            .doc("The maximum of `new` as a multiple of stable's reading, each averaged over its servers."),
        key("floor", Number { min: 0.0, max: 1e300 }).default("0").shown("0.001").doc(
            "Smaller averages count as this value in the comparison by times_stable_max, so that twice \
             nothing is nothing. In the unit of the reading.",
        ),
        key("in_a_row", Integer { min: 2, max: 60 }).default("3").unit("readings").doc(
            "So many readings in a row must agree. With 3 readings 5 s apart, a change is noticed in about \
             15 s.",
        ),
        key("on", Choice(ON_RESOURCE.words))
            .default("hold")
            .shown("trip")
            .doc("The action beyond the limit, besides holding the waves."),
    ],
    examples: &[
        SectionExample { name: "", lines: "" },
        SectionExample { name: "", lines: "name = \"connections\"\nceiling = 0.8\n" },
    ],
};

pub static OUTCOME: Section = Section {
    path: "release.*.outcome",
    doc: "The definition of a failure of an arm, besides time-outs, resets and truncations. This table may \
          be left out.",
    keys: &[
        key("status", TextList { format: Free, min: 0, max: 32 })
            .default("[\"500-599\"]")
            .doc("Statuses, \"429\", and ranges of them, \"500-599\"."),
        key("header", Table(&HEADER_MATCH)).commented("{ name = \"x-result\", equals = \"FAILED\" }").doc(
            "A response with this header and value is a failure, whatever its status. Its keys are those of \
             `header` in a segment.",
        ),
        key("body", Table(&BODY)).commented("{ path = \"$.resultCode\", not_equals = \"0\" }"),
        key("grpc", BooleanOr("auto")).default("auto").doc(
            "Judges answers with the content type of gRPC (application/grpc) by their gRPC status, in the \
             trailers or in the head. UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, \
             DATA_LOSS, and an answer that ends without a status, are failures. CANCELLED is the client's; \
             all others are client errors. true: the same; false: not judged.",
        ),
    ],
    examples: &[],
};

pub static BODY: Section = Section {
    path: "release.*.outcome.body",
    doc: "A result code in a JSON body, read while the body passes. A body in gzip, br or zstd is decoded, up \
          to `max`; one in another coding is not judged, which is logged once and counted.",
    keys: &[
        key("path", Text(Free)).required().doc("As in `$.result.code` or `$.items[0].code`."),
        key("equals", Text(Free))
            .absent("none; this or not_equals is required")
            .doc("A failure if the value equals this."),
        key("not_equals", Text(Free))
            .absent("none; this or equals is required")
            .doc("A failure if the value is present and differs from this."),
        key("max", Size { min: "1KiB", max: "1MiB" }).default("16KiB").doc("A longer body is not judged."),
    ],
    examples: &[],
};

pub static WATCHDOG: Section = Section {
    path: "release.*.watchdog",
    doc: "Takes `new` out when it is worse. This table may be left out: the watchdog is on.",
    keys: &[
        key("enabled", Boolean)
            .default("true")
            .reload("at once; false warns")
            .doc("Whether the watchdog acts."),
        key("mode", Choice(WATCHDOG_MODE.words)).default("enforce").doc("The action when `new` is worse."),
        key("alpha", Number { min: 1e-9, max: 0.1 })
            .default("0.001")
            .reload("at once; evidence stays, and the edit takes one of ten budgets")
            .doc("The probability of flipping a release that is not worse."),
        key("errors_max", PERCENT_ABOVE_ZERO).default("2%").doc(
            "Ceiling of the share of failures of `new` in the last minute, whatever stable's share is: at \
             least 10 failures, of at least 5 users, of whom each counts twice at most. If stable itself \
             exceeds it by half before `new` has users, the default is set aside, and a ceiling that the \
             file states is raised to twice stable's own share.",
        ),
        key("latency_p99_max", Duration { min: "1ms", max: "1h" })
            .default("2s")
            .doc("Ceiling of the 99th percentile of its successful answers, with the same rules."),
        key("latency_tolerance", PERCENT)
            .default("20%")
            .reload(LEVEL_RELOAD)
            .doc("If `new` is slower than stable by more than this, beyond chance, it is taken out."),
        key("latency_notice", PERCENT).default("3%").reload(LEVEL_RELOAD).doc(
            "If `new` is slower than stable by more than this, beyond chance, the watchdog alerts (signal \
             `latency_notice`, a ticket), without further action; what may be promoted is decided by the \
             margins below. At most latency_tolerance. The notice ends when `new` has not been slower for \
             15 min or 5,000 answers of `new`, whichever is shorter (1,000 answers at least), or by \
             `grayling resume R --ends notice`.",
        ),
        key("hold_when_blind", Boolean).default("false").doc(
            "Waves hold while a late slowdown by more than `margin_latency` would not be detected: with few \
             users in `new`, for good. `status` says, in the signal `latency_notice`, how large a late \
             change of latency must be to be detected (most users of `new` have been seen by then): the more \
             users and requests in `new`, the smaller.",
        ),
        key("margin_errors", PERCENT_ABOVE_ZERO)
            .default("0.1%")
            .unit("percentage points")
            .reload(MARGIN_RELOAD)
            .doc(
                "The excess of failures over stable up to which `new` is promoted to the next wave; never by \
                 more than half as many again as stable. The smaller it is, the longer a wave takes to show \
                 it: `grayling status` says how long.",
            ),
        key("margin_latency", PERCENT_ABOVE_ZERO)
            .default("10%")
            .reload(MARGIN_RELOAD)
            .doc("The slowdown against stable up to which `new` is promoted."),
        key("margin_latency_tail", PERCENT_ABOVE_ZERO).default("50%").reload(MARGIN_RELOAD).doc(
            "The excess of answers above stable's p99 up to which `new` is promoted: with \"50%\", 1.5 times \
             as many.",
        ),
        key("latency_floor", Duration { min: "0s", max: "10s" })
            .default("2ms")
            .reload("at once; the evidence of latency starts anew, of both levels")
            .doc(
                "Faster answers count as this fast, in both versions: the version with few users is the \
                 colder one, and a difference of microseconds is no reason to go back. \"0s\": every \
                 difference counts.",
            ),
        key("strata", TextList { format: Stratum, min: 0, max: 1 })
            .default("[\"route\"]")
            .reload("at once; evidence of users starts anew")
            .doc(
                "What is judged separately, in addition to all together, so that a fault of one route does \
                 not drown in the others: each route, or nothing ([]). At most 16 routes of a release, \
                 `critical` ones before others; the routes beyond are judged together with all.",
            ),
        key("harm_users_max", Integer { min: 0, max: 100_000 }).default("0").unit("users").doc(
            "`new` is taken out if it has failed more users than this since the evidence began (an attempt, \
             a resume), whatever the rate and whatever stable does. A user counts once; one whom stable has \
             served after all does not count. 0: no limit.",
        ),
        key("tick", Duration { min: "50ms", max: "250ms" })
            .default("100ms")
            .doc("Time between two looks at the evidence."),
    ],
    examples: &[],
};
