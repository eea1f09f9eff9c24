//! A page's reads are bounded, however much is stored besides its contents (G6); and nothing is missed because of that.

use crate::support::live::{APP, Events, all_ids, ids_by_page, pages, stream_of};
use crate::support::*;
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;

const AT: &str = "2024-01-01T10:05:00.000Z";

/// A cluster of one replica, which does all the reading, on connections that can be ended.
async fn start() -> Cluster {
    Cluster::start(1).await
}

async fn push(cluster: &Cluster, user: &User, client: &str, changes: Value) -> String {
    let body = json!({ "clientId": client, "since": live::NO_DELTA, "changes": changes });
    until(&cluster.pushed(user, APP, body).await).to_owned()
}

/// Appends this many updates to the user's log, as if a device had pushed them. `table`, `record` and `stamp` are
/// expressions over `n`, which starts at 1.
async fn add(cluster: &Cluster, user: &User, device: &str, count: usize, [table, record, stamp]: [&str; 3]) {
    let rows = format!(
        "insert into sync_changes (id, app_id, table_name, record_id, user_id, op, data, field_timestamps, client_id,
                                   created_at, log_id, size)
         select gen_random_uuid(), h.app_id, {table}, {record}, h.user_id, 'update', jsonb_build_object('count', n),
                jsonb_build_object('count', {stamp}), '{device}', h.head + n * interval '20 microseconds', h.log_id, 64
         from sync_heads h, generate_series(1, {count}) n where h.user_id = '{}'",
        user.id
    );
    let head = format!(
        "update sync_heads h set previous = h.head, head = h.head + {count} * interval '20 microseconds' where user_id = '{}'",
        user.id
    );
    for statement in [rows, head] {
        sqlx::query(AssertSqlSafe(statement)).execute(&cluster.pool).await.unwrap();
    }
    sqlx::query("vacuum analyze sync_changes").execute(&cluster.pool).await.unwrap();
}

/// The number of rows read from the log so far. Sessions report it when they end, at the latest.
async fn rows_read(cluster: &Cluster) -> i64 {
    let pool =
        "from pg_stat_activity where datname = current_database() and application_name like 'mana-sync replica-_'";
    let end = format!("select count(pg_terminate_backend(pid)) {pool}");
    let read = format!(
        "select idx_tup_fetch from pg_stat_user_tables
         where relname = 'sync_changes' and not exists (select {pool} and pid = any($1))"
    );
    let pids = format!("select coalesce(array_agg(pid), '{{}}') {pool}");
    let ended: Vec<i32> = sqlx::query_scalar(AssertSqlSafe(pids)).fetch_one(&cluster.pool).await.unwrap();
    sqlx::query(AssertSqlSafe(end)).execute(&cluster.pool).await.unwrap();
    let mut rows = None;
    eventually("the sessions have ended", async || {
        let read = sqlx::query_scalar(AssertSqlSafe(read.clone())).bind(&ended);
        rows = read.fetch_optional(&cluster.pool).await.unwrap();
        rows.is_some()
    })
    .await;
    rows.unwrap()
}

