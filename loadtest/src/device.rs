//! A device: one `clientId` of one user in one app, which behaves like existing clients, or as new ones may.
//!
//! An edit and its push are one step: between [`Device::edit`] and [`Device::push`] nothing is received, unless a
//! caller pulls in between. (Receiving a value with the very stamp of the edit in between is the one case in which the
//! protocol can't converge.)

mod options;

use std::collections::BTreeMap;

use rand::RngExt as _;

use crate::invariants::{Asked, Checks, Cursor, Violation};
use crate::protocol::{Adjusted, Change, Op, PushRequest, SyncAnswer};
use crate::snapshot::Snapshot;
use crate::store::{Cell, LocalStore};
use crate::transport::{Stats, Transport, TransportError};

pub use options::{DeviceOptions, Mode};

/// The reasons why a step of a device failed.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// A request failed.
    #[error("device {client_id}: a request failed")]
    Transport {
        /// The device.
        client_id: String,
        /// The cause.
        #[source]
        source: Box<TransportError>,
    },
    /// An answer broke the protocol.
    #[error("device {client_id}: an answer broke the protocol")]
    Violation {
        /// The device.
        client_id: String,
        /// The cause.
        #[source]
        source: Box<Violation>,
    },
    /// Pulls kept bringing something new, although nobody should be writing.
    #[error("device {client_id}: {pulls} pulls in a row returned something new, though nobody should be writing")]
    NotQuiet {
        /// The device.
        client_id: String,
        /// The number of consecutive pulls.
        pulls: usize,
    },
}

/// The outcome of a push.
#[derive(Clone, Debug, PartialEq)]
pub struct Pushed {
    /// The number of changes received, over all pages taken.
    pub received: usize,
    /// True if the last answer said that there is more.
    pub has_more: bool,
    /// Changes whose stamps were too far ahead.
    pub adjusted: Vec<Adjusted>,
}

type FieldKey = (String, String, String);

/// See the module documentation.
pub struct Device {
    options: DeviceOptions,
    transport: Transport,
    store: LocalStore,
    checks: Checks,
    push_cursor: Cursor,
    cursors: BTreeMap<String, Cursor>,
    pending: Vec<Change>,
    /// The value of each field before the pending edits, to redo them with adjusted stamps.
    before: BTreeMap<FieldKey, Option<Cell>>,
    /// A push whose outcome is unknown: it is sent again unchanged before anything else is pushed.
    in_flight: Option<PushRequest>,
}

impl Device {
    /// Creates a device with an empty database, which starts from the beginning. Clone one `http` client for many
    /// devices.
    pub fn new(http: reqwest::Client, options: DeviceOptions) -> Result<Self, DeviceError> {
        let DeviceOptions { targets, token, retry, seed, client_id, .. } = options.clone();
        let transport = Transport::new(http, targets, token, retry, seed)
            .map_err(|source| DeviceError::Transport { client_id, source: Box::new(source) })?;
        Ok(Self {
            options,
            transport,
            store: LocalStore::default(),
            checks: Checks::default(),
            push_cursor: Cursor::default(),
            cursors: BTreeMap::new(),
            pending: Vec::new(),
            before: BTreeMap::new(),
            in_flight: None,
        })
    }

    /// Its client id.
    pub fn client_id(&self) -> &str {
        &self.options.client_id
    }

    /// Its local database.
    pub fn store(&self) -> &LocalStore {
        &self.store
    }

    /// Its local database, for comparing with others.
    pub fn snapshot(&self) -> Snapshot {
        self.store.snapshot()
    }

    /// True if it has a record, deleted or not.
    pub fn holds(&self, table: &str, id: &str) -> bool {
        self.store.holds(table, id)
    }

    /// Its measurements.
    pub fn stats(&self) -> &Stats {
        self.transport.stats()
    }

    /// Uses another token from now on.
    pub fn set_token(&mut self, token: String) {
        self.transport.set_token(token);
    }

    /// The cursor for the next push.
    pub fn push_cursor(&self) -> &str {
        &self.push_cursor.value
    }

    /// The cursor of a table.
    pub fn cursor(&self, table: &str) -> &str {
        self.cursors.get(table).map_or(&self.push_cursor.value, |cursor| &cursor.value)
    }

    /// The number of edits that wait for a push.
    pub fn pending(&self) -> usize {
        self.pending.len() + self.in_flight.as_ref().map_or(0, |push| push.changes.len())
    }

    /// Makes a local edit, to be pushed.
    pub fn edit(&mut self, change: Change) {
        let local = self.as_kept(&change);
        if self.options.mode == Mode::TakesAdjusted {
            for write in local.writes() {
                let held = self.store.cell(&change.table, &change.id, &write.field).cloned();
                self.before.entry((change.table.clone(), change.id.clone(), write.field)).or_insert(held);
            }
        }
        self.store.edit(&local);
        if self.options.check_own {
            self.checks.sent(&local);
        }
        self.pending.push(change);
    }

