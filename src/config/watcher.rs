//! A change of the config, or of a file that it names, becomes one [`FileChange`]. Runs on its own
//! thread; reads files, but does not load the config.
//!
//! The guarantee is a fingerprint of the contents, taken every second.
//! Events of the directories only make it faster. The directories are watched, not the files: a
//! directory survives an editor, a `mv`, or the swap of a ConfigMap's `..data` link, and a watch on
//! the file itself would not.
//! A file that is still being written is awaited: the fingerprint must be the same twice, `SETTLE`
//! apart.
//!
//! Invariants: delivered contents are not delivered again, however often the file is touched
//! (except for a [`Watcher::kick`]); a missing, unreadable or directory file is a content of its
//! own, and so a change; the channel holds one change, because its receiver reads the files as they
//! are then.

use notify::{EventKind, RecursiveMode, Watcher as _};
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};
use tokio::sync::mpsc as channel;
use xxhash_rust::xxh3::xxh3_128;

/// Time between two looks without an event.
const POLL: Duration = Duration::from_secs(1);
/// Contents count once they have been the same for this long.
const SETTLE: Duration = Duration::from_millis(30);
/// The same for a missing or empty file: an editor may be about to put it back.
const SETTLE_ABSENT: Duration = Duration::from_millis(200);
/// A file that never settles is delivered after this time, so that its faults are reported.
const SETTLE_MAX: Duration = Duration::from_secs(5);
const FRESH: Duration = Duration::from_secs(10);
/// Larger files are read only if their size, times or inode have changed.
const HASHED_ALWAYS_BYTES_MAX: u64 = 1 << 20;
/// Queued wake-ups. More carry no information.
const WAKES_MAX: usize = 64;

/// A request to load the file again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileChange {
    /// The contents differ from the last delivered ones.
    Contents,
    /// An operator asked for it (HUP), whatever the contents.
    Asked,
}

enum Wake {
    Event,
    Kick,
    Files(Vec<PathBuf>),
    Stop,
}

/// A handle. Dropping it stops the thread.
#[derive(Debug)]
pub struct Watcher {
    wake: SyncSender<Wake>,
}

impl Watcher {
    /// Watches `files` from now on. Their present contents count as known.
    /// Start it before the first load, so that no edit falls between the two.
    ///
    /// Fails only if the thread cannot be started. Without events (no inotify left) the poll still
    /// works.
    pub fn start(files: Vec<PathBuf>) -> std::io::Result<(Watcher, channel::Receiver<FileChange>)> {
        let (wake, wakes) = sync_channel(WAKES_MAX);
        let (changes, receiver) = channel::channel(1);
        let events = wake.clone();
        // Both before the return, so that no edit after this call is missed.
        let mut watched = WatchedDirectories::new(events);
        watched.follow(&files);
        let known = Fingerprints::default().take(&files);
        std::thread::Builder::new()
            .name("config-watch".into())
            .spawn(move || run(&wakes, &changes, watched, files, known))?;
        Ok((Watcher { wake }, receiver))
    }

    /// Delivers [`FileChange::Asked`] as soon as the contents have settled.
    pub fn kick(&self) {
        self.send(Wake::Kick);
    }

    /// Replaces the watched files. Call it after each load, with the files that the load has read.
    pub fn replace(&self, files: Vec<PathBuf>) {
        self.send(Wake::Files(files));
    }

    fn send(&self, wake: Wake) {
        // Fails only if the thread has ended because its receiver is gone.
        let _ = self.wake.send(wake);
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.send(Wake::Stop);
    }
}

