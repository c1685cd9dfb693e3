//! Checks of the repository's structure: layers, forbidden words in `domain/`, file headers, sizes,
//! and that documents and code agree.

use crate::world::{World, grayling};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

const LINES_MAX: usize = 700;
/// The most columns of a comment line: rustfmt does not wrap comments.
const COMMENT_MAX: usize = 100;

/// Folders of `src/` by layer.
/// A folder imports from lower layers, and from folders of the same layer in one direction only.
const HEIGHTS: [(&str, u32); 13] = [
    ("stats", 0),
    ("domain", 1),
    ("config", 2),
    ("telemetry", 2),
    ("net", 2),
    ("upstream", 3),
    ("store", 3),
    ("runtime", 4),
    ("proxy", 5),
    ("tasks", 5),
    ("admin", 6),
    ("app", 7),
    ("cli", 8),
];

/// Same layer, and no imports in either direction: they meet in `runtime`.
const STRANGERS: [(&str, &str); 1] = [("proxy", "tasks")];

/// Type names that may stand in more than one module.
const NAMES_OF_SEVERAL_TYPES: [(&str, &str); 1] =
    [("Args", "the arguments of one command; each command's file has one, as clap's documentation does")];

const FORBIDDEN_IN_PURE_ROOMS: [&str; 8] = [
    "tokio",
    "serde",
    "std::time::Instant",
    "time::{Instant",
    "SystemTime",
    "std::fs",
    "metrics::",
    "std::net::Tcp",
];

