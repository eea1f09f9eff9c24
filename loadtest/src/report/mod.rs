//! What a run measured: one JSON file, and the ways of looking at it.
//!
//! ```text
//! workers ─► recorder ─┐ each second                    ┌─► live: the terminal, while it runs
//! replicas ─► scrape ──┴─► second ─► model (the JSON) ──┼─► html: one page, for people
//!                                                       └─► compare: two runs side by side
//! ```
//! [`model::Report`] holds everything that is ever shown; nothing is measured or estimated by what shows it.

pub mod histogram;
pub mod model;

pub use histogram::LatencyHistogram;
pub use model::Report;
