//! Who is let in: tokens and their issuer, payment, origins, limits, and what a refusal says (G5).

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
mod limits;
mod refusals;
