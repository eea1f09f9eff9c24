//! Finding the primary among several servers (G8).
//!
//! A database URL may name more than one host, as libpq's do: after a failover one of the others is the primary.
//! sqlx connects to one host, so the pool is pointed at whichever of them lets us write.

use super::StoreError;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, PgPool};
use std::convert::Infallible;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};

/// How long a server may take to say what it is.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);
/// Pause between two searches, however many ask for them.
const PAUSE: Duration = Duration::from_millis(300);

/// The servers of one database.
#[derive(Debug)]
pub(super) struct Servers {
    all: Vec<PgConnectOptions>,
    /// When they were last looked through. The lock is the gate: one search at a time.
    searched: Mutex<Option<Instant>>,
}

impl Servers {
    /// Reads a URL with one or several hosts; `set_up` is applied to each.
    pub(super) fn parse(
        url: &str,
        set_up: impl Fn(PgConnectOptions) -> PgConnectOptions,
    ) -> Result<Servers, StoreError> {
        let parse = |url: String| {
            let options: PgConnectOptions = url.parse()?;
            // Traces and metrics say what is slow, and do not quote statements.
            Ok(set_up(options).disable_statement_logging())
        };
        let all = each_host(url).into_iter().map(parse).collect::<Result<Vec<_>, sqlx::Error>>()?;
        Ok(Servers { all, searched: Mutex::default() })
    }

    /// Where to begin.
    pub(super) fn first(&self) -> PgConnectOptions {
        self.all.first().cloned().unwrap_or_default()
    }

    /// The one server that there is; none if there are several to choose from.
    pub(super) fn only(&self) -> Option<PgConnectOptions> {
        if let [only] = self.all.as_slice() { Some(only.clone()) } else { None }
    }

    /// Looks for the primary again and again: for those who wait for a connection meanwhile.
    pub(super) async fn keep_looking(&self, pool: &PgPool) -> Infallible {
        loop {
            sleep(PAUSE).await;
            self.look(pool).await;
        }
    }

    /// Points the pool at the server that is the primary now, if there is a choice and one is found.
    pub(super) async fn look(&self, pool: &PgPool) {
        if self.only().is_some() {
            return;
        }
        let mut searched = self.searched.lock().await;
        if searched.is_some_and(|searched| searched.elapsed() < PAUSE) {
            return;
        }
        if let Some(primary) = self.find().await {
            let before = pool.connect_options();
            if (before.get_host(), before.get_port()) != (primary.get_host(), primary.get_port()) {
                tracing::warn!(host = primary.get_host(), port = primary.get_port(), "this is the primary now");
            }
            pool.set_connect_options(primary);
        }
        *searched = Some(Instant::now());
    }

    /// The first server to say that it is the primary.
    pub(super) async fn find(&self) -> Option<PgConnectOptions> {
        let asked = self.all.iter().map(|options| async move {
            let is_primary = timeout(ASK_TIMEOUT, is_primary(options)).await;
            matches!(is_primary, Ok(Ok(true))).then(|| options.clone())
        });
        let mut answers: FuturesUnordered<_> = asked.collect();
        while let Some(answer) = answers.next().await {
            if answer.is_some() {
                return answer;
            }
        }
        None
    }
}

async fn is_primary(options: &PgConnectOptions) -> Result<bool, sqlx::Error> {
    let mut connection = options.connect().await?;
    let ask = sqlx::query_scalar("select not pg_is_in_recovery() and current_setting('transaction_read_only') = 'off'");
    let answer = ask.persistent(false).fetch_one(&mut connection).await?;
    connection.close().await?;
    Ok(answer)
}

/// The URL once for each of its hosts, without what only says which of them is wanted.
fn each_host(url: &str) -> Vec<String> {
    let (scheme, rest) = url.split_once("://").unwrap_or(("postgres", url));
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let (user, hosts) = match authority.rsplit_once('@') {
        Some((user, hosts)) => (format!("{user}@"), hosts),
        None => (String::new(), authority),
    };
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let query: Vec<&str> =
        query.split('&').filter(|pair| !pair.is_empty() && !pair.starts_with("target_session_attrs=")).collect();
    let query = if query.is_empty() { String::new() } else { format!("?{}", query.join("&")) };
    hosts.split(',').map(|host| format!("{scheme}://{user}{host}{path}{query}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_taken_apart_by_its_hosts() {
        assert_eq!(each_host("postgres://a/db"), ["postgres://a/db"]);
        assert_eq!(
            each_host("postgres://u:p%40@a:1,b:2,[::1]:3/db?target_session_attrs=read-write&sslmode=disable"),
            [
                "postgres://u:p%40@a:1/db?sslmode=disable",
                "postgres://u:p%40@b:2/db?sslmode=disable",
                "postgres://u:p%40@[::1]:3/db?sslmode=disable"
            ]
        );
        assert_eq!(each_host("postgres://a,b?target_session_attrs=any"), ["postgres://a", "postgres://b"]);
    }
}
