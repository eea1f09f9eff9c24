//! `mana-sync admin …`: the admin API on the command line.

mod command;
mod print;

use self::command::AdminCommand;
use super::report::{Cluster, Done, Record, RefusedTokens, User};
use crate::config::{Secret, http_url, is_loopback, is_plain, reachable};
use crate::output::{Output, complain, escaped};
use clap::Args;
use reqwest::{Client, Method, RequestBuilder, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;
use url::Url;

/// Maximum time for an answer.
const TIMEOUT: Duration = Duration::from_secs(20);
/// Heading of the options that are the same for every command, which `--help` would otherwise list among its own.
const CONNECTION: &str = "Admin port";

/// The address of a cluster's admin port, and the request.
#[derive(Args, Debug)]
pub struct AdminArgs {
    /// URL of the admin port of any replica. Default: ADMIN_PORT on this machine, at ADMIN_HOST.
    #[arg(long, env, value_parser = http_url, global = true, help_heading = CONNECTION)]
    admin_url: Option<Url>,

    /// The admin port on this machine, if ADMIN_URL is not set.
    #[arg(long, env, default_value_t = 3090, global = true, help_heading = CONNECTION)]
    admin_port: u16,

    /// Address that ADMIN_PORT listens on, if ADMIN_URL is not set.
    #[arg(long, env, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST), global = true, help_heading = CONNECTION)]
    admin_host: IpAddr,

    /// The token of the admin port.
    #[arg(long, env, hide_env_values = true, value_parser = secret, global = true, help_heading = CONNECTION)]
    admin_token: Option<Secret>,

    /// Print the API's answer as JSON.
    #[arg(long, global = true)]
    json: bool,

    #[command(subcommand)]
    command: AdminCommand,
}

/// The reasons why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// ADMIN_TOKEN is not set.
    #[error("ADMIN_TOKEN is not set")]
    NoToken,
    /// ADMIN_URL must be a URL to which a path can be appended.
    #[error("ADMIN_URL must be a URL to which a path can be appended")]
    Url,
    /// ADMIN_URL names a user.
    #[error("ADMIN_URL must have no user name or password: they would be sent instead of ADMIN_TOKEN")]
    User,
    /// The admin port cannot be reached.
    #[error("the admin port cannot be reached")]
    Http(#[from] reqwest::Error),
    /// The admin port has another token.
    #[error("{0} refuses this ADMIN_TOKEN: its replica has another one")]
    WrongToken(Url),
    /// The admin port refused the request.
    #[error("{0}")]
    Refused(String),
    /// Something else listens there, for example the public port.
    #[error("{at} is not an admin port: it answered {status}")]
    NotAdminPort {
        /// The address that was asked.
        at: Url,
        /// The answer's status.
        status: StatusCode,
    },
    /// The answer cannot be read.
    #[error("the answer cannot be read")]
    Unreadable(#[from] serde_json::Error),
    /// Cannot write the output.
    #[error("cannot write the output")]
    Output(#[source] io::Error),
}

#[derive(Deserialize)]
struct ErrorBody {
    message: String,
}

fn secret(text: &str) -> Result<Secret, std::convert::Infallible> {
    Ok(Secret::from(text))
}

/// Sends the request and prints the answer; true if everything requested was done.
///
/// # Errors
/// The admin port did not answer, or refused.
pub async fn run(args: &AdminArgs) -> Result<bool, ClientError> {
    let api = Api::new(args)?;
    match &args.command {
        AdminCommand::Cluster => api.show::<Cluster>(api.get("cluster", &[]), print::cluster).await,
        AdminCommand::User { user, sessions } => {
            let query = [("id", user.as_str()), ("sessions", &sessions.to_string())];
            api.show::<User>(api.get("user", &query), print::user).await
        }
        AdminCommand::Record { user, app, table, id } => {
            let query = [("user", user.as_str()), ("app", app), ("table", table), ("id", id)];
            api.show::<Record>(api.get("record", &query), print::record).await
        }
        AdminCommand::Disconnect { user, device, replica } => {
            api.act("disconnect", &json!({ "userId": user, "device": device, "replica": replica })).await
        }
        AdminCommand::RefuseToken { token_id, until } => {
            api.act("refused-tokens", &json!({ "tokenId": token_id, "until": until })).await
        }
        AdminCommand::AcceptToken { token_id } => {
            api.done(api.request(Method::DELETE, "refused-tokens", &[("tokenId", token_id.as_str())])?).await
        }
        AdminCommand::RefusedTokens => api.show::<RefusedTokens>(api.get("refused-tokens", &[]), print::tokens).await,
        AdminCommand::Drain { replica } => api.act("drain", &json!({ "replica": replica, "drained": true })).await,
        AdminCommand::TakeBack { replica } => api.act("drain", &json!({ "replica": replica, "drained": false })).await,
        AdminCommand::Compact { replica } => api.act("compact", &json!({ "replica": replica })).await,
        AdminCommand::Rates { pushes, pulls, replica } => {
            let rates = json!({
                "maxUserPushesPerSecond": pushes, "maxUserPullsPerSecond": pulls, "replica": replica,
            });
            api.act("settings", &rates).await
        }
        AdminCommand::Log { filter, replica } => {
            api.act("settings", &json!({ "log": filter, "replica": replica })).await
        }
    }
}

struct Api<'a> {
    http: Client,
    base: Url,
    token: &'a str,
    json: bool,
}

impl<'a> Api<'a> {
    fn new(args: &'a AdminArgs) -> Result<Api<'a>, ClientError> {
        let token = args.admin_token.as_ref().ok_or(ClientError::NoToken)?.expose();
        let local = SocketAddr::new(reachable(args.admin_host), args.admin_port);
        let (base, is_here) = match args.admin_url.clone() {
            Some(url) if has_user(&url) => return Err(ClientError::User),
            Some(url) => (url, false),
            None => (Url::parse(&format!("http://{local}")).map_err(|_| ClientError::Url)?, true),
        };
        if !is_here && is_plain(&base) {
            complain(format_args!("mana-sync: ADMIN_TOKEN is sent unencrypted to {base}, where others may read it"));
        }
        let builder = Client::builder().timeout(TIMEOUT);
        // Whatever proxies the environment names: what is on this machine is none of theirs.
        let http = if is_here || is_loopback(&base) { builder.no_proxy() } else { builder }.build()?;
        Ok(Api { http, base, token, json: args.json })
    }

    fn request(&self, method: Method, path: &str, query: &[(&str, &str)]) -> Result<RequestBuilder, ClientError> {
        let mut url = self.base.clone();
        url.path_segments_mut().map_err(|()| ClientError::Url)?.pop_if_empty().extend(["api", "v1", path]);
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        Ok(self.http.request(method, url).bearer_auth(self.token))
    }

    fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<RequestBuilder, ClientError> {
        self.request(Method::GET, path, query)
    }

    /// Prints the answer, as JSON or for people.
    async fn show<T: DeserializeOwned>(
        &self,
        request: Result<RequestBuilder, ClientError>,
        print: impl Fn(&mut Output, &T),
    ) -> Result<bool, ClientError> {
        let text = self.answer(request?).await?;
        let mut out = Output::default();
        if self.json {
            out.line(escaped(&text));
        } else {
            print(&mut out, &serde_json::from_str(&text)?);
        }
        out.end().map_err(ClientError::Output)?;
        Ok(true)
    }

    async fn act(&self, path: &str, body: &Value) -> Result<bool, ClientError> {
        let json = ("Content-Type", "application/json");
        self.done(self.request(Method::POST, path, &[])?.header(json.0, json.1).body(without_nulls(body))).await
    }

    /// Has an action executed and prints its outcome.
    async fn done(&self, request: RequestBuilder) -> Result<bool, ClientError> {
        let text = self.answer(request).await?;
        let done: Done = serde_json::from_str(&text)?;
        let mut out = Output::default();
        if self.json {
            out.line(escaped(&text));
        } else {
            print::done(&mut out, &done);
        }
        out.end().map_err(ClientError::Output)?;
        Ok(done.is_whole())
    }

    async fn answer(&self, request: RequestBuilder) -> Result<String, ClientError> {
        let answer = request.send().await?;
        let status = answer.status();
        let text = answer.text().await?;
        if status.is_success() {
            return Ok(text);
        }
        let told = serde_json::from_str::<ErrorBody>(&text);
        let at = self.base.clone();
        match (told, status) {
            (Err(_), _) => Err(ClientError::NotAdminPort { at, status }),
            (Ok(_), StatusCode::UNAUTHORIZED) => Err(ClientError::WrongToken(at)),
            // The public port's errors have the same form.
            (Ok(_), StatusCode::NOT_FOUND) if !self.is_admin_port().await? => {
                Err(ClientError::NotAdminPort { at, status })
            }
            (Ok(error), _) => Err(ClientError::Refused(error.message)),
        }
    }

    /// Returns true if what was asked describes itself as only an admin port does.
    async fn is_admin_port(&self) -> Result<bool, ClientError> {
        Ok(self.get("openapi.yaml", &[])?.send().await?.status().is_success())
    }
}

fn has_user(url: &Url) -> bool {
    !url.username().is_empty() || url.password().is_some()
}

fn without_nulls(body: &Value) -> String {
    let mut body = body.clone();
    if let Some(members) = body.as_object_mut() {
        members.retain(|_, value| !value.is_null());
    }
    body.to_string()
}
