//! One stream for several apps: the guarantees of a stream hold for each app on it (G2, G4, G5).

use crate::support::live::*;
use crate::support::*;
use mana_sync::protocol::Cursor;
use mana_sync::protocol::stream_id::write_position;
use reqwest::{Method, RequestBuilder};
use std::collections::{BTreeMap, BTreeSet};

/// A request for a stream of several apps. `query` is the query string.
fn stream_of_apps(cluster: &Cluster, index: usize, user: &User, query: &str) -> RequestBuilder {
    cluster.request_to(index, user, Method::GET, &format!("/sync/stream?{query}"))
}

fn app(event: &Delta) -> &str {
    event.data["appId"].as_str().expect("each event names its app")
}

/// Ids by app, in the order received.
type Seen = BTreeMap<String, Vec<String>>;

fn see(seen: &mut Seen, event: &Delta) {
    seen.entry(app(event).to_owned()).or_default().extend(event.ids());
}

/// Reads until each app has delivered this many records; returns the last event id.
async fn until(stream: &mut Events, seen: &mut Seen, each: usize) -> String {
    let mut last = None;
    loop {
        let event = stream.delta().await;
        see(seen, &event);
        last = event.id.or(last);
        // Not in the middle of a page: the rest would be sent again.
        if seen.values().all(|ids| ids.len() >= each)
            && let Some(id) = &last
            && event.data["hasMore"] == false
        {
            return id.clone();
        }
    }
}

#[tokio::test]
async fn every_app_has_its_backlog_then_what_is_new_and_its_own_cursor() {
    let (cluster, user) = (shared().await, shared().await.user());
    for n in 0..4 {
        for app in ["todo", "calendar", "mail"] {
            store_in(
                cluster,
                n,
                &user,
                app,
                "laptop",
                &[("tasks", &format!("{app} {n}")), ("other", &format!("x {n}"))],
            )
            .await;
        }
    }
    let query = "apps=todo:tasks;never,calendar";
    let mut stream = Events::open(stream_of_apps(cluster, 0, &user, query)).await;
    let (mut seen, mut tables) = (Seen::new(), BTreeSet::new());
    let mut last = String::new();
    while seen.len() < 2 || !tables.contains("todo never") || seen["todo"].len() < 4 || seen["calendar"].len() < 8 {
        let event = stream.delta().await;
        tables.insert(format!("{} {}", app(&event), event.table()));
        see(&mut seen, &event);
        last = event.id.unwrap_or(last);
    }
    assert_eq!(seen["todo"], ["todo 0", "todo 1", "todo 2", "todo 3"]);
    let expected = ["calendar other", "calendar tasks", "todo never", "todo tasks"];
    assert_eq!(tables, expected.map(str::to_owned).into(), "each table asked for has had an event, and no other");

    let until = store_in(cluster, 1, &user, "calendar", "laptop", &[("tasks", "new")]).await;
    let event = stream.delta().await;
    assert_eq!((app(&event), event.ids(), event.until()), ("calendar", vec!["new".to_owned()], until.as_str()));
    let live = event.id.expect("the end of a page");
    store_in(cluster, 2, &user, "mail", "laptop", &[("tasks", "not asked for")]).await;
    store_in(cluster, 2, &user, "todo", "laptop", &[("other", "not asked for")]).await;
    store_in(cluster, 2, &user, "todo", "laptop", &[("tasks", "heard")]).await;
    assert_eq!(stream.delta().await.ids(), ["heard"]);

    // From an earlier id, on another replica: both apps continue there, and a new one starts.
    for (resume, expected) in [(&last, ["heard", "new"].as_slice()), (&live, &["heard"])] {
        let request =
            stream_of_apps(cluster, 2, &user, "apps=todo:tasks,calendar,mail:tasks").header("Last-Event-ID", resume);
        let mut stream = Events::open(request).await;
        let mut seen = Seen::new();
        while seen.values().flatten().count() < 5 + expected.len() {
            see(&mut seen, &stream.delta().await);
        }
        let mut others: Vec<String> =
            [seen.remove("todo"), seen.remove("calendar")].into_iter().flatten().flatten().collect();
        others.sort();
        assert_eq!(others, expected);
    }
    // The id takes precedence over `since`, and `since` may be such an id, too, or a cursor for all apps.
    let since = format!("apps=todo:tasks,calendar:tasks&since={last}");
    let mut stream = Events::open(stream_of_apps(cluster, 0, &user, &since)).await;
    let mut seen = Seen::new();
    while seen.values().flatten().count() < 2 {
        see(&mut seen, &stream.delta().await);
    }
    assert_eq!((&seen["todo"][..], &seen["calendar"][..]), (&["heard".to_owned()][..], &["new".to_owned()][..]));
    let since = format!("apps=todo:tasks,calendar:tasks&since={until}");
    let mut stream = Events::open(stream_of_apps(cluster, 0, &user, &since)).await;
    let first = loop {
        let event = stream.delta().await;
        if !event.ids().is_empty() {
            break event;
        }
    };
    assert_eq!((app(&first), first.ids()), ("todo", vec!["heard".to_owned()]));
}

