//! The participants, and what they were promised: every acknowledged push, verified at the end.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::http::HeaderValue;

use crate::engine::Failure;
use crate::protocol::BEGINNING;
use crate::token::{TokenError, TokenMint};

/// The app that is written to.
pub const APP: &str = "load";
/// The table that is written to.
pub const TABLE: &str = "items";
/// Longer than any run; an expired token would be reported as a lost connection.
const TOKEN_TTL: Duration = Duration::from_secs(24 * 3600);

/// A user with all devices.
pub struct User {
    /// The token's `sub`.
    pub id: String,
    /// The token.
    pub token: String,
    /// The Authorization header with the token.
    pub authorization: HeaderValue,
    /// Each has one request in flight at a time, like real devices.
    pub devices: Vec<tokio::sync::Mutex<Position>>,
    ledger: Mutex<Ledger>,
}

/// A device's position.
pub struct Position {
    /// The value of X-Client-Id.
    pub name: HeaderValue,
    /// The cursor up to which it has read.
    pub cursor: String,
}

/// A user's pushes by number; a push's number is in the ids of its records.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    /// Answered with 200: the number of changes of each.
    pub acknowledged: BTreeMap<u64, usize>,
    /// Given up without a conclusive answer: they may or may not be stored.
    pub unknown: BTreeMap<u64, usize>,
    /// The time when each push was sent, in order.
    pub sent: Vec<Instant>,
    /// When the latest acknowledged push was sent.
    pub latest_acknowledged: Option<Instant>,
}

impl User {
    /// Returns the pushes of its devices.
    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        lock(&self.ledger)
    }
}

/// All participants.
pub struct Population {
    /// The users, in order.
    pub users: Vec<Arc<User>>,
    /// When each push was sent, by its number.
    sent: Mutex<Vec<Instant>>,
}

/// The reasons why there are no users.
#[derive(Debug, thiserror::Error)]
pub enum PopulationError {
    /// No token for the users.
    #[error("no token for the users")]
    Token(#[from] TokenError),
    /// A token or a name cannot be sent in a header.
    #[error("a token or a name cannot be sent in a header")]
    Header(#[from] hyper::http::header::InvalidHeaderValue),
    /// There are fewer tokens than users.
    #[error("there are {found} tokens, and the scenario has {wanted} users")]
    Tokens {
        /// The number of tokens.
        found: usize,
        /// The number of users.
        wanted: usize,
    },
}

/// The source of tokens.
#[derive(Clone)]
pub enum Tokens {
    /// Signed here; users get fresh names in each run, so that nobody has existing data.
    Minted(TokenMint),
    /// Given, one for each user.
    Given(Vec<String>),
}

impl Population {
    /// Creates this many users with this many devices each.
    pub fn new(tokens: &Tokens, count: usize, devices: usize) -> Result<Self, PopulationError> {
        let run = uuid::Uuid::new_v4().simple().to_string();
        let mut users = Vec::with_capacity(count);
        for number in 0..count {
            let id = format!("load-{}-{number}", &run[..8]);
            let token = match tokens {
                Tokens::Minted(mint) => mint.token(&id, TOKEN_TTL)?,
                Tokens::Given(all) => {
                    all.get(number).cloned().ok_or(PopulationError::Tokens { found: all.len(), wanted: count })?
                }
            };
            let device = |device: usize| {
                let name = HeaderValue::from_str(&format!("{id}-device-{device}"))?;
                Ok::<_, PopulationError>(tokio::sync::Mutex::new(Position { name, cursor: BEGINNING.to_owned() }))
            };
            users.push(Arc::new(User {
                authorization: HeaderValue::from_str(&format!("Bearer {token}"))?,
                devices: (0..devices).map(device).collect::<Result<_, _>>()?,
                ledger: Mutex::default(),
                id,
                token,
            }));
        }
        Ok(Self { users, sent: Mutex::default() })
    }

    /// Takes the next number for a push that is sent now.
    pub fn next_push(&self, user: &User) -> u64 {
        let now = Instant::now();
        user.ledger().sent.push(now);
        let mut sent = lock(&self.sent);
        sent.push(now);
        sent.len() as u64 - 1
    }

    /// Returns when the push with this number was sent.
    pub fn sent_at(&self, number: u64) -> Option<Instant> {
        lock(&self.sent).get(usize::try_from(number).ok()?).copied()
    }

    /// Records the outcome of a push.
    pub fn ended(&self, user: &User, number: u64, changes: usize, outcome: &Result<Bytes, Failure>) {
        let sent = self.sent_at(number);
        let mut ledger = user.ledger();
        match outcome {
            Ok(_) => {
                ledger.acknowledged.insert(number, changes);
                ledger.latest_acknowledged = ledger.latest_acknowledged.max(sent);
            }
            // Nothing of a push that was refused as invalid is stored.
            Err(Failure::Status { status: 400..=428, .. }) => {}
            Err(_) => {
                ledger.unknown.insert(number, changes);
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // The guarded value is consistent after every statement.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