    /// Pushes pending edits, or requests the delta if there are none. After an error the same push can be retried: it
    /// is sent unchanged.
    pub async fn push(&mut self) -> Result<Pushed, DeviceError> {
        let mut pushed = Pushed { received: 0, has_more: true, adjusted: Vec::new() };
        loop {
            let request = self.in_flight.take().unwrap_or_else(|| PushRequest {
                client_id: self.options.client_id.clone(),
                since: self.push_cursor.value.clone(),
                changes: std::mem::take(&mut self.pending),
            });
            let lose = !request.changes.is_empty() && self.transport.rng().random_bool(self.options.lost_answers);
            let sent = self.transport.push(&self.options.app, &request, lose).await;
            let answer = match sent {
                Ok(answer) => answer,
                Err(source) => {
                    self.in_flight = Some(request);
                    return Err(self.failed(source));
                }
            };
            // Only a push moves this cursor, so it is still the one the push was sent with.
            let since = self.push_cursor.clone();
            self.accept_push(&since, &request, &answer)?;
            pushed.received += answer.server_changes.len();
            pushed.has_more = answer.has_more;
            pushed.adjusted.extend(answer.adjusted);
            let goes_on = pushed.has_more && self.options.mode != Mode::IgnoresHasMore;
            if !goes_on && self.pending.is_empty() {
                return Ok(pushed);
            }
        }
    }

    fn accept_push(&mut self, since: &Cursor, request: &PushRequest, answer: &SyncAnswer) -> Result<(), DeviceError> {
        self.check(Asked { since, table: None }, answer)?;
        let redone =
            self.options.mode == Mode::TakesAdjusted && !(answer.adjusted.is_empty() && self.pending.is_empty());
        if redone {
            self.redo(&request.changes, &answer.adjusted);
        }
        for change in &answer.server_changes {
            self.store.apply_server(change);
        }
        self.before.clear();
        if redone {
            std::mem::take(&mut self.pending).into_iter().for_each(|change| self.edit(change));
        }
        self.push_cursor = since.after(answer);
        for table in &self.options.tables {
            self.cursors.insert(table.clone(), self.push_cursor.clone());
        }
        Ok(())
    }

    /// Redoes the edits of a push on the values before them, with the stamps that the server stored.
    fn redo(&mut self, changes: &[Change], adjusted: &[Adjusted]) {
        for ((table, id, field), cell) in std::mem::take(&mut self.before) {
            self.store.set(&table, &id, &field, cell);
        }
        for (index, change) in changes.iter().enumerate() {
            let mut stored = self.as_kept(change);
            let entries: Vec<&Adjusted> = adjusted.iter().filter(|entry| entry.index == index).collect();
            for entry in &entries {
                entry.fields.iter().for_each(|field| stored.adjust(field, &entry.updated_at));
            }
            let by_field = matches!(stored.op, Op::Update { .. });
            self.store.edit_adjusted(&stored, |field| {
                entries.iter().any(|entry| !by_field || entry.fields.iter().any(|adjusted| adjusted == field))
            });
            if self.options.check_own {
                self.checks.sent(&stored);
            }
        }
    }

    /// Returns a change as this device keeps it locally.
    fn as_kept(&self, change: &Change) -> Change {
        match self.options.canonical_stamps {
            true => change.clone().with_canonical_stamps(),
            false => change.clone(),
        }
    }

    /// Pulls a table page by page until there is no more. Returns the number of changes.
    pub async fn pull(&mut self, table: &str) -> Result<usize, DeviceError> {
        let mut received = 0;
        loop {
            let since = self.cursors.get(table).unwrap_or(&self.push_cursor).clone();
            let DeviceOptions { app, client_id, .. } = &self.options;
            let pulled = self.transport.pull(app, table, &since.value, client_id).await;
            let answer = pulled.map_err(|source| self.failed(source))?;
            self.check(Asked { since: &since, table: Some(table) }, &answer)?;
            for change in &answer.server_changes {
                self.store.apply_server(change);
            }
            received += answer.server_changes.len();
            self.cursors.insert(table.to_owned(), since.after(&answer));
            if !answer.has_more {
                return Ok(received);
            }
        }
    }

    /// Pulls every table of the device.
    pub async fn pull_all(&mut self) -> Result<usize, DeviceError> {
        let mut received = 0;
        for table in self.options.tables.clone() {
            received += self.pull(&table).await?;
        }
        Ok(received)
    }

    /// Pulls until a round brings nothing. If nobody writes, the second round does; needing more than four is an error.
    pub async fn pull_until_quiet(&mut self) -> Result<(), DeviceError> {
        let pulls = 4;
        for _ in 0..pulls {
            if self.pull_all().await? == 0 {
                return Ok(());
            }
        }
        Err(DeviceError::NotQuiet { client_id: self.options.client_id.clone(), pulls })
    }

    fn check(&mut self, asked: Asked<'_>, answer: &SyncAnswer) -> Result<(), DeviceError> {
        let client_id = &self.options.client_id;
        self.checks
            .answer(asked, answer)
            .map_err(|source| DeviceError::Violation { client_id: client_id.clone(), source: Box::new(source) })
    }

    fn failed(&self, source: TransportError) -> DeviceError {
        DeviceError::Transport { client_id: self.options.client_id.clone(), source: Box::new(source) }
    }
}
