//! Prints answers for people, in columns.

use crate::admin::report::{Cluster, Done, Record, RefusedTokens, Replica, Silent, User};
use crate::admin::units::{at_least, bytes, latency, rate};
use crate::output::{Output, counted, plain};
use comfy_table::Table;
use comfy_table::presets::NOTHING;

/// Prints rows as a table with aligned columns.
fn table(out: &mut Output, head: &[&str], rows: &[Vec<String>]) {
    let mut table = Table::new();
    table.load_preset(NOTHING).add_row(head).add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    out.line(table.trim_fmt());
}

fn or_dash(text: Option<&String>) -> String {
    text.map_or_else(|| "-".to_owned(), |text| plain(text))
}

fn missing(out: &mut Output, silent: &[Silent], problem: Option<&String>) {
    for replica in silent {
        out.line(format_args!("{} does not answer; last heard from {}", replica.name, replica.heard_at));
    }
    if let Some(problem) = problem {
        out.line(problem);
    }
}

pub(super) fn cluster(out: &mut Output, cluster: &Cluster) {
    let head =
        ["REPLICA", "VERSION", "SINCE", "STATE", "SOCKETS", "STREAMS", "PUSHES/S", "REFUSED/S", "WAKE-UP P99", "POOL"];
    let row = |replica: &Replica| {
        vec![
            replica.name.clone(),
            replica.version.clone(),
            replica.started_at.clone(),
            replica.state().to_owned(),
            replica.connections.websockets.to_string(),
            replica.connections.streams.to_string(),
            rate(replica.rates.pushes),
            rate(replica.rates.refusals),
            latency(replica.latency.wakeup.p99),
            format!("{}/{}", replica.database.open - replica.database.idle, replica.database.limit),
        ]
    };
    table(out, &head, &cluster.replicas.iter().map(row).collect::<Vec<_>>());
    for replica in cluster.replicas.iter().filter(|replica| !replica.missing.is_empty()) {
        out.line(format_args!("{} is not ready: {}", replica.name, replica.missing.join(", ")));
    }
    in_force(out, &cluster.replicas);
    missing(out, &cluster.silent, cluster.problem.as_ref());
    match &cluster.database {
        None => out.line("The database does not answer this replica."),
        Some(database) => out.line(format_args!(
            "PostgreSQL {}: {} ({} of it the log), {} of {} connections",
            database.version,
            bytes(database.bytes),
            bytes(database.log_bytes),
            database.connections,
            database.max_connections
        )),
    }
}

/// Prints the settings that operators can change, if replicas differ in them: one that was away was not told.
fn in_force(out: &mut Output, replicas: &[Replica]) {
    let settings = |replica: &Replica| {
        (replica.max_user_pushes_per_second, replica.max_user_pulls_per_second, replica.log.clone())
    };
    if replicas.windows(2).all(|two| settings(&two[0]) == settings(&two[1])) {
        return;
    }
    out.line("The settings in force differ (0: no limit):");
    for replica in replicas {
        let (pushes, pulls, log) = settings(replica);
        out.line(format_args!("{}: {pushes} pushes and {pulls} pulls per second, log {}", replica.name, plain(&log)));
    }
}

