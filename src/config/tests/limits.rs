//! `[limits]`: earlier names, and defaults that depend on other keys.

use super::*;

#[test]
fn the_earlier_name_of_stream_grace_is_read_and_the_two_together_are_an_error() {
    let grace = |lines: &str| {
        let checked = check(&format!("{BASE}[limits]\n{lines}\n")).expect("no faults");
        checked.config.limits.stream_grace.as_secs()
    };
    assert_eq!(grace(""), 30);
    assert_eq!(grace("stream_grace = \"7s\""), 7);
    assert_eq!(grace("websocket_grace = \"8s\""), 8);
    let both = lines(&format!("{BASE}[limits]\nstream_grace = \"7s\"\nwebsocket_grace = \"7s\"\n"));
    assert!(both.len() == 1 && both[0].contains("are one setting"), "{both:?}");
}

#[test]
fn abandoned_max_is_the_response_timeout_of_the_upstream_unless_it_is_set() {
    let limits =
        |lines: &str| check(&format!("{BASE}[limits]\n{lines}\n")).expect("no faults").config.limits.clone();
    assert_eq!(limits("").abandoned_max, None);
    assert_eq!(limits("abandoned_max = \"\"").abandoned_max, None);
    assert_eq!(limits("abandoned_max = \"5s\"").abandoned_max.map(|max| max.as_secs()), Some(5));
    assert_eq!(lines(&format!("{BASE}[limits]\nabandoned_max = \"2h\"\n")).len(), 1);
}
