//! The readers: by cursors, by streams, and by pulling only when woken; and a stranger, who must receive nothing.

use crate::cluster::{FaultyCluster, REPLICAS};
use crate::workload::{Kind, Party, Reader, TABLES, Workload};
use mana_load::device::Device;
use mana_load::invariants::{Asked, Checks, Cursor};
use mana_load::protocol::{PushRequest, SyncAnswer};
use mana_load::stream::{StreamCheck, StreamError, StreamReader, StreamRequest};
use mana_load::transport::Transport;
use mana_load::wakeups::{WakeMessage, WakeupError, Wakeups};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// Pause before a client reconnects, and between two polls.
const PAUSE: Duration = Duration::from_millis(100);
/// How long a client waits for something that may never come before it waits again.
const LISTEN: Duration = Duration::from_secs(60);

/// The woken readers, with what they hold in the end.
pub type Woken = JoinSet<(usize, Device)>;

/// Starts all readers; they read until told to stop.
pub fn start(cluster: &Arc<FaultyCluster>, workload: &Arc<Workload>) -> (JoinSet<()>, Woken) {
    let (mut readers, mut woken) = (JoinSet::new(), JoinSet::new());
    for party in 0..workload.parties.len() {
        for table in TABLES {
            let reader = workload.reader(format!("pulls of {table} of user {party}"), party, Kind::Pull(table));
            readers.spawn(follow(cluster.clone(), workload.clone(), reader));
        }
        let reader = workload.reader(format!("empty pushes of user {party}"), party, Kind::Push);
        readers.spawn(follow(cluster.clone(), workload.clone(), reader));
        for replica in 0..REPLICAS {
            let name = format!("stream of user {party} on replica {replica}");
            let reader = workload.reader(name, party, Kind::Stream);
            readers.spawn(stream(cluster.clone(), workload.clone(), reader, replica));
            let name = format!("woken device of user {party} on replica {replica}");
            let reader = workload.reader(name, party, Kind::Woken);
            woken.spawn(wake(cluster.clone(), workload.clone(), reader, replica));
        }
    }
    for replica in 0..REPLICAS {
        readers.spawn(overhear(cluster.clone(), workload.clone(), replica));
    }
    (readers, woken)
}

/// Follows a cursor, each time on another replica.
async fn follow(cluster: Arc<FaultyCluster>, workload: Arc<Workload>, reader: Arc<Reader>) {
    let options = workload.options(&cluster, reader.party, &reader.name);
    let (app, client) = (options.app.clone(), options.client_id.clone());
    let http = cluster.inner.http.clone();
    let mut transport = Transport::new(http, options.targets, options.token, options.retry, options.seed).unwrap();
    let (mut cursor, mut checks) = (Cursor::default(), Checks::default());
    let reading = async {
        loop {
            let (table, answer) = match reader.kind {
                Kind::Pull(table) => (Some(table), transport.pull(&app, table, &cursor.value, &client).await),
                _ => {
                    let since = cursor.value.clone();
                    let request = PushRequest { client_id: client.clone(), since, changes: vec![] };
                    (None, transport.push(&app, &request, false).await)
                }
            };
            let answer: SyncAnswer = match answer {
                Ok(answer) => answer,
                Err(error) => return workload.violated(format!("{}: {error}", reader.name)),
            };
            if let Err(violation) = checks.answer(Asked { since: &cursor, table }, &answer) {
                return workload.violated(format!("{}: {violation}", reader.name));
            }
            cursor = cursor.after(&answer);
            let is_all = !answer.has_more;
            reader.add(answer.server_changes);
            if is_all {
                tokio::time::sleep(PAUSE).await;
            }
        }
    };
    workload.stop_reading.run_until_cancelled(reading).await;
}

pub fn stream_request(cluster: &FaultyCluster, party: &Party, client: &str, replica: usize) -> StreamRequest {
    StreamRequest {
        base: cluster.urls()[replica].clone(),
        app: party.app.clone(),
        token: party.user.token.clone(),
        client_id: Some(client.to_owned()),
        ..StreamRequest::default()
    }
}

