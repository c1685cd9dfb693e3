//! Terminal output that is redrawn in place.
//!
//! Invariants: it never flickers: nothing is cleared before it is overwritten, and each redraw is
//! one write. It never scrolls: lines below the terminal's height are cut off, with a note.
//! The last output stays when the command ends.

use super::text;
use rustix::termios::tcgetwinsize;
use std::fmt::Write;
use std::io::{self, stdout};

/// Cursor home; erase to the end of the line; erase to the end of the screen.
const HOME: &str = "\x1b[H";
const LINE_END: &str = "\x1b[K";
const REST: &str = "\x1b[J";
const CLEAR: &str = "\x1b[H\x1b[2J";
/// Used if the terminal does not report its size.
const ROWS: usize = 24;
const COLUMNS: usize = 80;

#[derive(Default)]
pub struct Screen {
    /// The size at the last redraw: after a change the screen is cleared once.
    size: Option<(usize, usize)>,
}

impl Screen {
    pub fn draw(&mut self, picture: &str) -> io::Result<()> {
        let told = tcgetwinsize(stdout()).ok().map(|w| (usize::from(w.ws_row), usize::from(w.ws_col)));
        let size = told.filter(|(rows, columns)| *rows > 1 && *columns > 0).unwrap_or((ROWS, COLUMNS));
        let mut out = String::from(if self.size == Some(size) { HOME } else { CLEAR });
        self.size = Some(size);
        for line in fit(picture, size.0, size.1) {
            // On a full row, this erase would remove the last character.
            let filled = width(&line) > 0 && width(&line).is_multiple_of(size.1);
            let _ = write!(out, "{line}{}\r\n", if filled { "" } else { LINE_END });
        }
        out.push_str(REST);
        text::print(&out)
    }
}

/// The lines that fit on the terminal, with one row left for the cursor.
fn fit(picture: &str, rows: usize, columns: usize) -> Vec<String> {
    let lines: Vec<&str> = picture.lines().collect();
    let height = |line: &str| width(line).div_ceil(columns).max(1);
    let room = rows.saturating_sub(1);
    if lines.iter().map(|l| height(l)).sum::<usize>() <= room {
        return lines.into_iter().map(str::to_owned).collect();
    }
    let mut fitting = vec![];
    let mut used = 1;
    for line in &lines {
        used += height(line);
        if used > room {
            break;
        }
        fitting.push((*line).to_owned());
    }
    let more = lines.len() - fitting.len();
    let mut told = format!("... {more} more lines: `grayling status` shows all");
    told.truncate(columns);
    fitting.push(told);
    fitting
}

/// Columns of a line, without colours. Wide characters count as one, so a name with them may cost
/// the last line.
fn width(line: &str) -> usize {
    let mut columns = 0;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        if c == '\x1b' {
            // A colour: ESC [ ... m
            for c in chars.by_ref() {
                if c == 'm' {
                    break;
                }
            }
        } else {
            columns += 1;
        }
    }
    columns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_is_cut_to_the_terminal_and_says_so() {
        assert_eq!(fit("a\nb\n", 3, 10), ["a", "b"]);
        assert_eq!(fit("a\nb\nc\nd\n", 4, 60), ["a", "b", "... 2 more lines: `grayling status` shows all"]);
        // A line of 25 takes three rows of ten.
        let long = "x".repeat(25);
        assert_eq!(fit(&format!("{long}\nb\n"), 5, 10).len(), 2);
        assert_eq!(fit(&format!("{long}\nb\n"), 4, 10), ["... 2 more".to_owned()]);
        assert_eq!(fit("", 5, 10), Vec::<String>::new());
    }

    #[test]
    fn colours_take_up_no_room() {
        assert_eq!(width("\x1b[31mred\x1b[0m and ü"), 9);
    }
}
