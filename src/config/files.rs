//! The files that a config names: users, JWKS, tokens, the key for user ids. A fault in them has
//! the file and the line.
//!
//! Invariants: lines of secret files are never shown; memory is bounded by the kept data (8 bytes a
//! user), not by the size or the line length of the file; a byte order mark at the start of a file
//! is not part of its contents.
//!
//! A secret file that every user of the machine may read gives a warning.
//! Its mode decides, with two exceptions where `chmod` is not needed or not possible. A group may
//! read it: services often read their secrets as `root:grayling 0640`. All users may read it on a
//! read-only mount: Kubernetes and Docker mount secrets with mode 0444 or 0644 into one container.

use super::diagnostics::{Location, Severity, SourceText};
use super::reader::{ConfigReader, SourceSpan};
use crate::domain::config::{JwtKey, Normalise, normalise};
use crate::domain::segment::{UserSet, WeakUserSet};
use crate::domain::tokens::{Tokens, without_bom};
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use std::fs::{File, Metadata};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// A hundred million ids take 800 MB of memory. More is a mistake.
const USERS_MAX: usize = 100_000_000;
/// Longer than any id that `max_bytes` allows, including white space around it.
const LINE_BYTES_MAX: u64 = 64 << 10;
/// Maximum of shown faults of one file. The others are counted.
const FAULTS_SHOWN: usize = 5;
const SMALL_FILE_BYTES_MAX: u64 = 1 << 20;

/// Opens a regular file. A fault is reported at the name in the config.
fn open(r: &mut ConfigReader<'_>, path: &Path, span: &SourceSpan) -> Option<File> {
    let shown = r.display(path);
    let help = Some("a relative name is looked for beside the config file".to_string());
    let meta = match std::fs::metadata(path) {
        Ok(meta) => meta,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            r.fault(span, format!("there is no file `{shown}`"), "", help);
            return None;
        }
        Err(e) => {
            r.fault(span, format!("`{shown}` cannot be read"), &e.to_string(), None);
            return None;
        }
    };
    // A pipe would block here, a device never end.
    if !meta.is_file() {
        r.fault(span, format!("`{shown}` is not a regular file"), "", None);
        return None;
    }
    File::open(path)
        .map_err(|e| r.fault(span, format!("`{shown}` cannot be read"), &e.to_string(), None))
        .ok()
}

/// The contents of a file without secrets.
pub(super) fn small(r: &mut ConfigReader<'_>, path: &Path, span: &SourceSpan) -> Option<Vec<u8>> {
    let file = open(r, path, span)?;
    contents(r, path, span, file)
}

/// The contents of a secret file. Warns if every user of the machine may read it.
pub(super) fn secret(r: &mut ConfigReader<'_>, path: &Path, span: &SourceSpan) -> Option<Vec<u8>> {
    let file = open(r, path, span)?;
    let world_readable = file.metadata().is_ok_and(|meta| meta.mode() & 0o004 != 0);
    if world_readable && !on_a_read_only_mount(&file) {
        let shown = r.display(path);
        let help = format!("type `chmod 600 {shown}`; 640 if grayling reads it by its group");
        r.warn(
            span,
            format!("every user of this machine may read `{shown}`"),
            "it holds a secret",
            Some(help),
        );
    }
    contents(r, path, span, file)
}

fn on_a_read_only_mount(file: &File) -> bool {
    use rustix::fs::{StatVfsMountFlags, fstatvfs};
    fstatvfs(file).is_ok_and(|of| of.f_flag.contains(StatVfsMountFlags::RDONLY))
}

fn contents(r: &mut ConfigReader<'_>, path: &Path, span: &SourceSpan, file: File) -> Option<Vec<u8>> {
    let shown = r.display(path);
    let mut bytes = Vec::new();
    if let Err(e) = file.take(SMALL_FILE_BYTES_MAX + 1).read_to_end(&mut bytes) {
        r.fault(span, format!("`{shown}` cannot be read"), &e.to_string(), None);
        return None;
    }
    if bytes.len() as u64 > SMALL_FILE_BYTES_MAX {
        r.fault(span, format!("`{shown}` is larger than {} MiB", SMALL_FILE_BYTES_MAX >> 20), "", None);
        return None;
    }
    if without_bom(&bytes).len() < bytes.len() {
        bytes.drain(..3);
    }
    Some(bytes)
}

pub(super) fn at_line(r: &mut ConfigReader<'_>, path: &Path, line: usize, message: &str, help: Option<&str>) {
    let place = Location::Named { path: r.display(path), line };
    r.fault_elsewhere(Severity::Error, place, message.to_string(), help.map(str::to_string));
}

