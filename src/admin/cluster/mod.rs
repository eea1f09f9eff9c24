//! Asks all replicas, so that any replica can answer for the whole cluster.
//!
//! A question is sent on a channel that all replicas listen to, on the connection that receives wake-ups; the answers
//! come back on a channel of the asking replica, so the cost of a question grows with the number of replicas. No
//! replica has to answer: the asking one waits until all known replicas have, or the time is up, and reports which were
//! silent. Replicas learn about each other from questions: each asks all when it begins to listen, and says goodbye
//! when it stops.
//!
//! Messages are encrypted with a key derived from ADMIN_TOKEN and dated, and a question is answered only once: anyone
//! else who can reach the database can neither read, forge nor replay one.

mod answering;
mod peers;
mod receiving;

pub use answering::Answering;

use super::connection::{ConnectionError, LazyConnection};
use super::keys::AdminKeys;
use super::message::{Answer, Asked, Head, Instance, Kind, MessageError, Question, write};
use super::replica::LocalReplica;
use super::report::{Silent, time_of_millis};
use crate::db::Session;
use crate::fanout::codec::{NOTIFY, NOTIFY_TYPES};
use crate::store::refused_tokens::{self, RefusedTokensError};
use peers::{Peer, Unanswered, unanswered};
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, timeout_at};

/// The channel that all replicas with an admin port listen to.
const CHANNEL: &str = "mana_sync_admin";
/// Maximum time for replicas to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(1_500);
/// Maximum time for sending.
const SEND_TIMEOUT: Duration = Duration::from_secs(3);
/// Maximum number of other replicas' questions that wait, and that are remembered.
const MAX_WAITING: usize = 64;
const MAX_REMEMBERED: usize = 10_000;
/// Maximum size of all answers to one question, before decompression, in bytes.
const MAX_ANSWERS: usize = 32 << 20;

/// All replicas with this admin token, as this one can reach them.
#[derive(Clone, Debug)]
pub struct Replicas(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    local: Arc<LocalReplica>,
    keys: Arc<AdminKeys>,
    sending: LazyConnection,
    /// Stores the tokens that operators refuse.
    keeping: LazyConnection,
    state: Mutex<State>,
    questions: mpsc::Sender<(Head, Asked)>,
    is_listening: AtomicBool,
    listens_anew: Notify,
    /// A question was not heeded, which may have been to refuse a token.
    missed: Notify,
    /// True once all have been asked since this replica began to listen; before that, there may be replicas it does not
    /// know.
    is_settled: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    peers: HashMap<Instance, Peer>,
    asked: HashMap<u64, Waiting>,
    /// Questions that were received, and when.
    heard: HashMap<u64, Instant>,
}

/// One of our questions, while it is being answered.
#[derive(Debug)]
struct Waiting {
    began: Instant,
    /// The known replicas that have yet to answer.
    expected: HashMap<Instance, Peer>,
    parts: HashMap<Instance, BTreeMap<u32, Vec<u8>>>,
    bytes: usize,
    answers: Vec<Answered>,
    news: Arc<Notify>,
}

/// The answer of one replica.
#[derive(Debug)]
pub struct Answered {
    pub name: String,
    pub answer: Answer,
    /// The time it took; none for our own.
    pub took: Option<Duration>,
}

/// The outcome of a question.
#[derive(Debug, Default)]
pub struct Answers {
    /// Our own first.
    pub answers: Vec<Answered>,
    pub silent: Vec<Silent>,
    /// Why others could not be asked.
    pub problem: Option<AskError>,
}

/// The reasons why a message could not be sent.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error("this replica cannot hear the others at the moment: its listener is not connected")]
    Deaf,
    #[error("cannot query the other replicas")]
    Connection(#[from] ConnectionError),
    #[error("cannot query the other replicas")]
    Database(#[from] tokio_postgres::Error),
    #[error("a message cannot be encoded")]
    Message(#[from] MessageError),
}

/// The reasons why refused tokens could not be stored or read.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    #[error(transparent)]
    Database(#[from] RefusedTokensError),
}

impl Replicas {
    /// Creates a state that knows only this replica.
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
            missed: Notify::new(),
            is_settled: AtomicBool::new(false),
        }));
        (replicas.clone(), Answering { replicas, questions })
    }

    /// Stores that a token is refused until then, in milliseconds since the epoch, for replicas that start later.
    ///
    /// # Errors
    /// It may not have been stored.
    pub async fn keep_refused(&self, token_id: &str, until: u64) -> Result<(), KeepError> {
        let keep = async |client: &Session| Ok(refused_tokens::keep(client, token_id, until).await?);
        self.0.keeping.within(SEND_TIMEOUT, keep).await
    }

    /// Removes a refused token from those that are stored.
    ///
    /// # Errors
    /// It may still be stored.
    pub async fn keep_accepted(&self, token_id: &str) -> Result<(), KeepError> {
        let accept = async |client: &Session| Ok(refused_tokens::accept(client, token_id).await?);
        self.0.keeping.within(SEND_TIMEOUT, accept).await
    }

    /// Returns this replica's name.
    pub fn own_name(&self) -> &str {
        &self.0.local.name
    }

    /// Asks all replicas, or the one with this name.
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
        // However this ends, the question is forgotten.
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

    /// Reports the replicas that have not answered.
    fn silent(&self, expected: &HashMap<Instance, Peer>) -> Vec<Silent> {
        let now = self.local.clock.millis();
        let reported = |name: &str| self.local.last_heard(name);
        let unanswered = unanswered(&mut self.state().peers, expected, Instant::now(), reported);
        let silent = |Unanswered { name, instance, heard_ago }| Silent {
            name,
            instance: format!("{instance:016x}"),
            heard_at: time_of_millis(now.saturating_sub(heard_ago.as_millis() as u64)),
        };
        unanswered.into_iter().map(silent).collect()
    }

    async fn send(&self, channel: &str, kind: Kind, id: u64, body: &impl Serialize) -> Result<(), AskError> {
        let name = self.local.name.clone();
        let head = Head { kind, id, from: self.local.instance, name, at: self.local.clock.millis(), part: 0, parts: 1 };
        let payloads = write(&self.keys, &head, body)?;
        let send = async |client: &Session| {
            let [to, list] = NOTIFY_TYPES;
            client.query_typed(NOTIFY, &[(&channel, to), (&payloads, list)]).await?;
            Ok(())
        };
        self.sending.within(SEND_TIMEOUT, send).await
    }
}

/// Returns the channel for answers to one replica.
fn own_channel(instance: Instance) -> String {
    format!("{CHANNEL}_{instance:016x}")
}
