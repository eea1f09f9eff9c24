//! A record: its current state, and its history as a timeline.

use super::super::Admin;
use super::super::act::MAX_USER;
use super::super::api::name;
use super::super::error::AdminError;
use super::super::report::{Change, Record, Write};
use super::super::request::optional;
use super::failed;
use super::login::Login;
use super::page::{Page, ago, cell, field};
use crate::protocol::UserKey;
use crate::protocol::push::{MAX_APP, MAX_RECORD, MAX_TABLE};
use axum::Extension;
use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;
use maud::{Markup, html};

/// Characters of a value shown before it is expanded.
const SHORT: usize = 80;

pub(super) async fn show(State(admin): State<Admin>, Extension(login): Extension<Login>, uri: Uri) -> Response {
    let given = ["user", "app", "table", "id"].map(|name| optional(&uri, name).unwrap_or_default());
    let page = Page::new(&admin, &login, "/record", "Record");
    let form = search(&given);
    if given.iter().any(String::is_empty) {
        return page.draw(None, &form);
    }
    match find(&admin, &given).await {
        Ok(record) => page.draw(None, &html! { (form) (fields(&record)) (history(&record)) }),
        Err(AdminError::NoRecord) => {
            page.draw(None, &html! { (form) p.banner { "No change to such a record is stored." } })
        }
        Err(error) => failed(&page, &error),
    }
}

async fn find(admin: &Admin, [user, app, table, id]: &[String; 4]) -> Result<Record, AdminError> {
    name("the user's id", user, MAX_USER)?;
    name("the app", app, MAX_APP)?;
    name("the table", table, MAX_TABLE)?;
    name("the record's id", id, MAX_RECORD)?;
    tracing::info!(user_key = %UserKey::of(user).0, "an operator viewed a record");
    let record = admin.record(user, app, table, id).await?;
    if record.history.is_empty() { Err(AdminError::NoRecord) } else { Ok(record) }
}

fn search([user, app, table, id]: &[String; 4]) -> Markup {
    html! {
        form.search method="get" action="/record" role="search" {
            (field("User id", "user", user, "", true))
            (field("App", "app", app, "todo", true))
            (field("Table", "table", table, "tasks", true))
            (field("Record id", "id", id, "", true))
            button.primary { "Show" }
        }
    }
}

fn fields(record: &Record) -> Markup {
    html! {
        section {
            h2 { "Current state" @if record.deleted { " " span.chip.bad { "deleted" } } }
            table {
                thead { tr { th { "Field" } th { "Value" } th { "Written" } th { "By" } th { "Stored" } } }
                tbody {
                    @for field in &record.fields {
                        tr {
                            (cell("Field", &html! { strong { (field.name) } }))
                            (cell("Value", &value(&field.value)))
                            (cell("Written", &ago(&field.stamp)))
                            (cell("By", &html! { (field.device) }))
                            (cell("Stored", &html! { a href={ "#" (field.cursor) } { (ago(&field.cursor)) } }))
                        }
                    }
                }
            }
        }
    }
}

fn history(record: &Record) -> Markup {
    html! {
        section {
            h2 { "History" }
            p.muted { "Newest first. The write with the later stamp wins; of equal stamps, the one stored later." }
            ol.timeline { @for change in record.history.iter().rev() { (entry(change)) } }
            @if record.truncated { p.banner { "There are older changes." } }
        }
    }
}

fn entry(change: &Change) -> Markup {
    html! {
        li id=(change.cursor) {
            div.when {
                (ago(&change.cursor)) " "
                span.chip.bad[change.op == "delete"].good[change.op == "insert"] { (change.op) }
                " by " strong { (change.device) }
            }
            ul.writes { @for write in &change.writes { (written(write)) } }
            div.muted { code { (change.cursor) } }
        }
    }
}

fn written(write: &Write) -> Markup {
    html! {
        li.wins[write.wins] {
            span.field { (write.field) } " " (value(&write.value)) " "
            span.muted { "written " (ago(&write.stamp)) }
            @if write.wins { " " span.chip.good { "current" } }
            @if write.trimmed { " " span.chip { "trimmed since" } }
        }
    }
}

fn value(value: &serde_json::Value) -> Markup {
    let text = value.to_string();
    let short: String = text.chars().take(SHORT).collect();
    html! {
        @if short.len() == text.len() { code { (text) } }
        @else { details { summary { code { (short) "…" } } pre { (text) } } }
    }
}
