//! The lines of the table, one file for each way of measuring.

pub mod pushes;

use crate::report::model::Ratio;

/// The lines by name, in the order of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Name {
    /// Pushes of one change, and of ten, against pgbench with the same statement.
    Pushes,
}

/// A line that was measured.
#[derive(Clone, Debug)]
pub struct Row {
    pub ratio: Ratio,
    /// How it came about: each round, and what to bear in mind.
    pub note: String,
    /// The busiest that a thread of the generator was, as a share of its time.
    pub generator_busy: f64,
}
