//! `mana-dev` and the servers that it starts, as people and tests use them.

mod command;
mod postgres;
mod services;
