//! The key of the state directory. The ledger and the state file identify users of segments by
//! hashes under this key, and the evidence of each user is encrypted under it.
//!
//! ```text
//! key in the state directory: 32 random bytes, for its owner only (0600)
//! ```
//!
//! A plain hash of a phone number is found by trying all phone numbers; a keyed hash is not.
//! Removing the file erases who was in a segment by its list, from every copy of the ledger.
//!
//! Invariants: the file is whole or absent (write, fsync, rename, fsync of the directory). An
//! unreadable file is left unchanged. No fault of the file keeps a proxy from starting. The name of
//! a key reveals nothing about the key.

use crate::domain::digest::hex;
use crate::domain::segment::UserSet;
use crate::store::permissions::private_file;
use crate::telemetry::random;
use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::hmac;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

pub const FILE: &str = "key";
const BYTES: usize = 32;
/// Hexadecimal digits of a hash, and of the name of a key.
pub const DIGITS: usize = 16;

/// The kinds of hash inputs: hashes of different kinds differ.
const NAME: u8 = 0;
const USER: u8 = 1;
const LIST: u8 = 2;
/// Derives the encryption key.
const SEAL: u8 = 3;

/// Precedes the nonce and the ciphertext.
const SEALED: &[u8] = b"grayling-sealed 1\n";

#[derive(Clone)]
pub struct StateKey {
    bytes: [u8; BYTES],
    hmac: hmac::Key,
    name: String,
}

/// The origin of the key of a start.
#[derive(Debug)]
pub enum KeyOrigin {
    Found,
    Made,
    /// The file cannot be read or written: this key ends with the process.
    Temporary(KeyError),
}

/// Why the file of the key cannot be used; the text begins with the file's name.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error(
        "{file}: {found} bytes, a key has {wanted}: put it back from a copy, or remove it, and the next start makes a new one",
        file = FILE,
        wanted = BYTES
    )]
    Length { found: usize },
    #[error("{file}: {source}", file = FILE)]
    Read { source: io::Error },
    #[error("{file}: cannot be written: {source}", file = FILE)]
    Write { source: io::Error },
}

impl StateKey {
    pub fn new(bytes: [u8; BYTES]) -> StateKey {
        let hmac = hmac::Key::new(hmac::HMAC_SHA256, &bytes);
        let name = hashed(&hmac, NAME, &[]);
        StateKey { bytes, hmac, name }
    }

    /// # Errors
    /// The system has no random numbers.
    pub fn random() -> io::Result<StateKey> {
        let mut bytes = [0; BYTES];
        random::fill(&mut bytes).map_err(io::Error::other)?;
        Ok(StateKey::new(bytes))
    }

    /// The key of a state directory that this process has locked; created if there is none.
    ///
    /// # Errors
    /// Those of [`StateKey::random`].
    pub fn open(directory: &Path) -> io::Result<(StateKey, KeyOrigin)> {
        let temporary = |why| Ok((StateKey::random()?, KeyOrigin::Temporary(why)));
        match StateKey::read(directory) {
            Ok(Some(key)) => Ok((key, KeyOrigin::Found)),
            Ok(None) => {
                let key = StateKey::random()?;
                match key.keep(directory) {
                    Ok(()) => Ok((key, KeyOrigin::Made)),
                    Err(source) => temporary(KeyError::Write { source }),
                }
            }
            Err(why) => temporary(why),
        }
    }

    /// The key of a state directory; `None`: it has none.
    ///
    /// # Errors
    /// Why the file is unusable.
    pub fn read(directory: &Path) -> Result<Option<StateKey>, KeyError> {
        match fs::read(directory.join(FILE)) {
            Ok(bytes) => match <[u8; BYTES]>::try_from(&*bytes) {
                Ok(bytes) => Ok(Some(StateKey::new(bytes))),
                Err(_) => Err(KeyError::Length { found: bytes.len() }),
            },
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(KeyError::Read { source }),
        }
    }

    /// Writes the file, durably, if it does not exist.
    pub fn keep(&self, directory: &Path) -> io::Result<()> {
        let (path, fresh) = (directory.join(FILE), directory.join("key.new"));
        if path.exists() {
            return Ok(());
        }
        // A file left by a crash may be readable by others.
        let _ = fs::remove_file(&fresh);
        let mut file = private_file().write(true).create_new(true).open(&fresh)?;
        file.write_all(&self.bytes)?;
        file.sync_all()?;
        fs::rename(&fresh, &path)?;
        File::open(directory)?.sync_all()
    }

    /// Identifies the key.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The stored form of a user; `number`: [`UserSet::hash`] of the id.
    pub fn user(&self, number: u64) -> String {
        hashed(&self.hmac, USER, &number.to_be_bytes())
    }

    /// The stored form of a list: one hash, for any length of the list.
    pub fn list(&self, users: &UserSet) -> String {
        hashed(&self.hmac, LIST, &users.fingerprint().to_be_bytes())
    }
}

