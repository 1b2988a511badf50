//! Where the demo shows itself: progress on standard error, the report on standard output.
//!
//! A reader that went away is no failure: whoever does not look misses it.

use std::io::{self, IsTerminal, Write};

/// Standard error, and whether a row of it can be written over.
pub(super) struct Screen {
    live: bool,
    /// Characters of the row that will be written over.
    drawn: usize,
}

// === impl Screen ===

impl Screen {
    pub(super) fn new() -> Self {
        Self {
            live: io::stderr().is_terminal(),
            drawn: 0,
        }
    }

    /// Whether rows can be drawn before they are final.
    pub(super) fn is_live(&self) -> bool {
        self.live
    }

    /// Writes lines that stay.
    pub(super) fn say(&mut self, text: &str) {
        self.write(text, "\n");
        self.drawn = 0;
    }

    /// Draws a row that the next one takes the place of.
    pub(super) fn draw(&mut self, row: &str) {
        if self.live {
            self.write(row, "");
            self.drawn = row.chars().count();
        }
    }

    fn write(&self, text: &str, end: &str) {
        let back = if self.drawn > 0 { "\r" } else { "" };
        let rest = self
            .drawn
            .saturating_sub(text.lines().next().unwrap_or_default().chars().count());
        let mut out = io::stderr().lock();
        let cleared = if text.contains('\n') && self.drawn > 0 {
            write!(out, "\r{:1$}\r{text}{end}", "", self.drawn)
        } else {
            write!(out, "{back}{text}{:rest$}{end}", "")
        };
        // Nobody is left to tell.
        drop(cleared.and_then(|()| out.flush()));
    }
}
