//! `POST /sync/{appId}`, sentence by sentence of docs/protocol.md.

#[path = "../support/mod.rs"]
mod support;

mod body;
mod checks;
mod conflicts;
mod delta;
mod members;
mod own;
mod pages;
mod retry;
mod stamps;
mod ties;
mod together;

const AT: &str = "2024-01-01T10:05:00.000Z";
