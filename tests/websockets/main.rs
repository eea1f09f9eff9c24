//! WebSockets: the protocol, and its limits.

#[path = "../support/mod.rs"]
mod support;

mod held_up;
mod limits;
mod protocol;
