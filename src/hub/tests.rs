use super::*;
use std::collections::BTreeSet;

fn wakeup(user: &str, app: &str, client: Option<&str>, tables: &[&str]) -> Wakeup {
    Wakeup {
        user: UserKey::of(user),
        app: app.into(),
        client: client.map(Into::into),
        tables: Some(tables.iter().map(|table| (*table).into()).collect()),
        ranges: vec![],
        pushes: vec![],
    }
}

fn interest(app: Option<&str>, tables: Option<&[&str]>, client: Option<&str>) -> Interest {
    Interest {
        app: app.map(Into::into),
        tables: tables.map(|tables| tables.iter().map(|table| (*table).to_owned()).collect()),
        client: client.map(Into::into),
    }
}

/// Returns what waits for a session, as "app:table,table app:table"; empty if nothing does.
async fn mail(membership: &Membership) -> String {
    let names = |tables: PendingTables| {
        let names: BTreeSet<&str> = tables.iter().map(|table| &**table).collect();
        names.into_iter().collect::<Vec<_>>().join(",")
    };
    tokio::select! {
        biased;
        mail = membership.mailbox().take() => match mail {
            Mail::Overflow => "overflow".to_owned(),
            Mail::Close => "close".to_owned(),
            Mail::Changed(apps) => apps.into_iter().map(|(app, tables)| format!("{app}:{}", names(tables))).collect::<Vec<_>>().join(" "),
        },
        () = std::future::ready(()) => String::new(),
    }
}

#[tokio::test]
async fn a_wake_up_reaches_the_users_sessions_that_care_and_nobody_else() {
    let hub = Arc::new(Hub::new(Arc::default(), Clock::system()));
    let alice = UserKey::of("alice");
    let all = hub.join(alice, interest(None, None, None), "websocket");
    let todo = hub.join(alice, interest(Some("todo"), None, None), "websocket");
    let lists = hub.join(alice, interest(Some("todo"), Some(&["lists"]), None), "sse");
    let device = hub.join(alice, interest(None, None, Some("phone")), "websocket");
    let bob = hub.join(UserKey::of("bob"), interest(None, None, None), "websocket");

    hub.announce(&wakeup("alice", "todo", Some("phone"), &["tasks"]));
    hub.announce(&wakeup("alice", "notes", Some("laptop"), &["pages"]));

    assert_eq!(mail(&all).await, "notes:pages todo:tasks");
    assert_eq!(mail(&todo).await, "todo:tasks");
    assert_eq!(mail(&lists).await, "");
    assert_eq!(mail(&device).await, "notes:pages");
    assert_eq!(mail(&bob).await, "");
}

#[tokio::test]
async fn wake_ups_that_pile_up_are_merged_and_bounded() {
    let hub = Arc::new(Hub::new(Arc::default(), Clock::system()));
    let session = hub.join(UserKey::of("u"), Interest::default(), "websocket");
    for _ in 0..1_000 {
        hub.announce(&wakeup("u", "todo", None, &["tasks"]));
        hub.announce(&wakeup("u", "todo", None, &["lists"]));
    }
    assert_eq!(mail(&session).await, "todo:lists,tasks");
    assert_eq!(mail(&session).await, "");
    let long = "x".repeat(255);
    for names in [20_000, 2_000] {
        for n in 0..names {
            let name = if names == 2_000 { format!("{n}-{long}") } else { format!("table-{n}") };
            hub.announce(&wakeup("u", "todo", None, &[&name]));
        }
        assert!(session.mailbox().bytes() < (512 << 10) + 400, "bytes count, not names");
        assert_eq!(mail(&session).await, "overflow");
    }
    hub.announce(&wakeup("u", "todo", None, &["tasks"]));
    assert_eq!(mail(&session).await, "todo:tasks");
}

#[tokio::test]
async fn a_greeting_and_what_waits_are_one_mail_and_what_it_told_is_not_told_again() {
    let hub = Arc::new(Hub::new(Arc::default(), Clock::system()));
    let stored = |app, client, table, range| Wakeup { ranges: vec![range], ..wakeup("u", app, client, &[table]) };
    let todo = hub.join(UserKey::of("u"), interest(Some("todo"), None, Some("phone")), "websocket");
    hub.announce(&stored("todo", Some("laptop"), "new", (20, 22)));
    todo.mailbox().greet(&[
        stored("todo", Some("phone"), "own", (4, 20)),
        stored("todo", Some("laptop"), "lists", (4, 20)),
        stored("todo", Some("tablet"), "tasks", (4, 20)),
        stored("notes", Some("tablet"), "pages", (4, 20)),
    ]);
    assert_eq!(mail(&todo).await, "todo:lists,new,tasks");
    for range in [(10, 16), (16, 20)] {
        hub.announce(&stored("todo", Some("tablet"), "tasks", range));
    }
    assert_eq!(mail(&todo).await, "", "a notification that was late");
    hub.announce(&wakeup("u", "todo", Some("tablet"), &["looked up"]));
    assert_eq!(mail(&todo).await, "todo:looked up", "nobody knows where it was stored");
    hub.announce(&stored("todo", Some("tablet"), "tasks", (18, 24)));
    assert_eq!(mail(&todo).await, "todo:tasks", "it ends beyond what was told");
}

#[tokio::test]
async fn a_greeting_of_very_many_names_sends_nobody_away() {
    let hub = Arc::new(Hub::new(Arc::default(), Clock::system()));
    let session = hub.join(UserKey::of("u"), Interest::default(), "websocket");
    let names: Vec<String> = (0..15_000).map(|n| format!("table-{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    session.mailbox().greet(&[wakeup("u", "todo", None, &names), wakeup("u", "todo", None, &["one more"])]);
    assert_eq!(mail(&session).await.split(',').count(), names.len() + 1);
}

#[tokio::test]
async fn the_oldest_sessions_are_closed_once_and_none_that_came_later() {
    let hub = Arc::new(Hub::new(Arc::default(), Clock::system()));
    let join = |n: usize| hub.join(UserKey::of(&(n / 2).to_string()), Interest::default(), "websocket");
    let sessions: Vec<Membership> = (0..10).map(join).collect();
    let moment = Instant::now();
    let later = join(10);
    assert_eq!(hub.close_oldest(3, |joined| joined < moment), 3);
    assert_eq!(hub.close_oldest(4, |joined| joined < moment), 4);
    for (n, session) in sessions.iter().enumerate() {
        let expected = if n < 7 { "close" } else { "" };
        assert_eq!(mail(session).await, expected, "{n}");
    }
    hub.announce(&wakeup("0", "todo", None, &["tasks"]));
    assert_eq!(mail(&sessions[0]).await, "close", "nothing else is worth saying");
    assert_eq!(hub.close_oldest(100, |joined| joined < moment), 3);
    assert_eq!(mail(&later).await, "");
}

#[test]
fn a_user_is_connected_from_the_first_session_to_the_last() {
    let metrics = Arc::new(Metrics::new());
    let hub = Arc::new(Hub::new(metrics.clone(), Clock::system()));
    let user = UserKey::of("u");
    let first = hub.join(user, Interest::default(), "sse");
    let second = hub.join(user, Interest::default(), "websocket");
    assert_eq!((metrics.users.get(), metrics.connections.get()), (1, 2));
    drop(first);
    assert!(hub.is_connected(user));
    drop(second);
    assert!(!hub.is_connected(user));
    assert!(hub.listening().is_empty());
    assert_eq!((metrics.users.get(), metrics.connections.get()), (0, 0));
}
