//! Structured noise: almost valid pushes, queries, frames and raw HTTP, sent to the parsers and to a running replica.
//!
//! All input is answered as the protocol says, or refused clearly; nothing panics, and the replica keeps serving.
//! Anything found this way gets a named test. `fuzz/` has the same parsers for cargo-fuzz.

#[path = "../support/mod.rs"]
mod support;

#[path = "../../fuzz/checks.rs"]
mod checks;
mod parsers;
mod replica;
mod shapes;
