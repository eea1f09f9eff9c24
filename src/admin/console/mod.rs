//! The console: the admin port as pages for people, rendered on the server and refreshed in place.
//!
//! The pages are plain HTML and work without a script, except for live updates: `console.js` requests the page again at
//! intervals and replaces its marked parts. No page has inline scripts or styles, so the content security policy need
//! not allow any. A login is a signed cookie with its expiry; every form contains a token of that login, so that no
//! other site can submit it.

mod actions;
mod chart;
mod document;
mod load;
mod login;
mod overview;
mod page;
mod record;
mod user;

use super::Admin;
use super::error::AdminError;
use crate::output::plain;
use axum::Router;
use axum::http::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_FRAME_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::middleware::{from_fn_with_state, map_response};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use page::Page;

/// The content security policy: only what this port serves, and no inline scripts or styles.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
    form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

const STYLE: &str = include_str!("assets/console.css");
const SCRIPT: &str = include_str!("assets/console.js");
const ICON: &str = include_str!("assets/icon.svg");

/// The routes of the console.
pub(super) fn router(admin: &Admin) -> Router<Admin> {
    Router::new()
        .route("/", get(overview::show))
        .route("/load", get(load::show))
        .route("/user", get(user::show))
        .route("/record", get(record::show))
        .route("/actions", get(actions::show))
        .route("/actions/disconnect", post(actions::disconnect))
        .route("/actions/refuse-token", post(actions::refuse_token))
        .route("/actions/accept-token", post(actions::accept_token))
        .route("/actions/drain", post(actions::drain))
        .route("/actions/compact", post(actions::compact))
        .route("/actions/log", post(actions::log))
        .route("/actions/rates", post(actions::rates))
        .route("/logout", post(login::logout))
        .layer(from_fn_with_state(admin.clone(), login::with_login))
        .route("/login", get(login::show).post(login::login))
        .route("/assets/console.css", get(async || asset("text/css; charset=utf-8", STYLE)))
        .route("/assets/console.js", get(async || asset("text/javascript; charset=utf-8", SCRIPT)))
        .route("/assets/icon.svg", get(async || asset("image/svg+xml", ICON)))
        .layer(map_response(async |response: Response| guard(response)))
}

/// Answers a path that does not exist: with a page if a browser asks for one.
pub(super) async fn not_found(headers: HeaderMap) -> Response {
    let accepted = headers.get(ACCEPT).and_then(|accepted| accepted.to_str().ok()).unwrap_or_default();
    if !accepted.contains("text/html") {
        return AdminError::NotFound.into_response();
    }
    let body = maud::html! {
        main.login {
            h1 { "mana-sync" }
            p { "There is no such page." }
            p { a href="/" { "Overview" } }
        }
    };
    guard((StatusCode::NOT_FOUND, document::document("Not found", &body)).into_response())
}

fn guard(mut response: Response) -> Response {
    let headers = response.headers_mut();
    let guards: [(HeaderName, &'static str); 3] =
        [(CONTENT_SECURITY_POLICY, POLICY), (X_FRAME_OPTIONS, "DENY"), (REFERRER_POLICY, "same-origin")];
    headers.extend(guards.map(|(name, value)| (name, HeaderValue::from_static(value))));
    response
}

/// The browser revalidates it each time: a replica of another version may have answered before.
fn asset(media_type: &'static str, text: &'static str) -> Response {
    ([(CONTENT_TYPE, media_type), (CACHE_CONTROL, "no-cache")], text).into_response()
}

/// A page that shows an error.
fn failed(page: &Page, error: &AdminError) -> Response {
    error.log();
    let message = maud::html! { p.banner.bad role="alert" { (plain(&error.message())) } };
    (error.status().0, page.draw(None, &message)).into_response()
}
