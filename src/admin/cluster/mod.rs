//! Asking all replicas, so that any of them answers for all.
//!
//! A question goes out on a channel that all listen to, on the connection on which they hear wake-ups anyway; the answers
//! come back on a channel of the one that asked, so that a question costs as much as there are replicas. Nobody has to
//! answer: who asks waits until all that it knows have, or the time is over, and says who was silent. Who has come or gone
//! shows by what is asked: each replica asks all when it begins to listen, and says goodbye when it stops.
//!
//! Messages are sealed with a key that is made of ADMIN_TOKEN and are dated, and a question is answered once: whoever can
//! reach the database can neither read nor make up nor repeat one.

mod answering;
mod receiving;

pub use answering::Answering;

use super::connection::{ConnectionError, LazyConnection};
use super::keys::AdminKeys;
use super::message::{Answer, Asked, Head, Instance, Kind, MessageError, Question, write};
use super::replica::LocalReplica;
use super::report::{Silent, time_of_millis};
use crate::fanout::codec::{NOTIFY, NOTIFY_TYPES};
use crate::store::refused_tokens::{self, RefusedTokensError};
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, error::Elapsed, timeout, timeout_at};

/// The channel that all replicas with an admin port listen to.
const CHANNEL: &str = "mana_sync_admin";
/// How long replicas may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(1_500);
/// How long sending may take.
const SEND_TIMEOUT: Duration = Duration::from_secs(3);
/// A replica that does not answer and has not been heard for so long is forgotten.
const FORGOTTEN: Duration = Duration::from_secs(60);
/// Questions of others that wait, and that are remembered, at most.
const MAX_WAITING: usize = 64;
const MAX_REMEMBERED: usize = 10_000;
/// Bytes that the answers to one question may have, before they are decompressed.
const MAX_ANSWERS: usize = 32 << 20;
/// Bytes of a replica's name that are said.
const MAX_NAME: usize = 128;

/// All replicas with this admin token, as this one can ask them.
#[derive(Clone, Debug)]
pub struct Replicas(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    local: Arc<LocalReplica>,
    keys: Arc<AdminKeys>,
    sending: LazyConnection,
    /// Keeps the tokens that operators refuse.
    keeping: LazyConnection,
    state: Mutex<State>,
    questions: mpsc::Sender<(Head, Asked)>,
    is_listening: AtomicBool,
    listens_anew: Notify,
    /// Whether all have been asked since this replica began to listen: before, others may be there that it does not know.
    is_settled: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    peers: HashMap<Instance, Peer>,
    asked: HashMap<u64, Waiting>,
    /// Questions that were heard, and when.
    heard: HashMap<u64, Instant>,
}

/// Another replica.
#[derive(Clone, Debug)]
struct Peer {
    name: String,
    heard: Instant,
    heard_at: u64,
}

/// A question of ours that is being answered.
#[derive(Debug)]
struct Waiting {
    began: Instant,
    /// Those that have yet to answer, as far as they are known.
    expected: HashMap<Instance, Peer>,
    parts: HashMap<Instance, BTreeMap<u32, Vec<u8>>>,
    bytes: usize,
    answers: Vec<Answered>,
    news: Arc<Notify>,
}

/// One replica's answer.
#[derive(Debug)]
pub struct Answered {
    pub name: String,
    pub answer: Answer,
    /// How long it took; none: it is our own.
    pub took: Option<Duration>,
}

/// What came of a question.
#[derive(Debug, Default)]
pub struct Answers {
    /// Our own first.
    pub answers: Vec<Answered>,
    pub silent: Vec<Silent>,
    /// Why others could not be asked.
    pub problem: Option<AskError>,
}

