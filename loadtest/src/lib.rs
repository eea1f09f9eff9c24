//! The load generator of mana-sync, and an independent check of it: nothing here shares code with the server.
//!
//! ```text
//! token ─► device ─► transport ─► any replica          stream, wakeups: the two kinds of notification
//!            │  ▲
//!            ▼  └── invariants: every answer is checked against the protocol
//!          store ──► snapshot ◄── fold ◄── sync_changes in PostgreSQL
//!                       ▲
//!                     replay: histories through a cluster, then everyone compared with everyone
//!                     report: what a run measured, as JSON, as a page, against another run
//! ```
//! [`device::Device`] behaves as existing clients do; [`fold`] computes from the stored rows what all devices must hold
//! in the end; [`replay`] combines both. Tests of the server use this library, people use the binary.

#![warn(missing_docs)]

pub mod baseline;
pub mod device;
pub mod engine;
pub mod fold;
pub mod growth;
pub mod invariants;
pub mod local;
pub mod protocol;
pub mod replay;
pub mod report;
pub mod scenario;
pub mod snapshot;
pub mod stamp;
pub mod store;
pub mod stream;
pub mod token;
pub mod transport;
pub mod wakeups;
