//! The commands of `mana-dev`, one file each.

mod args;
mod database;
mod guide;
mod issuer;
mod listen;
mod playground;
mod run;
mod signals;
mod supervise;
mod token;
mod up;
mod with_postgres;
mod with_services;

use args::{IssuerArgs, ListenArgs, TokenArgs, UpArgs, WithPostgresArgs, WithServicesArgs};
use clap::Subcommand;
use mana_dev::DevError;
use std::process::ExitCode;

#[derive(Subcommand, Clone, Debug)]
pub enum Command {
    /// Run a whole cluster: PostgreSQL, a token issuer, a credits service, replicas
    Up(UpArgs),
    /// Print a token that the local cluster accepts
    Token(TokenArgs),
    /// Hold a WebSocket open and print every message with its time
    Listen(ListenArgs),
    /// Publish the keys for tokens from `mana-dev token`, for replicas that run elsewhere
    Issuer(IssuerArgs),
    /// Run a command with a temporary PostgreSQL, named by TEST_DATABASE_URL
    WithPostgres(WithPostgresArgs),
    /// Run a command with a durable PostgreSQL, a token issuer and a credits service, for replicas that it starts
    WithServices(WithServicesArgs),
}

impl Command {
    /// Runs the command and returns the process's exit status.
    pub async fn run(self) -> Result<ExitCode, DevError> {
        match self {
            Self::Up(args) => up::up(args).await,
            Self::Token(args) => token::token(&args),
            Self::Listen(args) => listen::listen(args).await,
            Self::Issuer(args) => issuer::issuer(args).await,
            Self::WithPostgres(args) => with_postgres::with_postgres(args).await,
            Self::WithServices(args) => with_services::with_services(args).await,
        }
    }
}
