//! Devices that write nothing and must hold everything in the end: one reads a stream during the whole replay, one
//! pulls and one makes empty pushes after it.

use std::sync::Arc;
use std::time::Duration;

use rand::RngExt as _;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::device::{Device, DeviceError, Mode};
use crate::protocol::{Change, TableDelta};
use crate::replay::{ReplayError, ReplayOptions};
use crate::stream::{StreamCheck, StreamError, StreamEvent, StreamReader, StreamRequest};
use crate::transport::http_client;

/// Maximum time for the stream to bring the last changes once everything has been pushed.
const CATCH_UP: Duration = Duration::from_secs(60);

/// The changes that a stream reader has received.
#[derive(Debug, Default)]
pub struct Streamed {
    /// Every change, in the order received: within a page, table by table.
    pub changes: Vec<Change>,
    pub events: usize,
    pub reconnects: usize,
    check: StreamCheck,
}

/// Reads a stream from the beginning until it has received `expected` changes, once that number is known; resumes with
/// `Last-Event-ID` on another replica when the stream ends.
pub async fn stream(
    options: Arc<ReplayOptions>,
    mut request: StreamRequest,
    mut expected: watch::Receiver<Option<usize>>,
) -> Result<Streamed, ReplayError> {
    let http = http_client()?;
    let mut seen = Streamed::default();
    loop {
        let target = rand::rng().random_range(0..options.targets.len());
        request.base.clone_from(&options.targets[target]);
        request.last_event_id = seen.check.last_id().map(str::to_owned);
        match follow(&http, &request, &mut expected, &mut seen).await {
            Ok(true) => return Ok(seen),
            Ok(false) | Err(StreamError::Connection(_)) => {}
            Err(StreamError::Refused { status, .. }) if status.is_server_error() || status.as_u16() == 429 => {}
            Err(source) => return Err(ReplayError::Stream { changes: seen.changes.len(), source }),
        }
        seen.reconnects += 1;
        sleep(options.retry.pause).await;
    }
}

/// Follows one connection: true once everything has arrived, false if the server ended it.
async fn follow(
    http: &reqwest::Client,
    request: &StreamRequest,
    expected: &mut watch::Receiver<Option<usize>>,
    seen: &mut Streamed,
) -> Result<bool, StreamError> {
    let mut reader = StreamReader::open(http, request).await?;
    let mut page = Vec::new();
    loop {
        if expected.borrow_and_update().is_some_and(|count| seen.changes.len() >= count) {
            return Ok(true);
        }
        // The server promises a heartbeat every 30 s.
        let next = reader.next_event(Duration::from_secs(45));
        let event = tokio::select! {
            event = next => event?,
            changed = expected.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return Ok(true),
            },
        };
        match event {
            None => return Ok(false),
            Some(StreamEvent::Changes { id, delta }) => seen.take(&mut page, id.as_deref(), delta)?,
            Some(_) => {}
        }
    }
}

impl Streamed {
    /// Takes an event. The events of a page count with the last one: if the stream ends before that, they come again.
    fn take(&mut self, page: &mut Vec<Change>, id: Option<&str>, delta: TableDelta) -> Result<(), StreamError> {
        self.check.observe(id, &delta)?;
        self.events += 1;
        page.extend(delta.changes);
        if id.is_some() {
            self.changes.append(page);
        }
        Ok(())
    }
}

/// Tells the stream reader the number of changes, and waits until it has them all.
pub async fn finish(
    readers: &mut JoinSet<Result<Streamed, ReplayError>>,
    expected: &watch::Sender<Option<usize>>,
    count: usize,
) -> Result<Streamed, ReplayError> {
    expected.send_replace(Some(count));
    match timeout(CATCH_UP, readers.join_next()).await {
        Ok(Some(ended)) => ended?,
        Ok(None) | Err(_) => Err(ReplayError::StreamBehind { expected: count, within: CATCH_UP }),
    }
}

/// Has a fresh device read everything page by page.
pub async fn hydrate(mut device: Device, mode: Mode) -> Result<Device, DeviceError> {
    match mode {
        Mode::IgnoresHasMore => device.pull_until_quiet().await?,
        Mode::FollowsHasMore | Mode::TakesAdjusted => {
            device.push().await?;
        }
    }
    Ok(device)
}
