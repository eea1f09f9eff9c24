//! Login with the admin token, for a limited time.
//!
//! The browser keeps no secret of ours: only the end of the login, a random name for it, and a signature of both. So
//! any replica with the same token accepts it, and changing the token ends all logins.

use super::super::Admin;
use super::super::error::AdminError;
use super::super::request::{Form, form, optional};
use super::document::document;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{COOKIE, LOCATION, SET_COOKIE};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use maud::html;

const NAME: &str = "mana_sync_admin";
/// Header that the script sends when it refreshes a page.
pub(super) const LIVE: &str = "x-live";

/// Somebody who has logged in.
#[derive(Clone, Debug)]
pub(super) struct Login {
    nonce: String,
}

impl Login {
    fn text(nonce: &str, until: u64) -> String {
        format!("{until}.{nonce}")
    }

    /// Returns the login of a request, if it has not ended.
    fn of(admin: &Admin, headers: &HeaderMap) -> Option<Login> {
        let cookies = headers.get_all(COOKIE).into_iter().filter_map(|value| value.to_str().ok());
        let pairs = cookies.flat_map(|cookies| cookies.split(';')).filter_map(|pair| pair.trim().split_once('='));
        pairs.filter(|(name, _)| *name == NAME).find_map(|(_, value)| {
            let (text, signature) = value.rsplit_once('.')?;
            let (until, nonce) = text.split_once('.')?;
            let is_ours = admin.keys.has_signed(&format!("login {text}"), signature);
            let lasts = until.parse::<u64>().is_ok_and(|until| until > admin.clock.millis());
            (is_ours && lasts).then(|| Login { nonce: nonce.to_owned() })
        })
    }

    /// Returns the token that every form of this login contains.
    pub(super) fn form_token(&self, admin: &Admin) -> String {
        admin.keys.sign(&format!("form {}", self.nonce))
    }

    /// Reads a form, which must belong to this login.
    pub(super) async fn form(&self, admin: &Admin, headers: &HeaderMap, body: Body) -> Result<Form, AdminError> {
        let form = form(headers, body).await?;
        let token = form.get("form_token").unwrap_or_default();
        match is_same_site(headers) && admin.keys.has_signed(&format!("form {}", self.nonce), token) {
            true => Ok(form),
            false => Err(AdminError::Forged),
        }
    }
}

/// True if the request comes from a page of this port, as far as the browser says.
fn is_same_site(headers: &HeaderMap) -> bool {
    headers.get("sec-fetch-site").is_none_or(|site| site == "same-origin" || site == "none")
}

/// Passes requests with a login on; others are redirected to the login page.
pub(super) async fn with_login(State(admin): State<Admin>, mut request: Request, next: Next) -> Response {
    if let Some(login) = Login::of(&admin, request.headers()) {
        request.extensions_mut().insert(login);
        return next.run(request).await;
    }
    if request.headers().contains_key(LIVE) {
        return AdminError::Unauthorized.into_response();
    }
    let next = match *request.method() {
        Method::GET => request.uri().path_and_query().map_or("/", |path| path.as_str()),
        _ => "/",
    };
    let query = url::form_urlencoded::Serializer::new(String::new()).append_pair("next", next).finish();
    go_to(&format!("/login?{query}"))
}

fn go_to(path: &str) -> Response {
    (StatusCode::SEE_OTHER, [(LOCATION, path)]).into_response()
}

pub(super) async fn show(uri: Uri) -> Response {
    page(StatusCode::OK, &next(optional(&uri, "next")), None)
}

/// Returns where to go after logging in: a page of ours.
fn next(given: Option<String>) -> String {
    let is_ours = |path: &String| {
        path.starts_with('/') && !path[1..].starts_with(['/', '\\']) && path.bytes().all(|byte| byte.is_ascii_graphic())
    };
    given.filter(is_ours).unwrap_or_else(|| "/".to_owned())
}

fn page(status: StatusCode, next: &str, problem: Option<&str>) -> Response {
    let body = html! {
        main.login {
            h1 { "mana-sync" }
            p.muted { "Log in with the admin token of the cluster." }
            @if let Some(problem) = problem { p.banner.bad role="alert" { (problem) } }
            form method="post" action="/login" {
                input type="hidden" name="next" value=(next);
                label { "Admin token" input type="password" name="token" required autofocus autocomplete="current-password"; }
                button.primary { "Log in" }
            }
        }
    };
    (status, document("Log in", &body)).into_response()
}

pub(super) async fn login(State(admin): State<Admin>, headers: HeaderMap, body: Body) -> Result<Response, AdminError> {
    let form = form(&headers, body).await?;
    let next = next(form.get("next").map(str::to_owned));
    if !is_same_site(&headers) {
        return Err(AdminError::Forged);
    }
    if !form.get("token").is_some_and(|token| admin.keys.accepts(token)) {
        admin.log_refusal("console");
        return Ok(page(StatusCode::UNAUTHORIZED, &next, Some("This is not the admin token.")));
    }
    tracing::warn!(via = "console", "an operator has logged in");
    let nonce = format!("{:032x}", admin.clock.random_u128());
    let text = Login::text(&nonce, admin.clock.millis() + admin.login.as_millis() as u64);
    let signature = admin.keys.sign(&format!("login {text}"));
    let cookie = cookie(&headers, &format!("{text}.{signature}"), admin.login.as_secs().max(1));
    Ok(([(SET_COOKIE, cookie)], go_to(&next)).into_response())
}

pub(super) async fn logout(
    State(admin): State<Admin>,
    axum::Extension(login): axum::Extension<Login>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, AdminError> {
    login.form(&admin, &headers, body).await?;
    Ok(([(SET_COOKIE, cookie(&headers, "", 0))], go_to("/login")).into_response())
}

/// The cookie is hidden from scripts and from requests of other sites, and limited to TLS if a proxy reports it.
fn cookie(headers: &HeaderMap, value: &str, seconds: u64) -> String {
    let is_tls = headers.get("x-forwarded-proto").is_some_and(|proto| proto.as_bytes().eq_ignore_ascii_case(b"https"));
    let secure = if is_tls { "; Secure" } else { "" };
    format!("{NAME}={value}; HttpOnly; SameSite=Strict; Path=/; Max-Age={seconds}{secure}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_logging_in_nobody_is_sent_elsewhere() {
        for ours in ["/", "/user?id=a%20b", "/record?user=a&app=b"] {
            assert_eq!(next(Some(ours.to_owned())), ours);
        }
        for other in
            ["", "user", "//evil.example", "/\\evil.example", "https://evil.example/", "/a\r\nSet-Cookie: b", "/ü"]
        {
            assert_eq!(next(Some(other.to_owned())), "/", "{other}");
        }
        assert_eq!(next(None), "/");
    }
}
