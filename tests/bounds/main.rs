//! Bounds outside the happy path (G6): how much one user, one address and clients without an account may use, and the
//! answers beyond that.

#[path = "../support/mod.rs"]
mod support;

mod addresses;
mod names;
mod pages;
mod polls;
mod unauthenticated;
mod unread;
mod users;
