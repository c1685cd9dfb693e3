//! The keys of the file itself, and of the sections that exist once; and those of alert receivers.
//!
//! Invariant: the order of the keys is that of the reference and of messages.

use crate::config::keys::TextFormat::{Directory, File, Free, Network, SocketAddress, Url};
use crate::config::keys::ValueKind::{
    Alternatives, Boolean, Choice, Duration, DurationOrEmpty, Integer, NamedTables, Percent, Size, Table,
    TableList, Text, TextList, TextOrList,
};
use crate::config::keys::choices::{
    CERTIFICATE_NAME, DETAIL, FAILED_USERS, LOG_FORMAT, NORMALISE, ON_STATE_FAILURE, WHEN_EMPTY,
};
use crate::config::keys::release::RELEASE;
use crate::config::keys::upstreams_and_routes::{ROUTE, SEGMENT, UPSTREAM};
use crate::config::keys::{Section, SectionExample, key};

const RESTART: &str = "refused; restart";
const NEW_CONNECTIONS: &str = "for new connections";
const NEXT_START: &str = "taken; it matters at the next start";

/// Every name is a metric label, so their number is bounded.
const NAMES_MAX: usize = 256;
/// Each is a socket of every worker.
const LISTENERS_MAX: usize = 16;

pub static FILE: Section = Section {
    path: "",
    doc: "The config of grayling, a gray-release proxy. Required: `upstream`, one `route`, and the \
          entries that they name.",
    keys: &[
        key("listen", Table(&LISTEN)),
        key("tls", Table(&TLS)).absent("none; required for https").reload(NEW_CONNECTIONS),
        key("admin", Table(&ADMIN)),
        key("identity", Table(&IDENTITY)),
        key("upstream", NamedTables { section: &UPSTREAM, max: NAMES_MAX }).required(),
        key("segment", NamedTables { section: &SEGMENT, max: NAMES_MAX }),
        key("release", NamedTables { section: &RELEASE, max: NAMES_MAX }),
        key("route", TableList { section: &ROUTE, min: 1, max: 1024 }).required(),
        key("limits", Table(&LIMITS)),
        key("state", Table(&STATE)),
        key("log", Table(&LOG)),
        key("metrics", Table(&METRICS)),
        key("traces", Table(&TRACES)),
        // Each receiver is a metric label and a task.
        key("alert", NamedTables { section: &ALERT, max: 16 }),
    ],
    examples: &[],
};

pub static LISTEN: Section = Section {
    path: "listen",
    doc: "The addresses for users and operators.",
    keys: &[
        key("http", TextOrList { format: SocketAddress, max: LISTENERS_MAX })
            .default("127.0.0.1:8080")
            .reload(RESTART)
            .doc(
                "The address for users, or a list: HTTP/1.1, and HTTP/2 with prior knowledge. \
                 `[::]:8080` is every address of this machine, IPv4 too, unless the system says otherwise \
                 (net.ipv6.bindv6only) or `0.0.0.0:8080` is listed as well: then it is IPv6 only.",
            ),
        key("https", TextOrList { format: SocketAddress, max: LISTENERS_MAX })
            .commented("127.0.0.1:8443")
            .reload(RESTART)
            .doc("The address for users over TLS, or a list: HTTP/1.1, and HTTP/2 by ALPN. It needs [tls]."),
        key("admin", Text(SocketAddress))
            .default("127.0.0.1:9900")
            .reload(RESTART)
            .doc("The address of metrics and commands. Any address but loopback needs [admin] token_file."),
        key("workers", Integer { min: 0, max: 256 })
            .default("0")
            .reload(RESTART)
            .doc("Number of threads that serve users. 0 is one per core."),
        // Small enough for a scan per request.
        key("trusted_proxies", TextList { format: Network, min: 0, max: 10_000 }).default("[]").doc(
            "Networks of the proxies in front of this one. Only their X-Forwarded-* and PROXY headers are \
             trusted.",
        ),
        key("proxy_protocol", Boolean).default("false").reload("for new connections; the log says so").doc(
            "The trusted proxies begin every connection, to http and https, with a PROXY header (version \
                 1 or 2). It needs trusted_proxies. A connection from them without a whole header within \
                 [limits] header_timeout is closed. In a connection from elsewhere a PROXY header is bad \
                 HTTP. The source in the header is the client from then on, also for the trust in \
                 X-Forwarded-*: a proxy that passes bytes on does not vouch for them.",
        ),
        key("expose_arm", Boolean)
            .default("false")
            .doc("Adds the arm to every response, in the header `x-grayling-arm`."),
    ],
    examples: &[],
};

