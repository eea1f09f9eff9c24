//! Structured noise: pushes, queries, frames and raw HTTP that are nearly right, to the parsers and to a running replica.
//!
//! Whatever comes is answered as the protocol says, or refused clearly; nothing panics, and a replica goes on serving. What
//! is found once stays in `fuzz.proptest-regressions` or gets a test by name. `fuzz/` has the same parsers for cargo-fuzz.

#[path = "../support/mod.rs"]
mod support;

mod parsers;
mod replica;
mod shapes;
