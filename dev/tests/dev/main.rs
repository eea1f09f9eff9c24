//! `mana-dev`, and the servers it starts, as people and tests use them.

mod command;
mod playground;
mod postgres;
mod services;
