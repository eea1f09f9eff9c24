//! Servers that take the same statements, of which one does it best: the workers of a Citus cluster.

use super::connect::{Connector, Driver};
use super::error::ConnectError;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::sleep;
use tokio_postgres::Client;

/// How long one server is waited for alone before the next is asked as well.
const STAGGER: Duration = Duration::from_millis(250);

/// Where a pool's connections lead. Clones share which server is the best.
#[derive(Clone)]
pub(super) struct Route {
    connectors: Arc<[Connector]>,
    best: Arc<AtomicUsize>,
    /// Whether a connection was made to another than the best.
    has_strayed: Arc<AtomicBool>,
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Route").field("connectors", &self.connectors).finish_non_exhaustive()
    }
}

impl Route {
    /// One of these, of which there must be some; the first is the best until another is said to be.
    pub(super) fn new(connectors: Vec<Connector>) -> Route {
        Route { connectors: connectors.into(), best: Arc::default(), has_strayed: Arc::default() }
    }

    /// All of them.
    pub(super) fn connectors(&self) -> &[Connector] {
        &self.connectors
    }

    /// Says which is the best. Whether what is open may lead elsewhere: it was another, or could not be reached.
    pub(super) fn prefer(&self, best: usize) -> bool {
        let was_other = self.best.swap(best, Ordering::Relaxed) != best;
        self.has_strayed.swap(false, Ordering::Relaxed) || was_other
    }

    /// Connects to the best, or to another if it does not answer; which it was.
    ///
    /// # Errors
    /// None can be used; what the best said.
    pub(super) async fn connect(&self) -> Result<(usize, Client, Driver), ConnectError> {
        let count = self.connectors.len();
        let best = self.best.load(Ordering::Relaxed);
        let mut left = (0..count).map(|at| self.ask((best + at) % count));
        let mut asked: FuturesUnordered<_> = left.next().into_iter().collect();
        let mut said = None;
        loop {
            tokio::select! {
                answer = asked.next() => match answer {
                    Some((at, Ok((client, driver)))) => {
                        if at != best {
                            self.has_strayed.store(true, Ordering::Relaxed);
                        }
                        return Ok((at, client, driver));
                    }
                    Some((at, Err(error))) => {
                        if at == best || said.is_none() {
                            said = Some(error);
                        }
                        asked.extend(left.next());
                    }
                    None => return Err(said.unwrap_or(ConnectError::NoPrimary)),
                },
                () = sleep(STAGGER), if left.len() > 0 => asked.extend(left.next()),
            }
        }
    }

    async fn ask(&self, at: usize) -> (usize, Result<(Client, Driver), ConnectError>) {
        match self.connectors.get(at) {
            Some(connector) => (at, connector.connect().await),
            None => (at, Err(ConnectError::NoPrimary)),
        }
    }
}
