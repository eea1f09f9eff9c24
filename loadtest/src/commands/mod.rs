//! The subcommands, apart from `replay`: their arguments, and what their exit status means.

pub mod baseline;
pub mod growth;
pub mod measuring;
pub mod report;
pub mod run;
pub mod stop;
