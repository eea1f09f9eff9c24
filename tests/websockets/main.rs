//! WebSockets: the protocol, and what they may not do.

#[path = "../support/mod.rs"]
mod support;

mod held_up;
mod limits;
mod protocol;