/// The users of a file: one id a line, white space around it trimmed, blank lines skipped.
///
/// An unchanged file is not read again while its last contents are in use: an edit of a weight must
/// not wait for ten million lines.
pub fn users(
    r: &mut ConfigReader<'_>,
    path: &Path,
    span: &SourceSpan,
    mode: Normalise,
    max_bytes: usize,
) -> UserSet {
    let Some(file) = open(r, path, span) else { return UserSet::default() };
    let Some(key) = file.metadata().ok().map(|m| UsersKey::of(path, &m, mode, max_bytes)) else {
        return read_users(r, path, span, file, mode, max_bytes).0;
    };
    static READ: Mutex<Vec<(UsersKey, WeakUserSet)>> = Mutex::new(Vec::new());
    let known = || READ.lock().unwrap_or_else(PoisonError::into_inner);
    let found = known().iter().find(|(k, _)| *k == key).and_then(|(_, users)| users.upgrade());
    if let Some(users) = found {
        return users;
    }
    let (users, faults) = read_users(r, path, span, file, mode, max_bytes);
    if faults == 0 && !users.is_empty() {
        let mut known = known();
        known.retain(|(_, users)| users.upgrade().is_some());
        known.push((key, users.downgrade()));
    }
    users
}

/// The identity and state of a users file, and how its lines were read.
#[derive(PartialEq, Eq)]
struct UsersKey {
    path: PathBuf,
    file: (u64, u64, u64),
    modified: (i64, i64),
    changed: (i64, i64),
    mode: Normalise,
    max_bytes: usize,
}

impl UsersKey {
    fn of(path: &Path, meta: &Metadata, mode: Normalise, max_bytes: usize) -> Self {
        UsersKey {
            path: path.to_owned(),
            file: (meta.dev(), meta.ino(), meta.len()),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
            mode,
            max_bytes,
        }
    }
}

fn read_users(
    r: &mut ConfigReader<'_>,
    path: &Path,
    span: &SourceSpan,
    file: File,
    mode: Normalise,
    max_bytes: usize,
) -> (UserSet, usize) {
    // Eight bytes a user, with about ten bytes a line: an estimate that avoids copies of a growing
    // list.
    let guess = file.metadata().map_or(0, |m| m.len() / 12).min(USERS_MAX as u64) as usize;
    let mut hashes = Vec::with_capacity(guess);
    let mut input = BufReader::with_capacity(1 << 20, file);
    let mut line = Vec::new();
    let (mut number, mut faults) = (0usize, 0usize);
    loop {
        line.clear();
        number += 1;
        match (&mut input).take(LINE_BYTES_MAX).read_until(b'\n', &mut line) {
            Ok(0) => break,
            Ok(_) => {}
            Err(e) => {
                at_line(r, path, number, &format!("cannot be read: {e}"), None);
                faults += 1;
                break;
            }
        }
        if line.len() as u64 == LINE_BYTES_MAX && !line.ends_with(b"\n") {
            at_line(r, path, number, "a line of more than 64 KiB", Some("write one user id a line"));
            faults += 1;
            break;
        }
        if number == 1 && line.starts_with(b"\xef\xbb\xbf") {
            line.drain(..3);
        }
        let text = line.trim_ascii();
        if text.is_empty() {
            continue;
        }
        let id = normalise(mode, text);
        let message = if id.is_empty() {
            "nothing is left of this user id after `normalise`"
        } else if id.len() > max_bytes {
            "this user id is longer than `[identity] max_bytes`, so nobody can have it"
        } else if text.iter().any(|b| b.is_ascii_control()) {
            "a user id with a control character"
        } else {
            hashes.push(UserSet::hash(&id));
            if hashes.len() > USERS_MAX {
                at_line(r, path, number, &format!("more than {USERS_MAX} users"), None);
                faults += 1;
                break;
            }
            continue;
        };
        faults += 1;
        if faults <= FAULTS_SHOWN {
            let shown = String::from_utf8_lossy(&text[..text.len().min(80)]).into_owned();
            let end = shown.len();
            let source = SourceText { path: r.display(path), text: shown, line_first: number };
            let place = Location::Shown { source: Arc::new(source), span: 0..end };
            r.fault_elsewhere(
                Severity::Error,
                place,
                message.into(),
                Some("write one user id a line".into()),
            );
        }
    }
    if faults > FAULTS_SHOWN {
        at_line(r, path, 0, &format!("{} more lines are faulty", faults - FAULTS_SHOWN), None);
    }
    if hashes.is_empty() && faults == 0 {
        r.warn(span, format!("`{}` names no user", r.display(path)), "", None);
    }
    (UserSet::from_hashes(hashes), faults)
}

