//! Answers operators' queries from the answers of all replicas and from the database.

use super::Admin;
use super::cluster::{Answers, AskError};
use super::connection::LazyConnection;
use super::error::AdminError;
use super::message::{Answer, Question};
use super::record;
use super::report::{
    self, Cluster, Database, Device, Load, Log, Record, RefusedToken, RefusedTokens, Replica, ReplicaLoad, Silent,
    Usage, User, time,
};
use crate::db::Session;
use crate::protocol::{Cursor, UserKey};
use crate::store::inspect::{self, Content, StoredDevice, StoredLog};
use std::collections::BTreeMap;
use std::time::Duration;

/// Maximum time for asking the database about itself: the replicas' answers do not wait longer for it.
const STATE_TIMEOUT: Duration = Duration::from_secs(4);
/// Maximum time for reading a user's data, several statements. Clients of the API wait for 20 s.
const READ_TIMEOUT: Duration = Duration::from_secs(15);

impl Admin {
    /// Returns all replicas, and the database.
    pub async fn cluster(&self) -> Cluster {
        let (asked, database) = tokio::join!(self.replicas.ask(None, Question::Status), self.database());
        let mut problems: Vec<String> = problem(&asked).into_iter().collect();
        let mut replicas: Vec<Replica> = Vec::new();
        for answered in asked.answers {
            if let Answer::Status(replica) = answered.answer {
                let answer_seconds = answered.took.map(|took| took.as_secs_f64());
                replicas.push(Replica { answer_seconds, ..*replica });
            }
        }
        let database = database.inspect_err(AdminError::log);
        if asked.problem.is_none() {
            problems.extend(self.strangers(&replicas, &asked.silent));
        }
        let at = time(self.clock.now());
        let problem = (!problems.is_empty()).then(|| problems.join("; "));
        Cluster { at, replicas, silent: asked.silent, problem, database: database.ok() }
    }

    /// Reports replicas that exist and cannot be asked: they have no admin port, or a different token.
    fn strangers(&self, replicas: &[Replica], silent: &[Silent]) -> Option<String> {
        let known = |name: &str| {
            replicas.iter().any(|known| known.name == name) || silent.iter().any(|known| known.name == name)
        };
        let present = self.presence.replicas();
        let strangers: Vec<&str> =
            present.iter().map(|other| other.name.as_str()).filter(|name| !known(name)).collect();
        let are = match strangers.len() {
            0 => return None,
            1 => "cannot be queried: it has",
            _ => "cannot be queried: they have",
        };
        Some(format!("{} {are} no admin port, or a different token", strangers.join(", ")))
    }

    async fn database(&self) -> Result<Database, AdminError> {
        let state = async |client: &Session| Ok(inspect::state(client, self.layout).await?);
        self.reading.within(STATE_TIMEOUT, state).await
    }

    /// Returns the last five minutes of each replica, second by second, newest last.
    pub async fn load(&self) -> Load {
        let asked = self.replicas.ask(None, Question::Load).await;
        let problem = problem(&asked);
        let replicas = asked.answers.into_iter().filter_map(|answered| match answered.answer {
            Answer::Load(seconds) => Some(ReplicaLoad { name: answered.name, seconds }),
            _ => None,
        });
        Load { replicas: replicas.collect(), silent: asked.silent, problem }
    }

    /// Returns the tokens refused anywhere.
    pub async fn refused_tokens(&self) -> RefusedTokens {
        let asked = self.replicas.ask(None, Question::RefusedTokens).await;
        let problem = problem(&asked);
        let mut tokens: BTreeMap<String, String> = BTreeMap::new();
        for answered in asked.answers {
            let Answer::RefusedTokens(refused) = answered.answer else { continue };
            for token in refused {
                let until = tokens.entry(token.token_id).or_default();
                *until = std::cmp::max(std::mem::take(until), token.until);
            }
        }
        let refused_tokens = tokens.into_iter().map(|(token_id, until)| RefusedToken { token_id, until });
        RefusedTokens { refused_tokens: refused_tokens.collect(), silent: asked.silent, problem }
    }

    /// Returns a user, with up to `sessions` sessions per replica. What cannot be found out is reported and omitted.
    pub async fn user(&self, user_id: &str, sessions: usize) -> User {
        let key = UserKey::of(user_id);
        let question = Question::User { user_id: user_id.to_owned(), sessions };
        let (asked, stored) = tokio::join!(self.replicas.ask(None, question), self.stored(key));
        let Stored { logs, devices, problem: of_database } = stored;
        let stored_in_part = of_database.is_some();
        let mut problems: Vec<String> = problem(&asked).into_iter().chain(of_database).collect();
        let contents = || logs.iter().map(|log| log.content);
        let mut user = User {
            user_id: user_id.to_owned(),
            user_key: key.0.to_string(),
            usage: Usage {
                apps: logs.len(),
                changes: contents().map(|content| content.changes).sum(),
                bytes: contents().map(|content| content.bytes).sum(),
                more: contents().any(|content| content.more),
            },
            logs: logs.into_iter().map(log).collect(),
            devices: devices.into_iter().map(device).collect(),
            stored_in_part,
            silent: asked.silent,
            ..User::default()
        };
        for answered in asked.answers {
            let Answer::User(here) = answered.answer else { continue };
            if here.truncated {
                problems.push(format!("{} has more sessions and devices than it could list", answered.name));
            }
            user.sessions_total += here.total;
            for read in here.reads {
                note_read(&mut user.devices, &read.app, &read.device, read.until, read.at);
            }
            user.sessions.extend(here.sessions);
        }
        user.sessions.sort_by(|a, b| b.since.cmp(&a.since));
        for session in &user.sessions {
            note_session(&mut user.devices, session);
        }
        user.devices.truncate(inspect::MAX_DEVICES);
        user.problem = (!problems.is_empty()).then(|| problems.join("; "));
        user
    }

