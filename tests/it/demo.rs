//! `grayling demo`, as a first-time user sees it: the fault is caught, a good release stays, the
//! text fits, the ports are open, and it ends on request.

use crate::world::{eventually, figure, grayling, seconds, turn};
use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

const COLUMNS_MAX: usize = 100;

/// The output and exit code of a finished demo. Its folder is deleted with this value.
struct Told {
    text: String,
    code: Option<i32>,
}

impl Told {
    /// Runs a demo to its end, on free ports.
    fn of(args: &[&str]) -> Told {
        Told::with(&["--http", "127.0.0.1:0", "--admin", "127.0.0.1:0"], args)
    }

    fn with(ports: &[&str], args: &[&str]) -> Told {
        let output = grayling(&[&["demo"], ports, args].concat());
        let said = [output.stdout, output.stderr].concat();
        let told = Told { text: String::from_utf8(said).unwrap(), code: output.status.code() };
        told.fits();
        told
    }

    /// Output into a pipe: no escape sequence, no long line.
    fn fits(&self) {
        assert!(!self.text.contains('\x1b') && !self.text.contains('\r'), "{}", self.text);
        for line in self.text.lines() {
            assert!(line.chars().count() <= COLUMNS_MAX, "too long: {line}");
        }
    }

    fn says(&self, words: &str) -> &Self {
        assert!(self.text.contains(words), "it does not say {words:?}:\n{}", self.text);
        self
    }

    /// The text after a label, to the end of the line.
    fn fact(&self, label: &str) -> &str {
        let label = format!("  {label} ");
        let found = self.text.lines().find_map(|line| line.strip_prefix(&label));
        found.unwrap_or_else(|| panic!("no line {label:?}:\n{}", self.text)).trim()
    }

    fn folder(&self) -> PathBuf {
        self.fact("folder").split(": ").next().unwrap().into()
    }

    /// The numbers of a line, in order.
    fn numbers(&self, label: &str) -> Vec<u64> {
        let text = self.fact(label).replace(',', "");
        text.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok()).collect()
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = std::fs::remove_dir_all(self.folder());
        }
    }
}

#[test]
fn errors_are_caught_and_told_with_counts() {
    let _turn = turn();
    let told = Told::of(&["--chaos", "errors"]);
    told.says("ROLLED BACK").says("What to try next").says("in force: 0%");
    assert_eq!(told.code, Some(0), "{}", told.text);
    let [new_failed, new, stable_failed, stable] = told.numbers("evidence")[..] else {
        panic!("four counts: {}", told.text)
    };
    // If the detection took only a moment, most failures are not in the minute's count yet.
    let just_now =
        told.text.lines().find_map(|line| line.trim().strip_suffix(" more of new failed just now"));
    let just_now: u64 = just_now.map_or(0, |n| n.parse().unwrap());
    assert!(
        (new_failed + just_now) * stable > 2 * stable_failed * (new + just_now),
        "new is worse: {}",
        told.text
    );
    let [requests, users] = told.numbers("harm")[..] else { panic!("two counts: {}", told.text) };
    assert!(requests >= users && users > 0, "{}", told.text);
    // All of them are with stable now, and none with new.
    assert_eq!(told.numbers("now"), [users, users], "{}", told.text);
    let [to_stable, to_new] = told.numbers("since")[..] else { panic!("two counts: {}", told.text) };
    assert!(to_stable > 0 && to_new == 0, "{}", told.text);
    figure(&format!("demo, errors: {}", told.fact("time")));

    // The files that it names exist, and agree.
    let read = |name: &str| std::fs::read_to_string(told.folder().join(name)).unwrap();
    assert!(read("grayling.toml").contains("weight = \"20%\""));
    assert!(read("state/ledger.jsonl").contains("\"cause\""));
    assert!(read("grayling.log").contains("\"event\":\"listening\""));
    let config = told.folder().join("grayling.toml");
    assert!(grayling(&["check", config.to_str().unwrap()]).status.success());
}

