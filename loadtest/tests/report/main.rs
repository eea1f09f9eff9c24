//! The page and the comparison of reports, with usual, hostile and enormous data.

mod browser;
mod comparison;
mod fixture;
mod junit;
mod merging;
mod page;
