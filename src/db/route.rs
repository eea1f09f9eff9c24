//! Equivalent servers, one of which is preferred: the workers of a Citus cluster.

use super::connect::{Connector, Driver, while_driven};
use super::error::ConnectError;
use super::identity::{Admitted, identity};
use crate::telemetry::throttle::Throttle;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::Client;

/// How long to wait for one server before the next is tried as well.
const STAGGER: Duration = Duration::from_millis(250);
/// Time limit for a probe of the preferred server.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// Initial pause between probes, and how often it doubles.
const PROBE_PAUSE: Duration = Duration::from_secs(2);
const PROBE_DOUBLINGS: u32 = 5;
/// Minimum time between warnings that connections lead elsewhere.
const WARNING_PAUSE: Duration = Duration::from_secs(60);

/// Where a pool's connections lead. Clones share the preferred server.
#[derive(Clone)]
pub(super) struct Route {
    connectors: Arc<[Connector]>,
    /// What each server's URL may lead to.
    admitted: Arc<[Mutex<Admitted>]>,
    best: Arc<AtomicUsize>,
    /// How often connections that lead to another server became needless.
    generation: Arc<AtomicU64>,
    /// True if a connection was made to another server than the preferred one.
    has_strayed: Arc<AtomicBool>,
    /// Number of probes since a connection to the preferred server was made, and the time of the next.
    probes: Arc<AtomicU32>,
    next_probe: Arc<Mutex<Option<Instant>>>,
}

/// A new connection.
pub(super) struct Connected {
    pub(super) client: Client,
    pub(super) driver: Driver,
    pub(super) origin: Origin,
}

/// Where a connection leads, and since when.
#[derive(Clone, Debug)]
pub(super) struct Origin {
    /// The server's index.
    pub(super) server: usize,
    /// The server's identity, if its URL may only lead to one.
    identity: Option<Arc<str>>,
    generation: u64,
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Route").field("connectors", &self.connectors).finish_non_exhaustive()
    }
}

impl Route {
    /// Creates a route over these servers, which must not be empty; the first is preferred until another one is set.
    pub(super) fn new(connectors: Vec<Connector>) -> Route {
        Route {
            admitted: connectors.iter().map(|_| Mutex::new(Admitted::Any)).collect(),
            connectors: connectors.into(),
            best: Arc::default(),
            generation: Arc::default(),
            has_strayed: Arc::default(),
            probes: Arc::default(),
            next_probe: Arc::default(),
        }
    }

    /// Returns all servers.
    pub(super) fn connectors(&self) -> &[Connector] {
        &self.connectors
    }

    /// Sets what a server's URL may lead to.
    pub(super) fn admit(&self, server: usize, admitted: Admitted) {
        if let Some(current) = self.admitted.get(server) {
            *current.lock().unwrap_or_else(PoisonError::into_inner) = admitted;
        }
    }

    fn admitted(&self, server: usize) -> Admitted {
        let admitted =
            self.admitted.get(server).map(|admitted| admitted.lock().unwrap_or_else(PoisonError::into_inner));
        admitted.map_or(Admitted::Nobody, |admitted| admitted.clone())
    }

    /// Returns true if a server may be used.
    pub(super) fn is_usable(&self, server: usize) -> bool {
        !matches!(self.admitted(server), Admitted::Nobody)
    }

    /// Returns true if a connection may still be used: it leads where its server's URL may lead, and not needlessly to
    /// another server than the preferred one.
    pub(super) fn suits(&self, origin: &Origin) -> bool {
        self.admits(origin)
            && (origin.server == self.best.load(Ordering::Relaxed)
                || origin.generation == self.generation.load(Ordering::Relaxed))
    }

    fn admits(&self, origin: &Origin) -> bool {
        match self.admitted(origin.server) {
            Admitted::Any => true,
            Admitted::Only(expected) => origin.identity == Some(expected),
            Admitted::Nobody => false,
        }
    }

    /// Sets the preferred server. Returns true if open connections may lead elsewhere needlessly: another server was
    /// preferred before, or this one could not be reached and now can be. An unreachable one is probed again with
    /// growing pauses.
    pub(super) async fn prefer(&self, best: usize) -> bool {
        if self.best.swap(best, Ordering::Relaxed) != best {
            self.has_strayed.store(false, Ordering::Relaxed);
            self.note_reached();
            self.generation.fetch_add(1, Ordering::Relaxed);
            return true;
        }
        if !self.has_strayed.load(Ordering::Relaxed) || !self.is_usable(best) || !self.is_probe_due() {
            return false;
        }
        let is_back = matches!(timeout(PROBE_TIMEOUT, self.ask(best)).await, Ok((_, Ok(_))));
        if is_back {
            self.has_strayed.store(false, Ordering::Relaxed);
            self.generation.fetch_add(1, Ordering::Relaxed);
        }
        is_back
    }

    /// Returns true if a probe of the preferred server is due, and then schedules the next.
    fn is_probe_due(&self) -> bool {
        let mut next = self.next_probe.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if next.is_some_and(|next| now < next) {
            return false;
        }
        let probes = self.probes.fetch_add(1, Ordering::Relaxed);
        *next = Some(now + PROBE_PAUSE * 2_u32.pow(probes.min(PROBE_DOUBLINGS)));
        true
    }