    /// Returns a connection to the database or bucket with a user's logs.
    fn reading_of(&self, user: UserKey) -> &LazyConnection {
        // A bucket's number is below the number of buckets; without buckets, everything is in the main schema.
        self.buckets.get(self.layout.bucket_of(user)).unwrap_or(&self.reading)
    }

    /// Reads a user's data from the database. What it returns in time counts, even if it is incomplete.
    async fn stored(&self, user: UserKey) -> Stored {
        let mut stored = Stored::default();
        if let Err(error) = self.read_stored(user, &mut stored).await {
            error.log();
            stored.problem = Some(error.message());
        }
        stored
    }

    async fn read_stored(&self, user: UserKey, stored: &mut Stored) -> Result<(), AdminError> {
        let read = async |client: &Session| {
            stored.logs = inspect::logs(client, user).await?;
            inspect::count(client, user, &mut stored.logs).await?;
            stored.devices = inspect::devices(client, user, stored.logs.len()).await?;
            Ok(())
        };
        self.reading_of(user).within(READ_TIMEOUT, read).await
    }

    /// Returns a record, with its history.
    pub async fn record(&self, user_id: &str, app: &str, table: &str, id: &str) -> Result<Record, AdminError> {
        let log = crate::protocol::Log::new(user_id.into(), app);
        let read = async |client: &Session| Ok::<_, AdminError>(inspect::record(client, &log, table, id).await?);
        let (changes, truncated) = self.reading_of(log.user).within(READ_TIMEOUT, read).await?;
        let length = |text: &str| text.len();
        let bytes = changes.iter().map(|logged| logged.change.data.as_deref().map_or(0, length)).sum();
        let (fields, history) = self.heavy.run(bytes, || record::explain(&changes)).await?;
        let is_set = |field: &super::report::Field| field.name == "deletedAt" && !field.value.is_null();
        Ok(Record {
            user_id: user_id.to_owned(),
            app: app.to_owned(),
            table: table.to_owned(),
            id: id.to_owned(),
            deleted: fields.iter().any(is_set),
            fields,
            history,
            truncated,
        })
    }
}

/// A user's data in the database, and why it may be incomplete.
#[derive(Default)]
struct Stored {
    logs: Vec<StoredLog>,
    devices: Vec<StoredDevice>,
    problem: Option<String>,
}

/// Returns why not all replicas were asked, for people.
pub(super) fn problem(asked: &Answers) -> Option<String> {
    let error = asked.problem.as_ref()?;
    if !matches!(error, AskError::Deaf) {
        tracing::warn!(error = error as &dyn std::error::Error, "cannot query the other replicas");
    }
    Some(error.to_string())
}

fn log(log: StoredLog) -> Log {
    let StoredLog { app, head, content, .. } = log;
    let Content { changes, bytes, tables, more } = content;
    Log { app, head: Cursor::after(head).to_string(), changes, bytes, tables, more }
}

fn device(stored: StoredDevice) -> Device {
    Device {
        app: stored.app,
        device: stored.device,
        changes: stored.changes,
        pushed_at: Some(Cursor::after(stored.pushed).to_string()),
        ..Device::default()
    }
}

/// Devices that have only read are listed as well.
fn entry<'a>(devices: &'a mut Vec<Device>, app: &str, name: &str) -> &'a mut Device {
    let known = devices.iter().position(|device| device.app == app && device.device == name);
    let index = known.unwrap_or_else(|| {
        devices.push(Device { app: app.to_owned(), device: name.to_owned(), ..Device::default() });
        devices.len() - 1
    });
    &mut devices[index]
}

/// The last report counts, not the furthest: a device may have lost its database.
fn note_read(devices: &mut Vec<Device>, app: &str, name: &str, until: String, at: String) {
    let device = entry(devices, app, name);
    if device.read_at.as_ref().is_none_or(|known| *known < at) {
        device.read_until = Some(until);
        device.read_at = Some(at);
    }
}

fn note_session(devices: &mut Vec<Device>, session: &report::Session) {
    let Some(name) = &session.device else { return };
    match &session.app {
        Some(app) => entry(devices, app, name).sessions += 1,
        None => devices.iter_mut().filter(|device| device.device == *name).for_each(|device| device.sessions += 1),
    }
    if let (Some(app), Some(until), Some(at)) = (&session.app, &session.read_until, &session.read_at) {
        note_read(devices, app, name, until.clone(), at.clone());
    }
}
