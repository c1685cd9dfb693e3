//! The keys of upstreams, segments and routes.
//!
//! Invariant: the order of the keys is that of the reference and of messages.

use crate::config::keys::TextFormat::{File, Free, Network, Path, Server, Url};
use crate::config::keys::ValueKind::{Boolean, Duration, Integer, Table, Text, TextList, TextOrList};
use crate::config::keys::{Section, SectionExample, key};
use crate::domain::config::SERVERS_MAX;

pub static UPSTREAM: Section = Section {
    path: "upstream.*",
    doc: "One version of the service; the name is yours.",
    keys: &[
        key("servers", TextList { format: Server, min: 1, max: SERVERS_MAX })
            .required()
            .reload("at once; servers that leave finish the requests they have")
            .shown("[\"http://127.0.0.1:9001\"]")
            .doc(
                "The address of each server. Names are looked up every two seconds, and at once when a \
                 connection fails. Connections to an address that a name has left take no further request. \
                 The path of a unix socket is absolute and has 107 bytes at most. A request without Host \
                 gets `localhost` there. The server with the least load is asked first.",
            ),
        key("connect_timeout", Duration { min: "1ms", max: "5m" })
            .default("1s")
            .doc("Until a connection is established, or a busy one becomes free."),
        key("response_timeout", Duration { min: "1ms", max: "24h" }).default("30s").doc(
            "Until the head of the response (of a gRPC call: its first message or status, for most servers).",
        ),
        key("idle_timeout", Duration { min: "1ms", max: "24h" })
            .default("60s")
            .doc("Between two pieces of a response's body. gRPC calls have no such limit."),
        key("total_timeout", Duration { min: "0s", max: "24h" })
            .default("0s")
            .doc("For the whole exchange. \"0s\": no limit."),
        key("connection_idle", Duration { min: "1ms", max: "1h" }).default("4s").doc(
            "A pooled connection that was unused for longer is closed. Keep it below the server's own \
             keep-alive.",
        ),
        key("connections_max", Integer { min: 1, max: 65_535 }).default("512").doc(
            "Connections to each server. WebSockets take up three quarters of them at most. Beyond: 503. Each \
             worker has its share. An HTTP/2 server gets a further connection when those of a worker carry as \
             many requests as the server's SETTINGS allow, 100 each at most.",
        ),
        key("requests_in_flight_max", Integer { min: 1, max: 1_000_000 }).default("2000").doc(
            "Requests in flight to this upstream. Beyond: 503, counted against this arm, so that a hanging \
             arm does not use up the room of the other.",
        ),
        key("http2", Boolean).default("false").doc(
            "HTTP/2 to its servers: with prior knowledge over http, by ALPN over https. The requests of a \
             worker share a connection. A WebSocket has an HTTP/1.1 connection of its own, to the same server.",
        ),
        key("resend_unprocessed", Boolean).default("true").reload("at once, for new requests").doc(
            "An HTTP/2 server may say that it has not processed a request (GOAWAY, REFUSED_STREAM: nginx does \
             after `keepalive_requests`). Then the request is sent again to the same upstream, a POST too, three \
             times in all, if it has no body or one within `request_buffer`. Otherwise, and with false: 502, \
             counted against nobody. After three times: 502, counted against the arm.",
        ),
        key("http2_ping", Duration { min: "0s", max: "1h" })
            .default("0s")
            .reload("at once, for new connections")
            .doc(
                "PING on an HTTP/2 connection with open streams, after this long without a frame. A PING \
                 without an answer in 5 s ends the connection. \"0s\": none. gRPC servers end a connection \
                 that gets more than two PINGs in five minutes without data, unless they are configured for \
                 more.",
            ),
        key("connection_age_max", Duration { min: "0s", max: "24h" })
            .default("1h")
            .reload("at once, for new connections")
            .doc(
                "A connection that is older takes no further request, so that a load balancer in front of \
                 the servers can spread connections anew. Each lives for 80% to 100% of it, so that they do \
                 not end together. \"0s\": no limit.",
            ),
        key("ca_file", Text(File))
            .absent("the authorities that this machine trusts")
            .commented("tls/upstream-ca.pem")
            .doc(
                "PEM: the authorities that sign the certificates of its https servers. A certificate must \
                 name the host of `servers`, or its IP address.",
            ),
        key("client_certificate", Text(File)).commented("tls/me.pem").reload("for new connections").doc(
            "PEM: the certificate that its https servers are shown, followed by those between it and its \
                 root. The files are watched: new connections show a renewed pair. A pair that does not fit \
                 together is refused with the whole reload.",
        ),
        key("client_key", Text(File))
            .commented("tls/me.key")
            .reload("for new connections")
            .doc("PEM: the private key of client_certificate, without a password."),
        key("health", Table(&HEALTH))
            .reload("at once; the known health of servers that stay is kept")
            .commented("{ path = \"/healthz\", interval = \"2s\" }"),
        key("resources", Table(&SCRAPES)).absent("not read"),
    ],
    examples: &[
        SectionExample { name: "v1", lines: "" },
        SectionExample {
            name: "v2",
            lines: "servers = [\"http://127.0.0.1:9002\"]\n\n\
                    [upstream.v2.resources]\n\
                    scrape = \"http://127.0.0.1:9002/metrics\"\n",
        },
        SectionExample { name: "v3", lines: "servers = [\"http://127.0.0.1:9003\"]\n" },
    ],
};