    /// Records that a connection to the preferred server was made.
    fn note_reached(&self) {
        self.probes.store(0, Ordering::Relaxed);
        *self.next_probe.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Records that a connection to another server was made, and the preferred server's error, if any.
    fn note_strayed(&self, best: usize, error: Option<&ConnectError>) {
        self.has_strayed.store(true, Ordering::Relaxed);
        if !self.is_usable(best) {
            // The reason is known.
            return;
        }
        // The pools of all buckets lead to the same servers: one line for all of them.
        static LINE: Throttle = Throttle::every(WARNING_PAUSE);
        if let Some(unwritten) = LINE.is_due() {
            let (place, error) = (best + 1, error.map(|error| error as &dyn std::error::Error));
            tracing::warn!(
                place,
                error,
                unwritten,
                "the server at this place in DATABASE_WORKER_URLS is slow or does not answer; another one forwards its statements"
            );
        }
    }

    /// Connects to the preferred server, or to another one if it does not answer.
    ///
    /// # Errors
    /// No server is usable; returns the preferred one's error.
    pub(super) async fn connect(&self) -> Result<Connected, ConnectError> {
        let count = self.connectors.len();
        let best = self.best.load(Ordering::Relaxed);
        let order: Vec<usize> = (0..count).map(|at| (best + at) % count).filter(|at| self.is_usable(*at)).collect();
        let mut left = order.into_iter().map(|at| self.ask(at));
        let mut asked: FuturesUnordered<_> = left.next().into_iter().collect();
        let mut said = None;
        loop {
            tokio::select! {
                answer = asked.next() => match answer {
                    // It was forbidden meanwhile.
                    Some((_, Ok(connected))) if !self.admits(&connected.origin) => asked.extend(left.next()),
                    Some((at, Ok(connected))) => {
                        match at == best {
                            true => self.note_reached(),
                            false => self.note_strayed(best, said.as_ref()),
                        }
                        return Ok(connected);
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

    async fn ask(&self, at: usize) -> (usize, Result<Connected, ConnectError>) {
        let connecting = async {
            let connector = self.connectors.get(at).ok_or(ConnectError::NoPrimary)?;
            let generation = self.generation.load(Ordering::Relaxed);
            let (client, mut driver) = connector.connect().await?;
            let proving = timeout(PROBE_TIMEOUT, self.prove(at, &client, &mut driver));
            let identity = proving.await.map_err(|_| ConnectError::Timeout)??;
            Ok(Connected { client, driver, origin: Origin { server: at, identity, generation } })
        };
        (at, connecting.await)
    }

    /// Checks that a connection leads to the server that was admitted, whatever its URL leads to by now. If not, its
    /// URL is no longer used.
    async fn prove(&self, at: usize, client: &Client, driver: &mut Driver) -> Result<Option<Arc<str>>, ConnectError> {
        let Admitted::Only(expected) = self.admitted(at) else { return Ok(None) };
        if while_driven(driver, identity(client)).await?.as_deref() == Some(&*expected) {
            return Ok(Some(expected));
        }
        if self.admitted(at) == Admitted::Only(expected) {
            self.admit(at, Admitted::Nobody);
        }
        Err(ConnectError::OtherServer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    /// Unreachable servers: nothing listens on their ports.
    fn unreachable_servers() -> Route {
        let url = Secret::from("postgres://nobody@127.0.0.1:1/none");
        Route::new((0..2).map(|_| Connector::new(&url, "test").unwrap()).collect())
    }

    #[tokio::test]
    async fn what_is_open_is_kept_while_the_best_cannot_be_reached_which_is_looked_at_less_and_less_often() {
        let route = unreachable_servers();
        assert!(!route.prefer(0).await, "it was the best from the beginning");
        assert!(route.prefer(1).await, "another one is");
        assert!(!route.prefer(1).await, "nothing was led elsewhere");
        route.note_strayed(1, None);
        assert!(!route.prefer(1).await, "it does not answer");
        assert_eq!(route.probes.load(Ordering::Relaxed), 1);
        assert!(!route.prefer(1).await);
        assert_eq!(route.probes.load(Ordering::Relaxed), 1, "nor was it asked again so soon");
        let next = || *route.next_probe.lock().unwrap();
        for probes in 2..9 {
            *route.next_probe.lock().unwrap() = Some(Instant::now());
            assert!(!route.prefer(1).await);
            let pause = next().unwrap() - Instant::now();
            let most = PROBE_PAUSE * 2_u32.pow(PROBE_DOUBLINGS.min(probes - 1));
            assert!(pause <= most && pause > most / 2, "{probes}: {pause:?}");
        }
        assert!(route.prefer(0).await, "and another one is followed at once");
        assert_eq!(next(), None);
    }

    #[tokio::test]
    async fn a_server_that_may_not_be_used_is_not_asked() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = Secret::from(format!("postgres://nobody@{}/none", listener.local_addr().unwrap()).as_str());
        let nowhere = Secret::from("postgres://nobody@127.0.0.1:1/none");
        let route = Route::new([url, nowhere].iter().map(|url| Connector::new(url, "test").unwrap()).collect());
        route.admit(0, Admitted::Nobody);
        assert!(route.connect().await.is_err(), "the other one cannot be reached");
        route.admit(1, Admitted::Nobody);
        assert!(matches!(route.connect().await, Err(ConnectError::NoPrimary)));
        let asked = tokio::time::timeout(Duration::from_millis(1), listener.accept()).await;
        assert!(asked.is_err(), "it was asked");
        route.admit(0, Admitted::Any);
        let (_, asked) = tokio::join!(timeout(Duration::from_secs(5), route.connect()), listener.accept());
        assert!(asked.is_ok());
    }
}
