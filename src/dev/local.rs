//! `mana-sync dev`: starts everything, says what to try, keeps it running, stops it in order.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use tokio::task::JoinSet;

use super::{
    Credits, DevError, Issuer, Postgres, PostgresOptions, Replica, ReplicaOptions, Shutdown, SigningKey,
    args::LocalArgs,
    binaries::Binaries,
    cluster::Services,
    datadir::stop_leftovers,
    guide::{Guide, tokens},
    lock::FolderLock,
    place::{self, Account},
    say::{note, say},
    signals::Stop,
    supervise::supervise,
    wait::{tail, until},
};

pub(super) const DATABASE: &str = "mana_sync";
pub(super) const KEY: &str = "issuer-key.json";
pub(super) const SERVICE_KEY: &str = crate::config::DEV_SERVICE_KEY;
const READY_LIMIT: Duration = Duration::from_secs(30);
const PORTS_LIMIT: Duration = Duration::from_secs(1);
/// The other servers listen this far above the shared port, if that is free.
const OTHERS: u16 = 100;

/// Ends when it is told to, or when something essential doesn't stay alive.
pub async fn run(args: LocalArgs) -> Result<ExitCode, DevError> {
    let stop = Stop::on_signals()?;
    place::create(&args.data_dir)?;
    let _only_one = FolderLock::take(&args.data_dir.join("lock"), &args.data_dir)?;
    let cluster = tokio::select! {
        cluster = Cluster::start(&args) => cluster?,
        // What has been started so far stops by being dropped.
        () = stop.soft.cancelled() => return Ok(ExitCode::SUCCESS),
    };
    say(cluster.guide(&args)?);
    cluster.keep_running(&stop).await.map(|()| ExitCode::SUCCESS)
}

/// Everything that runs. Fields are dropped in this order, those first that need the others.
struct Cluster {
    replicas: Vec<(Replica, ReplicaOptions)>,
    credits: Credits,
    issuer: Issuer,
    postgres: Postgres,
    key: SigningKey,
    exe: PathBuf,
}

impl Cluster {
    async fn start(args: &LocalArgs) -> Result<Self, DevError> {
        check_ports(args).await?;
        let exe = match &args.exe {
            Some(exe) => exe.clone(),
            None => std::env::current_exe().map_err(DevError::io("find this program's file"))?,
        };
        let postgres = start_postgres(args).await?;
        let key = SigningKey::load_or_create(&args.data_dir.join(KEY))?;
        let keys = std::slice::from_ref(&key);
        let issuer = Issuer::start(local(preferred(args.port + OTHERS)), keys).await?;
        let credits = Credits::start(local(preferred(args.port + OTHERS + 1)), SERVICE_KEY).await?;
        let services = Services {
            database_url: postgres.url(DATABASE),
            jwks_url: issuer.jwks_url(),
            credits_url: credits.url(),
            service_key: SERVICE_KEY.into(),
            port: args.port,
            extra: for_people(),
        };
        services.migrate(&exe).await?;
        let mut replicas = Vec::new();
        for number in 1..=args.replicas {
            let options = services.replica(&exe, number, args.port + number, None);
            replicas.push((Replica::spawn(options.clone())?, options));
        }
        for (replica, _) in &replicas {
            replica.wait_ready(READY_LIMIT).await?;
        }
        Ok(Self { replicas, credits, issuer, postgres, key, exe })
    }

    fn guide(&self, args: &LocalArgs) -> Result<Guide, DevError> {
        let of = |(replica, _): &(Replica, _)| (replica.base_url().to_owned(), replica.pid());
        Ok(Guide {
            exe: self.exe.clone(),
            port: args.port,
            replicas: self.replicas.iter().map(of).collect(),
            binaries: self.postgres.binaries().clone(),
            data_dir: self.postgres.data_dir().to_owned(),
            database_url: self.postgres.url(DATABASE),
            jwks_url: self.issuer.jwks_url(),
            credits_url: self.credits.url(),
            key: args.data_dir.join(KEY),
            tokens: tokens(&self.key, &args.data_dir)?,
        })
    }

