use super::super::log_reader::Phase;
use super::super::testing::*;
use super::*;
use crate::protocol::merge::{OwnWrites, StoredChange};
use crate::protocol::page::WrittenChanges;
use crate::protocol::push::Op;
use crate::protocol::stream_id::StreamPosition;
use crate::protocol::{Cursor, Log, UserKey};

const HOUR: Duration = Duration::from_secs(3600);
/// Gives up quickly on the database.
const AWAY: [&str; 4] = ["--database-acquire-timeout-ms", "20", "--sse-heartbeat-ms", "150"];

/// A session on the known user's log, as after [`StreamSession::open`].
fn session(rig: &Rig, since: Cursor, tables: Option<&[&str]>, life: Duration) -> StreamSession {
    let tables: Option<Vec<String>> = tables.map(|tables| tables.iter().map(|table| (*table).to_owned()).collect());
    let interest = Interest { app: Some("todo".into()), tables: tables.clone().map(BTreeSet::from_iter), client: None };
    session_on(rig, interest, vec![LogRequest { log: Log::new(KNOWN.into(), "todo"), tables, since }], life)
}

fn session_on(rig: &Rig, interest: Interest, logs: Vec<LogRequest>, life: Duration) -> StreamSession {
    StreamSession {
        sessions: rig.sessions.clone(),
        store: rig.store.clone(),
        names_apps: logs.len() > 1,
        logs: logs.into_iter().map(LogReader::new).collect(),
        turn: 0,
        reader: None,
        is_over: false,
        membership: rig.hub.join(UserKey::of(KNOWN), interest, SSE),
        _names: None,
        budget: rig.sessions.budget.of(UserKey::of(KNOWN)),
        reading: None,
        reservation: None,
        given: None,
        needs: MIN_RESERVATION,
        timers: Timers {
            expires: Instant::now() + life,
            heartbeat: Instant::now() + rig.sessions.heartbeat,
            close_timer: rig.sessions.close_timer(),
        },
        pause: BACKOFF.0,
    }
}

/// The cursor just after the change at `place`; there are two places per position.
fn after(place: i64) -> Cursor {
    Cursor::after(place * Cursor::STEP / 2)
}

fn page(changes: &[(&str, i64)], until: Cursor, has_more: bool) -> Page {
    let change = |(table, at): &(&str, i64)| StoredChange {
        at: *at * Cursor::STEP / 2,
        table: (*table).to_owned(),
        record: at.to_string(),
        op: Op::Insert,
        data: Some("{}".to_owned()),
        stamps: "{}".to_owned(),
        extra: None,
        is_own: false,
        rows_trimmed: false,
        id: Default::default(),
    };
    Page {
        changes: changes.iter().map(change).collect(),
        own: OwnWrites::default(),
        head: until.micros(),
        until,
        has_more,
        written: WrittenChanges::default(),
        excess: 0,
    }
}

fn text(next: Next) -> String {
    match next {
        Next::Text(text) => text,
        Next::End(reason) => panic!("{reason:?}"),
        Next::Nothing => String::new(),
    }
}

/// Abbreviates the events of a text: "cursor table ids more", preceded by "id" if there is one.
fn events(next: Next) -> Vec<String> {
    let event = |event: &str| {
        let (id, rest) = match event.strip_prefix("id: ") {
            Some(rest) => rest.split_once('\n').map(|(id, rest)| (Some(id), rest)).expect("lines"),
            None => (None, event),
        };
        let data = rest.strip_prefix("event: changes\ndata: ").expect("data");
        let data: serde_json::Value = serde_json::from_str(data).expect("JSON");
        let until = data["syncedUntil"].as_str().expect("a cursor");
        assert!(id.is_none_or(|id| id == until));
        let ids = data["changes"].as_array().expect("changes").iter().map(|change| change["id"].as_str().expect("id"));
        let ids = ids.collect::<Vec<_>>().join(",");
        let cursor = Cursor::parse(until).expect("a cursor");
        let id = if id.is_some() { "id " } else { "" };
        let initial = if cursor.is_initial_sync() { "initial " } else { "" };
        let more = if data["hasMore"] == true { "…" } else { "." };
        format!(
            "{id}{initial}{} {} {ids}{more}",
            cursor.micros() * 2 / Cursor::STEP,
            data["table"].as_str().expect("a table")
        )
    };
    text(next).split_terminator("\n\n").map(event).collect()
}