/// The tokens of `[admin] token_file`: see [`Tokens`].
pub fn tokens(r: &mut ConfigReader<'_>, path: &Path, span: &SourceSpan) -> Option<Tokens> {
    let bytes = secret(r, path, span)?;
    let parsed = Tokens::parse(&bytes);
    // No word of the file is shown: if name and token are swapped, the first one is the secret.
    for fault in parsed.as_ref().err().into_iter().flatten() {
        at_line(r, path, fault.line, fault.message, Some(fault.help));
    }
    parsed.ok()
}

/// The key is the whole file without the last line end.
pub fn user_key(r: &mut ConfigReader<'_>, path: &Path, span: &SourceSpan) -> Option<Vec<u8>> {
    let mut bytes = secret(r, path, span)?;
    while bytes.last().is_some_and(|b| b"\r\n".contains(b)) {
        bytes.pop();
    }
    if bytes.len() < 16 || bytes.len() > 4096 {
        let help = "make one with `openssl rand -hex 32`";
        at_line(r, path, 0, "the key for user ids has 16 to 4096 bytes", Some(help));
        return None;
    }
    Some(bytes)
}

/// The keys of a JWKS (RFC 7517) that can verify a signature.
pub fn jwks(r: &mut ConfigReader<'_>, path: &Path, span: &SourceSpan) -> Vec<JwtKey> {
    let Some(bytes) = small(r, path, span) else { return Vec::new() };
    let document: serde_json::Value = match serde_json::from_slice(&bytes) {
        Ok(document) => document,
        Err(e) => {
            at_line(r, path, e.line(), &format!("not JSON: {e}"), None);
            return Vec::new();
        }
    };
    let Some(list) = document.get("keys").and_then(|k| k.as_array()) else {
        at_line(r, path, 0, "not a JWKS: there is no array `keys`", Some("write `{ \"keys\": [ … ] }`"));
        return Vec::new();
    };
    let mut keys = Vec::new();
    for (i, entry) in list.iter().enumerate() {
        let kid = entry.get("kid").and_then(|k| k.as_str());
        let shown = kid.map_or(format!("key {}", i + 1), |kid| format!("key {} (`{kid}`)", i + 1));
        let read = serde_json::from_value::<Jwk>(entry.clone()).map_err(|e| e.to_string());
        match read.and_then(|jwk| key(&jwk)) {
            Ok(Some(key)) => keys.push(key),
            // Keys for encryption may be in the same set. They are ignored.
            Ok(None) => {}
            Err(why) => at_line(r, path, 0, &format!("{shown}: {why}"), None),
        }
    }
    if keys.is_empty() && list.is_empty() {
        at_line(r, path, 0, "the JWKS has no keys", None);
    } else if keys.is_empty() && r.report.errors() == 0 {
        at_line(r, path, 0, "no key in it can verify a signature", None);
    }
    keys
}

/// The algorithms follow from the kind of the key, never from the token: an RSA key must not become
/// an HMAC secret.
fn key(jwk: &Jwk) -> Result<Option<JwtKey>, String> {
    use Algorithm::*;
    if jwk.common.public_key_use.as_ref().is_some_and(|u| *u != PublicKeyUse::Signature) {
        return Ok(None);
    }
    let possible: &[Algorithm] = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => &[RS256, RS384, RS512, PS256, PS384, PS512],
        AlgorithmParameters::EllipticCurve(p) if p.curve == EllipticCurve::P256 => &[ES256],
        AlgorithmParameters::EllipticCurve(p) if p.curve == EllipticCurve::P384 => &[ES384],
        AlgorithmParameters::OctetKeyPair(p) if p.curve == EllipticCurve::Ed25519 => &[EdDSA],
        AlgorithmParameters::OctetKey(_) => &[HS256, HS384, HS512],
        _ => return Err("a kind of key or curve that is not known".into()),
    };
    let algorithms = match jwk.common.key_algorithm {
        None => possible.to_vec(),
        Some(stated) => match Algorithm::try_from(stated) {
            Ok(algorithm) if possible.contains(&algorithm) => vec![algorithm],
            _ => return Err(format!("`alg` {stated} does not go with its kind of key")),
        },
    };
    let key = DecodingKey::from_jwk(jwk).map_err(|e| format!("not a usable key: {e}"))?;
    if let AlgorithmParameters::OctetKey(_) = &jwk.algorithm {
        let bytes = key.try_get_as_bytes().map_or(0, <[u8]>::len);
        if bytes < 32 {
            return Err("a secret of less than 32 bytes (RFC 7518, 3.2)".into());
        }
    }
    Ok(Some(JwtKey { id: jwk.common.key_id.clone(), algorithms, key }))
}
