//! Bounds beside the happy path (G6): what one user, one address and those without any account may take, and what they
//! are told beyond it.

#[path = "../support/mod.rs"]
mod support;

mod addresses;
mod names;
mod pages;
mod polls;
mod unauthenticated;
mod unread;
mod users;