#[tokio::test]
async fn a_page_becomes_an_event_for_each_table_and_the_last_one_has_the_id() {
    let rig = Rig::new(&[]);
    let mut session = session(&rig, after(2), Some(&["a", "b", "c"]), HOUR);
    let first = page(&[("a", 4), ("a", 6), ("b", 8), ("a", 10)], after(10), true);
    assert_eq!(events(session.send(0, first)), ["6 a 4,6,10…", "id 10 b 8…"]);
    assert!(matches!(session.logs[0].phase, Phase::Backlog { .. }));
    let last = page(&[("b", 12)], after(20), false);
    let told = ["id 20 b 12.", "20 a .", "id 20 c ."];
    assert_eq!(
        events(session.send(0, last)),
        told,
        "those left behind and the silent one are told where the log stands"
    );
    assert!(matches!(session.logs[0].phase, Phase::Live));
    assert_eq!(session.logs[0].cursor, after(20), "other tables need not be looked at again");
}

#[tokio::test]
async fn no_event_has_a_cursor_past_a_change_that_is_still_to_be_sent() {
    let rig = Rig::new(&[]);
    for (tables, expected) in [
        ("ababab", &["2 a 2,6,10…", "id 12 b 4,8,12…"][..]),
        ("aabbcc", &["4 a 2,4…", "8 b 6,8…", "id 12 c 10,12…"]),
        ("abcabc", &["2 a 2,8…", "4 b 4,10…", "id 12 c 6,12…"]),
        ("cbaabc", &["2 c 2,12…", "4 b 4,10…", "id 12 a 6,8…"]),
        ("aaaaaa", &["id 12 a 2,4,6,8,10,12…"]),
        ("abbbba", &["2 a 2,12…", "id 12 b 4,6,8,10…"]),
    ] {
        let log: Vec<(&str, i64)> = (0..6).map(|n| (&tables[n..=n], n as i64 * 2 + 2)).collect();
        let mut session = session(&rig, after(1), None, HOUR);
        assert_eq!(events(session.send(0, page(&log, after(12), true))), expected, "{tables}");
    }
}

#[tokio::test]
async fn a_table_that_has_caught_up_meanwhile_is_not_told_again() {
    let rig = Rig::new(&[]);
    let mut session = session(&rig, after(1), Some(&["a", "b"]), HOUR);
    session.send(0, page(&[("a", 2), ("b", 4), ("a", 6)], after(6), true));
    let last = page(&[("a", 8), ("b", 10)], after(10), false);
    assert_eq!(events(session.send(0, last)), ["8 a 8…", "id 10 b 10."]);
}

#[tokio::test]
async fn a_live_page_is_grouped_too_and_tells_nobody_else() {
    let rig = Rig::new(&[]);
    let mut session = session(&rig, after(1), Some(&["a", "b", "c"]), HOUR);
    session.logs[0].phase = Phase::CatchingUp;
    let live = page(&[("b", 2), ("a", 4), ("b", 6)], after(8), false);
    assert_eq!(events(session.send(0, live)), ["2 b 2,6…", "id 8 a 4."]);
    assert!(matches!(session.logs[0].phase, Phase::Live));
}

#[tokio::test]
async fn live_pages_without_changes_say_nothing_and_move_on() {
    let rig = Rig::new(&[]);
    let mut session = session(&rig, after(2), Some(&["a"]), HOUR);
    assert_eq!(events(session.send(0, page(&[], after(2), false))), ["id 2 a ."]);
    session.logs[0].phase = Phase::CatchingUp;
    assert!(matches!(session.send(0, page(&[], after(8), false)), Next::Nothing));
    assert_eq!(session.logs[0].cursor, after(8));
}

