//! Heads that no cursor can be written of: the database refuses them, and migrating puts those right that are there.

use crate::start::migrate;
use crate::support::*;
use serde_json::{Value, json};

const AT: &str = "2024-01-01T10:05:00.000Z";
/// Records in the order in which they are stored.
const RECORDS: [&str; 4] = ["a", "b", "c", "d"];

async fn push(cluster: &Cluster, user: &User, record: &str) -> Value {
    let changes = json!([insert("todos", record, "Milk", AT)]);
    cluster.pushed(user, "todo", json!({ "clientId": "phone", "since": BEGINNING, "changes": changes })).await
}

async fn execute(cluster: &Cluster, statement: String) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&cluster.pool).await.map(|_| ())
}

#[tokio::test]
async fn one_past_the_year_9999_is_refused() {
    let cluster = Cluster::start(1).await;
    let user = cluster.user();
    push(&cluster, &user, "a").await;
    for head in ["infinity", "9999-12-31T23:59:59Z", "10000-01-01", "294276-12-31"] {
        let error = execute(&cluster, format!("update sync_heads set head = '{head}'")).await.unwrap_err();
        assert_eq!(error.as_database_error().unwrap().constraint(), Some("sync_heads_head"), "{head}: {error}");
    }
    push(&cluster, &user, "b").await;
    assert_eq!(ids(&cluster.pulled(&user, "todo", "todos", BEGINNING, None).await), ["a", "b"]);
}

/// As where only one of the tables was restored.
#[tokio::test]
async fn changes_past_the_head_of_their_log_do_not_make_it_an_endless_one() {
    let cluster = Cluster::start_with(1, &[("PAGE_MAX_CHANGES", "3")]).await;
    let user = cluster.user();
    let records = ["a", "b", "c", "d", "e", "f", "g"];
    for record in records {
        push(&cluster, &user, record).await;
    }
    let moved = "update sync_changes set created_at = created_at + interval '1 hour' where record_id > 'b'";
    execute(&cluster, moved.to_owned()).await.unwrap();
    let mut stream = live::Events::open(live::stream_of(&cluster, 0, &user, "collections=todos")).await;
    let (mut since, mut pages) = (BEGINNING.to_owned(), 0);
    loop {
        let page = cluster.pulled(&user, "todo", "todos", &since, Some("laptop")).await;
        (since, pages) = (until(&page).to_owned(), pages + 1);
        assert!(pages <= records.len(), "it does not end: {page}");
        if page["hasMore"] == json!(false) {
            break;
        }
    }
    let streamed = stream.backlog().await;
    assert!(live::all_ids(&streamed).len() <= records.len(), "{streamed:?}");
    execute(&cluster, "update sync_heads set head = head + interval '2 hours'".to_owned()).await.unwrap();
    let pages = cluster.pull_all(&user, "todo", "todos", &since, Some("laptop")).await;
    assert_eq!(ids_of(&pages), &records[2..], "nothing was missed");
}

#[tokio::test]
async fn where_there_is_one_the_log_goes_on_at_the_clock_once_it_is_migrated() {
    let cluster = Cluster::start(1).await;
    let before =
        "alter table sync_heads drop constraint sync_heads_head; delete from _sqlx_migrations where version = 21";
    execute(&cluster, before.to_owned()).await.unwrap();
    let heads = ["infinity", "9999-12-31T23:59:59.99998Z", "12000-01-03"];
    let users: Vec<User> = heads.iter().map(|_| cluster.user()).collect();
    for (user, head) in users.iter().zip(heads) {
        for record in &RECORDS[..3] {
            push(&cluster, user, record).await;
        }
        let id = &user.id;
        let ahead = format!(
            "update sync_heads set head = '{head}' where user_id = '{id}';
             update sync_changes set created_at = '12000-01-02' where user_id = '{id}' and record_id = 'b';
             update sync_changes set created_at = '{head}' where user_id = '{id}' and record_id = 'c'
                                                              and timestamptz '{head}' > '12000-01-02'"
        );
        execute(&cluster, ahead).await.unwrap();
    }
    let other = cluster.user();
    push(&cluster, &other, "a").await;
    assert!(migrate(&cluster.database_url).await.contains("1 applied"), "it is applied again");
    for (user, head) in users.iter().zip(heads) {
        let answer = push(&cluster, user, "d").await;
        assert!(until(&answer) > "2024" && until(&answer) < "2999", "{head}: {answer}");
        let pages = cluster.pull_all(user, "todo", "todos", BEGINNING, Some("laptop")).await;
        let mut read = ids_of(&pages);
        if head.starts_with("9999") {
            // Only the second one was past it.
            read.sort_unstable();
        }
        assert_eq!(read, RECORDS, "{head}");
        // A cursor that was written of such a head is past the log now.
        let again = cluster.pulled(user, "todo", "todos", "9999-12-31T23:59:59.999980Z", Some("laptop")).await;
        assert_eq!(ids(&again).len(), RECORDS.len(), "{head}");
        let erase = sqlx::query_scalar::<_, i64>("select sync_erase($1)").bind(&user.id);
        assert_eq!(erase.fetch_one(&cluster.pool).await.unwrap(), RECORDS.len() as i64, "{head}");
        let heads = sqlx::query_scalar::<_, i64>("select count(*) from sync_heads where user_id = $1").bind(&user.id);
        assert_eq!(heads.fetch_one(&cluster.pool).await.unwrap(), 0, "{head}");
    }
    push(&cluster, &other, "b").await;
    assert_eq!(ids(&cluster.pulled(&other, "todo", "todos", BEGINNING, None).await), ["a", "b"]);
}
