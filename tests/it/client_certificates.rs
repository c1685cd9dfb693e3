//! The certificate that grayling shows to servers: a real nginx that demands one, and its renewal.

use crate::world::{Authority, Config, Nginx, Origin, Validity, World, eventually, put, seconds};

const PAIR: &str = "ca_file = \"internal.pem\"\nclient_certificate = \"me.pem\"\nclient_key = \"me.key\"";

/// Writes the pair that grayling shows.
fn write_pair(world: &World, ca: &Authority, name: &str) {
    let (certificate, key) = ca.sign(name, vec![], Validity::Now);
    put(world, "me.pem", &certificate);
    put(world, "me.key", &key);
}

/// An nginx that demands certificates, and the config before it.
fn demanding(world: &World, ca: &Authority, lines: &str) -> (Origin, Nginx, Config) {
    let authorities = ca.write(world, "internal.pem");
    let pair = ca.server(world, "new", Validity::Now);
    let demand = format!(
        "ssl_verify_client on; ssl_client_certificate {}; location = /who {{ return 200 \"$ssl_client_s_dn\"; }}",
        authorities.display()
    );
    let (stable, new) = (Origin::start("stable"), Nginx::start_tls_with(world, "new", &pair, &demand));
    let mut config = Config::new(stable.address, new.address).weight("100%");
    config.watchdog = "enabled = false".into();
    config.schemes = ["http", "https"];
    config.upstream_new = Some(lines.into());
    (stable, new, config)
}

fn servers_see_the_certificate(http2: bool) {
    let world = World::new();
    let ca = Authority::new("internal");
    write_pair(&world, &ca, "first");
    let (_stable, _new, config) = demanding(&world, &ca, &format!("http2 = {http2}\n{PAIR}"));
    let proxy = world.run(&config);
    let mut client = proxy.client();
    let mut who = || client.get("/who", &[("x-user-id", "alice")]).unwrap().text();
    assert_eq!(who(), "CN=first");
    // A renewed pair: new connections show it.
    write_pair(&world, &ca, "second");
    eventually(seconds(10), "the renewed pair is shown", || (who() == "CN=second").then_some(()));
    // A pair that does not fit changes nothing.
    put(&world, "me.key", &ca.sign("third", vec![], Validity::Now).1);
    eventually(seconds(10), "the reload is refused", || {
        let failed = proxy.events("reload_failed");
        failed.iter().any(|e| e.to_string().contains("not the key of `client_certificate`")).then_some(())
    });
    (0..20).for_each(|_| assert_eq!(who(), "CN=second"));
}

#[test]
fn servers_that_demand_a_certificate_get_the_present_one() {
    servers_see_the_certificate(false);
}

#[test]
fn servers_that_demand_a_certificate_get_the_present_one_over_http2() {
    servers_see_the_certificate(true);
}

#[test]
fn without_a_certificate_such_a_server_refuses_the_request() {
    let world = World::new();
    let ca = Authority::new("internal");
    let (_stable, _new, config) = demanding(&world, &ca, "ca_file = \"internal.pem\"");
    let proxy = world.run(&config);
    assert_eq!(proxy.client().get("/who", &[("x-user-id", "alice")]).unwrap().status, 400);
}

#[test]
fn health_probes_show_the_certificate_too() {
    let world = World::new();
    let ca = Authority::new("internal");
    write_pair(&world, &ca, "first");
    let health = "health = { path = \"/healthz\", interval = \"100ms\" }";
    let (_stable, new, config) = demanding(&world, &ca, &format!("{PAIR}\n{health}"));
    let _proxy = world.run(&config);
    eventually(seconds(10), "probes are answered", || new.probes().contains(" 204 ").then_some(()));
}
