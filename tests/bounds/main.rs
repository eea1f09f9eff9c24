//! Limits outside the happy path (G6): how much one user, one address and unauthenticated clients may use, and the
//! responses beyond that.

#[path = "../support/mod.rs"]
mod support;

mod addresses;
mod names;
mod pages;
mod polls;
mod unauthenticated;
mod unread;
mod users;
