//! Log lines to stdout: one JSON object per line (or the combined format for ordinary requests),
//! written by a separate thread.
//!
//! Invariants: no caller waits for the log.
//! The queue is bounded, and lines beyond it are dropped and counted.
//! No client data can break a line, since the JSON writer escapes every value.

use serde_json::{Value, json};
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

/// The most lines that wait for a slow reader.
const QUEUE_LINES_MAX: usize = 8192;

/// The pause between two writes.
const TOGETHER: Duration = Duration::from_millis(10);

#[derive(Clone)]
pub struct Log {
    queue: SyncSender<LogMessage>,
    dropped: Arc<AtomicU64>,
}

enum LogMessage {
    Line(String),
    /// Answered once everything before it is written.
    Flush(SyncSender<()>),
}

impl Log {
    /// Starts the writer thread.
    pub fn to_stdout() -> std::io::Result<Log> {
        Self::to(std::io::stdout())
    }

    /// Starts a writer thread for `out`.
    pub fn to(out: impl Write + Send + 'static) -> std::io::Result<Log> {
        let (queue, lines) = sync_channel(QUEUE_LINES_MAX);
        std::thread::Builder::new().name("log".into()).spawn(move || write(out, &lines))?;
        Ok(Log { queue, dropped: Arc::default() })
    }

    /// Discards every line, for tests.
    pub fn silent() -> std::io::Result<Log> {
        Self::to(std::io::sink())
    }

    /// Queues one complete line, without its end.
    pub fn line(&self, line: String) {
        if let Err(TrySendError::Full(_)) = self.queue.try_send(LogMessage::Line(line)) {
            self.dropped.fetch_add(1, Relaxed);
        }
    }

    /// `{"at":…,"event":NAME,…}`; `fields` is an object.
    pub fn event(&self, name: &str, fields: Value) {
        let at = super::clock::rfc3339(super::clock::at_ms());
        let mut line = json!({"at": at, "event": name});
        if let (Some(line), Value::Object(fields)) = (line.as_object_mut(), fields) {
            line.extend(fields);
        }
        self.line(line.to_string());
    }

    /// Lines dropped because the reader was too slow.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }

    /// Waits, at most a second, until all earlier lines are written.
    /// Called at the end of the process.
    pub fn flush(&self) {
        let (done, wait) = sync_channel(1);
        if self.queue.try_send(LogMessage::Flush(done)).is_ok() {
            let _ = wait.recv_timeout(Duration::from_secs(1));
        }
    }
}

fn write(out: impl Write, lines: &Receiver<LogMessage>) {
    let mut out = std::io::BufWriter::new(out);
    let mut next = lines.recv().ok();
    while let Some(message) = next {
        // A reader that went away (a closed pipe) must not stop the service.
        match message {
            LogMessage::Line(line) => {
                let _ = out.write_all(line.as_bytes()).and_then(|()| out.write_all(b"\n"));
            }
            LogMessage::Flush(done) => {
                let _ = out.flush();
                let _ = done.try_send(());
            }
        }
        next = lines.try_recv().ok().or_else(|| {
            let _ = out.flush();
            // Lines that arrive meanwhile are written together; each would cost a wake-up and a
            // write.
            std::thread::sleep(TOGETHER);
            lines.recv().ok()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);
    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_stays_one_line_whatever_is_in_it() {
        let page = Page::default();
        let log = Log::to(page.clone()).unwrap();
        log.event("x", json!({"path": "/a\r\n{\"event\":\"forged\"}\u{1b}[2J"}));
        log.flush();
        let text = String::from_utf8(page.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.lines().count(), 1);
        assert!(!text.contains('\u{1b}'));
        let line: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["event"], "x");
    }
}