#[tokio::test]
async fn a_device_that_stored_very_much_itself_gets_what_others_stored_page_by_page() {
    const OWN: usize = 200_000;
    let cluster = start().await;
    let user = cluster.user();
    let first = push(&cluster, &user, "laptop", json!([insert("todos", "first", "x", AT)])).await;
    add(&cluster, &user, "phone", OWN, ["'todos'", "n::text", "'2024-01-01T10:05:00.000Z'"]).await;
    let last = push(&cluster, &user, "laptop", json!([insert("todos", "last", "x", AT)])).await;
    for (what, answers) in [
        ("pulls", cluster.pull_all(&user, APP, "todos", &first, Some("phone")).await),
        ("pushes", cluster.push_all(&user, APP, &first, "phone").await),
    ] {
        assert_eq!(ids_of(&answers), ["last"], "{what}");
        assert!((5..=12).contains(&answers.len()), "{what}: {} pages", answers.len());
        assert!(answers.windows(2).all(|pair| until(&pair[0]) < until(&pair[1])), "{what}");
        assert_eq!(until(&answers[answers.len() - 1]), last, "{what}");
    }
    // A reader that looks only at what is new reads no more.
    let before = rows_read(&cluster).await;
    let page = cluster.pulled(&user, APP, "todos", &first, Some("phone")).await;
    assert_eq!((ids(&page).len(), page["hasMore"] == true), (0, true));
    let read = rows_read(&cluster).await - before;
    assert!(read < 25_000, "{read} rows were read for one page");

    for query in ["collections=todos", "collections=todos,lists,tags", ""] {
        let request = stream_of(&cluster, 0, &user, &format!("{query}&since={first}")).header("X-Client-Id", "phone");
        let mut events = Events::open(request).await;
        assert_eq!(events.until("last").await, ["last"], "{query}");
    }
}

#[tokio::test]
async fn on_an_initial_sync_a_record_that_its_device_wrote_very_often_is_not_read_for_each_page_anew() {
    const EDITS: usize = 40_000;
    let cluster = start().await;
    let user = cluster.user();
    let inserted = json!({ "table": "todos", "id": "a", "op": "insert", "data": { "title": "mine", "count": 0, "updatedAt": AT } });
    push(&cluster, &user, "phone", json!([inserted])).await;
    let later = "sync_iso(timestamptz '2024-01-02 00:00:00Z' + n * interval '1 second')";
    add(&cluster, &user, "phone", EDITS, ["'todos'", "'a'", later]).await;
    let before = rows_read(&cluster).await;
    let answers = cluster.pull_all(&user, APP, "todos", BEGINNING, Some("phone")).await;
    let read = rows_read(&cluster).await - before;
    let sent: Vec<&Value> = answers.iter().flat_map(|page| page["serverChanges"].as_array().unwrap()).collect();
    assert_eq!(sent.len(), 2, "{sent:?}");
    assert_eq!((&sent[0]["fields"]["title"]["value"], sent[0]["fields"].get("count")), (&json!("mine"), None));
    assert_eq!(sent[1]["fields"]["count"]["value"], json!(EDITS));
    // Once for the first page, which has fields that were never written again; then a few thousand rows for each page.
    let few = EDITS as i64 + 8_000 * answers.len() as i64;
    assert!(read < few, "{read} rows were read for {} pages", answers.len());
}

#[tokio::test]
async fn a_page_ends_before_a_record_that_would_have_it_look_at_very_many_rows() {
    const EDITS: usize = 30_000;
    let cluster = start().await;
    let user = cluster.user();
    let first = push(&cluster, &user, "laptop", json!([insert("todos", "first", "x", AT)])).await;
    let ids_in_order: Vec<String> = (0..21).map(|n| format!("{n:02}")).collect();
    let theirs: Vec<Value> = ids_in_order.iter().map(|id| update("todos", id, "title", "theirs", AT)).collect();
    push(&cluster, &user, "laptop", json!(theirs)).await;
    // Another device wrote a field of it that the phone did not write, and one that it did.
    push(&cluster, &user, "laptop", json!([update("todos", "10", "count", -1, AT)])).await;
    add(&cluster, &user, "phone", EDITS, ["'todos'", "'10'", "'2024-01-02T00:00:00.000Z'"]).await;
    let answers = cluster.pull_all(&user, APP, "todos", &first, Some("phone")).await;
    assert_eq!(ids(&answers[0]), ids_in_order[..10], "so much is known soon");
    assert_eq!(ids_of(&answers), ids_in_order, "each once, and not what the device has replaced");
    // A device that wrote none of it gets all of it.
    let answers = cluster.pull_all(&user, APP, "todos", &first, Some("tablet")).await;
    let all = ids_of(&answers);
    assert_eq!(
        (&all[..21], all[21], all.len()),
        (&ids_in_order.iter().map(String::as_str).collect::<Vec<_>>()[..], "10", 22 + EDITS)
    );
}

