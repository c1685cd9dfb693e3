//! The table of rows and their tests, from the names of the tests (`row_07_…`, `rows_10_and_13_…`).
//! There is no second list that could become outdated: a test counts for a row because of its name.

use crate::world::figure;
use std::collections::BTreeMap;
use std::path::Path;

/// Rows of requests and faults that need a test of their name: 1 to 33, 33a, 43 to 52, 55, 56.
/// The rows between concern the config, the state and the clock, and are listed if named.
fn required() -> Vec<String> {
    let number = |n: u32| format!("{n:02}");
    (1..=33).map(number).chain(["33a".to_owned()]).chain((43..=52).chain([55, 56]).map(number)).collect()
}

/// The rows in the name of a test: `row_33a_an_upstream…` is 33a, `rows_10_and_13_in…` are 10 and
/// 13.
fn rows(test: &str) -> Vec<String> {
    let Some(rest) = test.strip_prefix("row_").or_else(|| test.strip_prefix("rows_")) else { return vec![] };
    let is_row = |word: &&str| word.len() >= 2 && word[..2].bytes().all(|b| b.is_ascii_digit());
    rest.split("_and_")
        .filter_map(|part| part.split('_').next())
        .take_while(is_row)
        .map(str::to_owned)
        .collect()
}

/// `module::name` of all tests below a folder, by their rows.
fn collect(folder: &Path, module: &str, into: &mut BTreeMap<String, Vec<String>>) {
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let path = entry.path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let module = if name == "mod" { module.to_owned() } else { format!("{module}{name}::") };
        if path.is_dir() {
            collect(&path, &module, into);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            let lines: Vec<&str> = text.lines().collect();
            for pair in lines.windows(2).filter(|pair| pair[0] == "#[test]") {
                let test =
                    pair[1].strip_prefix("fn ").and_then(|rest| rest.split('(').next()).unwrap_or_default();
                for row in rows(test) {
                    into.entry(row).or_default().push(format!("{module}{test}"));
                }
            }
        }
    }
}

#[test]
fn every_row_of_requests_and_faults_has_a_test_of_its_name() {
    let mut table = BTreeMap::new();
    collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it"), "", &mut table);
    for (row, tests) in &mut table {
        tests.sort();
        figure(&format!("row {row}: {}", tests.join(", ")));
    }
    let missing: Vec<String> = required().into_iter().filter(|row| !table.contains_key(row)).collect();
    assert!(missing.is_empty(), "no test is named after row {}", missing.join(", "));
}

#[test]
fn a_row_is_read_from_the_beginning_of_a_name_only() {
    assert_eq!(rows("rows_10_and_13_in_http2"), ["10", "13"]);
    assert_eq!(rows("row_33a_an_upstream_that_is_full"), ["33a"]);
    assert_eq!(rows("row_36_and_rule_3_no_other"), ["36"]);
    assert!(rows("a_row_27").is_empty() && rows("row_of_tests").is_empty());
}
