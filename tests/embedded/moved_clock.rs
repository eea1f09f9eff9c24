//! A replica whose clock the test controls: hours, days or a week pass at once, to the millisecond.

use super::support::live::{Events, closed};
use super::support::*;
use super::{Embedded, config};
use mana_dev::SigningKey;
use mana_load::wakeups::{WakeMessage, Wakeups};
use mana_sync::clock::{Clock, ManualClock};
use mana_sync::config::{Config, Secret};
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

/// A cluster without replicas of its own, and one in this process with a clock that the test controls.
struct Moved {
    cluster: Cluster,
    clock: ManualClock,
    replica: Embedded,
}

impl Moved {
    async fn start(settings: impl FnOnce(&mut Config)) -> Moved {
        let (cluster, clock) = (Cluster::start(0).await, ManualClock::at_present(1));
        let mut config = config(&cluster);
        settings(&mut config);
        let replica = Embedded::start_with(&cluster, config, clock.clock()).await;
        Moved { cluster, clock, replica }
    }

    fn request(&self, token: &str, method: Method, path: &str) -> RequestBuilder {
        self.cluster.http.request(method, format!("{}{path}", self.replica.url)).bearer_auth(token)
    }

    async fn pull(&self, token: &str) -> Reply {
        let path = format!("/sync/todo/pull?collection=tasks&since={BEGINNING}");
        Reply::to(self.request(token, Method::GET, &path)).await
    }

    async fn push(&self, token: &str, changes: Value) -> Reply {
        let body = json!({ "clientId": "phone", "since": BEGINNING, "changes": changes });
        Reply::to(self.request(token, Method::POST, "/sync/todo").json(&body)).await
    }

    /// The time of the replica's clock plus `ahead`, as clients write it.
    fn date(&self, ahead: Duration) -> String {
        iso((self.clock.clock().since_epoch() + ahead).as_millis() as i64)
    }

    /// Advances the clock, five seconds at a time, until the future completes.
    async fn advance_until<T>(&self, doing: impl Future<Output = T>) -> T {
        let mut doing = std::pin::pin!(doing);
        loop {
            self.clock.advance(5 * SECOND);
            if let Ok(done) = tokio::time::timeout(Duration::from_millis(50), &mut doing).await {
                return done;
            }
        }
    }

