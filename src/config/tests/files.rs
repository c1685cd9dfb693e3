//! Files that the config names.

use super::*;

#[test]
fn a_users_file_is_taken_anew_when_it_changes() {
    let folder = Folder::new();
    folder.write("g.toml", edited(&[("users = [\"alice\"]", "users_file = \"users\"")]));
    let users = |n: usize| (0..n).map(|i| format!("user-{i}\n")).collect::<String>();
    let loaded = || load(&folder.0.join("g.toml")).result.map_err(|r| r.to_string()).unwrap().config;
    folder.write("users", users(20_000));
    let (first, again) = (loaded(), loaded());
    assert_eq!(first.segments[0].users.len(), 20_000);
    assert_eq!(first.segments[0].users, again.segments[0].users);
    folder.write("users", users(20_001));
    assert!(loaded().segments[0].users.contains(b"user-20000"));
}