/// Reads until each of these apps has reported its position; returns what came until then, and the last event id.
async fn told(stream: &mut Events, apps: &[&str]) -> (Seen, String) {
    let (mut seen, mut last) = (Seen::new(), None);
    while apps.iter().any(|app| !seen.contains_key(*app)) || last.is_none() {
        let event = stream.delta().await;
        see(&mut seen, &event);
        last = event.id.or(last);
    }
    (seen, last.expect("the loop waits for one"))
}

const REWINDS: &str = "mana_sync_cursors_past_head_total";

/// A cluster of the test's own: its metrics must count nothing else.
async fn quiet_apps() -> (Cluster, User, String) {
    let cluster = Cluster::start(1).await;
    let user = cluster.user();
    store_in(&cluster, 0, &user, "calendar", "phone", &[("tasks", "old and its own")]).await;
    let until = store_in(&cluster, 0, &user, "todo", "laptop", &[("tasks", "known")]).await;
    assert_eq!(metric(&cluster, 0, REWINDS).await, 0.0);
    (cluster, user, until)
}

#[tokio::test]
async fn a_cursor_for_all_apps_is_no_proof_that_a_quieter_one_went_back() {
    let (cluster, user, until) = quiet_apps().await;
    let on_initial_sync = Cursor::parse(&until).unwrap().on_initial_sync(true).to_string();
    for since in [&until, &on_initial_sync, &"2099-01-01T10:00:00.000000Z".to_owned()] {
        for as_id in [false, true] {
            let query = "apps=todo:tasks,calendar:tasks,empty:tasks";
            let request = if as_id {
                stream_of_apps(&cluster, 0, &user, query).header("Last-Event-ID", since)
            } else {
                stream_of_apps(&cluster, 0, &user, &format!("{query}&since={since}"))
            };
            let mut stream = Events::open(request.header("X-Client-Id", "phone")).await;
            let (seen, id) = told(&mut stream, &["todo", "calendar", "empty"]).await;
            assert!(seen.values().flatten().count() == 0, "{since}: {seen:?}");
            // Nor is the id that the stream sent.
            let request = stream_of_apps(&cluster, 0, &user, query).header("Last-Event-ID", &id);
            let mut stream = Events::open(request.header("X-Client-Id", "phone")).await;
            let (seen, _) = told(&mut stream, &["todo", "calendar", "empty"]).await;
            assert!(seen.values().flatten().count() == 0, "{since}: {seen:?}");
        }
    }
    assert_eq!(metric(&cluster, 0, REWINDS).await, 0.0, "nobody says that the database went back");
}

#[tokio::test]
async fn an_id_keeps_foreign_what_an_app_that_was_not_read_yet_has_not_given_out() {
    let (cluster, user, _) = quiet_apps().await;
    // From the client's own clock, and from the previous server: both later than everything stored.
    for since in ["2099-01-01T10:00:00.000Z", "2099-01-01T10:00:00.12341Z", "2099-01-01T10:00:00.123450Z"] {
        // `todo` has changes after its cursor, so it comes first, with an id in which `calendar` is still at its
        // requested position.
        let known = "2000-01-01T00:00:00.000000Z";
        let (todo, calendar) = (position(&[("todo", known)]), format!("apps=todo,calendar&since={since}"));
        let request = stream_of_apps(&cluster, 0, &user, &calendar).header("Last-Event-ID", todo);
        let mut stream = Events::open(request.header("X-Client-Id", "phone")).await;
        let first = stream.delta().await;
        assert_eq!((app(&first), &*first.ids()[0]), ("todo", "known"));
        let mut id = first.id.expect("the end of a page");
        drop(stream);
        for n in 0..2 {
            let request = stream_of_apps(&cluster, 0, &user, "apps=todo,calendar").header("Last-Event-ID", &id);
            let mut stream = Events::open(request.header("X-Client-Id", "phone")).await;
            let record = format!("{since} {n}");
            store_in(&cluster, 0, &user, "todo", "laptop", &[("tasks", &record)]).await;
            let event = stream.delta().await;
            assert_eq!((app(&event), event.ids()), ("todo", vec![record]), "{since}: nothing of the other is repeated");
            id = event.id.expect("the end of a page");
        }
    }
    assert_eq!(metric(&cluster, 0, REWINDS).await, 0.0);
}

