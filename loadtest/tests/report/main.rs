//! The report page and the comparison of reports, with typical, hostile and enormous data.

mod browser;
mod comparison;
mod fixture;
mod junit;
mod merging;
mod page;
