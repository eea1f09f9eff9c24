//! The stored changes, and what readers get of them, under concurrency (G1, G2, G3).

#[path = "../support/mod.rs"]
mod support;

mod batcher;
mod buckets;
mod compression;
mod concurrency;
mod convergence;
mod crash;
mod dropped_rows;
mod foreign_objects;
mod hidden_rows;
mod least_privilege;
mod long_changes;
mod page_bounds;
mod plans;
mod pull;
mod read_ahead;
mod reindexed;
mod replay;
mod rewind;
mod row_level_security;
mod schema_changes;
mod settings;
mod stalled_writes;
mod statements;
