//! Buckets on a real Citus: a coordinator and two workers. `make test-citus CITUS_BIN=folder` runs it; elsewhere its
//! tests are ignored, because Citus is not part of this project or of any package registry.

#[path = "../support/mod.rs"]
mod support;

mod away;
mod cluster;
mod cost;
mod identity;
mod impaired;
mod killed;
mod moves;
mod older;
mod operators;
mod readers;
mod silence;
mod usage;
mod workers;
mod writers;

const AT: &str = "2024-01-01T10:05:00.000Z";
const BUCKETS: u16 = 4;
