//! The load page: the last five minutes of every replica.

use super::super::Admin;
use super::super::report::{ReplicaLoad, Second};
use super::super::units::{count, latency, rate};
use super::chart::{Line, chart};
use super::login::Login;
use super::overview::refresh;
use super::page::{Page, missing};
use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use maud::{Markup, html};

/// A chart: its name, the format of its numbers, and its value in a second.
struct Shown {
    name: &'static str,
    write: fn(f64) -> String,
    of: fn(&Second) -> Option<f64>,
}

const CHARTS: [Shown; 5] = [
    Shown { name: "Pushes a second", write: rate, of: |second| Some(second.pushes) },
    Shown { name: "Wake-up, p99", write: |seconds| latency(Some(seconds)), of: |second| second.wakeup_p99 },
    Shown { name: "Wake-ups a second", write: rate, of: |second| Some(second.wakeups) },
    Shown { name: "Connections", write: |number| count(number as i64), of: |second| Some(second.connections as f64) },
    Shown { name: "Refusals a second", write: rate, of: |second| Some(second.refusals) },
];

pub(super) async fn show(State(admin): State<Admin>, Extension(login): Extension<Login>) -> Response {
    let page = Page::new(&admin, &login, "/load", "Load");
    let load = admin.load().await;
    let content = html! {
        div data-part="missing" { (missing(&load.silent, load.problem.as_ref())) }
        p.muted { "The last five minutes of each replica." }
        ul.legend data-part="legend" { @for (index, replica) in load.replicas.iter().enumerate() { li.{ "line-" (index % 8) } { (replica.name) } } }
        div.charts data-part="charts" { @for shown in &CHARTS { (draw(&load.replicas, shown)) } }
    };
    page.draw(Some(refresh(load.replicas.len())), &content)
}

fn draw(replicas: &[ReplicaLoad], shown: &Shown) -> Markup {
    let lines = replicas.iter().enumerate().map(|(index, replica)| Line {
        class: format!("line-{}", index % 8),
        values: replica.seconds.iter().map(shown.of).collect(),
    });
    chart(shown.name, shown.write, &lines.collect::<Vec<_>>())
}
