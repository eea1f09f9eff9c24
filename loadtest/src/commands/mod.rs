//! The subcommands except `replay`: their arguments and exit statuses.

pub mod baseline;
pub mod growth;
pub mod measuring;
pub mod report;
pub mod run;
pub mod stop;