    async fn stop(self) {
        self.replica.stop().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_expires_for_requests_sockets_and_streams_when_its_time_comes() {
    let moved = Moved::start(|_| ()).await;
    // Valid for an hour.
    let user = moved.cluster.user();
    let mut socket = Wakeups::connect(&moved.replica.url, None, &user.token, None).await.unwrap();
    let mut stream = Events::open(moved.request(&user.token, Method::GET, "/sync/todo/stream?collections=tasks")).await;
    assert_eq!(stream.delta().await.table(), "tasks");

    moved.clock.advance(HOUR - MINUTE);
    assert_eq!(moved.pull(&user.token).await.status, StatusCode::OK, "it is good to the last");
    // The token was made a moment after the replica's clock was.
    moved.clock.advance(2 * MINUTE);

    moved.pull(&user.token).await.refused(401, "unauthorized");
    let told = socket.next(TIMEOUT).await.unwrap();
    assert!(matches!(&told, WakeMessage::Error { code, .. } if code == "token_expired"), "{told:?}");
    assert_eq!(closed(&mut socket).await, Some(1008));
    while stream.next().await.is_some() {}

    let late = moved.cluster.key.token(&user.id, HOUR * 2);
    assert_eq!(moved.pull(&late).await.status, StatusCode::OK);
    moved.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stamp_is_held_to_the_skew_by_the_replicas_clock() {
    let moved = Moved::start(|_| ()).await;
    let token = moved.cluster.key.token("somebody", HOUR * 48);
    let (allowed, beyond) = (moved.date(5 * MINUTE), moved.date(5 * MINUTE + Duration::from_millis(1)));
    let changes = json!([update("tasks", "a", "title", 1, &allowed), update("tasks", "b", "title", 1, &beyond)]);
    let answer = moved.push(&token, changes).await.json();
    let adjusted = json!([{ "index": 1, "table": "tasks", "id": "b", "fields": ["title"], "updatedAt": allowed }]);
    assert_eq!(answer["adjusted"], adjusted, "to the millisecond");

    let tomorrow = moved.date(DAY);
    moved.clock.advance(DAY - 5 * MINUTE);
    let answer = moved.push(&token, json!([update("tasks", "c", "title", 1, &tomorrow)])).await.json();
    assert!(answer["adjusted"].as_array().is_none_or(Vec::is_empty), "tomorrow has come: {answer}");
    moved.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn quotas_are_full_again_when_their_time_is_over_and_not_before() {
    let moved = Moved::start(|config| {
        config.limits.max_user_pulls_per_second = 1;
        config.limits.max_user_bytes_per_day = 1_000;
    })
    .await;
    let token = moved.cluster.key.token("somebody", DAY * 3);
    for pull in 0..10 {
        assert_eq!(moved.pull(&token).await.status, StatusCode::OK, "{pull}");
    }
    for _ in 0..2 {
        let refused = moved.pull(&token).await;
        assert_eq!((refused.status, refused.header("retry-after")), (StatusCode::TOO_MANY_REQUESTS, Some("1")));
        moved.clock.advance(SECOND - Duration::from_millis(1));
        assert_eq!(moved.pull(&token).await.status, StatusCode::TOO_MANY_REQUESTS, "a millisecond too early");
        moved.clock.advance(Duration::from_millis(1));
        assert_eq!(moved.pull(&token).await.status, StatusCode::OK);
    }

    let padding = "x".repeat(700);
    let push = async |id: &str| {
        moved.push(&token, json!([update("tasks", id, "title", &*padding, "2024-01-01T10:00:00.000Z")])).await.status
    };
    assert_eq!(push("a").await, StatusCode::OK);
    assert_eq!(push("b").await, StatusCode::TOO_MANY_REQUESTS, "more than a day's bytes");
    moved.clock.advance(HOUR);
    assert_eq!(push("b").await, StatusCode::TOO_MANY_REQUESTS);
    moved.clock.advance(DAY);
    assert_eq!(push("b").await, StatusCode::OK);
    moved.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_credits_service_is_asked_again_when_its_answer_is_old() {
    let moved = Moved::start(|_| ()).await;
    let (cluster, clock) = (&moved.cluster, &moved.clock);
    let token = cluster.key.token("somebody", HOUR);
    cluster.credits.set_active("somebody", false);
    assert_eq!(moved.pull(&token).await.status, StatusCode::PAYMENT_REQUIRED);
    cluster.credits.set_active("somebody", true);
    clock.advance(5 * MINUTE - SECOND);
    assert_eq!(moved.pull(&token).await.status, StatusCode::PAYMENT_REQUIRED, "it was asked a moment ago");
    clock.advance(SECOND);
    assert_eq!(moved.pull(&token).await.status, StatusCode::OK);

    moved.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_issuer_is_asked_again_when_its_cool_down_is_over() {
    let moved = Moved::start(|_| ()).await;
    let asked = moved.cluster.issuer.requests();
    let (next, unknown) = (SigningKey::generate().unwrap(), SigningKey::generate().unwrap());
    moved.cluster.issuer.set_keys(&[moved.cluster.key.clone(), next.clone()]);
    let token = next.token("somebody", HOUR);
    let mut waiting = Box::pin(moved.pull(&token));
    let early = tokio::time::timeout(Duration::from_millis(200), &mut waiting).await;
    assert!(early.is_err(), "answered before the issuer may be asked: {early:?}");
    assert_eq!(moved.cluster.issuer.requests(), asked);
    assert_eq!(moved.advance_until(waiting).await.status, StatusCode::OK);
    let token = unknown.token("somebody", HOUR);
    assert_eq!(moved.advance_until(moved.pull(&token)).await.status, StatusCode::UNAUTHORIZED);
    assert!(moved.cluster.issuer.requests() >= asked + 2);
    moved.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_is_trimmed_once_a_week_has_passed_and_what_is_sent_again_is_known_even_then() {
    let moved = Moved::start(|_| ()).await;
    let user = moved.cluster.user();
    let token = moved.cluster.key.token(&user.id, DAY * 30);
    let write = |value: i64| update("tasks", "r", "title", value, &iso(1_704_103_200_000 + value));
    for value in 0..5 {
        assert_eq!(moved.push(&token, json!([write(value)])).await.status, StatusCode::OK);
    }
    moved.clock.advance(6 * DAY);
    assert_eq!(moved.cluster.stored(&user).await, 5);
    moved.clock.advance(2 * DAY);
    // The first row of the record, and the winning one. The compactor may have looked just before the clock moved, and
    // then waits for its next round.
    let trimmed = eventually("it is trimmed", async || moved.cluster.stored(&user).await == 2);
    moved.advance_until(trimmed).await;
    let again = moved.push(&token, json!([write(2)])).await;
    assert_eq!((again.status, moved.cluster.stored(&user).await), (StatusCode::OK, 2), "it was stored once");
    moved.stop().await;
}

/// As for a replica that was frozen for minutes: what it was told meanwhile is too old to be heeded.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_refused_and_accepted_again_also_where_the_word_of_it_came_too_late() {
    const TOKEN: &str = "an-admin-token-for-tests";
    let administered = |config: &mut Config| {
        config.admin.admin_port = Some(0);
        config.admin.admin_token = Some(Secret::from(TOKEN));
    };
    let moved = Moved::start(administered).await;
    let mut config = config(&moved.cluster);
    administered(&mut config);
    let punctual = Embedded::start_with(&moved.cluster, config, Clock::system()).await;
    moved.clock.advance(5 * MINUTE);
    let expires = now_millis() / 1_000 + 3_600;
    let lost = moved.cluster.key.mint(&json!({ "sub": "alice", "exp": expires, "jti": "lost" }));
    assert_eq!(moved.pull(&lost).await.status, StatusCode::OK);
    let url = format!("{}/api/v1/refused-tokens", punctual.admin_url.as_ref().unwrap());
    let refuse = moved.cluster.http.post(&url).bearer_auth(TOKEN).json(&json!({ "tokenId": "lost" }));
    assert_eq!(Reply::to(refuse).await.status, StatusCode::OK);
    eventually("it is refused there, too", async || moved.pull(&lost).await.status == StatusCode::UNAUTHORIZED).await;
    let accept = moved.cluster.http.delete(format!("{url}?tokenId=lost")).bearer_auth(TOKEN);
    assert_eq!(Reply::to(accept).await.status, StatusCode::OK);
    eventually("it is accepted there, too", async || moved.pull(&lost).await.status == StatusCode::OK).await;
    punctual.stop().await.unwrap();
    moved.stop().await;
}
