//! Pages are compressed for clients that take it: a fresh device reads many, and most of a page is names said again.
//!
//! Only answers of pushes and pulls, and only those that are large enough to need more than a packet or two. They are
//! compressed piece by piece as their client takes them, with the fastest level of each algorithm: the others give little
//! more for JSON, and need several times the memory.

use tower_http::compression::predicate::SizeAbove;
use tower_http::compression::{CompressionLayer, CompressionLevel};

/// Answers of fewer bytes go out as they are.
const LEAST: u64 = 2048;

/// What one answer's compressor takes while its client reads, at most, in bytes.
pub(super) const WORKING_MEMORY: usize = 1 << 20;

/// For the routes whose answers are pages.
pub(super) fn pages() -> CompressionLayer<SizeAbove> {
    CompressionLayer::new().quality(CompressionLevel::Fastest).compress_when(SizeAbove::new(LEAST))
}