pub static TLS: Section = Section {
    path: "tls",
    doc: "For [listen] https. A renewed pair of files is loaded as soon as it is there. A pair that does not \
          fit together, or has expired, is refused with the whole reload, and the old pair stays.",
    keys: &[
        key("certificate", Text(File))
            .absent("none; required for https")
            .reload(NEW_CONNECTIONS)
            .commented("tls/cert.pem")
            .doc("PEM: the certificate, followed by those between it and its root."),
        key("key", Text(File))
            .absent("none; required for https")
            .reload(NEW_CONNECTIONS)
            .commented("tls/key.pem")
            .doc("PEM: the private key of the certificate, without a password."),
        key("client_ca", Text(File)).reload(NEW_CONNECTIONS).commented("tls/ca.pem").doc(
            "PEM: the authorities that sign the certificates of clients. With it every client over https \
             must show a certificate (mutual TLS). Every handshake is then a full one, and no session is \
             resumed, so a certificate that has expired is refused.",
        ),
    ],
    examples: &[],
};

pub static ADMIN: Section = Section {
    path: "admin",
    doc: "Access to the admin address.",
    keys: &[
        key("token_file", Text(File))
            .absent("none; required unless [listen] admin is loopback")
            .commented("admin.tokens")
            .doc(
                "Lines `NAME TOKEN`. A token has 16 to 1024 ASCII characters, and the name is the actor in \
                 the ledger. A line that begins with # is a comment. Each name and each token stands there \
                 once; local, watchdog, waves, file and fuse are reserved names. A file with a fault changes \
                 nothing: the tokens before stay valid. So check that `reloaded` is logged after you remove \
                 a token. Without a token file every process of this machine may change everything, and \
                 nobody else may: see local_changes. A file that every user of the machine may read is a \
                 warning, as for every file with a secret: chmod 600.",
            ),
        key("hosts", TextList { format: Free, min: 0, max: 64 })
            .default("[]")
            .doc("Accepted values of Host besides IP literals and localhost: names without a port."),
        key("local_changes", Boolean).default("true").doc(
            "Without a token_file: changes from this machine (rollback, resume, pause, promote) need no \
             token. With false a change is only possible through this file, and through a file \
             `grayling.stop` beside it, which holds every release at 0%. With a token_file a change always \
             needs a token, from this machine too. Without both keys, `check` and the start warn.",
        ),
    ],
    examples: &[],
};

pub static IDENTITY: Section = Section {
    path: "identity",
    doc: "The source of the user id.",
    keys: &[
        key("from", Alternatives { section: &IDENTITY_SOURCE, min: 1, max: 16 })
            .default("[{ header = \"x-user-id\" }]")
            .reload("at once; users whose id is found elsewhere may change arms")
            .doc(
                "The places of the user id, in the order in which they are tried: the first one with an id \
                 wins. A request without an id goes to stable, and is counted.",
            ),
        key("normalise", Choice(NORMALISE.words))
            .default("none")
            .reload("at once; users whose id changes may change arms")
            .doc(
                "What is done to an id before it is hashed and looked up, so that one subscriber has one id.",
            ),
        key("max_bytes", Integer { min: 1, max: 4096 })
            .default("256")
            .unit("bytes")
            .doc("A longer id counts as no id."),
    ],
    examples: &[],
};

pub static IDENTITY_SOURCE: Section = Section {
    path: "identity.from",
    doc: "One source of the user id.",
    keys: &[
        key("header", Text(Free))
            .shown("x-user-id")
            .doc("The value of a header that is forwarded, without white space around it."),
        key("cookie", Text(Free)).shown("uid").doc("The value of a cookie, without quotes."),
        key("query", Text(Free)).shown("user").doc("The value of a query parameter, percent-decoded."),
        key("path", Text(Free)).shown("/accounts/{id}").doc("A segment of the path, percent-decoded."),
        key("jwt", Table(&JWT))
            .commented("{ header = \"authorization\", claim = \"sub\", jwks_file = \"jwks.json\" }"),
        key("client_cert", Choice(CERTIFICATE_NAME.words))
            .commented("cn")
            .doc("A name in the certificate that the client has shown. It needs [tls] client_ca."),
    ],
    examples: &[],
};

