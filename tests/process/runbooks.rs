//! The commands of docs/runbooks, and the queries of docs/operations.md, exactly as written, against a cluster: each
//! query is run, each shell script, including those for the admin port, and each search of the log. Queries to
//! Prometheus and Kubernetes are checked by scripts/check-ops.

use crate::support::live::{socket, woken};
use crate::support::*;
use mana_sync::app::{self, Listeners};
use mana_sync::clock::ManualClock;
use mana_sync::config::Config;
use mana_sync::shutdown::Shutdown;
use mana_sync::telemetry::Telemetry;
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;
use tokio::io::AsyncWriteExt;

/// The pages with their names.
fn pages() -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/runbooks");
    let beside = folder.with_file_name("operations.md");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).chain([beside]);
    let read = |path: std::path::PathBuf| {
        (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read_to_string(path).unwrap())
    };
    files.map(read).collect()
}

/// Splits a page into its shell blocks and the rest.
fn blocks(page: &str) -> (Vec<String>, String) {
    let (mut blocks, mut rest, mut block) = (Vec::new(), String::new(), None::<String>);
    for line in page.lines() {
        match (&mut block, line.trim()) {
            (None, "```sh") => block = Some(String::new()),
            (None, _) => rest.push_str(&format!("{line}\n")),
            (Some(_), "```") => blocks.extend(block.take()),
            (Some(text), line) => text.push_str(&format!("{line}\n")),
        }
    }
    assert!(block.is_none(), "a block without an end: {page}");
    (blocks, rest)
}

/// The spans between backquotes that are queries.
fn queries(page: &str) -> Vec<String> {
    let (_, rest) = blocks(page);
    let spans = rest.lines().flat_map(|line| line.split('`').skip(1).step_by(2));
    spans.filter(|span| span.starts_with("select ")).map(str::to_owned).collect()
}

/// The scripts of a page that do not need Kubernetes.
fn scripts(page: &str) -> Vec<String> {
    blocks(page).0.into_iter().filter(|block| !block.contains("kubectl")).collect()
}

const ADMIN_TOKEN: &str = "an-admin-token-for-tests";

/// Starts a replica with an admin port; returns the port's URL, too.
async fn administered() -> (Cluster, String) {
    let cluster = Cluster::start_with(1, &[("ADMIN_PORT", "0"), ("ADMIN_TOKEN", ADMIN_TOKEN)]).await;
    let log = cluster.nodes[0].log();
    let line = log.lines().find(|line| line.contains("the admin port is open")).expect("it has one");
    let line: Value = serde_json::from_str(line).unwrap();
    let url = format!("http://{}", line["address"].as_str().unwrap());
    (cluster, url)
}

/// Runs a script as a reader would who has filled in the names.
async fn run(cluster: &Cluster, script: &str, names: &[(&str, &str)]) -> Output {
    // The public address and the forwarded port both lead to the replica.
    let address = r#"curl() {
        set -- "${@//https:\/\/sync.example.com/$REPLICA}"
        command curl --max-time 20 "${@//http:\/\/127.0.0.1:3050/$REPLICA}"
    }"#;
    let mut command = tokio::process::Command::new("bash");
    command.arg("-euo").arg("pipefail").arg("-c").arg(format!("{address}\n{script}")).kill_on_drop(true);
    command.env("REPLICA", cluster.url(0)).env("DATABASE_URL", &cluster.database_url);
    command.env("DATABASE_LISTEN_URL", &cluster.database_url).env("DB", &cluster.database_url);
    let path = std::env::var("PATH").unwrap_or_default();
    let programs = std::env::var("PG_BIN").unwrap_or_default();
    let ours = Path::new(env!("CARGO_BIN_EXE_mana-sync")).parent().expect("a folder").display();
    command.env("PATH", format!("{ours}:{path}:{programs}")).envs(names.iter().copied());
    tokio::time::timeout(TIMEOUT, command.output()).await.expect("a command must end").unwrap()
}

/// Runs a script, which must succeed; returns its output.
async fn said(cluster: &Cluster, script: &str, names: &[(&str, &str)]) -> String {
    let done = run(cluster, script, names).await;
    assert!(done.status.success(), "{script}\n{done:?}");
    String::from_utf8(done.stdout).unwrap()
}

#[tokio::test]
async fn every_query_runs() {
    let cluster = Cluster::start(1).await;
    let mut count = 0;
    for (page, text) in pages() {
        for query in queries(&text) {
            // The reader fills in a process number; 0 is nobody's.
            let filled = query.replace("pg_terminate_backend(pid)", "pg_terminate_backend(0)");
            let ran = sqlx::raw_sql(sqlx::AssertSqlSafe(filled)).execute(&cluster.pool).await;
            assert!(ran.is_ok(), "{page}: {query}: {ran:?}");
            count += 1;
        }
    }
    assert!(count >= 12, "{count} queries were found");
}