/// Why a message could not be sent.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error("this replica does not hear the others at the moment: its listener is not connected")]
    Deaf,
    #[error("the other replicas cannot be asked")]
    Connection(#[from] ConnectionError),
    #[error("the other replicas cannot be asked")]
    Database(#[from] tokio_postgres::Error),
    #[error("the other replicas could not be asked in time")]
    Timeout(#[from] Elapsed),
    #[error("a message cannot be written")]
    Message(#[from] MessageError),
}

/// Why the tokens that are refused could not be kept, or not read.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    #[error(transparent)]
    Database(#[from] RefusedTokensError),
    #[error("the database did not answer in time")]
    Timeout(#[from] Elapsed),
}

impl Replicas {
    /// Knows of nobody but this replica yet.
    pub fn new(
        local: Arc<LocalReplica>,
        keys: Arc<AdminKeys>,
        sending: LazyConnection,
        keeping: LazyConnection,
    ) -> (Replicas, Answering) {
        let (sender, questions) = mpsc::channel(MAX_WAITING);
        let replicas = Replicas(Arc::new(Inner {
            local,
            keys,
            sending,
            keeping,
            state: Mutex::default(),
            questions: sender,
            is_listening: AtomicBool::new(false),
            listens_anew: Notify::new(),
            is_settled: AtomicBool::new(false),
        }));
        (replicas.clone(), Answering { replicas, questions })
    }

    /// Keeps that a token is refused until then, in milliseconds since the epoch, for replicas that start later.
    ///
    /// # Errors
    /// It may not be kept.
    pub async fn keep_refused(&self, token_id: &str, until: u64) -> Result<(), KeepError> {
        let client = self.0.keeping.client().await?;
        timeout(SEND_TIMEOUT, refused_tokens::keep(&client, token_id, until)).await??;
        Ok(())
    }

    /// What this replica is called.
    pub fn own_name(&self) -> &str {
        &self.0.local.name
    }

    /// Asks all replicas, or the one of this name.
    pub async fn ask(&self, replica: Option<&str>, question: Question) -> Answers {
        let inner = &self.0;
        let own = async {
            let is_meant = replica.is_none_or(|name| name == inner.local.name);
            if is_meant { Some(inner.local.answer(question.clone()).await) } else { None }
        };
        let asked = Asked { replica: replica.map(str::to_owned), question: question.clone() };
        let (own, mut others) = tokio::join!(own, self.ask_others(&asked));
        if let Some(answer) = own {
            others.answers.insert(0, Answered { name: inner.local.name.clone(), answer, took: None });
        }
        others
    }

    async fn ask_others(&self, asked: &Asked) -> Answers {
        let inner = &self.0;
        if !inner.is_listening.load(Ordering::Relaxed) {
            return Answers { problem: Some(AskError::Deaf), ..Answers::default() };
        }
        let (id, news) = (inner.local.clock.random_u64(), Arc::new(Notify::new()));
        let meant = |(_, peer): &(&Instance, &Peer)| asked.replica.as_ref().is_none_or(|name| *name == peer.name);
        {
            let mut state = inner.state();
            let expected: HashMap<_, _> =
                state.peers.iter().filter(meant).map(|(id, peer)| (*id, peer.clone())).collect();
            let waiting = Waiting {
                began: Instant::now(),
                expected,
                parts: HashMap::new(),
                bytes: 0,
                answers: Vec::new(),
                news: news.clone(),
            };
            state.asked.insert(id, waiting);
        }
        // However this ends, the question is not kept.
        let _forget = Forget { replicas: self, id };
        if let Err(error) = inner.send(CHANNEL, Kind::Question, id, asked).await {
            return Answers { problem: Some(error), ..Answers::default() };
        }
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        loop {
            let all_have = inner.state().asked.get(&id).is_none_or(|waiting| waiting.expected.is_empty());
            let settled = inner.is_settled.load(Ordering::Relaxed);
            if (all_have && settled) || timeout_at(deadline, news.notified()).await.is_err() {
                break;
            }
        }
        let Some(waiting) = inner.state().asked.remove(&id) else { return Answers::default() };
        let silent = inner.silent(&waiting.expected);
        let mut answers = waiting.answers;
        answers.sort_by(|a, b| a.name.cmp(&b.name));
        Answers { answers, silent, problem: None }
    }
}

struct Forget<'a> {
    replicas: &'a Replicas,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.replicas.0.state().asked.remove(&self.id);
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is said of those that have not answered. Who has not been heard for long is told of once.
    fn silent(&self, expected: &HashMap<Instance, Peer>) -> Vec<Silent> {
        let mut state = self.state();
        let mut silent = Vec::new();
        for instance in expected.keys() {
            let Some(peer) = state.peers.get(instance) else { continue };
            let heard_at = time_of_millis(peer.heard_at);
            silent.push(Silent { name: peer.name.clone(), instance: format!("{instance:016x}"), heard_at });
            if peer.heard.elapsed() > FORGOTTEN {
                state.peers.remove(instance);
            }
        }
        silent.sort_by(|a, b| a.name.cmp(&b.name));
        silent
    }

    async fn send(&self, channel: &str, kind: Kind, id: u64, body: &impl Serialize) -> Result<(), AskError> {
        let mut name = self.local.name.clone();
        name.truncate(name.floor_char_boundary(MAX_NAME));
        let head = Head { kind, id, from: self.local.instance, name, at: self.local.clock.millis(), part: 0, parts: 1 };
        let payloads = write(&self.keys, &head, body)?;
        timeout(SEND_TIMEOUT, async {
            let client = self.sending.client().await?;
            let [to, list] = NOTIFY_TYPES;
            client.query_typed(NOTIFY, &[(&channel, to), (&payloads, list)]).await?;
            Ok(())
        })
        .await?
    }
}

/// Where answers to one replica go.
fn own_channel(instance: Instance) -> String {
    format!("{CHANNEL}_{instance:016x}")
}
