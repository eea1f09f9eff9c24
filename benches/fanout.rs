//! The cost of a wake-up without PostgreSQL: encoding, decoding, and delivery to its sessions.
//!
//! `cargo bench --bench fanout`

#[path = "support/cpu_time.rs"]
mod cpu_time;

use std::hint::black_box;
use std::sync::Arc;

use cpu_time::CpuTime;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use futures_util::FutureExt as _;
use mana_sync::clock::Clock;
use mana_sync::config::FanoutConfig;
use mana_sync::fanout::codec::{Payload, encode};
use mana_sync::fanout::commit_payload::{self, CommitPayload};
use mana_sync::fanout::{ChannelKeys, SessionRegistry, Wakeup};
use mana_sync::hub::{Hub, Interest, Membership};
use mana_sync::protocol::UserKey;
use mana_sync::telemetry::Metrics;

/// The number of users on a busy replica.
const USERS: usize = 100_000;

fn user(number: usize) -> UserKey {
    UserKey::of(&format!("user-{number}"))
}

fn wakeup(user: UserKey, at: i64) -> Wakeup {
    Wakeup {
        user,
        app: "todo".into(),
        client: Some("chrome-tab-abc123".into()),
        tables: Some(vec!["tasks".into(), "lists".into()].into()),
        ranges: vec![(at, at + 2)],
        pushes: Vec::new(),
    }
}

fn wakeups(count: usize) -> Vec<Wakeup> {
    (0..count).map(|number| wakeup(user(number), 1_767_322_800_000_000 + number as i64 * 2)).collect()
}

#[derive(clap::Parser)]
struct Settings {
    #[command(flatten)]
    fanout: FanoutConfig,
}

fn keys() -> ChannelKeys {
    let settings = <Settings as clap::Parser>::parse_from(["bench"]);
    ChannelKeys::new(&settings.fanout, &axum::http::HeaderValue::from_static("a key of the benchmark"))
}

/// Verifies and decodes a whole payload.
fn decode(keys: &ChannelKeys, payload: &str) -> usize {
    let payload = Payload::parse(payload).and_then(Result::ok).expect("it was written by us");
    assert!(payload.is_signed(keys));
    payload.entries().filter_map(|entry| entry.ok()?.read().ok()).count()
}

/// Like [`hear`], for a payload sent with a commit.
fn hear_with_commit(keys: &ChannelKeys, hub: &dyn SessionRegistry, payload: &str) -> bool {
    let payload = CommitPayload::parse(payload).and_then(Result::ok).expect("it was written by us");
    assert!(payload.is_signed(keys));
    hub.is_connected(payload.user)
}

/// Receives a payload for users who are not connected: the path of every push of somebody else's.
fn hear(keys: &ChannelKeys, hub: &dyn SessionRegistry, payload: &str) -> usize {
    let payload = Payload::parse(payload).and_then(Result::ok).expect("it was written by us");
    assert!(payload.is_signed(keys));
    let mut found = 0;
    hub.with_connected(&mut |is_connected| {
        found = payload.entries().filter(|entry| entry.as_ref().is_ok_and(|entry| is_connected(entry.user))).count();
    });
    found
}

fn codec(criterion: &mut Criterion<CpuTime>) {
    let keys = &keys();
    let encode = |wakeups: &[Wakeup]| encode(keys, None, wakeups);
    let mut group = criterion.benchmark_group("wake-up");
    // A single one, a full payload, and a publisher's burst.
    let full = (1..).take_while(|&count| encode(&wakeups(count)).len() == 1).last().unwrap_or(1);
    for (name, count) in [("one", 1), ("a full payload", full), ("1,000 in many payloads", 1_000)] {
        let wakeups = wakeups(count);
        let payloads = encode(&wakeups);
        group.throughput(Throughput::Elements(count as u64));
        group.bench_with_input(BenchmarkId::new("encode", name), &wakeups, |bencher, wakeups| {
            bencher.iter(|| encode(black_box(wakeups)));
        });
        group.bench_with_input(BenchmarkId::new("decode", name), &payloads, |bencher, payloads| {
            bencher.iter(|| payloads.iter().map(|payload| decode(keys, black_box(payload))).sum::<usize>());
        });
    }
    group.finish();
}

fn hub(criterion: &mut Criterion<CpuTime>) {
    let hub = Arc::new(Hub::new(Arc::new(Metrics::new()), Clock::system()));
    let join = |number: usize| hub.join(user(number), Interest::default(), "websocket");
    let mut members: Vec<Membership> = (0..USERS).map(join).collect();
    // Plus one user with many devices; nobody reads, so that every wake-up merges with waiting mail.
    members.extend((0..50).map(|_| join(USERS)));
    let connected: Vec<Wakeup> = (0..1_000).map(|number| wakeup(user(number * (USERS / 1_000)), 10)).collect();
    let elsewhere: Vec<Wakeup> = (0..1_000).map(|number| wakeup(user(USERS + 1 + number), 10)).collect();

    let one_by_one: Vec<String> = elsewhere.iter().flat_map(|wakeup| encode(&keys(), None, [wakeup])).collect();

    let with_commit: Vec<String> = elsewhere
        .iter()
        .zip(0..)
        .map(|(wakeup, nonce)| commit_payload::compose(&keys(), nonce, wakeup).payload(0, wakeup.last()))
        .collect();

    let mut group = criterion.benchmark_group("hub of 100,000 users");
    group.throughput(Throughput::Elements(1_000));
    group.bench_function("announce 1,000 wake-ups of users who are not here", |bencher| {
        bencher.iter(|| elsewhere.iter().for_each(|wakeup| hub.announce(black_box(wakeup))));
    });
    for (name, payloads) in [
        ("hear 1,000 pushes of users who are not here, each in a notification of its own", one_by_one),
        ("hear 1,000 pushes of users who are not here, in full notifications", encode(&keys(), None, &elsewhere)),
    ] {
        group.bench_function(name, |bencher| {
            let keys = keys();
            bencher.iter(|| payloads.iter().map(|payload| hear(&keys, &*hub, black_box(payload))).sum::<usize>());
        });
    }
    group.bench_function("hear 1,000 pushes of users who are not here, each with its commit", |bencher| {
        let keys = keys();
        let hear = |payload: &&String| hear_with_commit(&keys, &*hub, black_box(payload));
        bencher.iter(|| with_commit.iter().filter(hear).count());
    });
    group.bench_function("announce 1,000 wake-ups of users with one session, merged with what waits", |bencher| {
        bencher.iter(|| connected.iter().for_each(|wakeup| hub.announce(black_box(wakeup))));
    });
    group.throughput(Throughput::Elements(50));
    let hot = wakeup(user(USERS), 10);
    group.bench_function("announce a wake-up of a user with 50 sessions", |bencher| {
        bencher.iter(|| hub.announce(black_box(&hot)));
    });
    group.throughput(Throughput::Elements(1));
    let (first, of_first) = (&members[0], wakeup(user(0), 10));
    group.bench_function("announce a wake-up, and its session takes it", |bencher| {
        bencher.iter(|| {
            hub.announce(black_box(&of_first));
            first.mailbox().take().now_or_never()
        });
    });
    group.bench_function("a session joins and leaves", |bencher| bencher.iter(|| join(black_box(7))));
    group.throughput(Throughput::Elements(USERS as u64));
    group.bench_function("list the connected users, for the reconciler", |bencher| {
        bencher.iter(|| hub.listening().len())
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = cpu_time::criterion();
    targets = codec, hub
}
criterion_main!(benches);
