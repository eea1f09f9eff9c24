//! `GET /ws` and `GET /ws/{appId}`: which sockets are woken by what, and what the server sends. See limits.rs for
//! handshakes, sizes, times, and misbehaving clients.

use crate::support::live::*;
use crate::support::*;
use mana_load::wakeups::{WakeMessage, Wakeups};
use serde_json::json;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const WIDE: u32 = 1 << 20;

async fn expect_error(socket: &mut Wakeups, expected: &str) {
    match socket.next(TIMEOUT).await.unwrap() {
        WakeMessage::Error { code, message } => {
            assert_eq!(code, expected);
            assert!(!message.is_empty());
        }
        other => panic!("an error {expected} was due, got {other:?}"),
    }
}

/// Sends a ping; its pong must be the next message.
async fn nothing_came(socket: &mut Wakeups) {
    socket.send(r#"{"type":"ping"}"#).await.unwrap();
    assert_eq!(socket.next(TIMEOUT).await.unwrap(), WakeMessage::Pong);
}

#[tokio::test]
async fn every_message_of_the_server_has_the_documented_text() {
    let (cluster, user) = (shared().await, shared().await.user());
    let mut raw = Raw::member(cluster.url(0), "/ws", &user, WIDE).await;
    raw.send(TEXT, br#"{"type":"ping"}"#).await;
    assert_eq!(raw.frame().await, Some((TEXT, br#"{"type":"pong"}"#.to_vec())));
    store(cluster, 1, &user, "phone", &[("tasks", "a")]).await;
    let wake_up = br#"{"type":"sync-available","appId":"todo","tables":["tasks"]}"#;
    assert_eq!(raw.frame().await, Some((TEXT, wake_up.to_vec())));
}

#[tokio::test]
async fn a_bad_token_is_told_so_and_closed_with_1008() {
    let (cluster, user) = (shared().await, shared().await.user());
    let expired = cluster.key.mint(&json!({ "sub": user.id, "exp": 1_000_000_000 }));
    let stranger = mana_dev::SigningKey::generate().unwrap().token(&user.id, Duration::from_secs(60));
    let nobody = cluster.key.mint(&json!({ "sub": "", "exp": 9_000_000_000u64 }));
    for token in ["", "nonsense", &expired, &stranger, &nobody] {
        let mut socket = Wakeups::open(cluster.url(0), None).await.unwrap();
        socket.authenticate(token, None).await.unwrap();
        expect_error(&mut socket, "invalid_token").await;
        assert_eq!(closed(&mut socket).await, Some(1008), "{token}");
    }
}

#[tokio::test]
async fn an_auth_without_a_token_is_a_bad_token() {
    let mut socket = Wakeups::open(shared().await.url(0), None).await.unwrap();
    socket.send(r#"{"type":"auth"}"#).await.unwrap();
    expect_error(&mut socket, "invalid_token").await;
    assert_eq!(closed(&mut socket).await, Some(1008));
}

#[tokio::test]
async fn a_bad_token_ends_an_authenticated_socket_too() {
    let (cluster, user) = (shared().await, shared().await.user());
    let mut socket = socket(cluster, 0, &user, None, None).await;
    socket.authenticate("nonsense", None).await.unwrap();
    expect_error(&mut socket, "invalid_token").await;
    assert_eq!(closed(&mut socket).await, Some(1008));
}

#[tokio::test]
async fn a_ping_is_answered_before_authentication_too() {
    let mut socket = Wakeups::open(shared().await.url(0), Some("todo")).await.unwrap();
    nothing_came(&mut socket).await;
}

#[tokio::test]
async fn unknown_malformed_and_binary_messages_are_ignored() {
    let (cluster, user) = (shared().await, shared().await.user());
    let nonsense = [
        "",
        "{",
        "null",
        "[]",
        "7",
        "ping",
        "{}",
        r#"{"type":"subscribe","tables":["tasks"]}"#,
        r#"{"type":7}"#,
        r#"{"type":"sync-available","appId":"todo","tables":["tasks"]}"#,
        r#"{"type":"auth","token":7}"#,
        "\u{0}",
    ];
    for mut raw in
        [Raw::websocket(cluster.url(0), "/ws", WIDE).await, Raw::member(cluster.url(0), "/ws", &user, WIDE).await]
    {
        for text in nonsense {
            raw.send(TEXT, text.as_bytes()).await;
        }
        raw.send(0x82, &[0, 255, 254]).await;
        raw.send(0x82, br#"{"type":"ping"}"#).await;
        raw.send(0x8a, b"a pong that nobody asked for").await;
        raw.send(TEXT, br#"{"type":"ping","more":[1]}"#).await;
        assert_eq!(raw.frame().await, Some((TEXT, br#"{"type":"pong"}"#.to_vec())));
    }
}

#[tokio::test]
async fn a_push_on_any_replica_wakes_the_users_sockets_on_all_replicas() {
    let (cluster, user) = (shared().await, shared().await.user());
    let mut sockets = Vec::new();
    for index in 0..3 {
        sockets.push(socket(cluster, index, &user, None, None).await);
    }
    for index in 0..3 {
        let table = format!("tasks {index}");
        store(cluster, index, &user, "phone", &[(&table, "a")]).await;
        for socket in &mut sockets {
            assert_eq!(woken(socket).await, (APP.to_owned(), vec![table.clone()]));
        }
    }
}

#[tokio::test]
async fn a_wake_up_names_every_table_of_the_push() {
    let (cluster, user) = (shared().await, shared().await.user());
    let mut socket = socket(cluster, 0, &user, Some(APP), None).await;
    let tables = ["lists", "two words", "\"日本語\"", "a,b"];
    store(cluster, 1, &user, "phone", &tables.map(|table| (table, "a"))).await;
    let mut expected = tables.to_vec();
    expected.sort();
    assert_eq!(woken(&mut socket).await.1, expected);
}

#[tokio::test]
async fn a_socket_of_one_app_hears_of_that_app_alone_and_one_of_none_of_all() {
    let (cluster, user) = (shared().await, shared().await.user());
    let mut all = socket(cluster, 0, &user, None, None).await;
    let mut notes = socket(cluster, 1, &user, Some("notes"), None).await;
    let mut odd = socket(cluster, 2, &user, Some("my notes/日本"), None).await;
    store_in(cluster, 0, &user, "todo", "phone", &[("tasks", "a")]).await;
    assert_eq!(woken(&mut all).await, ("todo".to_owned(), vec!["tasks".to_owned()]));
    store_in(cluster, 0, &user, "notes", "phone", &[("pages", "a")]).await;
    assert_eq!(woken(&mut notes).await, ("notes".to_owned(), vec!["pages".to_owned()]));
    assert_eq!(woken(&mut all).await, ("notes".to_owned(), vec!["pages".to_owned()]));
    store_in(cluster, 0, &user, "my%20notes%2F%E6%97%A5%E6%9C%AC", "phone", &[("x", "a")]).await;
    assert_eq!(woken(&mut odd).await, ("my notes/日本".to_owned(), vec!["x".to_owned()]));
}

#[tokio::test]
async fn a_device_that_says_who_it_is_is_not_woken_by_its_own_pushes() {
    let (cluster, user) = (shared().await, shared().await.user());
    let mut phone = socket(cluster, 0, &user, None, Some("phone")).await;
    let mut unnamed = socket(cluster, 0, &user, None, None).await;
    let mut empty = socket(cluster, 1, &user, None, Some("")).await;
    store(cluster, 1, &user, "phone", &[("own", "a")]).await;
    store(cluster, 1, &user, "laptop", &[("other", "a")]).await;
    assert_eq!(woken(&mut phone).await.1, ["other"], "others wake it, its own do not");
    for socket in [&mut unnamed, &mut empty] {
        let tables = woken_until(socket, "other").await;
        assert!(tables.contains(&"own".to_owned()), "without a name they do");
    }
}

#[tokio::test]
async fn a_device_may_say_who_it_is_when_it_refreshes_its_token() {
    let (cluster, user) = (shared().await, shared().await.user());
    let mut socket = socket(cluster, 0, &user, None, None).await;
    for name in [Some("phone"), None] {
        socket.authenticate(&user.token, name).await.unwrap();
        assert_eq!(socket.next(TIMEOUT).await.unwrap(), WakeMessage::AuthOk);
        store(cluster, 1, &user, "phone", &[("own", &format!("{name:?}"))]).await;
        store(cluster, 1, &user, "laptop", &[("other", &format!("{name:?}"))]).await;
        assert_eq!(woken(&mut socket).await.1, ["other"], "and stays so if it does not say it again");
    }
}

#[tokio::test]
async fn an_auth_whose_client_id_no_push_could_have_is_ignored() {
    let (cluster, user) = (shared().await, shared().await.user());
    let mut socket = Wakeups::open(cluster.url(0), None).await.unwrap();
    let (most, too_long) = ("x".repeat(255), "x".repeat(256));
    for name in [&too_long, "a\0b"] {
        socket.authenticate(&user.token, Some(name)).await.unwrap();
        nothing_came(&mut socket).await;
    }
    socket.authenticate(&user.token, Some(&most)).await.unwrap();
    assert_eq!(socket.next(TIMEOUT).await.unwrap(), WakeMessage::AuthOk);
    // A message of the maximum length, on an authenticated socket: its device does not change.
    socket.authenticate(&user.token, Some(&"x".repeat(60 << 10))).await.unwrap();
    nothing_came(&mut socket).await;
    store(cluster, 1, &user, &most, &[("own", "a")]).await;
    store(cluster, 1, &user, "laptop", &[("other", "a")]).await;
    assert_eq!(woken(&mut socket).await.1, ["other"]);
}

#[tokio::test]
async fn a_push_without_changes_wakes_nobody() {
    let (cluster, user) = (shared().await, shared().await.user());
    let mut socket = socket(cluster, 0, &user, None, None).await;
    cluster.push(&user, APP, json!({ "clientId": "phone", "changes": [] })).await;
    store(cluster, 0, &user, "phone", &[("tasks", "a")]).await;
    assert_eq!(woken(&mut socket).await.1, ["tasks"]);
    nothing_came(&mut socket).await;
}

#[tokio::test]
async fn no_users_pushes_ever_wake_another() {
    let cluster = shared().await;
    // Ids that differ in only one way.
    let base = cluster.user().id;
    let ids = [base.clone(), format!("{base} "), format!("{base}a"), base.to_uppercase(), format!("{base}:todo")];
    let mut users = Vec::new();
    for id in ids {
        let user = cluster.user_named(&id);
        users.push((
            socket(cluster, 0, &user, None, None).await,
            socket(cluster, 1, &user, Some(APP), None).await,
            user,
        ));
    }
    for (n, (_, _, user)) in users.iter().enumerate() {
        store(cluster, n, user, "phone", &[(&format!("table {n}"), "a")]).await;
    }
    for (n, (all, one, _)) in users.iter_mut().enumerate() {
        for socket in [all, one] {
            assert_eq!(woken(socket).await.1, [format!("table {n}")]);
            nothing_came(socket).await;
        }
    }
}

#[tokio::test]
async fn a_fresh_token_of_the_same_user_extends_the_session() {
    let (cluster, user) = (shared().await, shared().await.user());
    // Before the token is made: a second may begin in between.
    let expires = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + 5;
    let short = short_lived(cluster, &user, 4);
    let mut extended = socket(cluster, 0, &short, None, None).await;
    let mut witness = socket(cluster, 0, &short, None, None).await;
    extended.authenticate(&user.token, None).await.unwrap();
    assert_eq!(extended.next(TIMEOUT).await.unwrap(), WakeMessage::AuthOk);
    // The same token closes the witness, so it has expired by now.
    expect_error(&mut witness, "token_expired").await;
    assert_eq!(closed(&mut witness).await, Some(1008));
    assert!(time_until(expires).is_zero(), "not before the time");
    store(cluster, 1, &user, "phone", &[("tasks", "a")]).await;
    assert_eq!(woken(&mut extended).await.1, ["tasks"]);
}

#[tokio::test]
async fn a_fresh_token_may_also_shorten_the_session() {
    let (cluster, user) = (shared().await, shared().await.user());
    let mut socket = socket(cluster, 0, &user, None, None).await;
    socket.authenticate(&short_lived(cluster, &user, 4).token, None).await.unwrap();
    assert_eq!(socket.next(TIMEOUT).await.unwrap(), WakeMessage::AuthOk);
    expect_error(&mut socket, "token_expired").await;
    assert_eq!(closed(&mut socket).await, Some(1008));
}

#[tokio::test]
async fn another_users_token_closes_with_1008() {
    let (cluster, user, other) = (shared().await, shared().await.user(), shared().await.user());
    let mut socket = socket(cluster, 0, &user, None, None).await;
    socket.authenticate(&other.token, None).await.unwrap();
    assert_eq!(closed(&mut socket).await, Some(1008));
}

#[tokio::test]
async fn a_client_that_closes_is_answered_and_leaves_nothing_behind() {
    let (cluster, user) = (shared().await, shared().await.user());
    let mut raw = Raw::member(cluster.url(0), "/ws", &user, WIDE).await;
    raw.send(CLOSE, &1000u16.to_be_bytes()).await;
    assert_eq!(raw.frame().await, Some((CLOSE, 1000u16.to_be_bytes().to_vec())));
    assert_eq!(raw.rest().await, b"");
}

#[tokio::test]
async fn sockets_are_not_gated_by_billing() {
    let (cluster, user) = (shared().await, shared().await.user());
    cluster.credits.set_active(&user.id, false);
    let mut socket = socket(cluster, 0, &user, None, None).await;
    nothing_came(&mut socket).await;
}