fn run(
    wakes: &Receiver<Wake>,
    changes: &channel::Sender<FileChange>,
    mut watched: WatchedDirectories,
    mut files: Vec<PathBuf>,
    known: Vec<Content>,
) {
    let mut known: BTreeMap<PathBuf, Content> = files.iter().cloned().zip(known).collect();
    let mut prints = Fingerprints::default();
    loop {
        let mut asked = false;
        let mut next = wakes.recv_timeout(POLL);
        // All queued wake-ups count as one.
        loop {
            match next {
                Ok(Wake::Event) | Err(RecvTimeoutError::Timeout) => {}
                Ok(Wake::Kick) => asked = true,
                Ok(Wake::Files(list)) => {
                    let now = prints.take(&list);
                    let mut before = std::mem::take(&mut known);
                    for (path, content) in list.iter().zip(now) {
                        let content = match before.remove(path) {
                            Some(delivered) => delivered,
                            // It may have been written after the load read it.
                            None if is_fresh(path) => Content::Fault("not seen yet".into()),
                            None => content,
                        };
                        known.insert(path.clone(), content);
                    }
                    files = list;
                }
                Ok(Wake::Stop) | Err(RecvTimeoutError::Disconnected) => return,
            }
            match wakes.try_recv() {
                Ok(wake) => next = Ok(wake),
                Err(_) => break,
            }
        }
        if changes.is_closed() {
            return;
        }
        let now = prints.take(&files);
        let as_known = |now: &[Content]| files.iter().zip(now).all(|(path, c)| known.get(path) == Some(c));
        if as_known(&now) && !asked {
            watched.follow(&files);
            // Another file of the directory is written, perhaps often, such as a log.
            std::thread::sleep(SETTLE);
            continue;
        }
        let now = settle(&mut prints, &files, now, &known);
        // The contents may have returned to the known ones.
        let change = match (asked, as_known(&now)) {
            (true, _) => FileChange::Asked,
            (false, false) => FileChange::Contents,
            (false, true) => continue,
        };
        known = files.iter().cloned().zip(now).collect();
        // Full: a change already waits, and its receiver reads the files as they are then.
        if let Err(channel::error::TrySendError::Closed(_)) = changes.try_send(change) {
            return;
        }
        watched.follow(&files);
    }
}

/// Waits until the contents are the same twice.
fn settle(
    prints: &mut Fingerprints,
    files: &[PathBuf],
    mut now: Vec<Content>,
    known: &BTreeMap<PathBuf, Content>,
) -> Vec<Content> {
    let begun = Instant::now();
    loop {
        let is_new = |path: &PathBuf, c: &Content| known.get(path) != Some(c);
        let is_absent = |c: &Content| !matches!(c, Content::Text { bytes: 1.., .. });
        let absent = files.iter().zip(&now).any(|(path, c)| is_new(path, c) && is_absent(c));
        let pause = if absent { SETTLE_ABSENT } else { SETTLE };
        // In steps, so that a file that returns is taken without waiting for the rest.
        let deadline = Instant::now() + pause;
        let mut later = now.clone();
        while Instant::now() < deadline && later == now {
            std::thread::sleep(SETTLE);
            later = prints.take(files);
        }
        if later == now || begun.elapsed() > SETTLE_MAX {
            return later;
        }
        now = later;
    }
}

