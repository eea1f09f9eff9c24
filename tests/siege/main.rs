//! The siege: every input known to have cost a replica too much, and variants of each, against a replica with a real
//! memory limit, while other users work (G6).
//!
//! ```text
//! replica: a replica with the manifests' settings ── the limit, resident memory, users at work, probes
//! run: one attack after another, each measured ── the table in docs/faults.md
//! bodies, readers, unauthenticated, clients: the attacks     relatives: variants elsewhere
//! storm: what is left after very many came and went    kept: what connections keep of what was sent on them
//! operators: questions about what users stored    turns: clients that leave no turn to others
//! ```
//! By default a short form runs, which checks the replica's memory, answers and survival. `make siege` runs all of it
//! (`SIEGE=long`), and also checks its times: for a machine that does nothing else. `SIEGE_ATTACK` limits both to the
//! attacks whose names contain it.

#[path = "../support/mod.rs"]
mod support;

mod bodies;
mod clients;
mod kept;
mod operators;
mod readers;
mod relatives;
mod replica;
mod run;
mod storm;
mod turns;
mod unauthenticated;
