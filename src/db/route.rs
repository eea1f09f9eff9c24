//! Servers that take the same statements, of which one does it best: the workers of a Citus cluster.

use super::connect::{Connector, Driver};
use super::error::ConnectError;
use crate::telemetry::throttle::Throttle;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::Client;

/// How long one server is waited for alone before the next is asked as well.
const STAGGER: Duration = Duration::from_millis(250);
/// How long the best is given to show that it can be reached again.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// Pauses between such looks: the first, and how often it doubles.
const PROBE_PAUSE: Duration = Duration::from_secs(2);
const PROBE_DOUBLINGS: u32 = 5;
/// How often a log says that connections lead elsewhere.
const WARNING_PAUSE: Duration = Duration::from_secs(60);

/// Where a pool's connections lead. Clones share which server is the best.
#[derive(Clone)]
pub(super) struct Route {
    connectors: Arc<[Connector]>,
    /// Which of them may be used.
    usable: Arc<[AtomicBool]>,
    best: Arc<AtomicUsize>,
    /// Whether a connection was made to another than the best.
    has_strayed: Arc<AtomicBool>,
    /// How often the best was looked at since one was made to it, and when it is looked at again.
    probes: Arc<AtomicU32>,
    next_probe: Arc<Mutex<Option<Instant>>>,
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Route").field("connectors", &self.connectors).finish_non_exhaustive()
    }
}

impl Route {
    /// One of these, of which there must be some; the first is the best until another is said to be.
    pub(super) fn new(connectors: Vec<Connector>) -> Route {
        Route {
            usable: connectors.iter().map(|_| AtomicBool::new(true)).collect(),
            connectors: connectors.into(),
            best: Arc::default(),
            has_strayed: Arc::default(),
            probes: Arc::default(),
            next_probe: Arc::default(),
        }
    }

    /// All of them.
    pub(super) fn connectors(&self) -> &[Connector] {
        &self.connectors
    }

    /// Says whether a server may be used.
    pub(super) fn set_usable(&self, server: usize, is_usable: bool) {
        if let Some(usable) = self.usable.get(server) {
            usable.store(is_usable, Ordering::Relaxed);
        }
    }

    fn is_usable(&self, server: usize) -> bool {
        self.usable.get(server).is_some_and(|usable| usable.load(Ordering::Relaxed))
    }

    /// Says which is the best. Whether what is open leads elsewhere and need not: it was another, or could not be reached and
    /// now can be. One that cannot is looked at again, less and less often.
    pub(super) async fn prefer(&self, best: usize) -> bool {
        if self.best.swap(best, Ordering::Relaxed) != best {
            self.has_strayed.store(false, Ordering::Relaxed);
            self.note_reached();
            return true;
        }
        if !self.has_strayed.load(Ordering::Relaxed) || !self.is_usable(best) || !self.is_probe_due() {
            return false;
        }
        let is_back = matches!(timeout(PROBE_TIMEOUT, self.ask(best)).await, Ok((_, Ok(_))));
        if is_back {
            self.has_strayed.store(false, Ordering::Relaxed);
        }
        is_back
    }

    /// Whether it is time to look at the best; then, when the next time is.
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

    /// A connection was made to the best.
    fn note_reached(&self) {
        self.probes.store(0, Ordering::Relaxed);
        *self.next_probe.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// A connection was made to another; what the best said, if it said something.
    fn note_strayed(&self, best: usize, error: Option<&ConnectError>) {
        self.has_strayed.store(true, Ordering::Relaxed);
        if !self.is_usable(best) {
            // Why is known.
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
                "the server in this place of DATABASE_WORKER_URLS does not answer, or slowly; another one takes what is for it, and passes it on"
            );
        }
    }

    /// Connects to the best, or to another if it does not answer; which it was.
    ///
    /// # Errors
    /// None can be used; what the best said.
    pub(super) async fn connect(&self) -> Result<(usize, Client, Driver), ConnectError> {
        let count = self.connectors.len();
        let best = self.best.load(Ordering::Relaxed);
        let order: Vec<usize> = (0..count).map(|at| (best + at) % count).filter(|at| self.is_usable(*at)).collect();
        let mut left = order.into_iter().map(|at| self.ask(at));
        let mut asked: FuturesUnordered<_> = left.next().into_iter().collect();
        let mut said = None;
        loop {
            tokio::select! {
                answer = asked.next() => match answer {
                    Some((at, Ok((client, driver)))) => {
                        match at == best {
                            true => self.note_reached(),
                            false => self.note_strayed(best, said.as_ref()),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    /// Servers that nobody can reach: nothing listens on their ports.
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
        route.set_usable(0, false);
        assert!(route.connect().await.is_err(), "the other one cannot be reached");
        route.set_usable(1, false);
        assert!(matches!(route.connect().await, Err(ConnectError::NoPrimary)));
        let asked = tokio::time::timeout(Duration::from_millis(1), listener.accept()).await;
        assert!(asked.is_err(), "it was asked");
        route.set_usable(0, true);
        let (_, asked) = tokio::join!(timeout(Duration::from_millis(500), route.connect()), listener.accept());
        assert!(asked.is_ok());
    }
}
