//! The actions: a page of forms, and their outcomes.

use super::super::Admin;
use super::super::act::refused_until;
use super::super::error::AdminError;
use super::super::message::Action;
use super::super::report::{Done, RefusedToken, Replica};
use super::super::request::Form;
use super::super::units::count;
use super::failed;
use super::login::Login;
use super::page::{Page, ago, cell, field, missing};
use crate::output::plain;
use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use maud::{Markup, html};

/// Maximum number of refused tokens on the page.
const LISTED: usize = 200;
/// The `via` of actions through the console.
const CONSOLE: &str = "console";

pub(super) async fn show(State(admin): State<Admin>, Extension(login): Extension<Login>) -> Response {
    let page = Page::new(&admin, &login, "/actions", "Actions");
    let (cluster, tokens) = tokio::join!(admin.cluster(), admin.refused_tokens());
    let everywhere = select(&cluster.replicas, Some("all"));
    let content = html! {
        (missing(&cluster.silent, cluster.problem.as_ref()))
        div.cards {
            (page.form("/actions/disconnect", "Disconnect", None, &html! {
                h2 { "Disconnect" }
                p.muted { "Ends the sessions of a user, or of one device, on all replicas. Clients reconnect." }
                (field("User id", "user_id", "", "", true))
                (field("Device", "device", "", "all of them", false))
            }))
            (page.form("/actions/refuse-token", "Refuse", None, &html! {
                h2 { "Refuse a token" }
                p.muted { "Until it expires, on all replicas, even if they restart. Its sessions are ended." }
                (field("Token id (jti)", "token_id", "", "", true))
                (field("Until", "until", "", "a year from now", false))
            }))
            (page.form("/actions/drain", "Do it", None, &html! {
                h2 { "Drain a replica" }
                p.muted { "It stops being ready, and its sessions leave. It keeps running, and can be taken back." }
                (select(&cluster.replicas, None))
                label { "What" select name="drained" { option value="true" { "Drain" } option value="false" { "Take back" } } }
            }))
            (page.form("/actions/log", "Change", None, &html! {
                h2 { "Log" }
                p.muted { "Changes what is logged, in the form of RUST_LOG, until the replica restarts." }
                (field("Filter", "filter", cluster.replicas.first().map_or("info", |replica| &replica.log), "", true))
                (everywhere)
            }))
            (page.form("/actions/rates", "Limit", None, &html! {
                h2 { "Rate limits" }
                p.muted { "How often each user may push and pull per second, until the replica restarts. 0: no limit." }
                (field("Pushes a second", "pushes", "", "as before", false))
                (field("Pulls a second", "pulls", "", "as before", false))
                (everywhere)
            }))
            (page.form("/actions/compact", "Trim now", None, &html! {
                h2 { "Trim logs" }
                p.muted { "One replica trims the values that lost from old changes in all logs, now." }
                (select(&cluster.replicas, Some("any")))
            }))
        }
        section { h2 { "Settings in force" } (in_force(&cluster.replicas)) }
        section { h2 { "Refused tokens" } (refused(&page, &tokens.refused_tokens)) }
    };
    page.draw(None, &content)
}

/// `otherwise`: what it means to name none, if that is possible. Nobody drains the first one by mistake.
fn select(replicas: &[Replica], otherwise: Option<&str>) -> Markup {
    html! {
        label {
            "Replica"
            select name="replica" required[otherwise.is_none()] {
                option value="" { (otherwise.unwrap_or("choose one")) }
                @for replica in replicas { option value=(replica.name) { (replica.name) } }
            }
        }
    }
}

/// What can be changed here and may differ between replicas: one that was away, or started later, was not told.
fn in_force(replicas: &[Replica]) -> Markup {
    let a_second = |limit: u32| if limit == 0 { "no limit".to_owned() } else { count(limit.into()) };
    html! {
        table {
            thead { tr { th { "Replica" } th { "Log" } th.number { "Pushes/s" } th.number { "Pulls/s" } } }
            tbody {
                @for replica in replicas {
                    tr {
                        (cell("Replica", &html! { strong { (replica.name) } }))
                        (cell("Log", &html! { code { (replica.log) } }))
                        td.number data-name="Pushes/s" { (a_second(replica.max_user_pushes_per_second)) }
                        td.number data-name="Pulls/s" { (a_second(replica.max_user_pulls_per_second)) }
                    }
                }
            }
        }
    }
}

fn refused(page: &Page, tokens: &[RefusedToken]) -> Markup {
    let accept = |id: &str| {
        let sure = format!("Accept the token {} again, on all replicas?", plain(id));
        page.button("/actions/accept-token", &[("token_id", id)], "Accept again", Some(&sure))
    };
    html! {
        @if tokens.is_empty() { p.muted { "None." } }
        @else {
            table {
                thead { tr { th { "Token id" } th { "Until" } th {} } }
                tbody {
                    @for token in tokens.iter().take(LISTED) {
                        tr {
                            (cell("Token id", &html! { code { (plain(&token.token_id)) } }))
                            (cell("Until", &ago(&token.until)))
                            td.action { (accept(&token.token_id)) }
                        }
                    }
                }
            }
            @if tokens.len() > LISTED {
                p.muted {
                    (LISTED) " of " (count(tokens.len() as i64)) " are listed. " code { "mana-sync admin refused-tokens" }
                    " lists all, and " code { "accept-token" } " accepts one again."
                }
            }
        }
    }
}

