//! The frozen hash against vectors written by an independent implementation
//! (`tests/data/cohort_vectors.py`).

use grayling::stats::cohort::Salt;

const VECTORS: &str = include_str!("../data/cohort_vectors.txt");

fn bytes(hex: &str) -> Vec<u8> {
    if hex == "-" {
        return Vec::new();
    }
    (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect()
}

#[test]
fn every_published_vector_falls_into_its_bucket() {
    let (mut seen, mut empty, mut long, mut not_utf8) = (0, 0, 0, 0);
    let mut salts = std::collections::BTreeSet::new();
    for line in VECTORS.lines().filter(|l| !l.starts_with('#')) {
        let columns: Vec<&str> = line.split(' ').collect();
        let [salt, id, bucket] = columns[..] else { panic!("not three columns: {line}") };
        let (salt, id) = (String::from_utf8(bytes(salt)).unwrap(), bytes(id));
        assert_eq!(Salt::new(&salt).bucket(&id).index().to_string(), bucket, "salt {salt:?}, id {id:02x?}");
        seen += 1;
        empty += usize::from(id.is_empty());
        long += usize::from(id.len() == 4096);
        not_utf8 += usize::from(std::str::from_utf8(&id).is_err());
        salts.insert(salt);
    }
    // The coverage that the file promises; a truncated file must not pass.
    assert!(seen >= 1000 && salts.len() >= 5, "{seen} vectors over {} salts", salts.len());
    assert!(empty >= 5 && long >= 5 && not_utf8 >= 100, "empty {empty}, long {long}, not UTF-8 {not_utf8}");
}
