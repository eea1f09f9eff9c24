//! Compresses pages for clients that accept it: a fresh device reads many, and most of a page is repeated names.
//!
//! Only answers to pushes and pulls are compressed, and only if they need more than a packet or two. They are
//! compressed piece by piece as their client takes them, at the fastest level of each algorithm: the other levels gain
//! little on JSON and need several times the memory.
//!
//! A client that accepts none of our encodings, not even `identity`, gets an uncompressed answer all the same, as it
//! does for every small answer. By then its request has been processed: a 406 would report a stored push as refused.

use axum::body::Body;
use axum::http::{Response, StatusCode};
use axum::routing::MethodRouter;
use tower::util::MapResponseLayer;
use tower_http::compression::predicate::SizeAbove;
use tower_http::compression::{CompressionBody, CompressionLayer, CompressionLevel};

/// Answers of fewer bytes are not compressed.
const LEAST: u64 = 2048;

/// Maximum memory of one answer's compressor while its client reads, in bytes.
pub(super) const WORKING_MEMORY: usize = 1 << 20;

/// Adds compression to a route that answers with pages.
pub(super) fn pages<S: Clone + Send + Sync + 'static>(route: MethodRouter<S>) -> MethodRouter<S> {
    let compression = CompressionLayer::new().quality(CompressionLevel::Fastest).compress_when(SizeAbove::new(LEAST));
    // The first layer is the outermost.
    route.layer((MapResponseLayer::new(give_status_back), compression, MapResponseLayer::new(note_status)))
}

/// The status of an answer before compression, which may overwrite it.
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