pub(super) fn user(out: &mut Output, user: &User) {
    out.line(format_args!("{} ({})", plain(&user.user_id), user.user_key));
    let usage = &user.usage;
    let changes = if usage.more { format!("{}+ changes", usage.changes) } else { counted(usage.changes, "change") };
    out.line(format_args!("{}, {changes}, {}", counted(usage.apps, "app"), at_least(bytes(usage.bytes), usage.more)));
    if user.stored_in_part {
        out.line("What is stored could not be read in full: these numbers lack something.");
    }
    let is_whole = user.silent.is_empty() && user.problem.is_none();
    if is_whole && user.logs.is_empty() && user.sessions_total == 0 {
        out.line("Nothing is stored of this user, and no device is connected. Is this the `sub` of the user's tokens?");
    }
    if usage.more {
        out.line("Only the newest changes are counted; `mana-sync usage` counts everything in the largest logs.");
    }
    let logs = user.logs.iter().map(|log| {
        let [changes, tables] = [log.changes, log.tables].map(|number| at_least(number.to_string(), log.more));
        vec![plain(&log.app), log.head.clone(), changes, tables, at_least(bytes(log.bytes), log.more)]
    });
    section(out, &["APP", "HEAD", "CHANGES", "TABLES", "SIZE"], &logs.collect::<Vec<_>>());
    let devices = user.devices.iter().map(|device| {
        vec![
            plain(&device.app),
            plain(&device.device),
            device.changes.to_string(),
            or_dash(device.pushed_at.as_ref()),
            or_dash(device.read_until.as_ref()),
        ]
    });
    section(out, &["APP", "DEVICE", "CHANGES", "LAST PUSH", "HAS READ UNTIL"], &devices.collect::<Vec<_>>());
    sessions(out, user);
    missing(out, &user.silent, user.problem.as_ref());
}

fn sessions(out: &mut Output, user: &User) {
    out.line(format_args!("\n{}", counted(user.sessions_total, "session")));
    let rows = user.sessions.iter().map(|session| {
        vec![
            session.replica.clone(),
            session.transport.clone(),
            or_dash(session.app.as_ref()),
            or_dash(session.device.as_ref()),
            session.since.clone(),
            or_dash(session.woken_at.as_ref()),
            or_dash(session.read_at.as_ref()),
            or_dash(session.token_id.as_ref()),
        ]
    });
    let rows: Vec<_> = rows.collect();
    if !rows.is_empty() {
        table(out, &["REPLICA", "TRANSPORT", "APP", "DEVICE", "SINCE", "WOKEN", "READ", "TOKEN ID"], &rows);
    }
}

/// Prints a table below what is already there; nothing if it has no rows.
fn section(out: &mut Output, head: &[&str], rows: &[Vec<String>]) {
    if !rows.is_empty() {
        out.line("");
        table(out, head, rows);
    }
}

pub(super) fn record(out: &mut Output, record: &Record) {
    let rows = record.fields.iter().map(|field| {
        vec![
            plain(&field.name),
            plain(&field.value.to_string()),
            field.stamp.clone(),
            plain(&field.device),
            field.cursor.clone(),
        ]
    });
    table(out, &["FIELD", "VALUE", "STAMP", "DEVICE", "STORED"], &rows.collect::<Vec<_>>());
    out.line("");
    let writes = record.history.iter().flat_map(|change| change.writes.iter().map(move |write| (change, write)));
    let rows = writes.map(|(change, write)| {
        let outcome = match (write.wins, write.trimmed) {
            (true, _) => "wins",
            (false, true) => "trimmed since",
            (false, false) => "",
        };
        let value = plain(&write.value.to_string());
        vec![
            change.cursor.clone(),
            change.op.clone(),
            plain(&change.device),
            plain(&write.field),
            value,
            write.stamp.clone(),
            outcome.to_owned(),
        ]
    });
    table(out, &["STORED", "OP", "DEVICE", "FIELD", "VALUE", "STAMP", ""], &rows.collect::<Vec<_>>());
    if record.truncated {
        out.line("There are older changes.");
    }
}

pub(super) fn tokens(out: &mut Output, tokens: &RefusedTokens) {
    let rows = tokens.refused_tokens.iter().map(|token| vec![plain(&token.token_id), token.until.clone()]);
    match rows.collect::<Vec<_>>() {
        none if none.is_empty() => out.line("No token is refused."),
        rows => table(out, &["TOKEN ID", "UNTIL"], &rows),
    }
    missing(out, &tokens.silent, tokens.problem.as_ref());
}

pub(super) fn done(out: &mut Output, done: &Done) {
    for outcome in &done.outcomes {
        let word = if outcome.done { "" } else { "NOT DONE: " };
        out.line(format_args!("{}: {word}{}", outcome.replica, outcome.message));
    }
    missing(out, &done.silent, done.problem.as_ref());
}