#[tokio::test]
async fn many_tables_of_a_log_are_merged_without_reading_a_page_of_each() {
    const TABLES: usize = 200;
    const ROWS: usize = 30_000;
    let cluster = start().await;
    let user = cluster.user();
    push(&cluster, &user, "laptop", json!([insert("other", "first", "x", AT)])).await;
    // Half of all rows are in one table, and some of the others in a table that no stream asks for.
    let table = format!(
        "case when n % 2 = 0 then 't0' when n % 10 = 1 then 'other' else 't' || (n * 7919::int8 % {TABLES}) end"
    );
    add(&cluster, &user, "laptop", ROWS, [&table, "lpad(n::text, 8, '0')", "'2024-01-01T10:05:00.000Z'"]).await;
    let names: Vec<String> = (0..TABLES).map(|n| format!("t{n}")).collect();
    let expected: Vec<String> = (1..=ROWS).filter(|n| n % 10 != 1).map(|n| format!("{n:08}")).collect();
    for count in [TABLES, 3, 2] {
        let expected: Vec<String> = match count == TABLES {
            true => expected.clone(),
            false => {
                let of = |n: &usize| n.is_multiple_of(2) || (n % 10 != 1 && (1..count).contains(&(n * 7919 % TABLES)));
                (1..=ROWS).filter(of).map(|n| format!("{n:08}")).collect()
            }
        };
        let before = rows_read(&cluster).await;
        let list = names[..count].join(",");
        let request = stream_of(&cluster, 0, &user, &format!("collections={list}&since={BEGINNING}"));
        let backlog = Events::open(request.header("X-Client-Id", "tablet")).await.backlog().await;
        let read = rows_read(&cluster).await - before;
        assert_eq!(ids_by_page(&backlog), expected, "{count} tables");
        let sizes: Vec<usize> = pages(&backlog).map(|page| all_ids(page).len()).collect();
        let (last, full) = sizes.split_last().unwrap();
        assert!(full.iter().all(|size| *size == 1_000) && *last <= 1_000, "{count} tables: {sizes:?}");
        let few = 8_000 * sizes.len() as i64;
        assert!(read < few, "{count} tables: {read} rows were read for {} pages", sizes.len());
    }
    // The device that stored everything gets what others store, after empty pages.
    push(&cluster, &user, "tablet", json!([insert("t7", "last", "x", AT)])).await;
    let request = stream_of(&cluster, 0, &user, &format!("collections={}&since={AT}", names.join(",")));
    let mut events = Events::open(request.header("X-Client-Id", "laptop")).await;
    assert_eq!(events.until("last").await, ["last"]);
}

/// One device wrote it all the time, another now and then, a third never.
#[tokio::test]
async fn a_record_that_one_device_wrote_very_often_is_not_looked_at_as_a_whole_for_each_page_of_another() {
    const EDITS: usize = 30_000;
    const SOME: usize = 20;
    let cluster = start().await;
    let user = cluster.user();
    let first = push(&cluster, &user, "laptop", json!([insert("todos", "a", "theirs", AT)])).await;
    let stamp = "sync_iso(timestamptz '2024-01-02 00:00:00Z' + n * interval '1 second')";
    for n in 0..SOME {
        add(&cluster, &user, "laptop", EDITS / SOME, ["'todos'", "'a'", stamp]).await;
        push(&cluster, &user, "phone", json!([update("todos", "a", "title", n, AT)])).await;
    }
    for (reader, sent) in [("phone", EDITS), ("tablet", EDITS + SOME)] {
        let before = rows_read(&cluster).await;
        let pages = cluster.pull_all(&user, APP, "todos", &first, Some(reader)).await;
        let read = rows_read(&cluster).await - before;
        assert_eq!(ids_of(&pages).len(), sent, "{reader}");
        // All of it twice, for the first page; for each page its own rows, and a few more.
        let few = (2 * EDITS + 8_000 * pages.len()) as i64;
        assert!(read < few, "{reader}: {read} rows were read for {} pages", pages.len());
    }
    // What a device writes meanwhile is taken into account: it is sent nothing that it has replaced.
    push(&cluster, &user, "phone", json!([update("todos", "a", "count", -1, "2024-02-01T00:00:00.000Z")])).await;
    let pages = cluster.pull_all(&user, APP, "todos", &first, Some("phone")).await;
    assert_eq!(ids_of(&pages), [""; 0]);
}

