//! Single devices against a server in memory.

mod support;

use std::time::Duration;

use mana_load::device::{Device, DeviceError, DeviceOptions, Mode};
use mana_load::protocol::Change;
use mana_load::transport::{TransportError, http_client};
use serde_json::json;
use support::{Fault, LATEST, Server};

const STAMP: &str = "2024-01-01T10:00:00.000Z";

fn device(name: &str, targets: &[String], change: impl FnOnce(&mut DeviceOptions)) -> Device {
    let mut options = DeviceOptions::new("app", name, "token", targets, &["t"]);
    options.retry.pause = Duration::from_millis(1);
    change(&mut options);
    Device::new(http_client().unwrap(), options).unwrap()
}

fn update(id: &str, value: &str) -> Change {
    update_at(id, value, STAMP)
}

fn update_at(id: &str, value: &str, stamp: &str) -> Change {
    let fields = json!({"a": {"value": value, "updatedAt": stamp}});
    serde_json::from_value(json!({"table": "t", "id": id, "op": "update", "fields": fields})).unwrap()
}

fn value(device: &Device) -> String {
    device.store().cell("t", "r", "a").unwrap().value.as_str().unwrap().to_owned()
}

/// A tie between two devices that push one after the other, neither having seen the other's edit.
async fn tie(fault: Fault) -> (String, String) {
    let (_, base) = Server::start(fault, 1_000).await;
    let targets = [base];
    let (mut first, mut second) = (device("d1", &targets, |_| {}), device("d2", &targets, |_| {}));
    first.edit(update("r", "first"));
    second.edit(update("r", "second"));
    first.push().await.unwrap();
    second.push().await.unwrap();
    first.pull_all().await.unwrap();
    second.pull_all().await.unwrap();
    (value(&first), value(&second))
}

#[tokio::test]
async fn ties_converge_only_where_the_server_keeps_back_what_lost() {
    assert_eq!(tie(Fault::SendsLostTies).await, ("second".to_owned(), "first".to_owned()));
    assert_eq!(tie(Fault::None).await, ("second".to_owned(), "second".to_owned()));
}

#[tokio::test]
async fn a_push_survives_a_replica_that_is_gone_and_refusals() {
    let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dead = format!("http://{}", gone.local_addr().unwrap());
    drop(gone);
    let (server, base) = Server::start(Fault::Flaky, 1_000).await;
    let mut device = device("d", &[dead, base], |options| options.lost_answers = 0.5);
    for count in 1..=30 {
        device.edit(update(&format!("r{count}"), "x"));
        device.push().await.unwrap();
        assert_eq!(server.stored(), count);
    }
    assert!(device.stats().retries > 10, "{}", device.stats().retries);
}

#[tokio::test]
async fn a_push_that_failed_is_sent_again_as_it_was() {
    let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dead = format!("http://{}", gone.local_addr().unwrap());
    drop(gone);
    let mut device = device("d", &[dead], |options| options.retry.deadline = Duration::from_millis(20));
    device.edit(update("r", "x"));
    let failed = device.push().await;
    let Err(DeviceError::Transport { source, .. }) = failed else { panic!("{failed:?}") };
    assert!(matches!(*source, TransportError::GivenUp { attempts, .. } if attempts > 1), "{source:?}");
    assert_eq!(device.pending(), 1);
}

#[tokio::test]
async fn both_kinds_of_client_take_in_everything_page_by_page() {
    let (_, base) = Server::start(Fault::None, 7).await;
    let targets = [base];
    let mut writer = device("writer", &targets, |_| {});
    (0..40).for_each(|id| writer.edit(update(&format!("r{id}"), "x")));
    writer.push().await.unwrap();
    for mode in [Mode::IgnoresHasMore, Mode::FollowsHasMore, Mode::TakesAdjusted] {
        let mut reader = device("reader", &targets, |options| options.mode = mode);
        let pushed = reader.push().await.unwrap();
        assert_eq!(pushed.has_more, mode == Mode::IgnoresHasMore);
        reader.pull_until_quiet().await.unwrap();
        assert_eq!(reader.snapshot().records(), 40, "{mode:?}");
    }
    let mut lost_its_database = device("writer", &targets, |_| {});
    lost_its_database.push().await.unwrap();
    lost_its_database.pull_until_quiet().await.unwrap();
    assert_eq!(lost_its_database.snapshot().records(), 40);
}

/// The server stores both edits with one stamp, so the one it stored later wins, and a client that takes `adjusted`
/// follows it; one that doesn't is stuck with its own clock.
#[tokio::test]
async fn stamps_from_the_future_are_taken_as_the_server_stored_them() {
    for (mode, own, later) in [(Mode::TakesAdjusted, "second", "other"), (Mode::FollowsHasMore, "first", "first")] {
        let (_, base) = Server::start(Fault::None, 1_000).await;
        let targets = [base];
        let mut ahead = device("ahead", &targets, |options| options.mode = mode);
        let mut other = device("other", &targets, |_| {});
        ahead.edit(update_at("r", "first", "2200-01-01T00:00:00.000Z"));
        ahead.edit(update_at("r", "second", "2150-01-01T00:00:00.000Z"));
        assert_eq!(ahead.push().await.unwrap().adjusted.len(), 2);
        assert_eq!(value(&ahead), own);
        other.pull_all().await.unwrap();
        assert_eq!(value(&other), "second");
        other.edit(update_at("r", "other", LATEST));
        other.push().await.unwrap();
        ahead.pull_all().await.unwrap();
        assert_eq!(value(&ahead), later);
    }
}
