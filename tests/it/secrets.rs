//! Tokens, and read access to grayling's files: the modes in the state directory, the warnings
//! about secret files, and changes without a token.

use crate::world::{
    Client, Config, Origin, Proxy, RELEASE, Response, World, eventually, not_tested, put, seconds,
};
use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

const OLD: &str = "0123456789abcdef-old";
const NEW: &str = "0123456789abcdef-new";

fn scene(world: &World, admin: &str) -> ([Origin; 2], Config) {
    let origins = ["stable", "new"].map(Origin::start);
    let mut config = Config::new(origins[0].address, origins[1].address);
    config.rest = format!("[admin]\n{admin}\n");
    std::fs::create_dir_all(world.path("config")).unwrap();
    (origins, config)
}

fn change(proxy: &Proxy, verb: &str, token: Option<&str>) -> Response {
    let bearer = token.map(|token| format!("Bearer {token}"));
    let mut headers = vec![("host", "127.0.0.1"), ("content-type", "application/json")];
    headers.extend(bearer.as_deref().map(|bearer| ("authorization", bearer)));
    let path = format!("/api/v1/releases/{RELEASE}/{verb}");
    Client::new(proxy.admin).post(&path, &headers, br#"{"reason": "a test"}"#).unwrap()
}

#[test]
fn a_token_file_with_a_fault_changes_nothing_and_is_told_until_it_is_mended() {
    let world = World::new();
    let (_origins, config) = scene(&world, "token_file = \"tokens\"");
    put(&world, "tokens", &format!("alice {OLD}\n"));
    let proxy = world.run(&config);
    let successful = || proxy.api().metric("grayling_config_last_reload_successful", &[]);
    for (text, token, why) in [
        ("alice x\n".to_owned(), "x", "the token is shorter than 16 characters"),
        (format!("alice {NEW}\nbob {NEW}\n"), NEW, "this token stands under another name already"),
        (format!("alice {NEW}\nhalf\n"), NEW, "not a name and a token"),
        ("# nobody\n".to_owned(), "#", "no token in it"),
    ] {
        put(&world, "tokens", &text);
        eventually(seconds(10), why, || {
            proxy.events("reload_failed").last()?.to_string().contains(why).then_some(())
        });
        let ready = proxy.api().get("/readyz");
        assert!(ready.status == 200 && ready.text().contains(why), "{}", ready.text());
        assert_eq!(successful(), Some(0.0));
        assert_eq!(change(&proxy, "rollback", Some(token)).status, 401, "{text}");
        assert_ne!(change(&proxy, "rollback", Some(OLD)).status, 401, "the tokens before stay: {text}");
    }
    std::fs::remove_file(world.path("config/tokens")).unwrap();
    eventually(seconds(10), "a missing file is told", || {
        proxy.events("reload_failed").last()?.to_string().contains("there is no file").then_some(())
    });
    assert_ne!(change(&proxy, "rollback", Some(OLD)).status, 401);
    put(&world, "tokens", &format!("\u{feff}alice {NEW}\r\n"));
    eventually(seconds(10), "the new token is in force", || {
        (change(&proxy, "rollback", Some(NEW)).status != 401).then_some(())
    });
    assert_eq!(change(&proxy, "rollback", Some(OLD)).status, 401, "the old one is worth nothing");
    assert_eq!(successful(), Some(1.0));
    let entry = proxy.api().ledger().into_iter().find(|entry| entry["kind"] == "trip").unwrap();
    assert_eq!(entry["actor"], "alice", "a byte order mark is no part of a name");
}

#[test]
fn changes_without_a_token_are_warned_of_and_can_be_forbidden() {
    let world = World::new();
    let (_origins, mut config) = scene(&world, "");
    let proxy = world.run(&config);
    let warned = |text: &str| proxy.events("config_warning").iter().any(|e| e.to_string().contains(text));
    assert!(warned("every process of this machine may roll back"), "{:?}", proxy.events("config_warning"));
    config.rest = "[admin]\nlocal_changes = false\n".into();
    world.write(&config);
    let refused = eventually(seconds(10), "changes are forbidden", || {
        Some(change(&proxy, "rollback", None)).filter(|answer| answer.status == 403)
    });
    assert!(refused.text().contains("grayling.stop"), "{}", refused.text());
    assert!(warned("the admin API takes no change at all"));
    assert_eq!(proxy.api().get("/api/v1/status").status, 200);
    // The remaining option, as the response describes.
    put(&world, "grayling.stop", "");
    eventually(seconds(10), "nobody is in new", || (proxy.api().weight() == 0.0).then_some(()));
}

#[test]
fn secret_files_that_every_user_may_read_are_warned_of_at_start_and_on_reload() {
    let world = World::new();
    let (_origins, config) = scene(&world, "token_file = \"tokens\"");
    let tokens = put(&world, "tokens", &format!("alice {OLD}\n"));
    std::fs::set_permissions(&tokens, Permissions::from_mode(0o644)).unwrap();
    let proxy = world.run(&config);
    let warnings = || {
        let all = proxy.events("config_warning");
        all.iter().filter(|event| event.to_string().contains("chmod 600")).count()
    };
    assert!(warnings() > 0, "{:?}", proxy.events("config_warning"));
    let before = warnings();
    let of_admin = || proxy.events("reloaded").iter().filter(|e| e.to_string().contains("[admin]")).count();
    let reloads = |n: usize| (of_admin() == n).then_some(());
    put(&world, "tokens", &format!("alice {NEW}\n"));
    eventually(seconds(10), "a reload", || reloads(1));
    let after = warnings();
    assert!(after > before);
    std::fs::set_permissions(&tokens, Permissions::from_mode(0o600)).unwrap();
    std::fs::write(&tokens, format!("alice {OLD}\n")).unwrap();
    eventually(seconds(10), "another", || reloads(2));
    assert_eq!(warnings(), after, "nothing to warn of");
}

fn mode(path: &Path) -> u32 {
    std::fs::symlink_metadata(path).unwrap().mode() & 0o777
}

fn set(path: &Path, mode: u32) {
    std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// Names and modes of the files in a directory.
fn modes(directory: &Path) -> Vec<(String, u32)> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
    entries.map(|entry| (entry.file_name().to_string_lossy().into_owned(), mode(&entry.path()))).collect()
}

#[test]
fn nobody_else_reads_the_state_directory_whatever_the_umask_is() {
    let world = World::new();
    let (_origins, config) = scene(&world, "");
    let (file, state) = (world.write(&config), world.path("state"));
    let all_private = || {
        let open: Vec<_> = modes(&state).into_iter().filter(|(_, mode)| *mode != 0o600).collect();
        assert_eq!((open, mode(&state)), (vec![], 0o700));
    };
    let mut proxy = Proxy::start_under_umask(&file, "000");
    assert_eq!(change(&proxy, "rollback", None).status, 200);
    for name in ["lock", "grayling.state", "ledger.jsonl", "evidence-"] {
        eventually(seconds(30), name, || {
            modes(&state).iter().any(|(found, _)| found.starts_with(name)).then_some(())
        });
    }
    proxy.signal("TERM");
    proxy.ends_within(seconds(20));
    all_private();
    // As an earlier version left them.
    modes(&state).iter().for_each(|(name, _)| set(&state.join(name), 0o644));
    set(&state, 0o755);
    let proxy = Proxy::start_under_umask(&file, "022");
    all_private();
    assert_eq!(proxy.api().release()["state"], "rolled_back", "the same state as before");
    assert_eq!(proxy.events("state_not_private"), Vec::<serde_json::Value>::new());
}

#[test]
fn what_cannot_be_made_private_is_told_and_the_proxy_starts() {
    let world = World::new();
    let (_origins, config) = scene(&world, "");
    let (file, state) = (world.write(&config), world.path("state"));
    std::fs::create_dir(&state).unwrap();
    let notes = state.join("notes.txt");
    std::fs::write(&notes, "somebody's").unwrap();
    set(&notes, 0o644);
    set(&state, 0o755);
    let mut proxy = Proxy::start(&file);
    assert!(proxy.event("state_not_private").to_string().contains("a directory of its own"));
    assert_eq!((mode(&notes), mode(&state), mode(&state.join("lock"))), (0o644, 0o755, 0o600));
    proxy.kill();
    set(&state.join("lock"), 0o666);
    if std::os::unix::fs::chown(state.join("lock"), Some(65534), None).is_err() {
        return not_tested("a state file of another user: only root can make one");
    }
    let proxy = Proxy::start(&file);
    let told = eventually(Duration::from_secs(10), "it is told whose it is", || {
        proxy.events("state_not_private").iter().find(|e| e.to_string().contains("65534")).cloned()
    });
    assert!(told.to_string().contains("chmod go="), "{told}");
}