pub static JWT: Section = Section {
    path: "identity.from.jwt",
    doc: "A claim of a JSON web token.",
    keys: &[
        key("header", Text(Free))
            .default("authorization")
            .doc("The header with the token, with or without `Bearer`."),
        key("claim", Text(Free)).default("sub").doc("The claim with the id, a string or an integer."),
        key("jwks_file", Text(File))
            .absent("none; this or unverified is required")
            .doc("The keys that verify the token (RFC 7517). A token that fails yields no id."),
        key("unverified", Boolean)
            .default("false")
            .doc("Instead of jwks_file, true: an earlier hop has verified the token, and it is trusted."),
    ],
    examples: &[],
};

pub static LIMITS: Section = Section {
    path: "limits",
    doc: "The defaults are safe for the open internet. A value above the limit of file descriptors is \
          lowered, and the log says so.",
    keys: &[
        // The HTTP library cannot read with a buffer of less than 8 KiB.
        key("header_bytes", Size { min: "8KiB", max: "1MiB" })
            .default("32KiB")
            .reload(NEW_CONNECTIONS)
            .doc("A request's whole head. Beyond: 431."),
        key("header_count", Integer { min: 8, max: 1024 })
            .default("100")
            .reload(NEW_CONNECTIONS)
            .doc("Fields in a request's head. Beyond: 431."),
        key("response_header_bytes", Size { min: "8KiB", max: "256KiB" })
            .default("64KiB")
            .reload("for new connections to servers")
            .doc("An upstream's whole response head. Beyond: 502, which counts against its arm."),
        // With more, the HTTP library allocates that many places for each response.
        key("response_header_count", Integer { min: 8, max: 1024 })
            .default("100")
            .reload("for new connections to servers")
            .doc(
                "Fields in an upstream's response head. Beyond: 502, which counts against its arm. More than \
                 100 cost each response two allocations of 32 bytes a field.",
            ),
        key("uri_bytes", Size { min: "64B", max: "63KiB" })
            .default("8KiB")
            .doc("A request's target. Beyond: 414."),
        key("connections", Integer { min: 1, max: 1_000_000 })
            .default("20000")
            .reload("at once, for new connections")
            .doc("Connections of clients, WebSockets included. Beyond: 503."),
        key("requests_in_flight", Integer { min: 1, max: 1_000_000 })
            .default("10000")
            .doc("Requests in flight; an open WebSocket is none. Beyond: 503."),
        key("header_timeout", Duration { min: "100ms", max: "10m" })
            .default("10s")
            .reload(NEW_CONNECTIONS)
            .doc("For a request's head, from its first byte."),
        key("body_idle_timeout", Duration { min: "100ms", max: "1h" })
            .default("30s")
            .doc("Between two pieces of a request's body. gRPC calls have no such limit."),
        key("request_buffer", Size { min: "0B", max: "1MiB" })
            .default("64KiB")
            .reload("at once, for new requests")
            .doc(
                "A request body with a Content-Length up to this is received whole before a connection to the \
                 upstream is taken, so that a slow upload holds none, and can be sent again \
                 (`resend_unprocessed`). Larger bodies are streamed, those of unknown length and of gRPC calls \
                 too, and all of them while such bodies take up 64 MiB. \"0B\": all are streamed.",
            ),
        key("keepalive_timeout", Duration { min: "100ms", max: "1h" })
            .default("75s")
            .reload(NEW_CONNECTIONS)
            .doc("Between two requests of a connection."),
        key("drain", Duration { min: "0s", max: "1h" })
            .default("30s")
            .doc("For requests in flight, and for WebSockets, after TERM."),
        key("abandoned_max", DurationOrEmpty { max: "1h" }).default("").reload("for new requests").doc(
            "How long the response head of a write (not GET, HEAD, OPTIONS) is awaited after the request \
                 was received whole and its client has left, so that its outcome counts. \"\": as long as \
                 the upstream's `response_timeout`.",
        ),
        key("stream_grace", Duration { min: "0s", max: "1h" }).default("30s").doc(
            "For WebSockets, event streams, gRPC streams and other answers of `new` without a known length, \
             after their release is rolled back or held at 0% (`grayling.stop`). Then they are ended, so \
             that their clients come back to stable. A request that waits for its response head is finished. \
             Uploads, and answers of a known length, have ten minutes. A lower weight ends none.",
        ),
        key("websocket_grace", Duration { min: "0s", max: "1h" })
            .commented("30s")
            .doc("The earlier name of `stream_grace`; both together are an error."),
    ],
    examples: &[],
};