#[tokio::test]
async fn every_script_of_the_other_pages_runs() {
    let (cluster, admin) = administered().await;
    let user = cluster.user();
    cluster.pushed(&user, "todo", json!({ "clientId": "phone", "changes": [insert("todos", "a", "Milk", AT)] })).await;
    let names = [("WHO", user.id.as_str()), ("ADMIN_URL", &admin), ("ADMIN_TOKEN", ADMIN_TOKEN)];
    let mut count = 0;
    for (page, text) in pages().into_iter().filter(|(page, _)| page != CHANGE) {
        for script in scripts(&text) {
            let done = run(&cluster, &script, &names).await;
            assert!(done.status.success() && !done.stdout.is_empty(), "{page}: {script}\n{done:?}");
            count += 1;
        }
    }
    assert!(count >= 6, "{count} scripts were found");
}

const AT: &str = "2024-01-01T10:05:00.000Z";
const CHANGE: &str = "a-change-did-not-arrive.md";

/// The scripts that follow a change from its record to a device.
fn the_change() -> Vec<String> {
    let (_, text) = pages().into_iter().find(|(page, _)| page == CHANGE).expect("the page");
    scripts(&text)
}

#[tokio::test]
async fn a_change_is_followed_from_its_record_to_its_device() {
    let cluster = Cluster::start(1).await;
    let user = cluster.user();
    let (early, late) = ("2024-01-01T10:05:00.000Z", "2024-01-01T10:06:00.000Z");
    let store = async |device: &str, change| {
        cluster.pushed(&user, "todo", json!({ "clientId": device, "changes": [change] })).await;
    };
    store("laptop", insert("todos", "a", "Milk", early)).await;
    store("phone", update("todos", "a", "title", "Eggs", late)).await;
    // Stored later, but it loses: its stamp is earlier.
    store("tablet", update("todos", "a", "title", "Beer", "2024-01-01T10:05:30.000Z")).await;

    let names =
        [("WHO", user.id.as_str()), ("APP", "todo"), ("TABLE", "todos"), ("RECORD", "a"), ("TOKEN", &user.token)];
    let [introduction, why, head, traced, asked] = the_change().try_into().expect("five scripts");
    assert!(introduction.contains("export WHO="), "{introduction}");

    let why = said(&cluster, &why, &names).await;
    assert!(["laptop", "phone", "tablet"].iter().all(|device| why.contains(device)), "{why}");
    let at = |text: &str| why.find(text).unwrap_or_else(|| panic!("{text} is missing: {why}"));
    assert!(at("Eggs") < at("Milk") && at("Eggs") < at("Beer"), "the winner comes first: {why}");
    assert!(why.contains(late) && why.contains(early), "stamps, an insert's too: {why}");
    let head = said(&cluster, &head, &names).await;
    assert!(head.contains("(1 row)"), "{head}");
    let traced = said(&cluster, &traced, &names).await;
    assert!(traced.contains("HTTP/1.1 200") && traced.contains("the trace: "), "{traced}");
    let asked = said(&cluster, &asked, &names).await;
    assert!(asked.contains("Eggs") && asked.contains("syncedUntil"), "{asked}");
}

#[tokio::test]
async fn no_look_up_reads_the_whole_table() {
    let cluster = Cluster::start(1).await;
    let others = "
        insert into sync_heads (log_id, user_key, user_id, app_id, head, previous)
        select md5('log' || n)::uuid, md5('user' || n)::uuid, 'user-' || n, 'todo', now(), now() from generate_series(1, 5000) n;
        insert into sync_changes (id, app_id, table_name, record_id, user_id, op, data, client_id, created_at, log_id)
        select md5('row' || n)::uuid, 'todo', 'todos', 'r' || n, 'user-' || n, 'insert', '{}', 'phone', now(), md5('log' || n)::uuid
        from generate_series(1, 5000) n;
        analyze sync_heads, sync_changes";
    sqlx::raw_sql(others).execute(&cluster.pool).await.unwrap();
    let mut count = 0;
    for script in the_change() {
        let Some(query) = script.split("<<'SQL'\n").nth(1).and_then(|rest| rest.split("SQL\n").next()) else {
            continue;
        };
        let names = [(":'who'", "'user-7'"), (":'app'", "'todo'"), (":'table'", "'todos'"), (":'record'", "'r7'")];
        let query = names.iter().fold(query.to_owned(), |query, (name, value)| query.replace(name, value));
        let explained = sqlx::query_scalar(sqlx::AssertSqlSafe(format!("explain {query}"))).fetch_all(&cluster.pool);
        let plan: Vec<String> = explained.await.unwrap();
        assert!(!plan.iter().any(|line| line.contains("Seq Scan")), "{query}\n{plan:#?}");
        count += 1;
    }
    assert_eq!(count, 1);
}

/// What the pages' commands do with the log that `kubectl logs` prints.
fn searches() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for (page, text) in pages() {
        let lines = blocks(&text).0.join("\n");
        let commands = lines.lines().filter(|line| line.starts_with("kubectl ") && line.contains(" logs "));
        let filters = commands.filter_map(|line| line.split_once(" | ")).map(|(_, filter)| filter.to_owned());
        found.extend(filters.map(|filter| (page.clone(), filter)));
    }
    found
}

