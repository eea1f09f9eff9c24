//! The shared parts of all pages: the frame, refreshed parts, forms and times.

use super::super::Admin;
use super::super::report::{Silent, time};
use super::super::request::VERBATIM;
use super::document::document;
use super::login::Login;
use crate::output::plain;
use axum::response::Response;
use maud::{Markup, html};
use std::time::Duration;

/// The pages and their names.
const PAGES: [(&str, &str); 5] =
    [("/", "Overview"), ("/load", "Load"), ("/user", "User"), ("/record", "Record"), ("/actions", "Actions")];

/// A page for somebody who has logged in.
pub(super) struct Page {
    title: String,
    path: &'static str,
    form_token: String,
    /// When its content was requested.
    at: String,
}

impl Page {
    /// Creates the page at this path of the menu.
    pub(super) fn new(admin: &Admin, login: &Login, path: &'static str, title: impl Into<String>) -> Page {
        Page { title: title.into(), path, form_token: login.form_token(admin), at: time(admin.clock.now()) }
    }

    /// Renders the page around its content, refreshed at this interval if there is one.
    pub(super) fn draw(&self, refresh: Option<Duration>, content: &Markup) -> Response {
        let millis = refresh.map(|every| every.as_millis().to_string());
        let body = html! {
            header.bar {
                a.brand href="/" { "mana-sync" }
                nav aria-label="Pages" {
                    @for (path, name) in PAGES {
                        a href=(path) aria-current=[(path == self.path).then_some("page")] { (name) }
                    }
                }
                form method="post" action="/logout" { (self.token()) button.quiet { "Log out" } }
            }
            main data-refresh=[millis] {
                p.banner.bad #offline hidden {
                    span role="status" { "No answer from this replica." } " What is shown here is from "
                    span data-part="as-of" { (ago(&self.at)) } "."
                }
                (content)
            }
        };
        document(&self.title, &body)
    }

    fn token(&self) -> Markup {
        html! { input type="hidden" name="form_token" value=(self.form_token); }
    }

    /// A button for an action with its fields; asks for confirmation first, with the text `sure`.
    pub(super) fn button(&self, action: &str, fields: &[(&str, &str)], text: &str, sure: Option<&str>) -> Markup {
        html! {
            form.inline method="post" action=(action) data-confirm=[sure] {
                (self.token())
                input type="hidden" name=(VERBATIM) value="yes";
                @for (name, value) in fields { input type="hidden" name=(name) value=(value); }
                button { (text) }
            }
        }
    }

    /// A form for an action.
    pub(super) fn form(&self, action: &str, text: &str, sure: Option<&str>, fields: &Markup) -> Markup {
        html! {
            form.card method="post" action=(action) data-confirm=[sure] {
                (self.token()) (fields)
                button.primary { (text) }
            }
        }
    }
}

/// A large number with its name.
pub(super) fn figure(name: &str, value: &str, note: &str) -> Markup {
    html! { div.figure { span.name { (name) } strong { (value) } span.note { (note) } } }
}

/// A time, which the script shows as an age.
pub(super) fn ago(time: &str) -> Markup {
    html! { time datetime=(time) title=(time) { (time) } }
}

pub(super) fn ago_if(time: Option<&String>) -> Markup {
    html! { @match time { Some(time) => { (ago(time)) } None => { span.muted.none { "–" } } } }
}

/// A table cell, which on a narrow screen stands below its name.
pub(super) fn cell(name: &str, content: &Markup) -> Markup {
    html! { td data-name=(name) { (content) } }
}

/// A name that users chose, in a few lines however long it is; all of it can be selected.
pub(super) fn short(name: &str) -> Markup {
    let name = plain(name);
    html! { span.short title=(name) { (name) } }
}

/// The replicas that did not answer, and why others could not be asked.
pub(super) fn missing(silent: &[Silent], problem: Option<&String>) -> Markup {
    html! {
        @for replica in silent {
            p.banner.bad { strong { (replica.name) } " does not answer. It was last heard from " (ago(&replica.heard_at)) "." }
        }
        @if let Some(problem) = problem { p.banner.bad { (problem) } }
    }
}

/// A field of a form.
pub(super) fn field(label: &str, name: &str, value: &str, hint: &str, required: bool) -> Markup {
    html! {
        label {
            (label)
            input name=(name) value=(value) placeholder=(hint) required[required] autocomplete="off" autocapitalize="off" spellcheck="false";
        }
    }
}

/// The query of a link.
pub(super) fn query(pairs: &[(&str, &str)]) -> String {
    url::form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
}
