use super::super::testing::*;
use super::*;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::time::Duration;

const HOUR: Duration = Duration::from_secs(3600);

fn said(texts: &[&str]) -> Action {
    Action::Send(texts.iter().map(|text| (*text).into()).collect())
}

fn tables(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// A session of the known user.
async fn member(rig: &Rig, app: Option<&str>, client: Option<&str>, life: Duration) -> WebSocketSession {
    let mut session = WebSocketSession::new(rig.sessions.clone(), app.map(Into::into));
    let action = session.authenticated(identity(KNOWN, life), client.map(Into::into)).await;
    assert_eq!(action, said(&[r#"{"type":"auth-ok"}"#]));
    session
}

#[tokio::test]
async fn an_unauthenticated_one_is_answered_pings_and_closed_when_its_time_is_over() {
    let rig = Rig::new(&["--ws-auth-timeout-ms", "50"]);
    let mut session = WebSocketSession::new(rig.sessions.clone(), None);
    rig.wake("todo", "phone", &tables(&["tasks"]));
    assert_eq!(session.receive(r#"{"type":"ping"}"#).await, said(&[r#"{"type":"pong"}"#]));
    for text in ["", "nonsense", r#"{"type":"subscribe"}"#] {
        assert_eq!(session.receive(text).await, said(&[]), "{text}");
    }
    assert_eq!(session.next().await, Action::close(CloseReason::AuthTimeout));
}

#[tokio::test]
async fn what_is_no_token_is_refused_with_a_reason() {
    let rig = Rig::new(&[]);
    let mut session = WebSocketSession::new(rig.sessions.clone(), None);
    let action = session.receive(r#"{"type":"auth","token":"nonsense"}"#).await;
    let Action::Close { reason: CloseReason::InvalidToken, final_message: Some(words) } = action else {
        panic!("{action:?}");
    };
    assert!(words.starts_with(r#"{"type":"error","code":"invalid_token","message":"#), "{words}");
}

#[tokio::test]
async fn an_auth_whose_client_id_no_push_could_have_is_ignored() {
    let rig = Rig::new(&[]);
    let mut session = WebSocketSession::new(rig.sessions.clone(), None);
    for name in ["x".repeat(256), "x".repeat(63 << 10), "a\0b".to_owned()] {
        let auth = serde_json::json!({ "type": "auth", "token": "nonsense", "clientId": name }).to_string();
        assert_eq!(session.receive(&auth).await, said(&[]), "{} bytes", name.len());
    }
    for name in ["", &"x".repeat(255)] {
        let auth = serde_json::json!({ "type": "auth", "token": "nonsense", "clientId": name }).to_string();
        let action = session.receive(&auth).await;
        assert!(matches!(action, Action::Close { reason: CloseReason::InvalidToken, .. }), "{action:?}");
    }
}

#[tokio::test]
async fn wake_ups_that_waited_are_one_message_for_each_app() {
    let rig = Rig::new(&[]);
    let mut session = member(&rig, None, None, HOUR).await;
    assert_eq!(at_once(session.next()).await, None);
    rig.wake("todo", "phone", &tables(&["tasks", "lists"]));
    rig.wake("notes", "phone", &tables(&["pages"]));
    rig.wake("todo", "laptop", &tables(&["tasks"]));
    let expected = [
        r#"{"type":"sync-available","appId":"notes","tables":["pages"]}"#,
        r#"{"type":"sync-available","appId":"todo","tables":["lists","tasks"]}"#,
    ];
    assert_eq!(session.next().await, said(&expected));
    assert_eq!(at_once(session.next()).await, None);
}

#[tokio::test]
async fn wake_ups_wait_for_the_greeting_but_not_for_ever() {
    let rig = Rig::without_answers(&[]);
    let mut session = member(&rig, None, None, HOUR).await;
    rig.wake("todo", "phone", &tables(&["tasks"]));
    assert_eq!(at_once(session.next()).await, None);
    let message = said(&[r#"{"type":"sync-available","appId":"todo","tables":["tasks"]}"#]);
    assert_eq!(session.next().await, message);

    let off = Rig::without_answers(&["--announce-recent-ms", "0"]);
    let mut session = member(&off, None, None, HOUR).await;
    off.wake("todo", "phone", &tables(&["tasks"]));
    assert_eq!(at_once(session.next()).await, Some(message));
}

#[tokio::test]
async fn a_session_that_is_too_far_behind_is_closed_to_start_over() {
    let rig = Rig::new(&[]);
    let mut session = member(&rig, None, None, HOUR).await;
    for part in 0..3 {
        rig.wake("todo", "phone", &(0..5_000).map(|n| format!("{part} {n}")).collect::<Vec<_>>());
    }
    assert_eq!(session.next().await, Action::close(CloseReason::TooFarBehind));
}

#[tokio::test]
async fn a_device_keeps_its_name_until_it_gives_another() {
    let rig = Rig::new(&[]);
    let mut session = member(&rig, None, None, HOUR).await;
    for (name, silent, waking) in
        [(Some("phone"), "phone", "laptop"), (None, "phone", "laptop"), (Some("laptop"), "laptop", "phone")]
    {
        session.authenticated(identity(KNOWN, HOUR), name.map(Into::into)).await;
        rig.wake("todo", silent, &tables(&["own"]));
        rig.wake("todo", waking, &tables(&["other"]));
        assert_eq!(session.next().await, said(&[r#"{"type":"sync-available","appId":"todo","tables":["other"]}"#]));
    }
}

/// A token whose key is not in memory, with no issuer that could be asked for it.
fn of_unknown_key() -> String {
    let part = |json: &str| URL_SAFE_NO_PAD.encode(json);
    let token = format!("{}.{}.AA", part(r#"{"alg":"EdDSA","kid":"new"}"#), part(r#"{"sub":"alice"}"#));
    serde_json::json!({ "type": "auth", "token": token, "clientId": "laptop" }).to_string()
}

#[tokio::test]
async fn a_session_goes_on_while_the_key_of_its_fresh_token_is_asked_for() {
    let rig = Rig::new(&[]);
    let mut session = member(&rig, None, Some("phone"), HOUR).await;
    let unread = || rig.metrics.stream_bytes.get();
    for _ in 0..3 {
        assert_eq!(session.receive(&of_unknown_key()).await, said(&[]));
        assert_eq!(session.receive(r#"{"type":"ping"}"#).await, said(&[r#"{"type":"pong"}"#]));
        assert_eq!(at_once(session.next()).await, None);
        assert_eq!(unread(), 1 << 10, "one token at a time is kept, in the user's memory");
        // It does not belong to another device yet, either.
        for (device, heard) in [("phone", false), ("laptop", true)] {
            rig.wake("todo", device, &tables(&["tasks"]));
            let message = said(&[r#"{"type":"sync-available","appId":"todo","tables":["tasks"]}"#]);
            assert_eq!(at_once(session.next()).await, heard.then_some(message));
        }
    }
    let action = session.receive(r#"{"type":"auth","token":"nonsense"}"#).await;
    assert!(matches!(action, Action::Close { reason: CloseReason::InvalidToken, .. }), "{action:?}");
    drop(session);
    assert_eq!(unread(), 0);
}

#[tokio::test]
async fn a_session_whose_fresh_token_cannot_be_told_ends_with_the_token_that_it_has() {
    let rig = Rig::new(&[]);
    let mut session = member(&rig, None, None, Duration::from_millis(100)).await;
    assert_eq!(session.receive(&of_unknown_key()).await, said(&[]));
    let action = session.next().await;
    assert!(matches!(action, Action::Close { reason: CloseReason::TokenExpired, .. }), "{action:?}");
}

#[tokio::test]
async fn another_users_token_ends_the_session() {
    let rig = Rig::new(&[]);
    let mut session = member(&rig, None, None, HOUR).await;
    assert_eq!(session.authenticated(identity("bob", HOUR), None).await, Action::close(CloseReason::OtherUser));
}

#[tokio::test]
async fn a_session_ends_whose_token_is_refused_just_after_it_was_checked() {
    let rig = Rig::new(&[]);
    let refused = Identity { token_id: Some("stolen".into()), ..identity(KNOWN, HOUR) };
    let (mut extended, mut begun) =
        (member(&rig, None, None, HOUR).await, WebSocketSession::new(rig.sessions.clone(), None));
    rig.sessions.auth.refused().refuse("stolen", refused.expires, true).unwrap();
    for session in [&mut extended, &mut begun] {
        session.authenticated(refused.clone(), None).await;
        let action = at_once(session.next()).await;
        assert!(matches!(action, Some(Action::Close { reason: CloseReason::InvalidToken, .. })), "{action:?}");
    }
}

#[tokio::test]
async fn the_session_ends_with_its_token_unless_a_fresh_one_came() {
    let rig = Rig::new(&[]);
    let short = Duration::from_millis(100);
    let mut extended = member(&rig, None, None, short).await;
    let mut witness = member(&rig, None, None, short).await;
    extended.authenticated(identity(KNOWN, HOUR), None).await;
    let action = witness.next().await;
    let Action::Close { reason: CloseReason::TokenExpired, final_message: Some(words) } = action else {
        panic!("{action:?}");
    };
    assert!(words.starts_with(r#"{"type":"error","code":"token_expired","message":"#), "{words}");
    assert_eq!(at_once(extended.next()).await, None);
    rig.wake("todo", "phone", &tables(&["tasks"]));
    assert_eq!(extended.next().await, said(&[r#"{"type":"sync-available","appId":"todo","tables":["tasks"]}"#]));
}

#[tokio::test]
async fn all_are_sent_away_when_the_replica_goes_unauthenticated_ones_too() {
    let rig = Rig::new(&["--drain-window-ms", "20"]);
    let mut session = member(&rig, Some("todo"), None, HOUR).await;
    let mut unauthenticated = WebSocketSession::new(rig.sessions.clone(), None);
    rig.closing.cancel();
    for session in [&mut session, &mut unauthenticated] {
        assert_eq!(session.next().await, Action::close(CloseReason::GoingAway));
    }
}
