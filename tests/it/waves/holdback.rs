//! `holdback` with the real binary: the arm of each user until the release is complete, and the
//! reports.

use super::{comes_to, stands};
use crate::world::{Config, Origin, Proxy, World, eventually, grayling, seconds, turn};

#[test]
fn the_highest_buckets_stay_on_stable_until_the_file_says_otherwise() {
    let _turn = turn();
    let world = World::new();
    let (stable, new) = (Origin::start("stable"), Origin::start("new"));
    let mut config = Config::new(stable.address, new.address).weight("100%");
    config.release = "holdback = \"50%\"\n".into();
    let proxy = world.run(&config);
    let api = proxy.api();
    comes_to(&api, seconds(10), "-", "progressing", 50.0);
    let release = api.release();
    assert_eq!(
        (release["weight_configured"].as_f64(), release["held_back"].as_f64()),
        (Some(100.0), Some(50.0))
    );
    let told = grayling(&["status", "--admin", &format!("http://{}", proxy.admin)]);
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    let words = "50% in force, 100% in the file (50% stays on stable until `holdback` is lowered)";
    assert!(told.contains(words), "{told}");
    let mut client = proxy.client();
    let arms: Vec<String> = (0..40).map(|i| client.get_as(&format!("user-{i}")).unwrap().text()).collect();
    assert!(["stable", "new"].iter().all(|arm| arms.iter().any(|a| a == arm)), "{arms:?}");

    config.release = String::new();
    world.write(&config);
    proxy.signal("HUP");
    comes_to(&api, seconds(10), "-", "complete", 100.0);
    let left = api.release()["soak_left_s"].as_u64().unwrap_or(0);
    assert!((604_700..=604_800).contains(&left), "{left}");
    drop(proxy);

    // It is complete since then, and not since the restart.
    std::thread::sleep(seconds(2));
    let proxy = Proxy::start(&world.config_file());
    let after = eventually(seconds(10), "it is complete", || proxy.api().release()["soak_left_s"].as_u64());
    assert!(after + 2 <= left, "{after} s left after {left}");
    assert_eq!(stands(&proxy.api()).1, "complete");
}