pub static STATE: Section = Section {
    path: "state",
    doc: "The storage of rollbacks and progress over restarts.",
    keys: &[
        key("directory", Text(Directory)).default("state").reload(RESTART).doc(
            "The directory of the state file and the ledger, which remember a rollback over restarts. It \
             is created if only its last part is missing.",
        ),
        key("on_failure", Choice(ON_STATE_FAILURE.words))
            .default("stable_only")
            .reload(NEXT_START)
            .doc("The action if the directory cannot be read or written at a start."),
        key("when_empty", Choice(WHEN_EMPTY.words)).default("hold").reload(NEXT_START).doc(
            "The action if the directory is empty at a start, so that nothing is known of earlier \
             rollbacks. A first start needs no `resume` after `grayling init --state DIR`, which marks the \
             directory as new.",
        ),
        key("failed_users", Choice(FAILED_USERS.words))
            .default("hashed")
            .reload("at once, for requests that fail from then on")
            .doc("The list of users with failures in `new`, in failed-RELEASE-ATTEMPT.jsonl."),
    ],
    examples: &[],
};

pub static LOG: Section = Section {
    path: "log",
    doc: "The access log.",
    keys: &[
        key("format", Choice(LOG_FORMAT.words)).default("json").doc("The format of a line."),
        key("sample", Percent { above_zero: false, max: "100%" }).default("1%").doc(
            "The share of users whose ordinary requests are logged. Failures and slow requests are always \
             logged.",
        ),
        key("slow", Duration { min: "0s", max: "24h" })
            .default("1s")
            .doc("A request that took longer is always logged."),
        key("user_key_file", Text(File)).commented("user.key").doc(
            "The key of the hash under which user ids are logged, 16 bytes or more. Without a key user ids \
             are left out.",
        ),
    ],
    examples: &[],
};

pub static METRICS: Section = Section {
    path: "metrics",
    doc: "The content of `/metrics`.",
    keys: &[key("detail", Choice(DETAIL.words)).default("full").doc("The metrics that are shown.")],
    examples: &[],
};

pub static TRACES: Section = Section {
    path: "traces",
    doc: "OpenTelemetry traces: a span for each request, and one for each server that was asked. Without \
          this section there are none.",
    keys: &[
        key("endpoint", Text(Url)).required().shown("http://127.0.0.1:4318/v1/traces").doc(
            "The address where a collector accepts OTLP over HTTP (JSON). Spans wait for it in a bounded \
             queue; spans beyond are dropped, and counted. https is verified by the authorities of the \
             system.",
        ),
        key("sample", Percent { above_zero: false, max: "100%" }).default("1%").doc(
            "The share of users with traces. All their requests are traced. With the same share they are \
             the users of `[log] sample`. A request that a trusted proxy has marked as sampled \
             (`traceparent`) is traced as well.",
        ),
    ],
    examples: &[],
};

pub static ALERT: Section = Section {
    path: "alert.*",
    doc: "A receiver of alerts; the name is yours. It is notified when a release is rolled back or frozen, \
          both arms are bad, `new` is slower than `latency_notice`, a wave is held, the file is refused, or \
          the state is not durable. Each has exactly one of `alertmanager`, `slack_file`, `webhook`. There \
          are at most 16 receivers. A receiver that was away gets the notices it missed when it is back \
          (1000 notices; then the oldest are dropped, and counted).",
    keys: &[
        key("alertmanager", Text(Url))
            .reload("at once; a new receiver is notified of the alerts that stand")
            .shown("http://127.0.0.1:9093")
            .doc(
                "The address of an Alertmanager (API version 2). It is notified again while an alert stands, \
                 and when the alert ends. https is verified by the authorities of the system.",
            ),
        key("slack_file", Text(File))
            .reload("at once; watched")
            .commented("slack.url")
            .doc("A file whose first line is the address of an incoming webhook of Slack."),
        key("webhook", Text(Url))
            .commented("https://alerts.example/grayling")
            .doc("An address that takes calls signed by Standard Webhooks. It needs `secret_file`."),
        key("secret_file", Text(File)).reload("at once; watched").commented("webhook.secret").doc(
            "The secrets of the webhook, one a line: `echo whsec_$(openssl rand -base64 32)`. Calls are \
             signed with each, so that one can replace another.",
        ),
        key("repeat", Duration { min: "1s", max: "10m" }).default("30s").doc(
            "Time between two notifications of an Alertmanager about a standing alert. Each says that the \
             alert holds for four times that, and for 5m at least.",
        ),
        key("stuck_after", Duration { min: "1s", max: "720h" }).default("2h").doc(
            "A wave is reported if it is held for longer than this although it is baked, or if its bake was \
             unwatched for longer. Each receiver has its own.",
        ),
    ],
    examples: &[SectionExample { name: "oncall", lines: "" }],
};
