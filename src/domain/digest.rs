//! SHA-256, and bytes as hexadecimal digits.
//!
//! Pure functions.
//! Invariant: every SHA-256 of the crate is made here; keyed hashes (HMAC) stand with their keys.

use aws_lc_rs::digest::{Context, SHA256};
use std::fmt::Write;

/// Incremental SHA-256.
pub struct Digest(Context);

impl Default for Digest {
    fn default() -> Self {
        Digest(Context::new(&SHA256))
    }
}

impl Digest {
    pub fn add(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub fn finish(self) -> [u8; 32] {
        let mut out = [0; 32];
        out.copy_from_slice(self.0.finish().as_ref());
        out
    }

    pub fn of(bytes: &[u8]) -> [u8; 32] {
        let mut digest = Digest::default();
        digest.add(bytes);
        digest.finish()
    }
}

/// In lower case.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_those_of_the_standard() {
        // FIPS 180-2, appendix B.1.
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(hex(&Digest::of(b"abc")), abc);
        let mut digest = Digest::default();
        digest.add(b"a");
        digest.add(b"bc");
        assert_eq!(hex(&digest.finish()), abc);
        assert_eq!(hex(&[0, 0xa, 0xff]), "000aff");
    }
}