#[tokio::test]
async fn cursors_carry_a_walk_up_to_the_end_of_the_backlog_and_no_further() {
    let rig = Rig::new(&[]);
    let mut stream = session(&rig, Cursor::BEGINNING, None, HOUR);
    let first = page(&[("a", 4), ("b", 6)], after(6).on_initial_sync(true), true);
    assert_eq!(events(stream.send(0, first)), ["initial 4 a 4…", "id initial 6 b 6…"]);
    assert!(stream.logs[0].is_initial_sync());
    let last = page(&[("a", 8), ("b", 10)], after(10), false);
    assert_eq!(events(stream.send(0, last)), ["initial 8 a 8…", "id 10 b 10."]);
    assert!(!stream.logs[0].is_initial_sync());

    let mut empty = session(&rig, Cursor::BEGINNING, None, HOUR);
    empty.send(0, page(&[], Cursor::BEGINNING, false));
    assert!(!empty.logs[0].is_initial_sync(), "what comes now is live");
    empty.logs[0].phase = Phase::CatchingUp;
    let large = page(&[("a", 4)], after(4).on_initial_sync(true), true);
    assert_eq!(events(empty.send(0, large)), ["id 4 a 4…"]);
    assert!(!empty.logs[0].is_initial_sync() && !empty.logs[0].cursor.is_initial_sync());
}

#[tokio::test]
async fn a_stream_sits_out_a_database_that_is_away_and_beats_meanwhile() {
    let rig = Rig::new(&AWAY);
    let mut session = session(&rig, after(2), None, HOUR);
    for _ in 0..2 {
        assert_eq!(session.next().await.as_deref(), Some("event: heartbeat\ndata: {}\n\n"));
    }
    assert!(matches!(session.logs[0].phase, Phase::Backlog { .. }), "nothing was given up");
}

#[tokio::test]
async fn a_stream_ends_with_its_token_though_the_database_is_away() {
    let rig = Rig::new(&AWAY);
    let mut session = session(&rig, after(2), None, Duration::from_millis(50));
    assert!(session.next().await.is_none());
    assert!(session.next().await.is_none());
    drop(session);
    assert_eq!((rig.closes(CloseReason::TokenExpired), rig.closes(CloseReason::ClientLeft)), (1, 0));
}

#[tokio::test]
async fn a_stream_says_when_to_come_back_and_ends_as_the_replica_goes() {
    let rig = Rig::new(&["--drain-window-ms", "20"]);
    let mut stream = session(&rig, after(2), None, HOUR);
    stream.logs[0].phase = Phase::Live;
    rig.closing.cancel();
    assert_eq!(stream.next().await.as_deref(), Some("retry: 1000\n\n"));
    assert!(stream.next().await.is_none());
    drop(stream);
    assert_eq!((rig.closes(CloseReason::GoingAway), rig.closes(CloseReason::ClientLeft)), (1, 0));
    drop(session(&rig, after(2), None, HOUR));
    assert_eq!(rig.closes(CloseReason::ClientLeft), 1, "one that was dropped was left");
}

#[tokio::test]
async fn a_live_stream_is_woken_for_its_tables_alone() {
    let rig = Rig::new(&["--sse-heartbeat-ms", "20"]);
    let mut session = session(&rig, after(2), Some(&["a"]), HOUR);
    session.logs[0].phase = Phase::Live;
    rig.wake("todo", "phone", &["b".to_owned()]);
    rig.wake("notes", "phone", &["a".to_owned()]);
    assert!(matches!(session.wait().await, Next::Text(text) if text == HEARTBEAT));
    session.timers.heartbeat += HOUR;
    rig.wake("todo", "phone", &["a".to_owned()]);
    assert!(matches!(session.wait().await, Next::Nothing));
    assert!(matches!(session.logs[0].phase, Phase::CatchingUp));
}

/// A session on these apps of the known user, all of them read already.
fn session_of_apps(rig: &Rig, apps: &[(&str, Option<&[&str]>)]) -> StreamSession {
    let log = |(app, tables): &(&str, Option<&[&str]>)| LogRequest {
        log: Log::new(KNOWN.into(), app),
        tables: tables.map(|tables| tables.iter().map(|table| (*table).to_owned()).collect()),
        since: after(2),
    };
    let mut session = session_on(rig, Interest::default(), apps.iter().map(log).collect(), HOUR);
    session.logs.iter_mut().for_each(|log| log.phase = Phase::Live);
    session
}

