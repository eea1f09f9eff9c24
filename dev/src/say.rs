//! Prints to the terminal, which may have been closed: unlike `println!`, that does not panic.

use std::{
    fmt::Display,
    io::{Write as _, stderr, stdout},
};

/// Prints requested output: stdout.
pub fn say(text: impl Display) {
    let mut out = stdout().lock();
    let _ = writeln!(out, "{text}");
    let _ = out.flush();
}

/// Prints progress: stderr.
pub fn note(text: impl Display) {
    let _ = writeln!(stderr().lock(), "{text}");
}
