//! A record: its current state, and its history as a timeline.

use super::super::Admin;
use super::super::act::MAX_USER;
use super::super::api::name;
use super::super::error::AdminError;
use super::super::report::{Change, Json, Record, Write};
use super::super::request::optional;
use super::failed;
use super::login::Login;
use super::page::{Page, ago, cell, field, short};
use crate::output::{escaped, plain};
use crate::protocol::UserKey;
use crate::protocol::push::{MAX_APP, MAX_RECORD, MAX_TABLE};
use axum::Extension;
use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;
use maud::{Markup, html};

/// Characters of a value shown before it is expanded.
const SHORT: usize = 80;
/// Maximum bytes of a value shown after it is expanded: a page takes several times the memory of what it shows.
const LONG: usize = 64 << 10;

pub(super) async fn show(State(admin): State<Admin>, Extension(login): Extension<Login>, uri: Uri) -> Response {
    let given = ["user", "app", "table", "id"].map(|name| optional(&uri, name).unwrap_or_default());
    let page = Page::new(&admin, &login, "/record", "Record");
    let form = search(&given);
    if given.iter().any(String::is_empty) {
        return page.draw(None, &form);
    }
    match find(&admin, &given).await {
        Ok(record) => {
            let draw = || page.draw(None, &html! { (form) (fields(&record)) (history(&record)) });
            admin.heavy.run(record.bytes(), draw).await
        }
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
                            (cell("Field", &html! { strong { (short(&field.name)) } }))
                            (cell("Value", &value(&field.value)))
                            (cell("Written", &ago(&field.stamp)))
                            (cell("By", &short(&field.device)))
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
            p.muted {
                "Newest first. The write with the later stamp wins; of equal stamps, the one stored later. "
                "What came too late was stored after the current value, but written before it."
            }
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
                " by " strong { (plain(&change.device)) }
            }
            ul.writes { @for write in &change.writes { (written(write)) } }
            div.muted { "stored " code { (change.cursor) } }
        }
    }
}

fn written(write: &Write) -> Markup {
    html! {
        li.wins[write.wins] {
            span.field { (plain(&write.field)) } " " (value(&write.value)) " "
            // In full, because it decides: two writes of one second differ in nothing else.
            span.muted { "written " code { (write.stamp) } }
            @if write.wins { " " span.chip.good { "current" } }
            @if write.too_late { " " span.chip.warn { "came too late" } }
            @if write.trimmed { " " span.chip { "trimmed since" } }
        }
    }
}

fn value(value: &Json) -> Markup {
    let text = value.as_str();
    let short = text.char_indices().nth(SHORT).map_or(text, |(end, _)| &text[..end]);
    let long = &text[..text.floor_char_boundary(LONG)];
    html! {
        @if short.len() == text.len() { code { (escaped(text)) } }
        @else {
            details {
                summary { code { (escaped(short)) "…" } }
                pre { (escaped(long)) }
                @if long.len() < text.len() {
                    p.banner { "It goes on: " (text.len()) " bytes in all. The API's /record has all of it." }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_shown_in_part_if_it_is_long() {
        let shown = |text: &str| value(&Json::new(text)).into_string();
        assert_eq!(shown("[1, 2]"), "<code>[1, 2]</code>");
        let some = shown(&format!("\"{}\"", "ü".repeat(100)));
        assert!(some.contains(&format!("<summary><code>&quot;{}…</code>", "ü".repeat(79))), "{some}");
        assert!(some.contains(&"ü".repeat(100)) && !some.contains("It goes on"), "{some}");
        let long = shown(&format!("\"{}\"", "ü".repeat(5 << 20)));
        assert!(long.len() < LONG + 1_000 && long.contains("10485762 bytes in all"), "{} bytes", long.len());
    }
}
