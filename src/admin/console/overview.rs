//! The first page: replicas, their load, their refusals, and the database.

use super::super::Admin;
use super::super::report::{Cluster, Database, Replica};
use super::super::units::{bytes, count, latency, rate};
use super::login::Login;
use super::page::{Page, ago, cell, figure, missing};
use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use maud::{Markup, html};
use std::collections::BTreeMap;
use std::time::Duration;

/// Minimum interval between refreshes; it is longer with many replicas.
pub(super) fn refresh(replicas: usize) -> Duration {
    Duration::from_millis((replicas as u64 * 100).max(2_000))
}

pub(super) async fn show(State(admin): State<Admin>, Extension(login): Extension<Login>) -> Response {
    let page = Page::new(&admin, &login, "/", "Overview");
    let cluster = admin.cluster().await;
    let content = html! {
        div data-part="missing" { (missing(&cluster.silent, cluster.problem.as_ref())) (not_ready(&cluster)) }
        div.figures data-part="figures" { (figures(&cluster)) }
        section data-part="replicas" { h2 { "Replicas" } (replicas(&page, &cluster.replicas)) }
        div.columns {
            section data-part="refusals" { h2 { "Refusals" } (refusals(&cluster.replicas)) }
            section data-part="database" { h2 { "Database" } (database(cluster.database.as_ref(), &cluster.replicas)) }
        }
    };
    page.draw(Some(refresh(cluster.replicas.len())), &content)
}

fn not_ready(cluster: &Cluster) -> Markup {
    html! {
        @for replica in cluster.replicas.iter().filter(|replica| !replica.missing.is_empty()) {
            p.banner { strong { (replica.name) } " is not ready: " (replica.missing.join(", ")) "." }
        }
    }
}

fn figures(cluster: &Cluster) -> Markup {
    let replicas = &cluster.replicas;
    let sum = |of: fn(&Replica) -> f64| replicas.iter().map(of).sum::<f64>();
    let ready = replicas.iter().filter(|replica| replica.ready).count();
    let worst = |of: fn(&Replica) -> Option<f64>| replicas.iter().filter_map(of).max_by(f64::total_cmp);
    let sockets: i64 = replicas.iter().map(|replica| replica.connections.websockets).sum();
    let streams: i64 = replicas.iter().map(|replica| replica.connections.streams).sum();
    let all = replicas.len() + cluster.silent.len();
    html! {
        (figure("Replicas ready", &format!("{ready} of {all}"), "known replicas"))
        (figure("Pushes a second", &rate(sum(|replica| replica.rates.pushes)), &format!("{} changes", rate(sum(|replica| replica.rates.changes)))))
        (figure("Wake-up, p99", &latency(worst(|replica| replica.latency.wakeup.p99)), "of the slowest replica"))
        (figure("Push, p99", &latency(worst(|replica| replica.latency.push.p99)), "of the slowest replica"))
        (figure("Connections", &count(sockets + streams), &format!("{} sockets, {} streams", count(sockets), count(streams))))
        (figure("Refusals a second", &rate(sum(|replica| replica.rates.refusals)), &format!("of {} requests", rate(sum(|replica| replica.rates.requests)))))
    }
}

fn replicas(page: &Page, replicas: &[Replica]) -> Markup {
    html! {
        table {
            thead { tr { th { "Replica" } th { "State" } th { "Version" } th { "Started" } th.number { "Sockets" } th.number { "Streams" } th.number { "Pushes/s" } th.number { "Refused/s" } th.number { "Wake-up p99" } th.number { "Listener lag" } th.number { "Pool" } th.number { "Memory" } th {} } }
            tbody { @for replica in replicas { (row(page, replica)) } }
        }
    }
}