/// A form submitted by somebody who has logged in.
type Posted = (State<Admin>, Extension<Login>, HeaderMap, Body);

/// Executes a form's action, and shows its outcome.
async fn act(
    (State(admin), Extension(login), headers, body): Posted,
    read: impl FnOnce(&Form) -> Result<(Option<String>, Action), AdminError>,
) -> Response {
    let page = Page::new(&admin, &login, "/actions", "Outcome");
    let doing = async {
        let form = login.form(&admin, &headers, body).await?;
        let (replica, action) = read(&form)?;
        admin.act(CONSOLE, replica.as_deref(), action).await
    };
    match doing.await {
        Ok(done) => page.draw(None, &outcome(&done)),
        Err(error) => failed(&page, &error),
    }
}

fn outcome(done: &Done) -> Markup {
    html! {
        h1 { (heading(done)) }
        (missing(&done.silent, done.problem.as_ref()))
        table {
            thead { tr { th { "Replica" } th {} th { "Outcome" } } }
            tbody {
                @for outcome in &done.outcomes {
                    tr {
                        (cell("Replica", &html! { strong { (outcome.replica) } }))
                        td { span.chip.good[outcome.done].bad[!outcome.done] { @if outcome.done { "done" } @else { "not done" } } }
                        (cell("Outcome", &html! { (outcome.message) }))
                    }
                }
            }
        }
        p { a href="/" { "Overview" } " · " a href="/actions" { "More actions" } }
    }
}

/// Never says "Done" if some replica may not have done it.
fn heading(done: &Done) -> &'static str {
    match done.outcomes.iter().any(|outcome| outcome.done) {
        _ if done.is_whole() => "Done",
        true => "Not done everywhere",
        false => "Not done",
    }
}

pub(super) async fn disconnect(posted: Posted) -> Response {
    let read = |form: &Form| {
        let (user_id, device) = (form.required("user_id")?.to_owned(), form.get("device").map(str::to_owned));
        Ok((None, Action::Disconnect { user_id, device }))
    };
    act(posted, read).await
}

pub(super) async fn refuse_token(posted: Posted) -> Response {
    let clock = posted.0.clock.clone();
    let read = |form: &Form| {
        let (token_id, until) = (form.required("token_id")?.to_owned(), refused_until(&clock, form.get("until"))?);
        Ok((None, Action::RefuseToken { token_id, until, stored: false }))
    };
    act(posted, read).await
}

pub(super) async fn accept_token(posted: Posted) -> Response {
    let read = |form: &Form| Ok((None, Action::AcceptToken { token_id: form.required("token_id")?.to_owned() }));
    act(posted, read).await
}

pub(super) async fn drain(posted: Posted) -> Response {
    let read = |form: &Form| {
        let drained = match form.required("drained")? {
            "true" => true,
            "false" => false,
            _ => return Err(AdminError::Invalid("drained must be true or false")),
        };
        Ok((Some(form.required("replica")?.to_owned()), Action::Drain { drained }))
    };
    act(posted, read).await
}

pub(super) async fn compact(posted: Posted) -> Response {
    let read = |form: &Form| Ok((form.get("replica").map(str::to_owned), Action::Compact));
    act(posted, read).await
}

pub(super) async fn rates(posted: Posted) -> Response {
    let read = |form: &Form| {
        let number = |text: &str| {
            text.trim().parse().map_err(|_| AdminError::Invalid("a rate must be a whole number of at most 1000000"))
        };
        let [pushes, pulls] = ["pushes", "pulls"].map(|name| form.get(name).map(number).transpose());
        Ok((form.get("replica").map(str::to_owned), Action::Rates { pushes: pushes?, pulls: pulls? }))
    };
    act(posted, read).await
}

pub(super) async fn log(posted: Posted) -> Response {
    let read = |form: &Form| {
        let filter = form.required("filter")?.to_owned();
        Ok((form.get("replica").map(str::to_owned), Action::Log { filter }))
    };
    act(posted, read).await
}

#[cfg(test)]
mod tests {
    use super::super::super::report::{Outcome, Silent};
    use super::*;

    #[test]
    fn what_may_not_be_done_everywhere_is_not_called_done() {
        let outcome = |done| Outcome { done, ..Outcome::default() };
        let done = |outcomes: &[bool], silent: usize, problem: Option<&str>| Done {
            outcomes: outcomes.iter().copied().map(outcome).collect(),
            silent: vec![Silent::default(); silent],
            problem: problem.map(str::to_owned),
        };
        assert_eq!(heading(&done(&[true, true], 0, None)), "Done");
        assert_eq!(heading(&done(&[true], 1, None)), "Not done everywhere");
        assert_eq!(heading(&done(&[true, false], 0, None)), "Not done everywhere");
        assert_eq!(heading(&done(&[true], 0, Some("the listener is away"))), "Not done everywhere");
        assert_eq!(heading(&done(&[], 1, None)), "Not done");
        assert_eq!(heading(&done(&[false], 0, None)), "Not done");
    }
}
