//! A user: sessions on every replica, logs, devices and usage.

use super::super::Admin;
use super::super::act::MAX_USER;
use super::super::api::{SESSIONS, name};
use super::super::replica::MAX_SESSIONS;
use super::super::report::{Device, Session, User};
use super::super::request::optional;
use super::super::units::{at_least, bytes, count};
use super::failed;
use super::login::{LIVE, Login};
use super::page::{Page, ago, ago_if, cell, field, figure, missing, query, short};
use crate::output::plain;
use axum::Extension;
use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use axum::response::Response;
use maud::{Markup, html};
use std::collections::BTreeMap;
use std::time::Duration;

const UNKNOWN: &str =
    "Nothing is stored of this user, and no device is connected. A user's id is the sub of their tokens.";
const REFRESH: Duration = Duration::from_secs(5);
/// Sessions are listed in pages, newest first; later pages would ask each replica for too many.
const PAGES: usize = MAX_SESSIONS / SESSIONS;

pub(super) async fn show(
    State(admin): State<Admin>,
    Extension(login): Extension<Login>,
    headers: HeaderMap,
    uri: Uri,
) -> Response {
    let id = optional(&uri, "id");
    let title = id.as_deref().map_or_else(|| "User".to_owned(), |id| format!("User {}", plain(id)));
    let page = Page::new(&admin, &login, "/user", title);
    let Some(id) = id else { return page.draw(None, &search("")) };
    if let Err(error) = name("the user's id", &id, MAX_USER) {
        return failed(&page, &error);
    }
    let number = optional(&uri, "page").and_then(|number| number.parse().ok()).unwrap_or(1).clamp(1, PAGES);
    // As many from each replica as all pages up to this one could need.
    let user = admin.user(&id, number * SESSIONS).await;
    if !headers.contains_key(LIVE) {
        tracing::info!(user_key = user.user_key, "an operator viewed a user");
    }
    // The devices of unlisted sessions are not known.
    let has_others = user.sessions_total > user.sessions.len();
    let content = html! {
        (search(&id))
        div data-part="missing" {
            (missing(&user.silent, user.problem.as_ref()))
            @if is_unknown(&user) { p.banner { (UNKNOWN) } }
        }
        div.figures data-part="figures" {
            (figure("Sessions", &count_of(user.sessions_total), &spread(&user)))
            (figure("Devices", &at_least(count_of(user.devices.len()), has_others), "by app"))
            (figure("Changes", &stored(&user, count(user.usage.changes)), &apps(user.usage.apps)))
            (figure("Stored", &stored(&user, bytes(user.usage.bytes)), "of JSON"))
        }
        p.muted data-part="counted" { @if user.usage.more { "Only the newest changes are counted; " code { "mana-sync usage" } " counts everything in the largest logs." } }
        p.muted { "In the server's log this user is called " code { (user.user_key) } "." }
        section data-part="devices" { h2 { "Devices" } (devices(&page, &user)) }
        section data-part="logs" { h2 { "Logs" } (logs(&user)) }
        section data-part="sessions" { h2 { "Sessions" } (sessions(&page, &user, number)) }
    };
    // Only the first page shows what is new.
    page.draw((number == 1).then_some(REFRESH), &content)
}

fn search(id: &str) -> Markup {
    html! {
        form.search method="get" action="/user" role="search" {
            (field("User id", "id", id, "the sub of the user's tokens", true))
            button.primary { "Show" }
        }
    }
}

fn count_of(number: usize) -> String {
    count(i64::try_from(number).unwrap_or(i64::MAX))
}

/// A number of what is stored, as far as it could be read.
fn stored(user: &User, number: String) -> String {
    if user.logs.is_empty() && user.stored_in_part {
        return "–".to_owned();
    }
    at_least(number, user.usage.more || user.stored_in_part)
}

