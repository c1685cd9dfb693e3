//! The output of the demo: lines, events with the seconds since the start, and on a terminal one
//! status line below them that is redrawn.
//!
//! Invariants: a pipe gets plain text, each line at once. No line exceeds 80 columns, except for
//! file names. The status line is erased before anything else is written.

use crate::cli::text::{self, Colour, Hue};
use std::fmt::Display;
use std::io;
use std::time::Instant;

/// Back to the first column, and erase the line.
const WIPE: &str = "\r\x1b[2K";

pub struct DemoScreen {
    pub start: Instant,
    colour: Colour,
    terminal: bool,
    drawn: bool,
}

impl DemoScreen {
    pub fn new() -> DemoScreen {
        let (colour, terminal) = (Colour::of_stdout(), text::redraws());
        DemoScreen { start: Instant::now(), colour, terminal, drawn: false }
    }

    pub fn paint(&self, hue: Hue, text: &str) -> String {
        self.colour.paint(hue, text)
    }

    pub fn line(&mut self, text: impl Display) -> io::Result<()> {
        let wipe = if std::mem::take(&mut self.drawn) { WIPE } else { "" };
        text::print(&format!("{wipe}{text}\n"))
    }

    /// Prints an event with its time.
    pub fn event(&mut self, hue: Option<Hue>, text: &str) -> io::Result<()> {
        let told = hue.map_or_else(|| text.to_owned(), |hue| self.paint(hue, text));
        let time = self.time();
        self.line(format!("{time}  {told}"))
    }

    /// ` 12.4s`: since the start.
    pub fn time(&self) -> String {
        format!("{:>6.1}s", self.start.elapsed().as_secs_f64())
    }

    /// Redraws the status line; does nothing in a pipe.
    pub fn draw(&mut self, text: &str) -> io::Result<()> {
        if !self.terminal {
            return Ok(());
        }
        self.drawn = true;
        text::print(&format!("{WIPE}{}", self.paint(Hue::Dim, text)))
    }
}

impl Drop for DemoScreen {
    fn drop(&mut self) {
        if self.drawn {
            let _ = text::print(WIPE);
        }
    }
}