/// True if it was written within the last seconds, longer than any load takes (or by a clock ahead
/// of this one).
fn is_fresh(path: &Path) -> bool {
    let modified = std::fs::metadata(path).and_then(|meta| meta.modified());
    modified.is_ok_and(|at| at.elapsed().map_or(true, |age| age < FRESH))
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Content {
    Text {
        bytes: u64,
        hash: u128,
    },
    /// Missing, unreadable, a directory: as text, because another fault is another message.
    Fault(String),
}

/// Identifies a version of a file without reading it.
type Stamp = (u64, u64, u64, i64, i64, i64, i64);

/// Contents of large files, kept while their stamp is the same.
#[derive(Default)]
struct Fingerprints(BTreeMap<PathBuf, (Stamp, Content)>);

impl Fingerprints {
    fn take(&mut self, files: &[PathBuf]) -> Vec<Content> {
        self.0.retain(|path, _| files.contains(path));
        files.iter().map(|path| self.one(path)).collect()
    }

    fn one(&mut self, path: &Path) -> Content {
        let meta = match std::fs::metadata(path) {
            Ok(meta) if meta.is_file() => meta,
            Ok(_) => return Content::Fault("not a file".into()),
            Err(e) => return Content::Fault(e.kind().to_string()),
        };
        let stamp = (
            meta.dev(),
            meta.ino(),
            meta.len(),
            meta.mtime(),
            meta.mtime_nsec(),
            meta.ctime(),
            meta.ctime_nsec(),
        );
        if let Some((_, content)) = self.0.get(path).filter(|(known, _)| *known == stamp) {
            return content.clone();
        }
        let content = match std::fs::read(path) {
            Ok(bytes) => Content::Text { bytes: bytes.len() as u64, hash: xxh3_128(&bytes) },
            Err(e) => Content::Fault(e.kind().to_string()),
        };
        if meta.len() > HASHED_ALWAYS_BYTES_MAX {
            self.0.insert(path.to_path_buf(), (stamp, content.clone()));
        }
        content
    }
}

/// The directories whose events wake the thread.
struct WatchedDirectories {
    /// `None`: the system provides no events, and the poll alone finds changes.
    notify: Option<notify::RecommendedWatcher>,
    /// With device and inode: a directory recreated under its old name is another one.
    directories: BTreeMap<PathBuf, (u64, u64)>,
}

impl WatchedDirectories {
    fn new(wake: SyncSender<Wake>) -> WatchedDirectories {
        let notify = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Reading a file is also an event. The thread must not wake itself by its own reads.
            let ours = matches!(
                &event,
                Ok(e) if matches!(e.kind, EventKind::Access(a) if !matches!(a, notify::event::AccessKind::Close(notify::event::AccessMode::Write)))
            );
            if !ours {
                // Full: the thread is about to look anyway.
                let _ = wake.try_send(Wake::Event);
            }
        });
        WatchedDirectories { notify: notify.ok(), directories: BTreeMap::new() }
    }

    /// Watches the folders of `files`, and of the files that they link to.
    fn follow(&mut self, files: &[PathBuf]) {
        let Some(notify) = &mut self.notify else { return };
        let mut wanted = BTreeMap::new();
        for file in files {
            for path in [Some(file.clone()), std::fs::canonicalize(file).ok()].into_iter().flatten() {
                let folder = match path.parent() {
                    Some(folder) if !folder.as_os_str().is_empty() => folder.to_path_buf(),
                    _ => PathBuf::from("."),
                };
                if let Ok(meta) = std::fs::metadata(&folder) {
                    wanted.insert(folder, (meta.dev(), meta.ino()));
                }
            }
        }
        if wanted == self.directories {
            return;
        }
        let stale: Vec<PathBuf> = self
            .directories
            .iter()
            .filter(|(path, id)| wanted.get(*path) != Some(*id))
            .map(|(path, _)| path.clone())
            .collect();
        for path in stale {
            // The watch of a removed directory is removed with it.
            let _ = notify.unwatch(&path);
            self.directories.remove(&path);
        }
        for (path, id) in wanted {
            if !self.directories.contains_key(&path)
                && notify.watch(&path, RecursiveMode::NonRecursive).is_ok()
            {
                self.directories.insert(path, id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::Write;
    use std::os::unix::fs::symlink;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// Far above the expected time, for a busy machine.
    const DEADLINE: Duration = Duration::from_secs(10);

    struct Folder(PathBuf);

    impl Folder {
        fn new() -> Folder {
            static COUNT: AtomicU32 = AtomicU32::new(0);
            let n = COUNT.fetch_add(1, Ordering::Relaxed);
            let path = std::env::temp_dir().join(format!("grayling-watch-{}-{n}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Folder(path)
        }

        fn file(&self, name: &str) -> PathBuf {
            self.0.join(name)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// The change, and the time until it came.
    fn next(changes: &mut channel::Receiver<FileChange>) -> Option<(FileChange, Duration)> {
        let begun = Instant::now();
        while begun.elapsed() < DEADLINE {
            if let Ok(change) = changes.try_recv() {
                return Some((change, begun.elapsed()));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        None
    }

    /// Proves that no change waits: the next one is the kick, and the thread keeps the order.
    fn nothing_but_a_kick(watcher: &Watcher, changes: &mut channel::Receiver<FileChange>) {
        let silent_until = Instant::now() + POLL + SETTLE * 4;
        while Instant::now() < silent_until {
            assert!(changes.try_recv().is_err());
            std::thread::sleep(Duration::from_millis(5));
        }
        watcher.kick();
        assert_eq!(next(changes).map(|(change, _)| change), Some(FileChange::Asked));
    }

    fn contents(changes: &mut channel::Receiver<FileChange>) -> Duration {
        let (change, took) = next(changes).expect("a change within the deadline");
        assert_eq!(change, FileChange::Contents);
        took
    }

    #[test]
    fn every_way_of_saving_is_one_change() {
        let folder = Folder::new();
        let file = folder.file("grayling.toml");
        fs::write(&file, "1").unwrap();
        let (watcher, mut changes) = Watcher::start(vec![file.clone()]).unwrap();
        let in_place = |text: &str| fs::write(&file, text).unwrap();
        let renamed_over = |text: &str| {
            let beside = folder.file(".grayling.toml.swp");
            fs::write(&beside, text).unwrap();
            fs::rename(&beside, &file).unwrap();
        };
        let moved_away_and_written = |text: &str| {
            fs::rename(&file, folder.file("grayling.toml~")).unwrap();
            fs::write(&file, text).unwrap();
        };
        let deleted_and_recreated = |text: &str| {
            fs::remove_file(&file).unwrap();
            fs::write(&file, text).unwrap();
        };
        let appended = |text: &str| {
            fs::OpenOptions::new().append(true).open(&file).unwrap().write_all(text.as_bytes()).unwrap();
        };
        type Way<'a> = (&'a str, &'a dyn Fn(&str));
        let ways: [Way<'_>; 5] = [
            ("in place", &in_place),
            ("renamed over", &renamed_over),
            ("moved away and written", &moved_away_and_written),
            ("deleted and recreated", &deleted_and_recreated),
            ("appended", &appended),
        ];
        let mut took = Vec::new();
        for round in 0..4 {
            for (name, save) in &ways {
                save(&format!("{name} {round}"));
                took.push(contents(&mut changes));
            }
        }
        nothing_but_a_kick(&watcher, &mut changes);
        took.sort();
        println!("median {:?}, longest {:?}", took[took.len() / 2], took[took.len() - 1]);
        // Without events each change would wait for the poll: half a second on average.
        assert!(took[took.len() / 2] < Duration::from_millis(300), "{took:?}");
    }

    #[test]
    fn the_swap_of_a_config_map_is_a_change() {
        let folder = Folder::new();
        let version = |n: u32| {
            let data = folder.file(&format!("..2026_{n}"));
            fs::create_dir(&data).unwrap();
            fs::write(data.join("grayling.toml"), format!("version {n}")).unwrap();
            symlink(format!("..2026_{n}"), folder.file("..data_tmp")).unwrap();
            fs::rename(folder.file("..data_tmp"), folder.file("..data")).unwrap();
        };
        version(1);
        symlink("..data/grayling.toml", folder.file("grayling.toml")).unwrap();
        let (watcher, mut changes) = Watcher::start(vec![folder.file("grayling.toml")]).unwrap();
        for n in 2..6 {
            version(n);
            contents(&mut changes);
            fs::remove_dir_all(folder.file(&format!("..2026_{}", n - 1))).unwrap();
        }
        nothing_but_a_kick(&watcher, &mut changes);
    }

    #[test]
    fn a_file_behind_a_link_into_another_folder_is_watched() {
        let (folder, other) = (Folder::new(), Folder::new());
        fs::write(other.file("real.toml"), "1").unwrap();
        symlink(other.file("real.toml"), folder.file("grayling.toml")).unwrap();
        let (_watcher, mut changes) = Watcher::start(vec![folder.file("grayling.toml")]).unwrap();
        fs::write(other.file("real.toml"), "2").unwrap();
        contents(&mut changes);
    }

    #[test]
    fn a_touched_file_is_no_change() {
        let folder = Folder::new();
        let file = folder.file("grayling.toml");
        fs::write(&file, "same").unwrap();
        let (watcher, mut changes) = Watcher::start(vec![file.clone()]).unwrap();
        fs::write(&file, "same").unwrap();
        fs::write(folder.file("neighbour"), "x").unwrap();
        nothing_but_a_kick(&watcher, &mut changes);
    }

    #[test]
    fn a_file_that_goes_or_becomes_a_directory_is_a_change_and_so_is_its_return() {
        let folder = Folder::new();
        let file = folder.file("grayling.toml");
        fs::write(&file, "1").unwrap();
        let (_watcher, mut changes) = Watcher::start(vec![file.clone()]).unwrap();
        fs::remove_file(&file).unwrap();
        contents(&mut changes);
        fs::create_dir(&file).unwrap();
        contents(&mut changes);
        fs::remove_dir(&file).unwrap();
        fs::write(&file, "1").unwrap();
        contents(&mut changes);
        // The folder is recreated: its watch is dead, and the poll finds it.
        fs::remove_dir_all(&folder.0).unwrap();
        contents(&mut changes);
        fs::create_dir(&folder.0).unwrap();
        fs::write(&file, "2").unwrap();
        contents(&mut changes);
        fs::write(&file, "3").unwrap();
        contents(&mut changes);
    }

    #[test]
    fn a_file_that_is_still_being_written_is_waited_for() {
        let folder = Folder::new();
        let file = folder.file("grayling.toml");
        fs::write(&file, "1").unwrap();
        let (watcher, mut changes) = Watcher::start(vec![file.clone()]).unwrap();
        let mut slow = fs::File::create(&file).unwrap();
        let mut delivered = 0;
        for i in 0..60 {
            slow.write_all(format!("line {i}\n").as_bytes()).unwrap();
            delivered += u32::from(changes.try_recv().is_ok());
            std::thread::sleep(Duration::from_millis(5));
        }
        drop(slow);
        let mut silent_since = Instant::now();
        let mut after_the_end = 0;
        while silent_since.elapsed() < POLL + SETTLE * 4 {
            if changes.try_recv().is_ok() {
                after_the_end += 1;
                silent_since = Instant::now();
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        assert!(after_the_end >= 1);
        // Once; a few times on a machine so busy that two writes are 30 ms apart; sixty times
        // without waiting.
        assert!(delivered + after_the_end <= 6, "{delivered} + {after_the_end}");
        drop(watcher);
    }

    #[test]
    fn files_can_be_replaced_and_the_new_ones_are_watched() {
        let folder = Folder::new();
        let (config, users) = (folder.file("grayling.toml"), folder.file("testers.txt"));
        fs::write(&config, "1").unwrap();
        fs::write(&users, "alice").unwrap();
        let old = std::time::SystemTime::now() - Duration::from_secs(60);
        fs::File::open(&users).unwrap().set_modified(old).unwrap();
        let (watcher, mut changes) = Watcher::start(vec![config.clone()]).unwrap();
        fs::write(&users, "alice").unwrap();
        fs::File::open(&users).unwrap().set_modified(old).unwrap();
        watcher.replace(vec![config.clone(), users.clone()]);
        nothing_but_a_kick(&watcher, &mut changes);
        fs::write(&users, "alice\nbob").unwrap();
        contents(&mut changes);
        fs::write(&config, "2").unwrap();
        contents(&mut changes);
        watcher.replace(vec![config]);
        fs::write(&users, "nobody").unwrap();
        nothing_but_a_kick(&watcher, &mut changes);
    }

    #[test]
    fn the_thread_ends_with_its_watcher() {
        let folder = Folder::new();
        let (watcher, mut changes) = Watcher::start(vec![folder.file("grayling.toml")]).unwrap();
        drop(watcher);
        let begun = Instant::now();
        while !matches!(changes.try_recv(), Err(channel::error::TryRecvError::Disconnected)) {
            assert!(begun.elapsed() < DEADLINE);
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}
