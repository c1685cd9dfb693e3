//! The engine as bytes and back, so that a restart keeps the evidence of days.
//!
//! ```text
//! "grayling-evidence 7\n", then little-endian fields in the order of the structs that write them
//! (numbers as f64, f32, u64, u32, u16; lists
//! with their length before them), then xxh3-64 of everything before it.
//! ```
//!
//! Requests in flight and slots that are not final are not saved: their users count as seen, and
//! their tables are never judged.
//! This costs evidence, not validity.
//!
//! Invariants: a read returns what was written, or nothing; no length in a file is trusted beyond
//! the bytes present; a file of another version is nothing.

use xxhash_rust::xxh3::xxh3_64;

const MAGIC: &[u8] = b"grayling-evidence 7\n";

/// A writer of fields.
#[derive(Default)]
pub struct Encoder(Vec<u8>);

impl Encoder {
    pub fn new() -> Encoder {
        Encoder::with(MAGIC)
    }

    /// A writer of another kind of file, with its own first line.
    pub fn with(magic: &[u8]) -> Encoder {
        Encoder(magic.to_vec())
    }

    pub fn finish(mut self) -> Vec<u8> {
        let sum = xxh3_64(&self.0);
        self.u64(sum);
        self.0
    }

    pub fn u64(&mut self, value: u64) {
        self.0.extend(value.to_le_bytes());
    }

    pub fn u32(&mut self, value: u32) {
        self.0.extend(value.to_le_bytes());
    }

    pub fn u16(&mut self, value: u16) {
        self.0.extend(value.to_le_bytes());
    }

    pub fn f64(&mut self, value: f64) {
        self.0.extend(value.to_le_bytes());
    }

    pub fn f64s(&mut self, values: &[f64]) {
        self.u64(values.len() as u64);
        values.iter().for_each(|v| self.f64(*v));
    }

    pub fn bytes(&mut self, bytes: &[u8]) {
        self.u64(bytes.len() as u64);
        self.0.extend(bytes);
    }

    /// `n` values.
    pub fn f32s(&mut self, n: usize, values: impl Iterator<Item = f32>) {
        self.u64(n as u64);
        self.0.reserve(4 * n);
        values.take(n).for_each(|v| self.0.extend(v.to_le_bytes()));
    }

    pub fn text(&mut self, text: &str) {
        self.u64(text.len() as u64);
        self.0.extend(text.as_bytes());
    }
}

/// A reader of fields. Every read may find the end of the bytes.
pub struct Decoder<'a>(&'a [u8]);

impl<'a> Decoder<'a> {
    /// `None`: another kind of file, another version, or damaged.
    pub fn open(bytes: &'a [u8]) -> Option<Decoder<'a>> {
        Decoder::open_with(MAGIC, bytes)
    }

    /// The counterpart of [`Encoder::with`].
    pub fn open_with(magic: &[u8], bytes: &'a [u8]) -> Option<Decoder<'a>> {
        let (body, sum) = bytes.split_last_chunk::<8>()?;
        let rest = body.strip_prefix(magic)?;
        (xxh3_64(body) == u64::from_le_bytes(*sum)).then_some(Decoder(rest))
    }

    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    pub fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    pub fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    pub fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_le_bytes)
    }

    /// A valid number of evidence: finite and not negative.
    pub fn f64(&mut self) -> Option<f64> {
        self.take().map(f64::from_le_bytes).filter(|v| v.is_finite() && *v >= 0.0)
    }

    /// A finite number of either sign, such as a logarithm.
    pub fn log(&mut self) -> Option<f64> {
        self.take().map(f64::from_le_bytes).filter(|v| v.is_finite())
    }

    /// Reads exactly as many as `to` holds.
    pub fn logs(&mut self, to: &mut [f64]) -> Option<()> {
        (self.length(8)? == to.len()).then_some(())?;
        to.iter_mut().try_for_each(|log| self.log().map(|read| *log = read))
    }

    pub fn bytes(&mut self, n: usize) -> Option<&'a [u8]> {
        (self.length(1)? == n).then_some(())?;
        let (head, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(head)
    }

    /// A length of a list of items of `bytes` bytes each. `None` if the file is shorter.
    pub fn length(&mut self, bytes: usize) -> Option<usize> {
        let n = usize::try_from(self.u64()?).ok()?;
        (n.checked_mul(bytes)? <= self.0.len()).then_some(n)
    }

    pub fn f64s(&mut self, n: usize) -> Option<Vec<f64>> {
        (self.length(8)? == n).then_some(())?;
        (0..n).map(|_| self.f64()).collect()
    }

    /// A list whose length is one of `lengths`.
    pub fn f32s_of(&mut self, lengths: &[usize]) -> Option<Vec<f32>> {
        let n = self.length(4).filter(|n| lengths.contains(n))?;
        let all: Option<Vec<f32>> = (0..n).map(|_| self.take().map(f32::from_le_bytes)).collect();
        all.filter(|all| all.iter().all(|v| v.is_finite()))
    }

    pub fn text(&mut self) -> Option<String> {
        let n = self.length(1)?;
        let (head, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        String::from_utf8(head.to_vec()).ok()
    }

    /// `None` if unread bytes are left.
    pub fn end(&self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_changed_byte_is_found(texts in prop::collection::vec(".{0,20}", 0..5), at: prop::sample::Index, flip in 1u8..) {
            let mut encoder = Encoder::new();
            texts.iter().for_each(|t| encoder.text(t));
            let mut bytes = encoder.finish();
            let mut decoder = Decoder::open(&bytes).expect("whole");
            for text in &texts {
                prop_assert_eq!(decoder.text(), Some(text.clone()));
            }
            prop_assert_eq!(decoder.end(), Some(()));
            let i = at.index(bytes.len());
            bytes[i] ^= flip;
            prop_assert!(Decoder::open(&bytes).is_none());
        }

        #[test]
        fn no_length_is_trusted(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let mut decoder = Decoder(&bytes);
            let _ = decoder.text();
            let _ = decoder.f32s_of(&[1 << 40, 3]);
            let _ = decoder.length(usize::MAX);
        }
    }
}