    /// Until it is time to stop; then replicas first, the database last.
    async fn keep_running(self, stop: &Stop) -> Result<(), DevError> {
        let mut running = JoinSet::new();
        for (replica, options) in self.replicas {
            running.spawn(supervise(replica, options, stop.clone()));
        }
        let mut outcome = Ok(());
        loop {
            tokio::select! {
                ended = running.join_next() => match ended {
                    None => break,
                    Some(ended) => {
                        if let Ok(Err(error)) = ended {
                            outcome = outcome.and(Err(error));
                        }
                        stop.soft.cancel();
                    }
                },
                status = self.postgres.ended(), if !stop.soft.is_cancelled() => {
                    outcome = Err(DevError::EndedEarly {
                        who: "PostgreSQL".into(),
                        status,
                        log: tail(&self.postgres.log_path()),
                    });
                    stop.soft.cancel();
                }
            }
        }
        let stopped = tokio::select! {
            stopped = self.postgres.end(Shutdown::Fast) => stopped,
            () = stop.hard.cancelled() => self.postgres.end(Shutdown::Immediate).await,
        };
        self.credits.stop().await;
        self.issuer.stop().await;
        note("Everything is stopped.");
        if stop.hard.is_cancelled() {
            return Err(DevError::Forced);
        }
        outcome.and(stopped)
    }
}

async fn start_postgres(args: &LocalArgs) -> Result<Postgres, DevError> {
    let account = Account::for_postgres()?;
    let binaries = Binaries::locate(&args.data_dir, account).await?;
    let data_dir = place::reachable(&args.data_dir.join("postgres"), account)?;
    // Our lock says that nobody uses it: this is left from a crash, and holds the port.
    stop_leftovers(&data_dir).await?;
    if args.reset {
        reset(&data_dir)?;
    }
    let options = PostgresOptions {
        data_dir,
        port: Some(preferred(args.port + OTHERS + 2)).filter(|port| *port != 0),
        settings: Vec::new(),
        durable: true,
    };
    let postgres = Postgres::start_with(binaries, options).await?;
    if !postgres.has_database(DATABASE).await? {
        postgres.create_database(DATABASE).await?;
    }
    Ok(postgres)
}

fn reset(data_dir: &Path) -> Result<(), DevError> {
    // Whatever folder the user has named: only what is a database is removed.
    if !data_dir.join("PG_VERSION").exists() {
        return Ok(());
    }
    fs::remove_dir_all(data_dir).map_err(DevError::io(format!("remove {}", data_dir.display())))
}

/// Each port that the user has been promised must be free, before anything is started. Those of a
/// cluster that was killed just now become free in a moment.
async fn check_ports(args: &LocalArgs) -> Result<(), DevError> {
    for offset in 0..=args.replicas {
        let port = args.port + offset;
        let free = async || TcpListener::bind(local(port)).ok();
        if until(PORTS_LIMIT, free).await.is_none() {
            return Err(DevError::PortTaken {
                port,
                purpose: match offset {
                    0 => "shared by all replicas".into(),
                    number => format!("replica {number}"),
                },
                flag: "--port",
            });
        }
    }
    Ok(())
}

/// What suits somebody at a terminal, unless the environment says otherwise: logs to read, and pages from the usual
/// development servers.
fn for_people() -> Vec<(String, String)> {
    const ORIGINS: &str = "http://localhost:5173,http://localhost:5188";
    [("LOG_FORMAT", "text"), ("CORS_ORIGINS", ORIGINS)]
        .into_iter()
        .filter(|(setting, _)| std::env::var_os(setting).is_none_or(|value| value.is_empty()))
        .map(|(setting, value)| (setting.to_owned(), value.to_owned()))
        .collect()
}

/// This port if it is free, else 0, which means any: then the guide names another than usual.
fn preferred(port: u16) -> u16 {
    TcpListener::bind(local(port)).map_or_else(
        |_| {
            note(format_args!("Port {port} is taken; using another one (see below)."));
            0
        },
        |_| port,
    )
}

fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}