#[tokio::test]
async fn its_own_cursor_still_proves_that_an_app_went_back() {
    let (cluster, user, _) = quiet_apps().await;
    let late = "2099-01-01T10:00:00.000020Z";
    let of_one = stream_of_apps(&cluster, 0, &user, &format!("apps=calendar&since={late}"));
    let in_an_id =
        stream_of_apps(&cluster, 0, &user, "apps=calendar").header("Last-Event-ID", position(&[("calendar", late)]));
    for request in [of_one, in_an_id] {
        let mut stream = Events::open(request.header("X-Client-Id", "phone")).await;
        assert_eq!(stream.delta().await.ids(), ["old and its own"]);
    }
    assert_eq!(metric(&cluster, 0, REWINDS).await, 2.0);
}

/// An id with these apps at these cursors, which their logs gave out.
fn position(cursors: &[(&str, &str)]) -> String {
    write_position(cursors.iter().map(|(app, cursor)| (*app, Cursor::parse(cursor).unwrap())))
}

#[tokio::test]
async fn nothing_is_missed_or_sent_twice_however_writers_and_reconnections_interleave() {
    const APPS: [&str; 4] = ["a", "b", "c", "a,b:c;d%"];
    const PUSHES: usize = 30;
    let (cluster, user) = (shared().await, shared().await.user());
    let writers = APPS.map(|app| {
        let user = &user;
        async move {
            for n in 0..PUSHES {
                let table = if n % 3 == 0 { "lists" } else { "tasks" };
                let path: String = url::form_urlencoded::byte_serialize(app.as_bytes()).collect();
                store_in(cluster, n, user, &path, "laptop", &[(table, &format!("{n:03}"))]).await;
            }
        }
    });
    let reader = async {
        let apps = "a,b,c,a%252Cb%253Ac%253Bd%2525";
        let (mut seen, mut id) = (Seen::new(), None::<String>);
        for part in 1.. {
            let mut request =
                stream_of_apps(cluster, part, &user, &format!("apps={apps}")).header("X-Client-Id", "phone");
            if let Some(id) = &id {
                request = request.header("Last-Event-ID", id);
            }
            let mut stream = Events::open(request).await;
            let mut page = Vec::new();
            // Interrupts the stream after some pages, in the middle of one.
            for _ in 0..part % 5 + 2 {
                if seen.len() == APPS.len() && seen.values().all(|ids| ids.len() == PUSHES) {
                    return seen;
                }
                page.push(stream.delta().await);
                if let Some(end) = page.last().and_then(|event: &Delta| event.id.clone()) {
                    id = Some(end);
                    page.drain(..).for_each(|event| see(&mut seen, &event));
                }
            }
        }
        unreachable!("it ends above")
    };
    let (seen, _) = tokio::join!(
        async { tokio::time::timeout(TIMEOUT * 2, reader).await.expect("in time") },
        futures_util::future::join_all(writers)
    );
    for app in APPS {
        let mut ids = seen[app].clone();
        // Within a page, the tables come one after another.
        ids.sort();
        assert_eq!(ids, (0..PUSHES).map(|n| format!("{n:03}")).collect::<Vec<_>>(), "{app}");
    }
}

#[tokio::test]
async fn while_one_app_has_a_long_backlog_the_others_are_heard() {
    let cluster = &Cluster::start_with(1, &[("PAGE_MAX_CHANGES", "3")]).await;
    let user = cluster.user();
    for n in 0..10 {
        let ids: Vec<String> = (0..30).map(|m| format!("{n} {m}")).collect();
        let records: Vec<(&str, &str)> = ids.iter().map(|id| ("tasks", id.as_str())).collect();
        store_in(cluster, 0, &user, "long", "laptop", &records).await;
    }
    let mut stream = Events::open(stream_of_apps(cluster, 0, &user, "apps=long,short")).await;
    let mut seen = Seen::new();
    see(&mut seen, &stream.delta().await);
    store_in(cluster, 0, &user, "short", "laptop", &[("tasks", "new")]).await;
    // The events in between were already on their way.
    while !seen.contains_key("short") {
        see(&mut seen, &stream.delta().await);
    }
    println!("after {} of 300", seen["long"].len());
    until(&mut stream, &mut seen, 1).await;
    while seen["long"].len() < 300 {
        see(&mut seen, &stream.delta().await);
    }
    let unique: BTreeSet<&String> = seen["long"].iter().collect();
    assert_eq!((unique.len(), seen["short"].len()), (300, 1));
}

