//! The options of each command.

use std::{ffi::OsString, net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, value_parser};

#[derive(Args, Clone, Debug)]
pub struct UpArgs {
    /// How many server processes to run
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = value_parser!(u16).range(1..=50))]
    pub replicas: u16,

    /// The port that all replicas share; each also has its own, counting up from the next one. The token issuer, the
    /// credits service, PostgreSQL and a page to try it listen from 100 above it, consoles from 201 above it
    #[arg(long, default_value_t = 3050, value_parser = value_parser!(u16).range(1..=65_000))]
    pub port: u16,

    /// Drop stored data and start with an empty database
    #[arg(long)]
    pub reset: bool,

    /// Folder for data, the key and (if it isn't installed) PostgreSQL itself
    #[arg(long, value_name = "FOLDER", default_value = ".dev")]
    pub data_dir: PathBuf,

    /// The server to run. Default: the mana-sync next to this program
    #[arg(long, value_name = "PROGRAM")]
    pub exe: Option<PathBuf>,
}

#[derive(Args, Clone, Debug)]
pub struct ListenArgs {
    /// The address, with or without an app at the end
    #[arg(long, default_value = "ws://127.0.0.1:3050/ws")]
    pub url: String,

    #[command(flatten)]
    pub who: Who,

    /// The token to use instead of a fresh one from the local issuer
    #[arg(long)]
    pub token: Option<String>,

    /// This device's name; its own pushes don't wake it
    #[arg(long)]
    pub client_id: Option<String>,
}

#[derive(Args, Clone, Debug)]
pub struct IssuerArgs {
    /// Where to listen
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:3001")]
    pub bind: SocketAddr,

    /// The issuer's key; created if it doesn't exist
    #[arg(long, value_name = "FILE", default_value = ".dev/issuer-key.json")]
    pub key: PathBuf,
}

#[derive(Args, Clone, Debug)]
pub struct WithPostgresArgs {
    /// Folder for PostgreSQL, if it isn't installed
    #[arg(long, value_name = "FOLDER", default_value = ".dev")]
    pub data_dir: PathBuf,

    /// Run a Citus cluster of three servers instead; TEST_CITUS_WORKERS names its workers. PG_BIN must name a PostgreSQL
    /// that has the extension
    #[arg(long)]
    pub citus: bool,

    /// The command and its arguments, after `--`
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// The command's environment has everything a replica needs (DATABASE_URL, JWKS_URL, MANA_CREDITS_URL,
/// MANA_SERVICE_KEY), the issuer's key as MANA_LOAD_KEY, and PostgreSQL's programs as PG_BIN.
#[derive(Args, Clone, Debug)]
pub struct WithServicesArgs {
    /// Folder for data, the key and (if it isn't installed) PostgreSQL itself
    #[arg(long, value_name = "FOLDER", default_value = ".dev")]
    pub data_dir: PathBuf,

    /// A setting of PostgreSQL, as in postgresql.conf
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = setting)]
    pub settings: Vec<(String, String)>,

    /// The command and its arguments, after `--`
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

fn setting(text: &str) -> Result<(String, String), &'static str> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

#[derive(Args, Clone, Debug)]
pub struct TokenArgs {
    #[command(flatten)]
    pub who: Who,

    /// How long the token is valid: 90s, 15m, 24h, 7d
    #[arg(long, default_value = "24h", value_parser = duration)]
    pub ttl: Duration,
}

#[derive(Args, Clone, Debug)]
pub struct Who {
    /// The user that the token is for
    #[arg(long, default_value = "alice")]
    pub user: String,

    /// The issuer's key
    #[arg(long, value_name = "FILE", default_value = ".dev/issuer-key.json")]
    pub key: PathBuf,
}

fn duration(text: &str) -> Result<Duration, String> {
    let parse = || {
        let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
        let seconds = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 60 * 60,
            "d" => 24 * 60 * 60,
            _ => return None,
        };
        number.parse::<u32>().ok().map(|n| Duration::from_secs(u64::from(n) * seconds))
    };
    parse().ok_or_else(|| "write a whole number and s, m, h or d, as in 24h".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("24h"), Ok(Duration::from_secs(86_400)));
        for bad in ["", "h", "24", "-1h", "1.5h", "1h30m", "10€"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
