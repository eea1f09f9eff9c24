//! Runs a replay: authors and readers of every file at once, then the verdict.

use std::sync::Arc;
use std::time::Instant;

use futures_util::future::try_join_all;
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::device::{Device, DeviceOptions, Mode};
use crate::fold::{fold_rows, read_rows};
use crate::replay::author::Author;
use crate::replay::board::Board;
use crate::replay::history::History;
use crate::replay::progress::Progress;
use crate::replay::readers::{Streamed, finish, hydrate, stream};
use crate::replay::report::{FileReport, ReplayReport};
use crate::replay::verdict::{Finding, Holder, compare, compare_stream};
use crate::replay::{ReplayError, ReplayOptions};
use crate::store::LocalStore;
use crate::stream::StreamRequest;
use crate::transport::{Stats, http_client};

/// Maximum number of findings kept per file.
const FINDINGS: usize = 20;
const TOKEN_TTL: std::time::Duration = std::time::Duration::from_secs(12 * 3600);

/// Replays all files at once. Differences are in the report; an error means that it could not be finished.
pub async fn run(options: ReplayOptions) -> Result<ReplayReport, ReplayError> {
    let begun = Instant::now();
    let histories = options.files.iter().map(|path| History::read(path).map(Arc::new));
    let histories: Vec<Arc<History>> = histories.collect::<Result<_, _>>()?;
    let copies = options.users_per_file.max(1);
    let lines: usize = histories.iter().map(|history| history.lines.len()).sum();
    let progress = Arc::new(Progress::new(lines * copies));
    let database = match &options.database_url {
        Some(url) => Some(connect(url).await?),
        None => None,
    };
    let (options, http) = (Arc::new(options), http_client()?);
    let mut users = Vec::new();
    for (file, history) in histories.iter().enumerate() {
        for copy in 0..copies {
            let user = format!("replay-{}-{}", history.name, uuid::Uuid::new_v4());
            let seed = options.seed.wrapping_add(((file * copies + copy) as u64) << 32);
            let token = options.mint.token(&user, TOKEN_TTL)?;
            let (options, progress, http) = (options.clone(), progress.clone(), http.clone());
            let user = User { options, history: history.clone(), progress, http, user, token, seed };
            users.push(Box::pin(user.replay(database.as_ref())));
        }
    }
    let work = try_join_all(users);
    let files = match options.progress {
        true => {
            let files = tokio::select! {
                files = work => files,
                () = progress.show() => unreachable!("it shows until dropped"),
            };
            progress.end();
            files?
        }
        false => work.await?,
    };
    Ok(ReplayReport { files, duration: begun.elapsed() })
}

async fn connect(url: &str) -> Result<PgPool, ReplayError> {
    let failed = |source| ReplayError::Database { what: "can't be reached", source };
    PgPoolOptions::new().max_connections(2).connect(url).await.map_err(failed)
}

/// One history as one user.
struct User {
    options: Arc<ReplayOptions>,
    history: Arc<History>,
    progress: Arc<Progress>,
    http: reqwest::Client,
    user: String,
    token: String,
    seed: u64,
}

impl User {
    async fn replay(self, database: Option<&PgPool>) -> Result<FileReport, ReplayError> {
        let begun = Instant::now();
        let (expected, expects) = watch::channel(None);
        let request = StreamRequest {
            app: self.history.app.clone(),
            token: self.token.clone(),
            client_id: Some("reader-stream".to_owned()),
            collections: self.history.tables.iter().cloned().collect(),
            ..StreamRequest::default()
        };
        // In a set, so that it ends with this future in any case.
        let mut streams = JoinSet::new();
        streams.spawn(stream(self.options.clone(), request, expects));
        let devices = self.author().await?;
        let duration = begun.elapsed();
        let devices = try_join_all(devices.into_iter().map(|mut device| async move {
            device.pull_until_quiet().await?;
            Ok::<Device, ReplayError>(device)
        }));
        let mut devices = devices.await?;
        for (name, mode) in [("reader-pull", Mode::IgnoresHasMore), ("reader-push", Mode::FollowsHasMore)] {
            devices.push(hydrate(self.device(name, mode, 0)?, mode).await?);
        }
        let streamed = finish(&mut streams, &expected, self.history.changes()).await?;
        self.report(devices, streamed, duration, database).await
    }

    /// Runs all devices of the history at once; the first error ends them all.
    async fn author(&self) -> Result<Vec<Device>, ReplayError> {
        let board = Arc::new(Board::default());
        let mut tasks = JoinSet::new();
        for (index, client_id) in self.history.devices.keys().enumerate() {
            let seed = self.seed.wrapping_add(index as u64);
            let mode = match index % 4 {
                0 => Mode::FollowsHasMore,
                1 => Mode::TakesAdjusted,
                _ => Mode::IgnoresHasMore,
            };
            let author = Author {
                device: self.device(client_id, mode, seed)?,
                history: self.history.clone(),
                board: board.clone(),
                progress: self.progress.clone(),
                options: self.options.clone(),
                seed,
            };
            tasks.spawn(author.run());
        }
        let mut devices = Vec::new();
        while let Some(ended) = tasks.join_next().await {
            devices.push(ended??);
        }
        Ok(devices)
    }

    fn device(&self, client_id: &str, mode: Mode, seed: u64) -> Result<Device, ReplayError> {
        let tables: Vec<&str> = self.history.tables.iter().map(String::as_str).collect();
        let options = DeviceOptions {
            mode,
            seed,
            retry: self.options.retry.clone(),
            lost_answers: self.options.lost_answers,
            ..DeviceOptions::new(&self.history.app, client_id, &self.token, &self.options.targets, &tables)
        };
        Ok(Device::new(self.http.clone(), options)?)
    }

    async fn report(
        self,
        devices: Vec<Device>,
        streamed: Streamed,
        duration: std::time::Duration,
        database: Option<&PgPool>,
    ) -> Result<FileReport, ReplayError> {
        let sent = self.history.changes();
        let (mut holders, mut findings, mut stored) = (Vec::new(), Vec::new(), None);
        match database {
            Some(pool) => {
                let rows = read_rows(pool, &self.user, &self.history.app).await?;
                stored = Some(rows.len());
                if rows.len() != sent {
                    findings.push(Finding::Stored { sent, stored: rows.len() });
                }
                findings.extend(compare_stream(&rows, &streamed.changes)?);
                holders.push(Holder { name: "the fold of the stored rows".to_owned(), snapshot: fold_rows(&rows)? });
            }
            None if streamed.changes.len() != sent => {
                findings.push(Finding::StreamedCount { expected: sent, streamed: streamed.changes.len() });
            }
            None => {}
        }
        let mut by_stream = LocalStore::default();
        streamed.changes.iter().for_each(|change| by_stream.apply_server(change));
        let mut stats = Stats::default();
        for device in &devices {
            stats.merge(device.stats());
            holders.push(Holder { name: device.client_id().to_owned(), snapshot: device.snapshot() });
        }
        holders.push(Holder { name: "reader-stream".to_owned(), snapshot: by_stream.snapshot() });
        findings.extend(compare(&holders, FINDINGS));
        Ok(FileReport {
            name: self.history.name.clone(),
            app: self.history.app.clone(),
            user: self.user,
            devices: self.history.devices.len(),
            lines: self.history.lines.len(),
            sent,
            stored,
            streamed: streamed.changes.len(),
            reconnects: streamed.reconnects,
            records: holders[0].snapshot.records(),
            stats,
            duration,
            findings,
        })
    }
}
