//! The fault suite: a cluster of real processes under full load, a seeded schedule of faults, then the checks.
//!
//! ```text
//! schedule ─► run ─► cluster      PostgreSQL, three replicas, a breakable network between them
//!              │ └─► workload   writers, readers, misbehaving clients: what they were sent and what they saw
//!              ├───► fault      each begins, lasts, and is undone
//!              └───► checks, epilogue: G1 to G6, then whether the cluster works as if nothing had happened
//! suite: random schedules              failpoints: the suite notices what it must notice
//! focused, lasting: one fault each     failover, pooler, database, slow: need other servers than a cluster has
//! probe: small queries for such tests
//! ```
//! A run prints its seed and schedule; `CHAOS_SEED=n` repeats it, `CHAOS_SEEDS=n` runs that many in a row from 1,
//! `CHAOS_MINUTES=m` runs for that long. Without them, three short ones run. `CHAOS_AT_ONCE=2` runs two at a time.

#[path = "../support/mod.rs"]
mod support;

mod checks;
mod cluster;
mod database;
mod epilogue;
mod failover;
mod failpoints;
mod fault;
mod focused;
mod lasting;
mod misbehaving_clients;
mod pooler;
mod probe;
mod readers;
mod run;
mod schedule;
mod slow;
mod suite;
mod trimmed;
mod workload;
mod writers;
