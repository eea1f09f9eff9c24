//! Server-sent events: one app, several apps, their order, and how they are resumed.

#[path = "../support/mod.rs"]
mod support;

mod apps;
mod live;
mod order;
mod resume;
