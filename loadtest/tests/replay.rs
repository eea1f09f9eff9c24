//! Runs the load generator against an in-memory server: it must find nothing wrong with a correct one, and notice every
//! kind of incorrect one.

mod support;

use std::path::PathBuf;
use std::time::Duration;

use mana_load::device::DeviceError;
use mana_load::replay::{self, ReplayError, ReplayOptions, ReplayReport};
use mana_load::token::TokenMint;
use serde_json::json;
use support::{Fault, Server};

/// The key of RFC 8037, appendix A; this server doesn't look at it.
fn mint() -> TokenMint {
    let jwk = json!({"kty": "OKP", "crv": "Ed25519", "kid": "k", "d": "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A"});
    TokenMint::from_jwk(jwk).unwrap()
}

async fn replay(fault: Fault, page: usize) -> (usize, Result<ReplayReport, ReplayError>) {
    let (server, base) = Server::start(fault, page).await;
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("data/edits-engine.jsonl.gz");
    let mut options = ReplayOptions::new(vec![file], vec![base], mint());
    options.lost_answers = 0.2;
    options.retry.pause = Duration::from_millis(1);
    let report = Box::pin(replay::run(options)).await;
    (server.stored(), report)
}

#[tokio::test]
async fn a_right_server_passes_with_small_pages_and_every_third_request_refused() {
    let (stored, report) = replay(Fault::Flaky, 50).await;
    let report = report.unwrap();
    assert!(report.is_good(), "{report}");
    let file = &report.files[0];
    assert_eq!((stored, file.sent, file.streamed), (1_355, 1_355, 1_355));
    assert!(file.stats.retries > 0 && file.stats.resent > 0 && file.reconnects > 0, "{report}");
}

#[tokio::test]
async fn changes_stored_twice_are_found() {
    let (stored, report) = replay(Fault::StoresTwice, 1_000).await;
    assert!(stored > 1_355);
    let report = report.unwrap();
    assert!(report.to_string().contains("the stream delivered"), "{report}");
}

#[tokio::test]
async fn changes_that_never_arrive_are_found() {
    let (_, report) = replay(Fault::Forgets, 1_000).await;
    assert!(matches!(report, Err(ReplayError::Missed { .. })), "{report:?}");
}

#[tokio::test]
async fn own_changes_that_come_back_are_found() {
    let (_, report) = replay(Fault::SendsOwn, 1_000).await;
    assert!(matches!(report, Err(ReplayError::Device(DeviceError::Violation { .. }))), "{report:?}");
}