#[test]
fn latency_is_caught() {
    let _turn = turn();
    let told = Told::of(&["--chaos", "latency"]);
    told.says("ROLLED BACK");
    assert_eq!(told.code, Some(0), "{}", told.text);
    figure(&format!("demo, latency: {}; {}", told.fact("time"), told.fact("cause")));
}

#[test]
fn a_good_release_is_left_alone() {
    let _turn = turn();
    let told = Told::of(&["--chaos", "none", "--seconds", "16"]);
    told.says("nothing was done");
    assert!(!told.text.contains("ROLLED BACK"), "{}", told.text);
    assert_eq!(told.code, Some(0), "{}", told.text);
}

#[test]
fn it_takes_free_ports_when_its_own_are_taken_and_ends_in_the_seconds_given() {
    let _turn = turn();
    // Taken already or by this test: they are taken.
    let _held = ["127.0.0.1:8080", "127.0.0.1:9900"].map(TcpListener::bind);
    let began = Instant::now();
    let told = Told::with(&[], &["--seconds", "12"]);
    assert!(began.elapsed() < seconds(13), "{:?}", began.elapsed());
    for (label, taken) in [("users", "127.0.0.1:8080"), ("admin", "127.0.0.1:9900")] {
        let line = told.fact(label);
        assert!(line.contains(&format!("({taken} is taken)")), "{line}");
        assert!(!line.starts_with(&format!("http://{taken}")), "{line}");
    }
    assert_eq!(told.code, Some(0), "{}", told.text);
}

#[test]
fn a_host_that_is_not_ours_is_refused_with_the_option_to_change() {
    let output = grayling(&["demo", "--http", "192.0.2.1:8080"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("192.0.2.1:8080") && said.contains("--http"), "{said}");
}

#[test]
fn its_first_line_comes_at_once_and_an_interrupt_ends_it_cleanly() {
    let _turn = turn();
    let began = Instant::now();
    let mut demo = Running::start();
    let mut lines = vec![demo.line()];
    let first = began.elapsed();
    figure(&format!("demo: first line after {} ms", first.as_millis()));
    assert!(first < seconds(2) && lines[0].starts_with("grayling demo"), "{first:?} {lines:?}");
    while !lines.last().unwrap().contains("time  weight") {
        lines.push(demo.line());
    }
    // It serves like any proxy.
    let users = lines.iter().find_map(|l| l.trim().strip_prefix("users ")).unwrap();
    let address: SocketAddr =
        users.trim().trim_start_matches("http://").split(',').next().unwrap().parse().unwrap();
    let answer = crate::world::Client::new(address).get("/balance", &[("x-user-id", "me")]).unwrap();
    assert!(answer.header("x-grayling-arm").is_some(), "{answer:?}");

    demo.interrupt();
    let ended = demo.ends_within(seconds(5));
    let mut rest = String::new();
    demo.out.read_to_string(&mut rest).unwrap();
    assert_eq!(ended.code(), Some(1), "it was not rolled back: {rest}");
    assert!(rest.contains("Interrupted"), "{rest}");
    let text = format!("{}\n{rest}", lines.join("\n"));
    Told { text, code: ended.code() }.fits();
}

/// A running demo.
struct Running {
    child: Child,
    out: BufReader<std::process::ChildStdout>,
}

impl Running {
    fn start() -> Running {
        let mut child = Command::new(env!("CARGO_BIN_EXE_grayling"))
            .args(["demo", "--http", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary that cargo has built starts");
        let out = BufReader::new(child.stdout.take().expect("piped"));
        Running { child, out }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        assert!(self.out.read_line(&mut line).unwrap() > 0, "it ended early");
        line.trim_end().to_owned()
    }

    fn interrupt(&self) {
        let status = Command::new("sh").args(["-c", &format!("kill -INT {}", self.child.id())]).status();
        assert!(status.expect("sh").success());
    }

    fn ends_within(&mut self, within: Duration) -> ExitStatus {
        eventually(within, "the demo ends", || self.child.try_wait().expect("our own child"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
