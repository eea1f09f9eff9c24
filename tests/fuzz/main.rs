//! Structured noise: pushes, queries, frames and raw HTTP that are nearly right, to the parsers and to a running replica.
//!
//! Whatever comes is answered as the protocol says, or refused clearly; nothing panics, and a replica goes on serving. What
//! is found once gets a test by name. `fuzz/` has the same parsers for cargo-fuzz.

#[path = "../support/mod.rs"]
mod support;

#[path = "../../fuzz/checks.rs"]
mod checks;
mod parsers;
mod replica;
mod shapes;
