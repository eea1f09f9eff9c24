//! The sync backend for local-first apps: any number of identical, stateless replicas on one PostgreSQL database.
//!
//! ```text
//!  device A ── POST /sync/{app} ──► replica 1: auth → billing → validate
//!                                       │ one statement: take the head, store the changes
//!                                       ▼
//!                                  PostgreSQL  sync_heads, sync_changes        (the truth)
//!                                       ▲ │ commit, answer A
//!                 publisher of replica 1 ┘ │ pg_notify: with the commit while few push, else coalesced after it
//!                                          ▼
//!               listener of replica 1, 2, 3 … ── hub: user → local sessions
//!                                                  ├─► WebSocket: "sync-available" → device B pulls
//!                                                  └─► SSE session: reads from its cursor → "changes" → device C
//!       reconciler of each replica: queries the heads of its users ─► hub   (finds what notifications missed)
//! ```
//!
//! The log is the truth; a notification is a hint. Modules are listed in the order of the data flow; a module uses only
//! those above it, and only [`app`] knows them all.

#![warn(missing_docs)]
// Time, randomness and settings are passed in: see `clock` and `config`.
#![warn(clippy::disallowed_methods)]

pub mod protocol;

pub mod clock;
pub mod config;
pub mod failpoints;
pub mod output;
pub mod telemetry;

pub mod budget;
pub mod mail_budget;
pub mod places;

pub mod shutdown;

pub mod auth;
pub mod billing;

pub mod db;

pub mod store;

pub mod fanout;

pub mod hub;

pub mod limits;

pub mod session;

pub mod http;

pub mod admin;

pub mod app;
pub mod commands;
