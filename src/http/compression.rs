//! Pages are compressed for clients that take it: a fresh device reads many, and most of a page is names said again.
//!
//! Only answers of pushes and pulls, and only those that are large enough to need more than a packet or two. They are
//! compressed piece by piece as their client takes them, with the fastest level of each algorithm: the others give little
//! more for JSON, and need several times the memory.
//!
//! A client that takes nothing that there is, not even what is not compressed, gets that all the same, as it gets everything
//! that is small. It has asked already when that is seen: an answer 406 would say of a push that is stored that it was refused.

use super::AppState;
use axum::body::Body;
use axum::http::{Response, StatusCode};
use axum::routing::MethodRouter;
use tower::util::MapResponseLayer;
use tower_http::compression::predicate::SizeAbove;
use tower_http::compression::{CompressionBody, CompressionLayer, CompressionLevel};

/// Answers of fewer bytes go out as they are.
const LEAST: u64 = 2048;

/// What one answer's compressor takes while its client reads, at most, in bytes.
pub(super) const WORKING_MEMORY: usize = 1 << 20;

/// A route whose answers are pages.
pub(super) fn pages(route: MethodRouter<AppState>) -> MethodRouter<AppState> {
    let compression = CompressionLayer::new().quality(CompressionLevel::Fastest).compress_when(SizeAbove::new(LEAST));
    // The first is outermost.
    route.layer((MapResponseLayer::new(give_status_back), compression, MapResponseLayer::new(note_status)))
}

/// The status of an answer as it was made: compression may write another one over it.
#[derive(Clone, Copy, Debug)]
struct OwnStatus(StatusCode);

fn note_status(mut response: Response<Body>) -> Response<Body> {
    let status = response.status();
    response.extensions_mut().insert(OwnStatus(status));
    response
}

fn give_status_back(mut response: Response<CompressionBody<Body>>) -> Response<CompressionBody<Body>> {
    if let Some(OwnStatus(status)) = response.extensions_mut().remove() {
        *response.status_mut() = status;
    }
    response
}
