//! The results of a run: one JSON file, and the ways of looking at it.
//!
//! ```text
//! workers ──► recorder ─┐ each second ┌─► live: the terminal, while it runs
//! replicas ─► scrape ───┼─► timeline ───┤
//! kernel ───► usage ────┘             └─► model: the JSON ─┬─► html: one page, for people; junit: for CI
//!                                         └ generator      └─► compare: two runs side by side; merge: several as one
//! ```
//! [`model::Report`] contains everything that is ever shown; the code that shows it measures and estimates nothing.

pub mod compare;
mod counts;
pub mod files;
mod generator;
mod growth;
pub(crate) mod histogram;
pub mod html;
mod judged;
pub mod junit;
pub(crate) mod live;
pub mod merge;
pub mod model;
pub(crate) mod recorder;
pub(crate) mod scrape;
mod series;
pub(crate) mod timeline;
pub mod units;
pub(crate) mod usage;

pub use histogram::LatencyHistogram;
pub use live::Live;
pub use model::Report;
pub use recorder::{OperationId, Recorder, Worker};
pub use scrape::Scraper;
pub use timeline::Timeline;