pub static HEALTH: Section = Section {
    path: "upstream.*.health",
    doc: "Active health check of each server, besides users' requests. Three answers in a row other than 2xx \
          (a redirect, a refusal, none in time) take a server out; two 2xx in a row bring it back. A server \
          that is out gets no request while another of the upstream is in. With all of them out, `new` counts \
          as unreachable (on_unreachable), and `stable` is asked all the same. Probes count for and against \
          nobody. A probe may take as long as the interval, but at least 1s and at most 5s. A server whose \
          name was never resolved is not probed.",
    keys: &[
        key("path", Text(Path))
            .absent("none; this or grpc is required")
            .shown("/healthz")
            .doc("The target of a probe; it may have a query."),
        key("grpc", Text(Free)).absent("none; this or path is required").shown("").doc(
            "Asks by gRPC's health protocol (grpc.health.v1.Health/Check) for this service; \"\": for the \
             server. SERVING counts as a 2xx. Needs `http2 = true`.",
        ),
        key("interval", Duration { min: "100ms", max: "1h" })
            .default("2s")
            .doc("Between the starts of two probes of a server, ±10%."),
    ],
    examples: &[],
};

pub static SCRAPES: Section = Section {
    path: "upstream.*.resources",
    doc: "The consumption of its servers, by their own metrics, for the resources that releases watch. This \
          table may be left out.",
    keys: &[key("scrape", TextOrList { format: Url, max: 64 })
        .required()
        .shown("[\"http://127.0.0.1:9001/metrics\"]")
        .doc(
            "The metrics of its servers, in the text format of Prometheus: one address, or a list with one \
             for each server. https is verified by the authorities of the system.",
        )],
    examples: &[],
};

pub static SEGMENT: Section = Section {
    path: "segment.*",
    doc: "A set of users; the name is yours. A user is in it if any of these keys matches.",
    keys: &[
        // Longer lists belong in a `users_file`.
        key("users", TextList { format: Free, min: 0, max: 100_000 })
            .default("[]")
            .shown("[\"alice\", \"bob\"]")
            .doc("User ids."),
        key("users_file", Text(File))
            .commented("testers.txt")
            .doc("One id a line, without white space around it. Ten million lines are fine."),
        key("header", Table(&HEADER_MATCH)).commented("{ name = \"x-plan\", equals = \"internal\" }"),
        key("networks", TextList { format: Network, min: 0, max: 10_000 })
            .default("[]")
            .shown("[\"10.1.0.0/16\"]")
            .doc("Networks of clients."),
    ],
    examples: &[
        SectionExample { name: "testers", lines: "" },
        SectionExample { name: "vip", lines: "users = [\"carol\"]\n" },
    ],
};

pub static HEADER_MATCH: Section = Section {
    path: "segment.*.header",
    doc: "Every request with this header and value is in. Any client that can send the header can enter: \
          `grayling check` warns.",
    keys: &[
        key("name", Text(Free)).required().doc("The name of the header."),
        key("equals", Text(Free)).required().doc("Its exact value."),
    ],
    examples: &[],
};

pub static ROUTE: Section = Section {
    path: "route",
    doc: "The route with the longest matching path wins, then one with a host, then one with methods. No \
          match: 404.",
    keys: &[
        key("name", Text(Free))
            .absent("its position, \"1\", \"2\"")
            .shown("api")
            .doc("Label in metrics and logs."),
        key("host", Text(Free))
            .absent("any")
            .shown("api.example.com")
            .doc("The Host that it serves, a name without a port."),
        key("path", Text(Path)).default("/").doc(
            "A prefix, on the boundaries of path segments: \"/a\" matches \"/a\" and \"/a/b\", not \"/ab\". \
             \"/a;x\", which many servers take for \"/a\", is refused with 400.",
        ),
        key("methods", TextList { format: Free, min: 0, max: 32 })
            .default("[]")
            .doc("Methods in upper case. [] is any."),
        key("release", Text(Free))
            .absent("none; this or `upstream` is required")
            .shown("v2")
            .doc("The release that decides the arm of each user."),
        key("upstream", Text(Free))
            .absent("none; this or `release` is required")
            .shown("v1")
            .in_table(2)
            .doc("The upstream of all requests."),
    ],
    examples: &[
        SectionExample { name: "", lines: "" },
        SectionExample {
            name: "",
            lines: "name = \"invoices\"\npath = \"/invoices\"\nrelease = \"invoices\"\n",
        },
        SectionExample { name: "", lines: "name = \"rest\"\n" },
    ],
};