/// Reads a stream, and resumes it whenever it has ended.
async fn stream(cluster: Arc<FaultyCluster>, workload: Arc<Workload>, reader: Arc<Reader>, replica: usize) {
    let mut asked = stream_request(&cluster, &workload.parties[reader.party], &reader.name, replica);
    let mut check = StreamCheck::default();
    let reading = async {
        loop {
            match StreamReader::open(&cluster.inner.http, &asked).await {
                Ok(mut stream) => {
                    reader.connected();
                    read_stream(&mut stream, &mut check, &reader, &workload).await;
                }
                Err(StreamError::Refused { status, body, retry_after }) => {
                    if !status.is_server_error() && status != 429 || status.is_server_error() && retry_after.is_none() {
                        workload.violated(format!("{}: refused with {status}: {body}", reader.name));
                    }
                }
                Err(_) => {}
            }
            asked.last_event_id = check.last_id().map(str::to_owned);
            tokio::time::sleep(PAUSE).await;
        }
    };
    workload.stop_reading.run_until_cancelled(reading).await;
}

async fn read_stream(stream: &mut StreamReader, check: &mut StreamCheck, reader: &Reader, workload: &Workload) {
    // An interrupted page is sent again.
    let mut page = Vec::new();
    loop {
        match stream.next_delta(LISTEN).await {
            Ok(Some((id, delta))) => {
                if let Err(error) = check.observe(id.as_deref(), &delta) {
                    workload.violated(format!("{}: {error}", reader.name));
                }
                page.extend(delta.changes);
                if id.is_some() {
                    reader.add(std::mem::take(&mut page));
                }
            }
            Err(StreamError::Late { .. }) => {}
            Ok(None) | Err(StreamError::Connection(_)) => return,
            Err(error) => return workload.violated(format!("{}: {error}", reader.name)),
        }
    }
}

/// A device that pulls only when it is woken or has just connected.
async fn wake(
    cluster: Arc<FaultyCluster>,
    workload: Arc<Workload>,
    reader: Arc<Reader>,
    replica: usize,
) -> (usize, Device) {
    let Party { user, app } = &workload.parties[reader.party];
    let mut device = workload.device(&cluster, reader.party, &reader.name);
    let living = async {
        loop {
            let connected = Wakeups::connect(&cluster.urls()[replica], None, &user.token, Some(&reader.name)).await;
            let Ok(mut socket) = connected else {
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            reader.connected();
            let mut tables: Vec<String> = TABLES.map(str::to_owned).to_vec();
            loop {
                for table in tables.iter().filter(|table| reader.reads(table)) {
                    match device.pull(table).await {
                        Ok(count) => reader.add_count(count),
                        Err(error) => return workload.failed(&reader.name, &error),
                    }
                }
                tables = match socket.next(LISTEN).await {
                    Ok(WakeMessage::SyncAvailable { app_id, tables }) => {
                        if app_id != *app {
                            workload.violated(format!("{} was woken for {app_id}", reader.name));
                        }
                        tables
                    }
                    Err(WakeupError::Late { .. }) => vec![],
                    _ => break,
                };
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    workload.stop_reading.run_until_cancelled(living).await;
    (reader.party, device)
}

/// A user who has nothing and must not be woken (G5).
async fn overhear(cluster: Arc<FaultyCluster>, workload: Arc<Workload>, replica: usize) {
    let stranger = cluster.inner.user_named("stranger");
    let listening = async {
        loop {
            let connected = Wakeups::connect(&cluster.urls()[replica], None, &stranger.token, None).await;
            if let Ok(mut socket) = connected {
                loop {
                    match socket.next(LISTEN).await {
                        Err(WakeupError::Late { .. }) => {}
                        Ok(WakeMessage::SyncAvailable { app_id, tables }) => {
                            workload.violated(format!("a stranger was woken for {tables:?} of {app_id}"));
                        }
                        _ => break,
                    }
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    workload.stop_reading.run_until_cancelled(listening).await;
}
