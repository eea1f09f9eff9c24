//! Going back, and forward again: the SQL is that of docs/coming-from-the-go-server.md.

use super::fold::{Records, of_old_table, of_the_wire, spelled_alike};
use super::old::{Form, database};
use super::support::*;
use super::{connect, migrated, script, value};
use serde_json::{Value, json};
use sqlx::Connection;
use std::path::Path;

const USERS: u32 = 5;
const LATER: &str = "2024-03-01T10:05:00.000Z";

/// The document's statements for a form.
fn going_back(form: Form) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/coming-from-the-go-server.md");
    let page = std::fs::read_to_string(path).unwrap();
    let (_, section) = page.split_once("## Going back").unwrap();
    let pieces: Vec<&str> = section.split("```sql\n").skip(1).map(|rest| rest.split_once("```").unwrap().0).collect();
    let [first, older, newest, last] = pieces[..] else { panic!("{} pieces", pieces.len()) };
    [first, if form == Form::Older { older } else { newest }, last].concat()
}

/// Stores changes of every kind after the takeover, from devices and programs.
async fn write(cluster: &Cluster, round: u32) {
    let user = cluster.user_named("user-1");
    let id = |name: &str| format!("{name}-{round}");
    let spaced = json!({ "table": "tasks", "id": id("spaced"), "op": "insert", "data": { "title": "Milk", "createdAt": LATER },
        "actor": { "kind": "ai" }, "origin": "agent", "spaceId": "space-1", "schemaVersion": 3 });
    let odd = json!({ "table": "tasks", "id": id("odd"), "op": "insert", "data": { "title": "Tea", "updatedAt": LATER },
        "actor": null, "origin": { "by": 1 }, "schemaVersion": "newest", "mood": "good" });
    let changes = [
        insert("tasks", &id("plain"), "Milk", LATER),
        spaced,
        odd,
        json!({ "table": "tasks", "id": id("unstamped"), "op": "insert", "data": { "title": "Milk" } }),
        update("tasks", "rec-1", "title", round, LATER),
        json!({ "table": "tasks", "id": "rec-2", "op": "delete", "deletedAt": LATER }),
        json!({ "table": "tasks", "id": id("gone"), "op": "delete" }),
    ];
    cluster.pushed(&user, "todo", json!({ "clientId": "phone", "since": LATER, "changes": changes })).await;
    let plain = format!(
        "insert into sync_changes (app_id, table_name, record_id, user_id, op, data, field_timestamps)
         values ('todo', 'tasks', 'sql-{round}', 'user-2', 'update', '{{\"a\":1}}', '{{\"a\":\"{LATER}\"}}')"
    );
    script(&cluster.database_url, plain).await;
    // One user is erased, and one record with its history is deleted.
    sqlx::query("select sync_erase('user-4')").execute(&cluster.pool).await.unwrap();
    sqlx::query("delete from sync_changes where user_id = 'user-3' and record_id = 'rec-3'")
        .execute(&cluster.pool)
        .await
        .unwrap();
}

/// The records that devices without any data end up with.
async fn records(cluster: &Cluster) -> Records {
    let mut records = Records::new();
    for user in 0..USERS {
        for app in ["todo", "notes", "ai"] {
            records.extend(of_the_wire(cluster, &cluster.user_named(&format!("user-{user}")), app).await.0);
        }
    }
    spelled_alike(records)
}

async fn there_and_back_twice(form: Form) {
    let url = database(form, 2_000, USERS).await;
    let owner = format!("owner_{}", uuid::Uuid::new_v4().simple());
    script(
        &url,
        format!(
            "create role {owner} login; grant create, usage on schema public to {owner}; alter table sync_changes owner to {owner}"
        ),
    )
    .await;
    let mut as_owner: url::Url = url.parse().unwrap();
    as_owner.set_username(&owner).unwrap();
    for round in 1..3 {
        let said = migrated(as_owner.as_str(), &[]).await;
        assert!(said.contains("rows were taken over"), "{said}");
        let cluster = Cluster::start_over(&url).await;
        write(&cluster, round).await;
        let before = records(&cluster).await;
        cluster.pool.close().await;
        drop(cluster);
        script(as_owner.as_str(), going_back(form)).await;
        let mut connection = connect(&url).await;
        let (after, _) = of_old_table(&mut connection, form, "sync_changes").await;
        connection.close().await.unwrap();
        let after = spelled_alike(after);
        let other: Vec<_> = before.iter().filter(|(key, record)| after.get(*key) != Some(record)).take(3).collect();
        assert!(other.is_empty(), "{form:?}, round {round}: before there was {other:?}");
        assert_eq!(after.len(), before.len(), "{form:?}, round {round}: what was erased has come back");
        // A cursor of ours must still lead to the same changes.
        let elsewhere = "select count(*) from sync_changes_ours o left join sync_changes b using (id) where b.created_at is distinct from o.created_at";
        assert_eq!(value::<i64>(&url, elsewhere).await, 0);
        let ours_left = "select (select count(*) from pg_proc where proname like 'sync\\_%')
            + (select count(*) from pg_class where relname ~ '^sync_' and relnamespace = 'public'::regnamespace
                                                and relname not in ('sync_changes', 'sync_changes_ours'))
            + (select count(*) from pg_type where typname = 'sync_row')";
        assert_eq!(value::<i64>(&url, ours_left).await, 0);
        if form == Form::Newest {
            let secured =
                "select relrowsecurity and relforcerowsecurity from pg_class where oid = 'sync_changes'::regclass";
            assert!(value::<bool>(&url, secured).await);
            let kept: Value = value(
                &url,
                "select jsonb_agg(jsonb_build_array(actor, origin, space_id, schema_version) order by record_id)
                 from sync_changes where record_id ~ '^(spaced|odd)-1'",
            )
            .await;
            let odd = json!([null, "{\"by\": 1}", null, 1]);
            assert_eq!(kept, json!([odd, [{ "kind": "ai" }, "agent", "space-1", 3]]));
        }
        let deletes = "select count(*) from sync_changes where client_id = 'phone' and op = 'delete' and data ->> 'deletedAt' is null";
        assert_eq!(value::<i64>(&url, deletes).await, 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_the_older_form_there_is_a_way_back_and_forward_again() {
    there_and_back_twice(Form::Older).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_the_newest_form_there_is_a_way_back_and_forward_again() {
    there_and_back_twice(Form::Newest).await;
}
