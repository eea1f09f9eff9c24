//! The program as operators see it: startup, settings, health, metrics, shutdown, and the documents about it.

#[path = "../support/mod.rs"]
mod support;

mod heads;
mod health;
mod readme;
mod runbooks;
mod settings;
mod shutdown;
mod start;
mod telemetry;
mod unfit;
mod ways;
