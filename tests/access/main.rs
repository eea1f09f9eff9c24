//! Access: tokens and their issuer, billing, origins, limits, and the form of refusals (G5).

#[path = "../support/mod.rs"]
mod support;

mod auth;
mod billing;
mod claims;
mod cors;
mod credits;
mod errors;
mod headers;
mod issuer;
mod key_sets;
mod limits;
mod misshapen;
mod refusals;