#[tokio::test]
async fn of_several_apps_those_are_read_that_changed_each_in_its_turn() {
    let rig = Rig::new(&[]);
    let mut session = session_of_apps(&rig, &[("todo", None), ("notes", Some(&["pages"])), ("mail", None)]);
    assert_eq!(session.next_log(), None);
    rig.wake("other", "phone", &["pages".to_owned()]);
    rig.wake("notes", "phone", &["tags".to_owned()]);
    assert!(matches!(session.wait().await, Next::Nothing));
    assert_eq!(session.next_log(), None, "nobody asked for these");
    rig.wake("notes", "phone", &["tags".to_owned(), "pages".to_owned()]);
    rig.wake("mail", "phone", &["inbox".to_owned()]);
    assert!(matches!(session.wait().await, Next::Nothing));
    assert_eq!(session.next_log(), Some(1));
    session.send(1, page(&[("pages", 4)], after(4), true));
    assert_eq!(session.next_log(), Some(2), "though there is more of the one before");
    session.send(2, page(&[("inbox", 6)], after(6), false));
    assert_eq!(session.next_log(), Some(1));
    session.send(1, page(&[("pages", 6)], after(6), false));
    assert_eq!(session.next_log(), None);
}

/// Begins to read a page and drops it.
async fn begin_page(session: &mut StreamSession, index: usize) {
    let reservation = session.budget.reserve(MIN_RESERVATION).await.unwrap();
    drop(session.begin_page(index, reservation));
}

#[tokio::test]
async fn what_wakes_a_log_while_a_page_of_it_is_read_has_it_read_again() {
    let rig = Rig::new(&[]);
    let mut session = session_of_apps(&rig, &[("todo", None), ("notes", None)]);
    for before in [Phase::CatchingUp, Phase::Backlog { pending_tables: BTreeSet::new() }] {
        session.logs[0].phase = before;
        begin_page(&mut session, 0).await;
        rig.wake("todo", "phone", &["tasks".to_owned()]);
        assert!(matches!(session.wait().await, Next::Nothing));
        session.send(0, page(&[("tasks", 4)], after(4), false));
        assert_eq!(session.next_log(), Some(0));
        begin_page(&mut session, 0).await;
        session.send(0, page(&[], after(6), false));
        assert_eq!(session.next_log(), None);
    }
}

#[tokio::test]
async fn events_of_several_apps_name_theirs_and_their_ids_say_where_each_stands() {
    let rig = Rig::new(&[]);
    let mut session = session_of_apps(&rig, &[("todo", None), ("a \"name\"", None)]);
    let sent = text(session.send(1, page(&[("a", 4), ("b", 6)], after(8), false)));
    let events: Vec<&str> = sent.split_terminator("\n\n").collect();
    assert!(events[0].starts_with("event: changes\ndata: {\"appId\":\"a \\\"name\\\"\",\"table\":\"a\","), "{sent}");
    let id = |event: &str| StreamPosition::parse(event.strip_prefix("id: ").unwrap().lines().next().unwrap()).unwrap();
    let position = id(events[1]);
    assert_eq!((position.of("todo"), position.of("a \"name\"")), (Some(after(2)), Some(after(8))));
    let sent = text(session.send(0, page(&[("a", 20)], after(20), false)));
    let position = id(&sent);
    assert_eq!((position.of("todo"), position.of("a \"name\"")), (Some(after(20)), Some(after(8))));
}

#[tokio::test]
async fn a_page_that_is_awaited_keeps_no_heartbeat_from_coming() {
    let rig = Rig::new(&["--sse-heartbeat-ms", "20", "--database-pool-size", "1"]);
    let turn = rig.sessions.reads.of(UserKey::of(KNOWN)).wait(rig.store.lane()).await;
    let mut stream = session(&rig, Cursor::BEGINNING, None, Duration::from_secs(3600));
    for _ in 0..3 {
        assert_eq!(stream.next().await.as_deref(), Some(HEARTBEAT));
        assert!(stream.reading.is_some(), "the page is not given up for it");
    }
    drop(turn);
}
