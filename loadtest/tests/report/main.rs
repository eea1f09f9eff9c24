//! The page and the comparison of reports, with usual, hostile and enormous data.

mod fixture;
mod page;
