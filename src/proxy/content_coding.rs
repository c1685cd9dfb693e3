//! Decodes a response body that was kept while it passed: gzip, brotli, zstd.
//!
//! Invariants: at most the bound of the rule is returned, and at most one block of the coding more
//! is decoded, whatever a body claims to be. No window of more than [`WINDOW_BYTES_MAX`] is made
//! room for. Nothing here panics.

use std::io::{self, Read};

/// RFC 9659: the most that a zstd decoder for HTTP must support.
const WINDOW_BYTES_MAX: u64 = 8 << 20;

/// Output of brotli in one step.
const BROTLI_STEP_BYTES: usize = 4096;

/// The coding of a body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ContentCoding {
    Identity,
    Gzip,
    Brotli,
    Zstd,
}

impl ContentCoding {
    /// By `Content-Encoding`. `None`: an unknown one, or several.
    pub fn named(name: &[u8]) -> Option<ContentCoding> {
        let is = |known: &str| name.trim_ascii().eq_ignore_ascii_case(known.as_bytes());
        match () {
            () if is("gzip") || is("x-gzip") => Some(ContentCoding::Gzip),
            () if is("br") => Some(ContentCoding::Brotli),
            () if is("zstd") => Some(ContentCoding::Zstd),
            () if is("identity") || is("") => Some(ContentCoding::Identity),
            () => None,
        }
    }

    /// The decoded body.
    pub fn decode(self, body: Vec<u8>, bytes_max: usize) -> Decoded {
        let bytes = body.as_slice();
        match self {
            ContentCoding::Identity => Decoded::Whole(body),
            ContentCoding::Gzip => read(flate2::read::MultiGzDecoder::new(bytes), bytes_max),
            // The extension for large windows is not in RFC 7932.
            ContentCoding::Brotli if bytes.first().is_some_and(|b| b & 0x7f == 0x11) => Decoded::Broken,
            ContentCoding::Brotli => {
                read(brotli_decompressor::Decompressor::new(bytes, BROTLI_STEP_BYTES), bytes_max)
            }
            ContentCoding::Zstd => match zstd_window(bytes) {
                None => Decoded::Broken,
                Some(window) if window > WINDOW_BYTES_MAX => Decoded::TooLong,
                Some(_) => match ruzstd::decoding::StreamingDecoder::new(bytes) {
                    Ok(decoder) => read(decoder, bytes_max),
                    Err(_) => Decoded::Broken,
                },
            },
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Decoded {
    Whole(Vec<u8>),
    /// Over the bound.
    TooLong,
    Broken,
}

fn read(decoder: impl Read, bytes_max: usize) -> Decoded {
    let mut decoded = Vec::new();
    let read: io::Result<usize> = decoder.take(bytes_max as u64 + 1).read_to_end(&mut decoded);
    match read {
        Err(_) => Decoded::Broken,
        Ok(_) if decoded.len() > bytes_max => Decoded::TooLong,
        Ok(_) => Decoded::Whole(decoded),
    }
}

/// The window that a frame asks for (RFC 8878 §3.1.1.1). `None`: it is no frame.
/// The decoder would make room for it without a limit.
fn zstd_window(frame: &[u8]) -> Option<u64> {
    const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
    let rest = frame.strip_prefix(&MAGIC)?;
    let (descriptor, rest) = rest.split_first()?;
    let single_segment = descriptor & 0x20 != 0;
    if !single_segment {
        let window = *rest.first()?;
        let base = 1u64 << (10 + (window >> 3));
        return Some(base + base / 8 * u64::from(window & 7));
    }
    let size_at = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let size_bytes = 1 << (descriptor >> 6);
    let size = rest.get(size_at..size_at + size_bytes)?;
    let size = size.iter().rev().fold(0u64, |size, byte| size << 8 | u64::from(*byte));
    // A size of two bytes is stored less 256.
    Some(if size_bytes == 2 { size + 256 } else { size })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    const BODY_START: &str = "{\"resultCode\": 17, \"text\": \"";

    fn body() -> Vec<u8> {
        format!("{BODY_START}{}\"}}", "no credit ".repeat(40)).into_bytes()
    }

    /// Each coding of [`body`]. Brotli's was made by Google's encoder, which is not a dependency.
    fn coded() -> [(ContentCoding, Vec<u8>); 3] {
        const BROTLI: &str = "1bad01101c076eac0f80d3899119a1d25b0424666fb9f535cb8dce1b70c801f3036c61421170b9c0119\
                              7061b52b9d007626b92427921076201";
        let brotli =
            (0..BROTLI.len()).step_by(2).map(|at| u8::from_str_radix(&BROTLI[at..at + 2], 16).unwrap());
        let zstd =
            ruzstd::encoding::compress_to_vec(&body()[..], ruzstd::encoding::CompressionLevel::Fastest);
        [
            (ContentCoding::Gzip, gzip(&body())),
            (ContentCoding::Brotli, brotli.collect()),
            (ContentCoding::Zstd, zstd),
        ]
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn a_body_is_decoded_up_to_the_bound() {
        for (coding, coded) in coded() {
            let whole = body();
            assert_eq!(
                coding.decode(coded.clone(), whole.len()),
                Decoded::Whole(whole.clone()),
                "{coding:?}"
            );
            assert_eq!(coding.decode(coded.clone(), whole.len() - 1), Decoded::TooLong, "{coding:?}");
            assert_eq!(coding.decode(coded[1..].to_vec(), 1000), Decoded::Broken, "{coding:?}");
        }
    }

    #[test]
    fn a_bomb_is_not_decoded() {
        let bomb = gzip(&vec![0; 100 << 20]);
        assert!(bomb.len() < 200_000);
        assert_eq!(ContentCoding::Gzip.decode(bomb, 16 << 10), Decoded::TooLong);
        // A zstd frame that asks for a window of 3.75 TiB, and one of a segment of 2^63 bytes.
        let window = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xff, 0x01, 0x00, 0x00];
        let segment = [0x28, 0xb5, 0x2f, 0xfd, 0xe0, 0, 0, 0, 0, 0, 0, 0, 0x80, 0x01, 0x00, 0x00];
        assert_eq!(ContentCoding::Zstd.decode(window.to_vec(), 1000), Decoded::TooLong);
        assert_eq!(ContentCoding::Zstd.decode(segment.to_vec(), 1000), Decoded::TooLong);
    }

    #[test]
    fn codings_are_known_by_their_names() {
        for (name, coding) in [
            ("gzip", Some(ContentCoding::Gzip)),
            (" X-GZIP", Some(ContentCoding::Gzip)),
            ("br", Some(ContentCoding::Brotli)),
            ("zstd", Some(ContentCoding::Zstd)),
            ("identity", Some(ContentCoding::Identity)),
            ("deflate", None),
            ("gzip, br", None),
            ("dcb", None),
        ] {
            assert_eq!(ContentCoding::named(name.as_bytes()), coding, "{name}");
        }
    }

    proptest! {
        #![proptest_config(crate::mutate::cases(512))]

        #[test]
        fn a_damaged_body_is_survived(which in 0usize..3, at in 0usize..200, byte: u8, cut in 0usize..200) {
            let (coding, mut coded) = coded()[which].clone();
            let length = coded.len();
            coded[at % length] = byte;
            coded.truncate(length - cut % length);
            if let Decoded::Whole(decoded) = coding.decode(coded, 1000) {
                prop_assert!(decoded.len() <= 1000);
            }
        }
    }
}