fn row(page: &Page, replica: &Replica) -> Markup {
    let pool = format!("{}/{}", replica.database.open - replica.database.idle, replica.database.limit);
    let (action, drained, sure) = match replica.drained {
        true => ("Take back", "false", None),
        false => {
            ("Drain", "true", Some(format!("Drain {}? It stops being ready, and its sessions leave.", replica.name)))
        }
    };
    let fields = [("replica", replica.name.as_str()), ("drained", drained)];
    let state = if replica.listener.up { replica.state() } else { "not listening" };
    let is_well = replica.ready && replica.listener.up;
    html! {
        tr {
            (cell("Replica", &html! { strong { (replica.name) } }))
            (cell("State", &html! { span.chip.good[is_well].warn[!is_well] { (state) } }))
            (cell("Version", &html! { (replica.version) }))
            (cell("Started", &ago(&replica.started_at)))
            td.number data-name="Sockets" { (count(replica.connections.websockets)) }
            td.number data-name="Streams" { (count(replica.connections.streams)) }
            td.number data-name="Pushes/s" { (rate(replica.rates.pushes)) }
            td.number data-name="Refused/s" { (rate(replica.rates.refusals)) }
            td.number data-name="Wake-up p99" { (latency(replica.latency.wakeup.p99)) }
            td.number data-name="Listener lag" { (latency(replica.listener.lag_seconds.map(|lag| (lag * 1_000.0).round() / 1_000.0))) }
            td.number data-name="Pool" { (pool) @if replica.database.waiting > 0 { " +" (replica.database.waiting) } }
            td.number data-name="Memory" { (bytes(i64::try_from(replica.process.memory_bytes).unwrap_or(i64::MAX))) }
            td.action { (page.button("/actions/drain", &fields, action, sure.as_deref())) }
        }
    }
}

fn refusals(replicas: &[Replica]) -> Markup {
    let mut reasons: BTreeMap<(&str, &str), (f64, u64)> = BTreeMap::new();
    for refused in replicas.iter().flat_map(|replica| &replica.refusals) {
        let sum = reasons.entry((refused.reason.as_str(), refused.endpoint.as_str())).or_default();
        *sum = (sum.0 + refused.per_second, sum.1 + refused.total);
    }
    let mut reasons: Vec<_> = reasons.into_iter().collect();
    reasons.sort_by(|(_, a), (_, b)| b.0.total_cmp(&a.0).then(b.1.cmp(&a.1)));
    let most = reasons.iter().map(|(_, (_, total))| *total).max().unwrap_or(1).max(1);
    html! {
        @if reasons.is_empty() { p.muted { "None since the replicas started." } }
        @else {
            table.bars {
                thead { tr { th { "Reason" } th { "Of" } th.number { "Per second" } th.number { "Since start" } th {} } }
                tbody {
                    @for ((reason, endpoint), (now, total)) in reasons {
                        tr {
                            (cell("Reason", &html! { (reason.replace('_', " ")) }))
                            (cell("Of", &html! { (endpoint) }))
                            td.number data-name="Per second" { (rate(now)) }
                            td.number data-name="Since start" { (count(i64::try_from(total).unwrap_or(i64::MAX))) }
                            td.bar { meter min="0" max=(most) value=(total) aria-hidden="true" {} }
                        }
                    }
                }
            }
        }
    }
}

fn database(database: Option<&Database>, replicas: &[Replica]) -> Markup {
    let waiting: i64 = replicas.iter().map(|replica| replica.database.waiting).sum();
    let queue = replicas.iter().map(|replica| replica.database.notification_queue).fold(0.0, f64::max);
    let Some(database) = database else {
        return html! { p.banner.bad { "The database does not answer this replica." } };
    };
    let age = (database.transaction_age as f64 / 2e7).round();
    html! {
        dl {
            dt { "PostgreSQL" } dd { (database.version) }
            dt { "Size" } dd { (bytes(database.bytes)) ", " (bytes(database.log_bytes)) " of it the log" }
            dt { "Changes" } dd { (estimate(database)) }
            dt { "Connections" } dd { (database.connections) " of " (database.max_connections) }
            dt { "Waiting for a connection" } dd { (count(waiting)) " statements" }
            dt { "Notification queue" } dd { (format!("{:.1} % full", queue * 100.0)) }
            dt { "Oldest transaction" } dd { (latency(Some((database.oldest_transaction_seconds * 10.0).round() / 10.0))) }
            dt { "Transaction ids" } dd { (age) " % of the limit at which PostgreSQL stops" }
        }
    }
}

/// PostgreSQL has no estimate of a new or restored database.
fn estimate(database: &Database) -> String {
    match (database.changes, database.logs) {
        (0, 0) => "not estimated yet".to_owned(),
        (changes, logs) => format!("about {} in {} logs", count(changes), count(logs)),
    }
}
