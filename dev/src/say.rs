//! Talking to the person at the terminal, who may have closed it: unlike `println!`, no panic then.

use std::{
    fmt::Display,
    io::{Write as _, stderr, stdout},
};

/// What was asked for: stdout.
pub fn say(text: impl Display) {
    let mut out = stdout().lock();
    let _ = writeln!(out, "{text}");
    let _ = out.flush();
}

/// What happens on the way: stderr.
pub fn note(text: impl Display) {
    let _ = writeln!(stderr().lock(), "{text}");
}
