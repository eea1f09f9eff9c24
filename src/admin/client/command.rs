//! The commands of `mana-sync admin`.

use clap::Subcommand;

/// What is asked of the admin port.
#[derive(Subcommand, Debug)]
pub enum AdminCommand {
    /// All live replicas, and the database.
    Cluster,
    /// A user's sessions, logs, devices and usage.
    User {
        /// The user's id.
        user: String,
        /// Maximum number of sessions listed per replica.
        #[arg(long, default_value_t = crate::admin::api::SESSIONS)]
        sessions: usize,
    },
    /// A record's current values, and where they came from.
    Record {
        /// The user's id.
        #[arg(long)]
        user: String,
        /// The app's id.
        #[arg(long)]
        app: String,
        /// The table's name.
        #[arg(long)]
        table: String,
        /// The record's id.
        #[arg(long)]
        id: String,
    },
    /// End the sessions of a user, or of one of the user's devices.
    Disconnect {
        /// The user's id.
        user: String,
        /// Only sessions that name this device (clientId).
        #[arg(long)]
        device: Option<String>,
        /// Only on this replica.
        #[arg(long)]
        replica: Option<String>,
    },
    /// Refuse a token by its id (jti), and end the sessions that use it.
    RefuseToken {
        /// The token's jti.
        token_id: String,
        /// When the token expires, within a year, in the form 2030-01-01T00:00:00Z. Default: a year from now.
        #[arg(long)]
        until: Option<String>,
    },
    /// Accept a refused token again.
    AcceptToken {
        /// The token's jti.
        token_id: String,
    },
    /// The refused tokens.
    RefusedTokens,
    /// Make a replica not ready and have its sessions leave. It keeps running, and can be taken back.
    Drain {
        /// Its name, as `cluster` lists it.
        replica: String,
    },
    /// Take a drained replica back.
    TakeBack {
        /// Its name, as `cluster` lists it.
        replica: String,
    },
    /// Have one replica trim all logs now, in the background.
    Compact {
        /// The replica to do it. Default: the one that is asked.
        #[arg(long)]
        replica: Option<String>,
    },
    /// Change how often each user may push and pull, until the replica restarts. 0: no limit.
    Rates {
        /// As MAX_USER_PUSHES_PER_SECOND.
        #[arg(long)]
        pushes: Option<u32>,
        /// As MAX_USER_PULLS_PER_SECOND.
        #[arg(long)]
        pulls: Option<u32>,
        /// Only on this replica.
        #[arg(long)]
        replica: Option<String>,
    },
    /// Change what is logged, in the form of RUST_LOG.
    Log {
        /// The filter, such as info,mana_sync::store=debug.
        filter: String,
        /// Only on this replica.
        #[arg(long)]
        replica: Option<String>,
    },
}