const TOP_LEVEL: [&str; 9] =
    ["Cargo.toml", "Cargo.lock", "LICENSE", "README.md", "src", "config", "benches", "tests", "docker"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Fails with all faults at once.
fn none(faults: Vec<String>) {
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

fn short(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn files(folder: &str, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        for entry in entries {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.to_string_lossy().ends_with(ending) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// The code outside tests: no comments, nothing from the first `#[cfg(test)]` module on, and
/// nothing of a test file.
fn code(path: &Path) -> String {
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    if name == "tests" || name.ends_with("_tests") || path.components().any(|c| c.as_os_str() == "tests") {
        return String::new();
    }
    let text = read(path);
    let text = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
    text.lines().map(|l| if l.trim_start().starts_with("//") { "" } else { l }).collect::<Vec<_>>().join("\n")
}

/// The top level module of a file of `src/`: its folder, or its own name.
fn room(path: &Path) -> String {
    let inside = path.strip_prefix(root().join("src")).unwrap();
    let first = inside.components().next().unwrap().as_os_str().to_string_lossy().into_owned();
    first.trim_end_matches(".rs").to_owned()
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The modules named after `crate::` (or `grayling::`), also in braces.
fn imports(code: &str) -> BTreeSet<String> {
    let mut rooms = BTreeSet::new();
    for marker in ["crate::", "grayling::"] {
        for (at, _) in code.match_indices(marker) {
            if code[..at].chars().next_back().is_some_and(|c| is_word(c) || c == ':') {
                continue;
            }
            let after = &code[at + marker.len()..];
            let Some(group) = after.strip_prefix('{') else {
                rooms.insert(after.chars().take_while(|c| is_word(*c)).collect());
                continue;
            };
            let (mut depth, mut word) = (0, String::new());
            for c in group.chars() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => word.clear(),
                    c if depth == 0 && is_word(c) => word.push(c),
                    ':' if depth == 0 && !word.is_empty() => drop(rooms.insert(std::mem::take(&mut word))),
                    _ => {}
                }
            }
        }
    }
    rooms
}

#[test]
fn imports_point_down_only() {
    let heights = BTreeMap::from(HEIGHTS);
    let mut faults = Vec::new();
    let mut edges: BTreeMap<(String, String), PathBuf> = BTreeMap::new();
    for file in files("src", ".rs") {
        let here = room(&file);
        if here == "main" || here == "lib" {
            continue;
        }
        let height = heights
            .get(here.as_str())
            .unwrap_or_else(|| panic!("{}: a room without a height", file.display()));
        assert!(!code(&file).contains("super::super::"), "{}: say crate:: instead", file.display());
        for there in imports(&code(&file)) {
            let Some(other) = heights.get(there.as_str()) else { continue };
            if other > height {
                faults.push(format!("{}: {here} imports {there}, which stands above it", short(&file)));
            }
            if there != here {
                edges.insert((here.clone(), there), file.clone());
            }
        }
    }
    for ((from, to), file) in &edges {
        if let Some(back) = edges.get(&(to.clone(), from.clone())).filter(|_| from < to) {
            faults.push(format!("{from} and {to} import each other: {}, {}", short(file), short(back)));
        }
        for (a, b) in STRANGERS {
            if (from == a && to == b) || (from == b && to == a) {
                faults.push(format!("{}: {from} imports {to}; they meet in runtime", short(file)));
            }
        }
    }
    none(faults);
    assert!(edges.len() >= 3, "the scan found almost nothing: {edges:?}");
}

/// The files of `src/proxy` that a file of it imports, by `super::NAME` and `super::{NAME, ...}`.
fn siblings(code: &str, names: &BTreeSet<String>) -> BTreeSet<String> {
    let as_paths = code.replace("super::", "grayling::");
    imports(&as_paths).into_iter().filter(|name| names.contains(name)).collect()
}

#[test]
fn the_files_of_the_data_plane_import_each_other_in_one_direction() {
    let name = |file: &PathBuf| file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let all = files("src/proxy", ".rs");
    let names: BTreeSet<String> = all.iter().map(name).collect();
    let mut left: BTreeMap<String, BTreeSet<String>> =
        all.iter().map(|file| (name(file), siblings(&code(file), &names))).collect();
    assert!(left.values().map(BTreeSet::len).sum::<usize>() > 30, "the scan found almost nothing: {left:?}");
    // A file whose imports are all removed is removed; the files of a cycle remain.
    while let Some(leaf) = left.iter().find(|(_, uses)| uses.is_empty()).map(|(name, _)| name.clone()) {
        left.remove(&leaf);
        for uses in left.values_mut() {
            uses.remove(&leaf);
        }
    }
    none(
        left.iter().map(|(file, uses)| format!("src/proxy/{file}.rs is in a cycle with {uses:?}")).collect(),
    );
}

#[test]
fn the_scan_of_imports_sees_groups_and_paths() {
    let found = imports(
        "use crate::{store::{a, b}, net::listen, config};\nlet x = crate::proxy::run(); other_crate::y",
    );
    assert_eq!(found.into_iter().collect::<Vec<_>>(), ["net", "proxy", "store"]);
}

#[test]
fn stats_and_domain_are_pure() {
    let mut faults = Vec::new();
    for file in ["src/stats", "src/domain"].into_iter().flat_map(|folder| files(folder, ".rs")) {
        let code = code(&file);
        let said = FORBIDDEN_IN_PURE_ROOMS.iter().filter(|word| code.contains(**word));
        faults.extend(said.map(|word| format!("{} says {word}", short(&file))));
    }
    none(faults);
}

/// The names of the types that a file defines outside functions and tests.
fn types(code: &str) -> Vec<String> {
    let defined = |line: &str| {
        let line = line.strip_prefix("pub ").or(line.strip_prefix("pub(super) ")).unwrap_or(line);
        let line = line.strip_prefix("pub(crate) ").unwrap_or(line);
        let kinds = ["struct ", "enum ", "trait ", "type ", "union "];
        let name = kinds.iter().find_map(|kind| line.strip_prefix(kind))?;
        Some(name.chars().take_while(|c| is_word(*c)).collect())
    };
    code.lines().filter_map(defined).collect()
}

#[test]
fn no_type_name_stands_in_two_modules() {
    let mut homes: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for file in files("src", ".rs") {
        for name in types(&code(&file)) {
            homes.entry(name).or_default().push(short(&file));
        }
    }
    assert!(homes.len() > 300, "the scan found almost nothing: {}", homes.len());
    let exceptions = BTreeMap::from(NAMES_OF_SEVERAL_TYPES);
    let faults =
        homes.iter().filter(|(name, files)| files.len() > 1 && !exceptions.contains_key(name.as_str()));
    none(faults.map(|(name, files)| format!("{name}: {}", files.join(", "))).collect());
}

#[test]
fn the_map_names_every_module_and_no_other() {
    let map = read(&root().join("src/lib.rs"));
    let listed = map.lines().filter(|line| line.starts_with("//! * [`"));
    let listed: BTreeSet<&str> = listed.filter_map(|line| line.split(['`', '`']).nth(1)).collect();
    let declared = map.lines().filter_map(|line| line.strip_prefix("pub mod ").or(line.strip_prefix("mod ")));
    let declared: BTreeSet<&str> = declared.map(|name| name.trim_end_matches(';')).collect();
    let declared: BTreeSet<&str> = declared.into_iter().filter(|name| *name != "mutate").collect();
    assert_eq!(listed, declared, "left: the list in src/lib.rs, right: its modules");
    let heights: BTreeSet<&str> = HEIGHTS.iter().map(|(name, _)| *name).collect();
    assert_eq!(declared, heights, "left: the modules, right: their heights in this test");
}

#[test]
fn every_file_says_what_it_owns_and_is_short_enough() {
    let mut faults = Vec::new();
    for file in ["src", "tests", "benches"].into_iter().flat_map(|folder| files(folder, ".rs")) {
        let text = read(&file);
        if !text.starts_with("//! ") {
            faults.push(format!("{} does not open with //!", short(&file)));
        }
        let lines = text.lines().count();
        if lines > LINES_MAX {
            faults.push(format!("{}: {lines} lines; what does it hide?", short(&file)));
        }
    }
    none(faults);
}

#[test]
fn comments_have_a_hundred_columns_at_most() {
    let mut faults = Vec::new();
    for file in ["src", "tests", "benches"].into_iter().flat_map(|folder| files(folder, ".rs")) {
        let text = read(&file);
        let comments = text.lines().enumerate().filter(|(_, line)| line.trim_start().starts_with("//"));
        for (i, line) in comments.filter(|(_, line)| line.chars().count() > COMMENT_MAX) {
            faults.push(format!("{}:{}: {} columns", short(&file), i + 1, line.chars().count()));
        }
    }
    none(faults);
}

#[test]
fn names_say_what_things_are() {
    let mut faults = Vec::new();
    for file in files("src", ".rs") {
        let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if ["utils", "util", "common", "helpers"].contains(&name.as_str()) {
            faults.push(format!("{}: a name that says nothing", short(&file)));
        }
        let code = code(&file);
        let said = ["fn get_", "Manager", "Helper"].into_iter().filter(|word| code.contains(word));
        faults.extend(said.map(|word| format!("{} says {word}", short(&file))));
    }
    none(faults);
}

/// Names that begin with `grayling_`; the parts of a histogram count as the histogram.
fn metric_names(text: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (at, _) in text.match_indices("grayling_") {
        if !text[..at].chars().next_back().is_some_and(is_word) {
            let name: String = text[at..].chars().take_while(|c| is_word(*c)).collect();
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|part| name.strip_suffix(part));
            names.insert(base.unwrap_or(&name).to_owned());
        }
    }
    names
}

#[test]
fn the_readme_has_a_row_for_every_metric_and_the_alerts_use_no_other() {
    let meter = code(&root().join("src/admin/metrics.rs"));
    let quoted: String = meter.split('"').skip(1).step_by(2).collect::<Vec<_>>().join("\n");
    let published = metric_names(&quoted);
    assert!(published.len() >= 10, "{published:?}");
    let readme = read(&root().join("README.md"));
    let rows: String =
        readme.lines().filter(|l| l.starts_with("| `grayling_")).collect::<Vec<_>>().join("\n");
    let documented = metric_names(&rows);
    assert_eq!(published, documented, "left: src/admin/metrics.rs, right: the table in README.md");
    let rules = read(&root().join("config/prometheus/rules.yml"));
    let code: String =
        rules.lines().filter(|l| !l.trim_start().starts_with('#')).collect::<Vec<_>>().join("\n");
    let used = metric_names(&code);
    assert!(!used.is_empty() && used.is_subset(&published), "{:?}", used.difference(&published));
}

fn passes_check(file: &Path, what: &str) {
    let output = grayling(&["check", file.to_str().unwrap()]);
    let said = [output.stdout, output.stderr].concat();
    assert_eq!(output.status.code(), Some(0), "{what}: {}", String::from_utf8_lossy(&said));
}

#[test]
fn every_config_file_passes_the_check() {
    let all = files("config", ".toml");
    assert!(
        all.iter().any(|f| f.ends_with("grayling.toml")) && all.iter().any(|f| f.ends_with("reference.toml"))
    );
    for file in all {
        passes_check(&file, &file.display().to_string());
    }
    let compose = root().join("docker/compose");
    for file in files("docker", ".toml") {
        assert!(file.starts_with(&compose), "{}: an unknown place", file.display());
        passes_check(&file, &file.display().to_string());
    }
}

#[test]
fn every_toml_block_of_the_readme_passes_the_check() {
    let world = World::new();
    let readme = read(&root().join("README.md"));
    for (n, block) in readme.split("```toml\n").skip(1).enumerate() {
        let block = block.split("```").next().unwrap_or_default();
        passes_check(
            &world.write_text(block),
            &format!("the TOML block nr. {} of README.md:\n{block}", n + 1),
        );
    }
}

#[test]
fn the_top_level_is_as_fixed() {
    let visible =
        std::fs::read_dir(root()).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned());
    // Both are ignored by git: cargo's output, and the state of a `grayling run` from here.
    let found: BTreeSet<String> =
        visible.filter(|n| !n.starts_with('.') && n != "target" && n != "state").collect();
    assert_eq!(found, TOP_LEVEL.map(str::to_owned).into());
}