/// A replica announces itself with a date that is five minutes off.
async fn announce_with_a_wrong_clock(cluster: &Cluster) {
    let mut config = Config::with_defaults(&cluster.database_url).unwrap();
    config.bind_address = std::net::Ipv4Addr::LOCALHOST.into();
    config.port = 0;
    config.auth.jwks_url = cluster.issuer.jwks_url().parse().unwrap();
    config.billing.mana_credits_url = cluster.credits.url().parse().unwrap();
    config.billing.mana_service_key = SERVICE_KEY.parse().unwrap();
    config.drain.drain_delay_ms = Duration::ZERO;
    let clock = ManualClock::at_present(1);
    clock.advance(Duration::from_secs(300));
    let (listeners, shutdown) = (Listeners::bind(&config).unwrap(), Shutdown::default());
    let (its, clock) = (shutdown.clone(), clock.clock());
    let telemetry = Telemetry::start(&config, &clock).unwrap();
    let running = tokio::spawn(async move { app::run(listeners, config, clock, &telemetry, its).await });
    eventually("the replica's announcements are ignored", async || {
        cluster.nodes[0].log().contains("presence announcement")
    })
    .await;
    shutdown.draining.cancel();
    running.await.unwrap().unwrap();
}

async fn deliver_late(cluster: &Cluster, user: &User) {
    let mut socket = socket(cluster, 1, user, None, None).await;
    cluster.nodes[1].process.pause();
    cluster
        .pushed(user, "todo", json!({ "clientId": "phone", "changes": [insert("todos", "late", "Milk", AT)] }))
        .await;
    // For this long, the replica that must deliver it does nothing.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    cluster.nodes[1].process.resume();
    woken(&mut socket).await;
}

async fn refuse_to_trim(cluster: &Cluster, user: &User) {
    let refusing = format!(
        "create function refuse() returns trigger language plpgsql as $$ begin raise 'no'; end $$;
        create trigger refuse before delete on sync_changes for each row when (old.user_id = '{}') execute function refuse()",
        user.id
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(refusing)).execute(&cluster.pool).await.unwrap();
    for minute in 10..16 {
        let change = update("todos", "a", "title", minute, &format!("2024-01-01T10:{minute}:00.000Z"));
        cluster.pushed(user, "todo", json!({ "clientId": "phone", "changes": [change] })).await;
    }
}

async fn go_back(cluster: &Cluster, user: &User) {
    cluster
        .pushed(user, "todo", json!({ "clientId": "phone", "changes": [insert("todos", "lost", "Milk", AT)] }))
        .await;
    let page = cluster.pulled(user, "todo", "todos", BEGINNING, None).await;
    for statement in [
        "delete from sync_changes where user_id = $1",
        "update sync_heads set head = '2020-01-01', previous = 'epoch' where user_id = $1",
    ] {
        sqlx::query(statement).bind(&user.id).execute(&cluster.pool).await.unwrap();
    }
    cluster.pulled(user, "todo", "todos", page["syncedUntil"].as_str().unwrap(), None).await;
}

#[tokio::test]
async fn every_search_of_the_log_finds_what_replicas_write() {
    let traced = [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9"), ("OTEL_TRACES_SAMPLER", "always_on")];
    let cluster = Cluster::start_with(2, &[&traced[..], &[("COMPACT_AFTER_MS", "400")]].concat()).await;
    let [late, untrimmed, back] = [(); 3].map(|()| cluster.user());
    announce_with_a_wrong_clock(&cluster).await;
    deliver_late(&cluster, &late).await;
    refuse_to_trim(&cluster, &untrimmed).await;
    go_back(&cluster, &back).await;
    cluster
        .get_as("Bearer of.no.token", &format!("/sync/todo/pull?collection=todos&since={BEGINNING}"))
        .await
        .refused(401, "unauthorized");

    let searches = searches();
    assert!(searches.len() >= 6, "{searches:?}");
    for (page, filter) in searches {
        let mut found = Output { status: Default::default(), stdout: vec![], stderr: vec![] };
        let what = format!("{page}: `{filter}` finds a line");
        eventually(&what, async || {
            let of = |node: &Node| {
                node.log().lines().map(|line| format!("[pod/mana-sync/mana-sync] {line}\n")).collect::<String>()
            };
            let log: String = cluster.nodes.iter().map(of).collect();
            found = search(&filter, &log).await;
            found.status.success()
        })
        .await;
        assert!(!found.stdout.is_empty() && found.stderr.is_empty(), "{page}: {found:?}");
    }
}

/// Runs a filter on a log.
async fn search(filter: &str, log: &str) -> Output {
    let mut command = tokio::process::Command::new("bash");
    command.args(["-euo", "pipefail", "-c", filter]).kill_on_drop(true);
    let mut running = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut input = running.stdin.take().unwrap();
    let (_, output) = tokio::join!(
        async {
            input.write_all(log.as_bytes()).await.unwrap();
            drop(input);
        },
        running.wait_with_output()
    );
    output.unwrap()
}
