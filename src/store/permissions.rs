//! Access to the state directory: only its owner may read it.
//!
//! Its files hold user ids, reasons and addresses.
//! Also, a process needs only read access to take a lock (flock(2)), so a lock file that others may
//! open lets any of them keep grayling from starting.
//!
//! Files are created with mode 0600, the directory with 0700, under any umask. Files that an
//! earlier version left more open are tightened at start ([`tighten`]), and the directory only if
//! all files in it are grayling's: `directory = "."` must not lock others out of their own files.
//!
//! Invariant: only files with grayling's names are touched, and no symlink is followed.

use rustix::fs::{Mode, OFlags, fchmod, open};
use rustix::process::geteuid;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

/// The permission bits of group and others.
const OTHERS: u32 = 0o077;

/// Options for a file that only its owner may read; the caller adds the open mode.
pub fn private_file() -> OpenOptions {
    let mut options = File::options();
    options.mode(0o600);
    options
}

/// Creates the directory, if it does not exist.
pub fn private_directory(path: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

/// Removes the permissions of group and others on the state directory and its files.
/// Returns what stays open to them, and why; a failure does not stop the start.
pub fn tighten(directory: &Path) -> Vec<String> {
    // A missing directory needs no tightening.
    let Ok(directory) = &directory.canonicalize() else { return vec![] };
    let mut open = vec![];
    let mut all_ours = true;
    for entry in fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok) {
        match is_ours(&entry.file_name().to_string_lossy()) {
            true => open.extend(tighten_one(&entry.path(), 0o600)),
            false => all_ours = false,
        }
    }
    match all_ours {
        true => open.extend(tighten_one(directory, 0o700)),
        false if fs::metadata(directory).is_ok_and(|meta| meta.mode() & OTHERS != 0) => open.push(format!(
            "{}: other users may list it; it is not changed, as it holds other files as well: give [state] a directory of its own",
            directory.display()
        )),
        false => {}
    }
    open
}

/// Is this the name of a file of a state directory?
fn is_ours(name: &str) -> bool {
    let begins = ["grayling.state", "ledger.", "key.", "evidence-", "failed-", "wave-", "past-"];
    ["lock", "key"].contains(&name) || begins.iter().any(|begin| name.starts_with(begin))
}

fn tighten_one(path: &Path, mode: u32) -> Option<String> {
    let meta = fs::symlink_metadata(path).ok()?;
    // A symlink has no mode of its own, and its target may be another user's file.
    let expected = if mode == 0o700 { meta.is_dir() } else { meta.is_file() };
    if !expected || meta.mode() & OTHERS == 0 {
        return None;
    }
    let shown = path.display();
    if meta.uid() != geteuid().as_raw() {
        let (user, mode) = (meta.uid(), meta.mode() & 0o777);
        return Some(format!(
            "{shown}: mode {mode:03o}, and it belongs to user {user}: type `chmod go= {shown}` as that user"
        ));
    }
    // Not by name: it could become a symlink between the check and the change.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let changed = open(path, flags, Mode::empty()).and_then(|file| fchmod(file, Mode::from_raw_mode(mode)));
    let error = changed.err()?;
    Some(format!(
        "{shown}: other users may read it, and its mode cannot be changed: {}",
        io::Error::from(error)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o777
    }

    fn set(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn what_others_may_read_is_tightened_and_nothing_else_is_touched() {
        let dir = crate::store::state::tests::scratch("private");
        let ours = [
            "lock",
            "grayling.state",
            "grayling.state.unreadable-7",
            "ledger.jsonl",
            "evidence-r.bin",
            "failed-r-1.jsonl",
        ];
        for name in ours {
            fs::write(dir.join(name), name).unwrap();
            set(&dir.join(name), 0o644);
        }
        set(&dir, 0o755);
        assert_eq!(tighten(&dir), Vec::<String>::new());
        assert!(ours.iter().all(|name| mode(&dir.join(name)) == 0o600) && mode(&dir) == 0o700);
        // A foreign file in the directory, and a symlink with one of our names.
        let notes = dir.join("notes.txt");
        fs::write(&notes, "mine").unwrap();
        set(&notes, 0o644);
        fs::remove_file(dir.join("evidence-r.bin")).unwrap();
        std::os::unix::fs::symlink(&notes, dir.join("evidence-r.bin")).unwrap();
        set(&dir.join("lock"), 0o666);
        set(&dir, 0o755);
        let told = tighten(&dir);
        assert!(told.len() == 1 && told[0].contains("a directory of its own"), "{told:?}");
        assert_eq!((mode(&dir.join("lock")), mode(&notes), mode(&dir)), (0o600, 0o644, 0o755));
        fs::remove_dir_all(&dir).unwrap();
    }
}
