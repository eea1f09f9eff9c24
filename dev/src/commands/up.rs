//! `mana-dev up`: starts everything, prints what to try, keeps it running, and stops it in order.

use std::{
    env,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use tokio::task::JoinSet;

use super::{
    args::UpArgs,
    database,
    guide::{Guide, tokens},
    playground::{Playground, Shown},
    signals::Stop,
    supervise::{Supervised, supervise},
};
use mana_dev::{
    Credits, DevError, Issuer, Postgres, Replica, ReplicaOptions, SERVICE_KEY, Services, Shutdown, SigningKey,
    cluster::DATABASE,
    lock::FolderLock,
    place,
    ports::{free_port, is_free, local, preferred},
    say::{note, say},
    signing::KEY_FILE,
    wait::{tail, until},
};

const READY_LIMIT: Duration = Duration::from_secs(30);
const PORTS_LIMIT: Duration = Duration::from_secs(1);
/// The other servers listen this far above the shared port, if that port is free.
const OTHERS: u16 = 100;
/// The replicas' admin ports are this far above the shared port, if those are free.
const ADMIN: u16 = 200;
/// The token of the admin ports, unless the environment sets another.
const ADMIN_TOKEN: &str = "mana-dev-admin-token";

/// Ends when it is told to, or when something essential doesn't stay alive.
pub async fn up(args: UpArgs) -> Result<ExitCode, DevError> {
    let program = env::current_exe().map_err(DevError::io("find this program's file"))?;
    let server = server(&args, &program)?;
    let stop = Stop::on_signals()?;
    place::create(&args.data_dir)?;
    let _only_one = FolderLock::take(&args.data_dir.join("lock"), &args.data_dir)?;
    let cluster = tokio::select! {
        cluster = Cluster::start(&args, &server) => cluster?,
        // What has been started so far stops by being dropped.
        () = stop.soft.cancelled() => return Ok(ExitCode::SUCCESS),
    };
    say(cluster.guide(&args, program)?);
    cluster.keep_running(&stop).await.map(|()| ExitCode::SUCCESS)
}

/// Everything that runs. Fields are dropped in this order, dependents first.
struct Cluster {
    replicas: Vec<(Replica, ReplicaOptions)>,
    supervised: Vec<Arc<Supervised>>,
    playground: Option<Playground>,
    /// The URL of each replica's console.
    consoles: Vec<String>,
    credits: Credits,
    issuer: Issuer,
    postgres: Postgres,
    key: SigningKey,
}

impl Cluster {
    async fn start(args: &UpArgs, server: &Path) -> Result<Self, DevError> {
        check_ports(args).await?;
        let wanted = database::Wanted {
            folder: &args.data_dir,
            port: Some(args.port + OTHERS + 2),
            settings: Vec::new(),
            reset: args.reset,
        };
        let postgres = database::start(wanted).await?;
        let key = SigningKey::load_or_create(&args.data_dir.join(KEY_FILE))?;
        let keys = std::slice::from_ref(&key);
        let issuer = Issuer::start(local(preferred(args.port + OTHERS)), keys).await?;
        let credits = Credits::start(local(preferred(args.port + OTHERS + 1)), SERVICE_KEY).await?;
        let supervised: Vec<_> = (0..args.replicas).map(|_| Arc::<Supervised>::default()).collect();
        let shown = supervised.iter().zip(1..).map(|(supervised, number)| Shown {
            name: format!("replica {number}"),
            url: format!("http://{}", local(args.port + number)),
            supervised: supervised.clone(),
        });
        let address = local(preferred(args.port + OTHERS + 3));
        let playground = Playground::start(address, shown.collect(), &key, &args.data_dir).await?;
        let services = Services {
            database_url: postgres.url(DATABASE),
            jwks_url: issuer.jwks_url(),
            credits_url: credits.url(),
            service_key: SERVICE_KEY.into(),
            port: args.port,
            extra: for_people(playground.as_ref()),
        };
        services.migrate(server).await?;
        let (mut replicas, mut consoles) = (Vec::new(), Vec::new());
        for number in 1..=args.replicas {
            let mut options = services.replica(server, number, args.port + number, None);
            let port = admin_port(args.port.saturating_add(ADMIN).saturating_add(number))?;
            consoles.push(format!("http://{}/", local(port)));
            options.env.extend([("ADMIN_PORT".into(), port.to_string()), ("ADMIN_HOST".into(), "127.0.0.1".into())]);
            replicas.push((Replica::spawn(options.clone())?, options));
        }
        for (replica, _) in &replicas {
            replica.wait_ready(READY_LIMIT).await?;
        }
        Ok(Self { replicas, supervised, playground, consoles, credits, issuer, postgres, key })
    }

    fn guide(&self, args: &UpArgs, program: PathBuf) -> Result<Guide, DevError> {
        let of = |(replica, _): &(Replica, _)| (replica.base_url().to_owned(), replica.pid());
        Ok(Guide {
            program,
            port: args.port,
            replicas: self.replicas.iter().map(of).collect(),
            console: self.consoles.first().cloned(),
            admin_token: admin_token(),
            playground: self.playground.as_ref().map(Playground::url),
            binaries: self.postgres.binaries().clone(),
            data_dir: self.postgres.data_dir().to_owned(),
            database_url: self.postgres.url(DATABASE),
            jwks_url: self.issuer.jwks_url(),
            credits_url: self.credits.url(),
            key: args.data_dir.join(KEY_FILE),
            tokens: tokens(&self.key, &args.data_dir)?,
        })
    }

    /// Runs until it is time to stop; then stops the replicas first and the database last.
    async fn keep_running(self, stop: &Stop) -> Result<(), DevError> {
        let mut running = JoinSet::new();
        for ((replica, options), supervised) in self.replicas.into_iter().zip(self.supervised) {
            let stop = stop.clone();
            running.spawn(async move { supervise(replica, options, stop, &supervised).await });
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
        if let Some(playground) = self.playground {
            playground.stop().await;
        }
        self.credits.stop().await;
        self.issuer.stop().await;
        note("Everything is stopped.");
        if stop.hard.is_cancelled() {
            return Err(DevError::Forced);
        }
        outcome.and(stopped)
    }
}

/// Returns the server to run: the one that was named, or the one built beside this program.
fn server(args: &UpArgs, program: &Path) -> Result<PathBuf, DevError> {
    let beside = || program.with_file_name("mana-sync");
    match &args.exe {
        Some(exe) => Ok(exe.clone()),
        None if beside().is_file() => Ok(beside()),
        None => Err(DevError::Usage(format!(
            "there is no server at {}: build it (cargo build), or name one with --exe",
            beside().display()
        ))),
    }
}

/// Checks that each port promised to the user is free, before anything is started. The ports of a cluster that was
/// killed just now become free in a moment.
async fn check_ports(args: &UpArgs) -> Result<(), DevError> {
    for offset in 0..=args.replicas {
        let port = args.port + offset;
        let free = async || is_free(port).then_some(());
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

/// Returns this port if it is free, else any free one.
fn admin_port(port: u16) -> Result<u16, DevError> {
    if is_free(port) { Ok(port) } else { free_port() }
}

/// Returns the environment's admin token, or the default.
fn admin_token() -> String {
    env::var("ADMIN_TOKEN").ok().filter(|token| !token.is_empty()).unwrap_or_else(|| ADMIN_TOKEN.to_owned())
}

/// Settings for somebody at a terminal, unless the environment sets others: readable logs, and the origins of the usual
/// development servers. The playground's origins are always allowed.
fn for_people(playground: Option<&Playground>) -> Vec<(String, String)> {
    const ORIGINS: &str = "http://localhost:5173,http://localhost:5188";
    let set = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
    let mut origins = set("CORS_ORIGINS").unwrap_or_else(|| ORIGINS.to_owned());
    for origin in playground.into_iter().flat_map(Playground::origins) {
        origins.push(',');
        origins.push_str(&origin);
    }
    let log = set("LOG_FORMAT").unwrap_or_else(|| "text".to_owned());
    let settings = [("LOG_FORMAT", log), ("CORS_ORIGINS", origins), ("ADMIN_TOKEN", admin_token())];
    settings.map(|(name, value)| (name.to_owned(), value)).into()
}