#[tokio::test]
async fn a_device_gets_its_own_back_from_the_beginning_and_then_no_more_and_nobody_else_s() {
    let (cluster, user) = (shared().await, shared().await.user());
    let other = cluster.user();
    store_in(cluster, 0, &user, "a", "phone", &[("tasks", "own")]).await;
    store_in(cluster, 1, &user, "b", "laptop", &[("tasks", "laptop's")]).await;
    store_in(cluster, 1, &other, "a", "laptop", &[("tasks", "another user's")]).await;
    let request = stream_of_apps(cluster, 2, &user, "apps=a,b").header("X-Client-Id", "phone");
    let mut stream = Events::open(request).await;
    let mut seen = Seen::new();
    let id = until(&mut stream, &mut seen, 1).await;
    while seen.len() < 2 {
        see(&mut seen, &stream.delta().await);
    }
    assert_eq!((&seen["a"][..], &seen["b"][..]), (&["own".to_owned()][..], &["laptop's".to_owned()][..]));
    assert!(id.starts_with("a1."));
    store_in(cluster, 0, &user, "a", "phone", &[("tasks", "own again")]).await;
    store_in(cluster, 1, &other, "b", "laptop", &[("tasks", "another user's")]).await;
    store_in(cluster, 0, &user, "a", "laptop", &[("tasks", "new")]).await;
    assert_eq!(stream.delta().await.ids(), ["new"]);
}

#[tokio::test]
async fn it_is_one_connection_and_what_is_wrong_is_refused() {
    let cluster = &Cluster::start_with(1, &[("MAX_SESSIONS_PER_USER", "1")]).await;
    let user = cluster.user();
    let stream = Events::open(stream_of_apps(cluster, 0, &user, "apps=a,b,c,d,e,f,g,h")).await;
    assert_eq!(stream.headers()["content-type"], "text/event-stream");
    assert_eq!(stream.headers()["cache-control"], "no-cache, no-store, no-transform");
    assert_eq!(metric(cluster, 0, "mana_sync_sessions{transport=\"sse\"}").await, 1.0);
    Reply::to(stream_of_apps(cluster, 0, &user, "apps=a")).await;
    drop(stream);
    let many: Vec<String> = (0..65).map(|n| format!("app-{n}")).collect();
    let long = format!("apps=a:{}", (0..257).map(|n| format!("t{n}")).collect::<Vec<_>>().join(";"));
    for query in [
        "",
        "apps=",
        "apps=,",
        "apps=:tasks",
        "apps=a&since=yesterday",
        "apps=a&since=a1.xyz",
        "apps=a%00b",
        &format!("apps={}", many.join(",")),
        &long,
        &format!("apps={}", "x".repeat(256)),
    ] {
        Reply::to(stream_of_apps(cluster, 0, &user, query)).await.refused(400, "bad_request");
    }
    let request = stream_of_apps(cluster, 0, &user, "apps=a").header("Last-Event-ID", "nonsense");
    Reply::to(request).await.refused(400, "bad_request");
    cluster.get("/sync/stream?apps=a").await.refused(401, "unauthorized");
}

#[tokio::test]
async fn an_app_that_is_called_stream_is_an_app_like_any_other() {
    let (cluster, user) = (shared().await, shared().await.user());
    store_in(cluster, 0, &user, "stream", "laptop", &[("tasks", "a")]).await;
    store_in(cluster, 1, &user, "stre%61m", "laptop", &[("tasks", "b")]).await;
    let (status, pulled) = cluster.pull(&user, "stream", "tasks", BEGINNING, None).await;
    assert_eq!((status.as_u16(), ids(&pulled)), (200, vec!["a", "b"]));
    let request = cluster.request(&user, Method::GET, "/sync/stream/stream?collections=tasks");
    assert_eq!(Events::open(request).await.until("b").await, ["a", "b"]);
    let mut all = Events::open(stream_of_apps(cluster, 2, &user, "apps=stream")).await;
    assert_eq!(all.until("b").await, ["a", "b"]);
}