/// A device with a clock far ahead claims its stamps forever, so what came before them matters forever.
#[tokio::test]
async fn what_a_device_with_a_clock_far_ahead_wrote_very_often_is_looked_at_in_bounds() {
    const EDITS: usize = 40_000;
    let cluster = start().await;
    let user = cluster.user();
    push(&cluster, &user, "laptop", json!([insert("todos", "first", "x", AT)])).await;
    let ahead = iso(now_millis() + 3_600_000);
    push(&cluster, &user, "phone", json!([update("todos", "often", "count", 0, &ahead)])).await;
    add(&cluster, &user, "phone", EDITS, ["'todos'", "'often'", "'2024-01-01T10:05:00.000Z'"]).await;
    // As if all of them had been pushed with future stamps.
    sqlx::query("update sync_changes set held = jsonb_build_object('count', $1::text) where record_id = 'often'")
        .bind(&ahead)
        .execute(&cluster.pool)
        .await
        .unwrap();
    sqlx::query("vacuum analyze sync_changes").execute(&cluster.pool).await.unwrap();
    let since = push(&cluster, &user, "phone", json!([update("todos", "own", "title", "mine", AT)])).await;
    let theirs: Vec<Value> = (0..10).map(|n| update("todos", &format!("other{n}"), "title", "theirs", AT)).collect();
    push(&cluster, &user, "laptop", json!(theirs)).await;
    // A value that loses to the phone's, one that wins although the phone holds a later stamp, and a field of the
    // laptop's own.
    let now = iso(now_millis() + 600_000);
    push(&cluster, &user, "laptop", json!([update("todos", "often", "count", "old", AT)])).await;
    push(&cluster, &user, "laptop", json!([update("todos", "often", "count", "new", &now)])).await;
    push(&cluster, &user, "laptop", json!([update("todos", "often", "title", "theirs", AT)])).await;
    let pages = cluster.pull_all(&user, APP, "todos", &since, Some("phone")).await;
    assert!(ids(&pages[0]).len() == 10, "so much is known soon: {:?}", ids(&pages[0]));
    let sent: Vec<&Value> = pages.iter().flat_map(|page| page["serverChanges"].as_array().unwrap()).collect();
    let often: Vec<&Value> =
        sent.iter().filter(|change| change["id"] == "often").map(|change| &change["fields"]).collect();
    assert_eq!(often.len(), 3, "{often:?}");
    assert_eq!(often[1]["count"], json!({ "value": "new", "at": ahead, "updatedAt": ahead }));
    // Each page but the last, which starts with that record, looks at it once.
    let before = rows_read(&cluster).await;
    cluster.pulled(&user, APP, "todos", &since, Some("phone")).await;
    let read = rows_read(&cluster).await - before;
    assert!(read < 30_000, "{read} rows were read for one page");
    // For a device that wrote none of it, none of it is read.
    let before = rows_read(&cluster).await;
    cluster.pulled(&user, APP, "todos", &since, Some("tablet")).await;
    let read = rows_read(&cluster).await - before;
    assert!(read < 1_000, "{read} rows were read for one page of another device");
}
