//! Servers behind unix sockets: a real nginx that listens on one.

use crate::world::{Config, Nginx, Origin, World, eventually, grayling, seconds};
use std::path::PathBuf;

const WHERE: &str = "location = /where { return 200 \"$server_addr $host $server_protocol\"; }";

/// An nginx that listens on a socket, the path of the socket, and the config before it.
fn scene(world: &World, lines: &str) -> (Origin, Nginx, PathBuf, Config) {
    let socket = world.path("app.sock");
    let h2 = if lines.contains("http2 = true") { "http2" } else { "" };
    let server = format!("listen unix:{} {h2}; {WHERE}", socket.display());
    let (stable, new) = (Origin::start("stable"), Nginx::start_at_more(world, "new", &server));
    let mut config = Config::new(stable.address, new.address).weight("100%");
    config.watchdog = "enabled = false".into();
    config.upstream_new = Some(lines.into());
    (stable, new, socket, config)
}

/// The text of the config, with `path` as the server of `new`.
fn text(config: &Config, new: &Nginx, path: &std::path::Path) -> String {
    config.text().replace(&format!("http://{}", new.address), &format!("unix:{}", path.display()))
}

fn requests_go_through_the_socket(lines: &str, protocol: &str) {
    let world = World::new();
    let (_stable, new, socket, config) = scene(&world, lines);
    let proxy = crate::world::Proxy::start(&world.write_text(&text(&config, &new, &socket)));
    let mut client = proxy.client();
    for _ in 0..20 {
        let answer = client.get("/where", &[("x-user-id", "alice")]).unwrap().text();
        assert_eq!(answer, format!("unix:{} grayling.test {protocol}", socket.display()));
    }
    eventually(seconds(10), "it is probed", || new.probes().contains(" 204 ").then_some(()));
    new.sick(true);
    eventually(seconds(10), "probes take it out", || {
        let servers = proxy.events("server_down");
        servers.iter().any(|e| e.to_string().contains(&format!("unix:{}", socket.display()))).then_some(())
    });
}

const HEALTH: &str = "health = { path = \"/healthz\", interval = \"100ms\" }";

#[test]
fn requests_and_probes_go_through_a_unix_socket() {
    requests_go_through_the_socket(HEALTH, "HTTP/1.1");
}

#[test]
fn requests_and_probes_go_through_a_unix_socket_over_http2() {
    requests_go_through_the_socket(&format!("http2 = true\n{HEALTH}"), "HTTP/2.0");
}

#[test]
fn a_socket_that_does_not_exist_yet_is_a_server_that_refuses() {
    let world = World::new();
    let (_stable, new, socket, config) = scene(&world, "");
    let later = world.path("later.sock");
    let proxy = crate::world::Proxy::start(&world.write_text(&text(&config, &new, &later)));
    let mut client = proxy.client();
    let mut ask = || client.get("/where", &[("x-user-id", "alice")]).unwrap().text();
    assert_eq!(ask(), "stable");
    std::os::unix::fs::symlink(&socket, &later).unwrap();
    eventually(seconds(10), "it is used", || ask().starts_with("unix:").then_some(()));
}

#[test]
fn one_socket_in_both_arms_is_refused_by_every_path_to_it() {
    let world = World::new();
    let (stable, new, socket, config) = scene(&world, "");
    let other = world.path("other.sock");
    std::os::unix::fs::symlink(&socket, &other).unwrap();
    let text = text(&config, &new, &socket);
    let text = text.replace(&format!("http://{}", stable.address), &format!("unix:{}", other.display()));
    let checked = grayling(&["check", &world.write_text(&text).display().to_string()]);
    let said =
        String::from_utf8_lossy(&checked.stderr).into_owned() + &String::from_utf8_lossy(&checked.stdout);
    assert!(!checked.status.success() && said.contains("is a server of `stable` and of `new`"), "{said}");
}
