//! Faults and their messages, as a person sees them.

use super::*;
use std::path::Path;

fn lines(text: &str) -> Vec<String> {
    match parse(text, Path::new("grayling.toml")) {
        Ok(checked) => checked.warnings.lines(),
        Err(report) => {
            report.render(Color::Ansi);
            report.lines()
        }
    }
}

#[test]
fn the_starter_file_is_fine() {
    let text = include_str!("../../config/grayling.toml");
    let checked = parse(text, Path::new("config/grayling.toml")).map_err(|r| r.render(Color::Plain));
    let checked = checked.unwrap();
    assert_eq!(checked.warnings.lines(), Vec::<String>::new());
    assert_eq!(checked.plan.releases[0].weight.to_string(), "5%");
}

#[test]
fn probe() {
    let t = "[listen]\nhttp = \":80\"\nworkers = \"4\"\n[upstream.a]\nservers = [\"http://x:1\", \"127.0.0.1:3\"]\nconect_timeout = 5\n[upstream.b]\nservers=[\"http://y\"]\nhttp2 = true\n[release.r]\nstable=\"a\"\nnew = \"c\"\nweight = 5\nwatchdog = { enabled = false, tick = \"1s\" }\n[release.r.watchdgo]\n[[route]]\npath=\"/a*\"\n";
    println!("{}", lines(t).join("\n"));
    println!("{}", parse(t, Path::new("config/x.toml")).err().unwrap().render(Color::Plain));
    let t = "[upstream.a]\nservers = [\"http://x:1\"\nweight = 5%\n[release.r\nfoo = bar\n[[route]]\nupstream = \"a\"\n";
    println!("{}", parse(t, Path::new("config/x.toml")).err().unwrap().render(Color::Plain));
}
