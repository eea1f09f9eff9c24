//! `mana-dev` and the servers that it starts, as people and tests use them.

mod command;
mod playground;
mod postgres;
mod services;
