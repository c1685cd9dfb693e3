//! Several addresses for users, and IPv6.

use crate::world::{Authority, Client, Config, Origin, Proxy, Validity, World, grayling, not_tested};
use std::net::{SocketAddr, TcpListener};

fn listeners(proxy: &Proxy, name: &str) -> Vec<SocketAddr> {
    let of_name = proxy.events("listening").into_iter().filter(|e| e["name"] == name);
    of_name.map(|e| e["address"].as_str().unwrap().parse().unwrap()).collect()
}

/// The text of a config with these lines under `[listen]`.
fn text(stable: &Origin, lines: &str) -> String {
    let config = Config::new(stable.address, ([127, 0, 0, 2], stable.address.port()).into()).weight("0%");
    config.text().replace("http = \"127.0.0.1:0\"", lines)
}

#[test]
fn every_address_of_a_list_serves_users_on_every_worker() {
    let (world, stable) = (World::new(), Origin::start("stable"));
    let lines = "http = [\"127.0.0.1:0\", \"127.0.0.2:0\", \"127.0.0.3:0\"]";
    let proxy = Proxy::start(&world.write_text(&text(&stable, lines)));
    let addresses = listeners(&proxy, "http");
    assert_eq!(addresses.len(), 3);
    for address in &addresses {
        // The kernel spreads the connections over the workers.
        for _ in 0..20 {
            assert_eq!(Client::new(*address).get("/", &[]).unwrap().text(), "stable", "{address}");
        }
    }
    // A drain closes all of them.
    let mut proxy = proxy;
    proxy.signal("TERM");
    proxy.ends_within(crate::world::seconds(10));
    for address in addresses {
        TcpListener::bind(address).expect("it is closed");
    }
}

#[test]
fn https_listens_on_every_address_of_its_list() {
    let (world, stable) = (World::new(), Origin::start("stable"));
    Authority::new("clients").server(&world, "own", Validity::Now);
    let lines = "http = \"127.0.0.1:0\"\nhttps = [\"127.0.0.1:0\", \"127.0.0.2:0\"]";
    let text = text(&stable, lines) + "[tls]\ncertificate = \"own.pem\"\nkey = \"own.key\"\n";
    let proxy = Proxy::start(&world.write_text(&text));
    let addresses = listeners(&proxy, "https");
    assert_eq!(addresses.len(), 2);
    for address in addresses {
        let asked = std::process::Command::new("curl")
            .args(["-sk", &format!("https://{address}/")])
            .output()
            .expect("curl is installed");
        assert_eq!(String::from_utf8_lossy(&asked.stdout), "stable", "{address}");
    }
}

#[test]
fn the_ipv6_wildcard_takes_ipv4_too_unless_ipv4_has_a_listener_of_its_own() {
    let Ok(free) = TcpListener::bind("[::]:0") else {
        return not_tested("listeners of IPv6: this machine has none");
    };
    let port = free.local_addr().unwrap().port();
    drop(free);
    let dual = std::fs::read_to_string("/proc/sys/net/ipv6/bindv6only").is_ok_and(|v| v.trim() == "0");
    let stable = Origin::start("stable");
    for lines in [format!("http = \"[::]:{port}\""), format!("http = [\"0.0.0.0:{port}\", \"[::]:{port}\"]")]
    {
        let world = World::new();
        let mut proxy = Proxy::start(&world.write_text(&text(&stable, &lines)));
        let families = [format!("[::1]:{port}"), format!("127.0.0.1:{port}")];
        for address in families.iter().take(if dual { 2 } else { 1 }) {
            let mut client = Client::new(address.parse().unwrap());
            assert_eq!(client.get("/", &[]).unwrap().text(), "stable", "{lines}: {address}");
        }
        proxy.signal("TERM");
        proxy.ends_within(crate::world::seconds(10));
    }
}

#[test]
fn an_address_stands_once_and_a_change_needs_a_restart() {
    let (world, stable) = (World::new(), Origin::start("stable"));
    let check = |lines: &str| {
        let file = world.write_text(&text(&stable, lines));
        let output = grayling(&["check", file.to_str().unwrap()]);
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout)
    };
    let twice = check("http = [\"127.0.0.1:8080\", \"127.0.0.1:8080\"]");
    assert!(twice.contains("stands twice in `http`"), "{twice}");
    let empty = check("http = []");
    assert!(empty.contains("`http` is an empty list"), "{empty}");
    let many: Vec<String> = (1..=17).map(|n| format!("\"127.0.0.{n}:8080\"")).collect();
    let many = check(&format!("http = [{}]", many.join(", ")));
    assert!(many.contains("more than 16"), "{many}");
    let proxy = Proxy::start(&world.write_text(&text(&stable, "http = \"127.0.0.1:0\"")));
    world.write_text(&text(&stable, "http = [\"127.0.0.1:0\", \"127.0.0.2:0\"]"));
    let failed = proxy.event("reload_failed").to_string();
    assert!(failed.contains("[listen] http") && failed.contains("restart"), "{failed}");
}
