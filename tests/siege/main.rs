//! The siege: every input that is known to have cost a replica too much, and relatives of each, at a replica under a real
//! limit of its memory, while other users work (G6).
//!
//! ```text
//! replica: a replica with the manifests' settings ── the limit, what is resident, users at work, probes
//! run: one attack after the other, each measured ── the table that docs/faults.md has
//! bodies, readers, unauthenticated, clients: the attacks     relatives: the same in other places     storm: what is left when many have come and gone
//! ```
//! Without more ado a short form runs, which holds the replica to its memory, its answers and its life. `make siege` runs
//! the whole of it (`SIEGE=long`), and holds it to its times as well: for a machine that does nothing else.

#[path = "../support/mod.rs"]
mod support;

mod bodies;
mod clients;
mod readers;
mod relatives;
mod replica;
mod run;
mod storm;
mod unauthenticated;