impl StateKey {
    /// Encrypts the bytes in place; returns the prefix for the file.
    /// `None`: encryption failed.
    pub fn seal(&self, bytes: &mut Vec<u8>) -> Option<Vec<u8>> {
        let nonce = self.cipher()?.seal_in_place_append_tag(Aad::from(SEALED), bytes).ok()?;
        Some([SEALED, nonce.as_ref()].concat())
    }

    /// Decrypts bytes sealed under this key. Bytes without a seal, as an earlier version wrote
    /// them, are returned unchanged. `None`: sealed under another key, or damaged.
    pub fn unseal(&self, mut bytes: Vec<u8>) -> Option<Vec<u8>> {
        let Some(sealed) = bytes.strip_prefix(SEALED) else { return Some(bytes) };
        let nonce = Nonce::try_assume_unique_for_key(sealed.get(..NONCE_LEN)?).ok()?;
        let start = SEALED.len() + NONCE_LEN;
        let len = self.cipher()?.open_in_place(nonce, Aad::from(SEALED), &mut bytes[start..]).ok()?.len();
        bytes.truncate(start + len);
        bytes.drain(..start);
        Some(bytes)
    }

    fn cipher(&self) -> Option<RandomizedNonceKey> {
        RandomizedNonceKey::new(&AES_256_GCM, tag(&self.hmac, SEAL, &[]).as_ref()).ok()
    }
}

fn tag(key: &hmac::Key, kind: u8, bytes: &[u8]) -> hmac::Tag {
    let mut context = hmac::Context::with_key(key);
    context.update(&[kind]);
    context.update(bytes);
    context.sign()
}

/// The first 64 bits of an HMAC-SHA256, in hex.
fn hashed(key: &hmac::Key, kind: u8, bytes: &[u8]) -> String {
    hex(&tag(key, kind, bytes).as_ref()[..DIGITS / 2])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::state::tests::scratch;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_key_is_made_once_for_its_owner_only_and_found_again() {
        let dir = scratch("key");
        // Left by a crash during the first start.
        fs::write(dir.join("key.new"), "half").unwrap();
        let (made, origin) = StateKey::open(&dir).unwrap();
        assert!(matches!(origin, KeyOrigin::Made), "{origin:?}");
        let metadata = fs::metadata(dir.join(FILE)).unwrap();
        assert_eq!((metadata.len(), metadata.permissions().mode() & 0o777), (32, 0o600));
        assert!(!dir.join("key.new").exists());
        let (found, origin) = StateKey::open(&dir).unwrap();
        assert!(matches!(origin, KeyOrigin::Found), "{origin:?}");
        assert_eq!((found.name(), found.user(7)), (made.name(), made.user(7)));
        fs::remove_file(dir.join(FILE)).unwrap();
        let (other, _) = StateKey::open(&dir).unwrap();
        assert!(other.name() != made.name() && other.user(7) != made.user(7));
    }

    #[test]
    fn a_file_that_is_no_key_stays_as_it_is_and_stops_nobody() {
        let dir = scratch("key-damaged");
        for wrong in [vec![], b"0123".to_vec(), vec![b'a'; 33]] {
            fs::write(dir.join(FILE), &wrong).unwrap();
            let (_, origin) = StateKey::open(&dir).unwrap();
            assert!(
                matches!(&origin, KeyOrigin::Temporary(why) if why.to_string().contains("a key has 32")),
                "{origin:?}"
            );
            assert_eq!(fs::read(dir.join(FILE)).unwrap(), wrong);
        }
        let (_, origin) = StateKey::open(&dir.join("nowhere")).unwrap();
        assert!(matches!(origin, KeyOrigin::Temporary(_)), "{origin:?}");
    }

    #[test]
    fn what_is_sealed_is_read_under_the_same_key_only() {
        let (key, other) = (StateKey::new([7; 32]), StateKey::new([8; 32]));
        for text in [&b""[..], b"evidence", &[7; 100_000]] {
            let mut bytes = text.to_vec();
            let sealed = [key.seal(&mut bytes).unwrap(), bytes].concat();
            assert!(text.is_empty() || !sealed.windows(text.len()).any(|part| part == text));
            assert_eq!(key.unseal(sealed.clone()).unwrap(), text);
            assert_eq!(other.unseal(sealed.clone()), None);
            for at in [SEALED.len(), sealed.len() - 1] {
                let mut damaged = sealed.clone();
                damaged[at] ^= 1;
                assert_eq!(key.unseal(damaged), None, "byte {at}");
            }
            assert_eq!(key.unseal(sealed[..SEALED.len() + 3].to_vec()), None);
            assert_eq!(key.unseal(text.to_vec()).unwrap(), text, "an earlier version sealed nothing");
        }
    }

    #[test]
    fn hashes_of_different_kinds_differ() {
        let key = StateKey::new([7; 32]);
        let users = UserSet::from_hashes(vec![1]);
        assert!(key.user(users.fingerprint()) != key.list(&users) && key.list(&users) != key.name());
    }
}
