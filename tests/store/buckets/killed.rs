//! A distribution that is killed after any of its statements is finished by the next one, and at each moment everything
//! is there once. A replica that is started meanwhile stores nothing, and serves once it is over.

use super::*;
use crate::support::cut::Cut;

/// How many more statements than the one before each run may send; CRASH_STEP=1 for all.
const STEP: i64 = 40;
/// The same once there are all buckets.
const LATE_STEP: i64 = 5;
/// More statements than a distribution takes.
const STATEMENTS: i64 = 2_000;

/// Everything that is stored.
async fn contents(url: &str) -> Vec<String> {
    let mut connection = PgConnection::connect(url).await.unwrap();
    let mut all = Vec::new();
    for table in ["sync_heads", "sync_changes", "sync_history", "sync_erased"] {
        let rows = format!("select '{table} ' || t::text from {table} t order by 1");
        all.extend(sqlx::query_scalar::<_, String>(AssertSqlSafe(rows)).fetch_all(&mut connection).await.unwrap());
    }
    all
}

/// Starts a replica on this database. The cluster's own, which may be distributed from the start, is another one.
async fn undistributed(url: &str) -> Cluster {
    let settings = ["DATABASE_URL", "DATABASE_LISTEN_URL"].map(|name| (name.to_owned(), url.to_owned()));
    Cluster::start_over_with(&create_database().await, 1, settings.into()).await
}

/// Pushes to a replica that waits for the end of the distribution.
async fn push_in_vain(cluster: &Cluster) {
    for user in users_of_all(cluster) {
        let push = cluster.request(&user, reqwest::Method::POST, &format!("/sync/{APP}")).timeout(TIMEOUT);
        let reply = push.header("Content-Type", "application/json").body(one("lost").to_string()).send().await;
        // Its port may not be open yet.
        assert!(reply.is_err() || reply.unwrap().status() == StatusCode::SERVICE_UNAVAILABLE);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_any_of_its_statements_everything_is_there_once_and_it_goes_on() {
    let url = create_database().await;
    succeeded(&url, &["migrate"]).await;
    let later = |value: &str, at: &str| update("todos", "a", "title", value, at);
    let changes = json!([
        insert("todos", "a", "Milk", AT),
        later("Tea", "2024-01-02T10:05:00.000Z"),
        later("Eggs", "2024-01-03T10:05:00.000Z"),
        insert("todos", "b", "Oats", AT),
    ]);
    let fill = format!("select sync_push('user-' || n, 'todo', 'phone', '{changes}') from generate_series(1, 30) as n");
    sql(&url, fill).await;
    succeeded(&url, &["compact", "--compact-after-ms", "1"]).await;
    succeeded(&url, &["erase", "--user", "user-7", "--yes"]).await;
    let mut cluster = undistributed(&url).await;
    cluster.nodes[0].process.kill().await;
    let before = contents(&url).await;
    for (table, rows) in [("sync_heads", 29), ("sync_changes", 87), ("sync_history", 58), ("sync_erased", 1)] {
        assert_eq!(before.iter().filter(|row| row.starts_with(&format!("{table} "))).count(), rows, "{table}");
    }
    let step = std::env::var("CRASH_STEP").map_or(STEP, |step| step.parse().unwrap());
    let (mut killed, mut is_waiting) = (0, false);
    let steps = "select count(*) from sync_layout where is_moving";
    let (mut statements, mut was_late) = (rand::random_range(1..=step), false);
    while statements < STATEMENTS {
        let cut = Cut::after(&url, statements).await;
        let done = run(cut.url(), &["distribute", "--buckets", "4"]).await;
        drop(cut);
        let open = "select count(*) from pg_stat_activity where datname = current_database()
            and application_name in ('mana-sync distribute', 'mana-sync migrate')";
        eventually("its sessions have ended", async || number(&url, open).await == 0).await;
        assert_eq!(contents(&url).await, before, "after {statements} statements");
        if number(&url, steps).await == 1 {
            if !std::mem::replace(&mut is_waiting, true) {
                cluster.nodes[0].respawn();
            }
            push_in_vain(&cluster).await;
        }
        if !done.status.success() {
            killed += 1;
            // Those with which logs are moved are the last, and few.
            // What is done already is not done again, so it begins anew with few statements.
            let is_late = number(&url, "select count(*) from pg_namespace where nspname = 'sync_b03'").await == 1;
            statements = match (is_late, std::mem::replace(&mut was_late, is_late)) {
                (true, false) => rand::random_range(1..=LATE_STEP),
                (true, true) => statements + LATE_STEP.min(step),
                (false, _) => statements + step,
            };
            continue;
        }
        println!("{killed} were killed; the last had {statements} statements");
        assert!(killed > 1);
        assert!(distribute(&url).await.contains("nothing to do"));
        assert!(is_waiting, "some were killed after the layout was written");
        cluster.nodes[0].process.wait_ready(TIMEOUT).await.unwrap();
        for user in users_of_all(&cluster) {
            cluster.pushed(&user, APP, one("a")).await;
        }
        let user = cluster.user_named("user-1");
        assert_eq!(ids(&cluster.pulled(&user, "todo", "todos", BEGINNING, None).await), ["a", "a", "b"]);
        return;
    }
    panic!("a distribution has more than {STATEMENTS} statements");
}