/// Why a table of what is stored is empty.
fn nothing(user: &User, known: &'static str) -> &'static str {
    if user.stored_in_part { "What is stored cannot be read at the moment." } else { known }
}

fn apps(number: usize) -> String {
    if number == 1 { "in one app".to_owned() } else { format!("in {number} apps") }
}

/// Returns the number of replicas that hold the listed sessions.
fn spread(user: &User) -> String {
    let mut replicas: BTreeMap<&str, usize> = BTreeMap::new();
    user.sessions.iter().for_each(|session| *replicas.entry(&session.replica).or_default() += 1);
    match replicas.len() {
        0 if is_whole(user) => "not connected".to_owned(),
        0 => "on those that answered".to_owned(),
        1 => "on one replica".to_owned(),
        many => format!("on {many} replicas"),
    }
}

/// True if all replicas have answered.
fn is_whole(user: &User) -> bool {
    user.silent.is_empty() && user.problem.is_none()
}

/// True if nothing is known of a user.
fn is_unknown(user: &User) -> bool {
    is_whole(user) && user.logs.is_empty() && user.devices.is_empty() && user.sessions_total == 0
}

fn devices(page: &Page, user: &User) -> Markup {
    html! {
        @if user.devices.is_empty() { p.muted { (nothing(user, "No device has pushed or read.")) } }
        @else {
            table {
                thead { tr { th { "Device" } th { "App" } th.number { "Sessions" } th.number { "Changes" } th { "Last push" } th { "Has read until" } th { "As of" } th {} } }
                tbody { @for device in &user.devices { (device_row(page, user, device)) } }
            }
        }
    }
}

fn device_row(page: &Page, user: &User, device: &Device) -> Markup {
    let fields = [("user_id", user.user_id.as_str()), ("device", device.device.as_str())];
    let sure = format!("End all sessions of {}?", plain(&device.device));
    html! {
        tr {
            (cell("Device", &html! { strong { (short(&device.device)) } }))
            (cell("App", &short(&device.app)))
            td.number data-name="Sessions" { (device.sessions) }
            td.number data-name="Changes" { (count(device.changes)) }
            (cell("Last push", &ago_if(device.pushed_at.as_ref())))
            (cell("Has read until", &read_until(device)))
            (cell("As of", &ago_if(device.read_at.as_ref())))
            td.action { @if device.sessions > 0 { (page.button("/actions/disconnect", &fields, "Disconnect", Some(&sure))) } }
        }
    }
}

/// A cursor is a time, except that of a device that has nothing.
fn read_until(device: &Device) -> Markup {
    match &device.read_until {
        Some(cursor) if cursor.starts_with("1970-01-01T00:00:00") => html! { span.muted { "the beginning" } },
        cursor => ago_if(cursor.as_ref()),
    }
}

fn logs(user: &User) -> Markup {
    html! {
        @if user.logs.is_empty() { p.muted { (nothing(user, "Nothing is stored.")) } }
        @else {
            table {
                thead { tr { th { "App" } th { "Newest change" } th { "Head" } th.number { "Changes" } th.number { "Tables" } th.number { "Size" } } }
                tbody {
                    @for log in &user.logs {
                        tr {
                            (cell("App", &html! { strong { (short(&log.app)) } }))
                            (cell("Newest change", &ago(&log.head)))
                            (cell("Head", &html! { code { (log.head) } }))
                            td.number data-name="Changes" { (at_least(count(log.changes), log.more)) }
                            td.number data-name="Tables" { (at_least(count(log.tables), log.more)) }
                            td.number data-name="Size" { (at_least(bytes(log.bytes), log.more)) }
                        }
                    }
                }
            }
        }
    }
}

fn sessions(page: &Page, user: &User, number: usize) -> Markup {
    let skipped = (number - 1) * SESSIONS;
    let listed: Vec<&Session> = user.sessions.iter().skip(skipped).take(SESSIONS).collect();
    let last = skipped + listed.len();
    let path = |number: usize| format!("/user?{}", query(&[("id", &user.user_id), ("page", &number.to_string())]));
    let sure = "End all sessions of this user?";
    html! {
        @if user.sessions_total == 0 { p.muted { "No session is open" @if !is_whole(user) { " on the replicas that answered" } "." } }
        @else {
            div.toolbar {
                @if listed.is_empty() { p { "No more of " (count_of(user.sessions_total)) "." } }
                @else { p { (count_of(skipped + 1)) " to " (count_of(last)) " of " (count_of(user.sessions_total)) ", the newest first." } }
                @if number > 1 { a rel="prev" href=(path(number - 1)) { "Newer" } }
                @if last < user.sessions_total {
                    @if number < PAGES { a rel="next" href=(path(number + 1)) { "Older" } }
                    @else { span.muted { "Older ones are not listed." } }
                }
                (page.button("/actions/disconnect", &[("user_id", user.user_id.as_str())], "Disconnect all", Some(sure)))
            }
            table {
                thead { tr { th { "Device" } th { "Replica" } th { "Kind" } th { "App" } th { "Opened" } th { "Woken" } th { "Read" } th { "Token id" } th {} } }
                tbody { @for session in listed { (session_row(page, session)) } }
            }
        }
    }
}

fn session_row(page: &Page, session: &Session) -> Markup {
    html! {
        tr {
            (cell("Device", &html! { @match &session.device { Some(device) => { strong { (short(device)) } } None => { span.muted { "unnamed" } } } }))
            (cell("Replica", &html! { (session.replica) }))
            (cell("Kind", &html! { span.chip { (kind(&session.transport)) } }))
            (cell("App", &html! { @match &session.app { Some(app) => { (short(app)) } None => { span.muted { "all" } } } }))
            (cell("Opened", &ago(&session.since)))
            (cell("Woken", &ago_if(session.woken_at.as_ref())))
            (cell("Read", &ago_if(session.read_at.as_ref())))
            @match &session.token_id {
                Some(id) => {
                    (cell("Token id", &html! { code { (short(id)) } }))
                    td.action { (refuse(page, id, session.token_expires_at.as_deref())) }
                }
                None => { (cell("Token id", &html! { span.muted { "none" } })) td.action {} }
            }
        }
    }
}

fn kind(transport: &str) -> &str {
    if transport == "websocket" { "socket" } else { "stream" }
}

fn refuse(page: &Page, id: &str, expires: Option<&str>) -> Markup {
    let fields = [("token_id", id), ("until", expires.unwrap_or_default())];
    let sure = "Refuse this token until it expires, and end its sessions?";
    page.button("/actions/refuse-token", &fields, "Refuse token", Some(sure))
}
