//! Workers take arrivals and execute what is drawn for them: pushes and pulls, each of a random user.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::Mutex;
use tokio::sync::mpsc::UnboundedReceiver;

use super::arrivals::Arrival;
use super::file::{Event, Kind, Share};
use super::population::{APP, Population, Position, TABLE, User};
use crate::engine::client::Call;
use crate::engine::device::position;
use crate::engine::push_body::Shape;
use crate::engine::{Client, Failure, push_body::PushBody};
use crate::protocol::BEGINNING;
use crate::report::{OperationId, Recorder};

/// The pause before a request is retried, unless the answer asks for a longer one.
const PAUSE: Duration = Duration::from_millis(20);

/// A task, with its name in the report.
struct Task {
    share: Share,
    operation: OperationId,
    body: PushBody,
}

/// The state shared by all workers.
pub struct Shared {
    pub population: Arc<Population>,
    pub recorder: Arc<Recorder>,
    pub mix: Vec<Share>,
    pub timeout: Duration,
}

/// A task with at most one request in flight.
pub struct Worker {
    shared: Arc<Shared>,
    recorder: crate::report::Worker,
    client: Client,
    rng: StdRng,
    tasks: Vec<Task>,
    weights: f64,
    wake: Option<Task>,
}

type Arriving = Arc<Mutex<UnboundedReceiver<Arrival>>>;

impl Worker {
    pub fn new(shared: &Arc<Shared>, client: Client, seed: u64) -> Self {
        let task = |share: &Share| {
            Some(Task {
                operation: shared.recorder.operation(&share.name())?,
                body: PushBody::new("by-header", TABLE, share.changes, Shape::Mixed),
                share: share.clone(),
            })
        };
        Self {
            recorder: shared.recorder.worker(),
            client,
            rng: StdRng::seed_from_u64(seed),
            tasks: shared.mix.iter().filter_map(task).collect(),
            weights: shared.mix.iter().map(|share| share.weight).sum(),
            wake: task(&Share { operation: Kind::Push, changes: 1, weight: 0.0 }),
            shared: shared.clone(),
        }
    }

    /// Takes arrivals until there are no more.
    pub async fn run(mut self, arriving: Arriving, event: Event) -> Self {
        loop {
            let mut receiver = arriving.lock().await;
            let (arrival, waited) = match receiver.try_recv() {
                Ok(arrival) => (arrival, false),
                Err(_) => match receiver.recv().await {
                    Some(arrival) => (arrival, true),
                    None => return self,
                },
            };
            drop(receiver);
            // If this worker was free, the time since the arrival's time is the generator's own lateness; if all were
            // busy, it is the server's, and only part of the latency.
            let sent = if waited { Instant::now() } else { arrival.released };
            self.serve(arrival, sent - arrival.intended, event).await;
        }
    }

    async fn serve(&mut self, arrival: Arrival, lateness: Duration, event: Event) {
        let shared = self.shared.clone();
        let users = &shared.population.users;
        let (user, task) = match event {
            Event::WakeAll => {
                let Ok(number) = usize::try_from(arrival.number) else { return };
                let Some(user) = users.get(number) else { return };
                (user, self.tasks.len())
            }
            _ => (&users[self.rng.random_range(0..users.len())], self.draw()),
        };
        let Some(mut task) = self.take(task) else { return };
        self.recorder.intended(task.operation);
        if arrival.intended.elapsed() > shared.timeout {
            // Its client has given up. Otherwise the run would not end while the cluster is away.
            self.recorder.failed(task.operation, Failure::Timeout(shared.timeout).kind());
        } else {
            self.recorder.sent(task.operation, lateness);
            if self.request(user, &mut task, arrival.intended).await {
                self.recorder.done(task.operation, arrival.intended.elapsed());
            }
        }
        self.put_back(task);
    }

    /// Sends a request, and repeats it until its client would give up; true if it succeeded.
    async fn request(&mut self, user: &Arc<User>, task: &mut Task, intended: Instant) -> bool {
        match task.share.operation {
            Kind::Push => self.push(user, task, intended).await,
            Kind::Pull => self.pull(user, task.operation, None, intended).await,
            Kind::Hydrate => self.pull(user, task.operation, Some(BEGINNING), intended).await,
        }
    }

    fn draw(&mut self) -> usize {
        let mut drawn = self.rng.random::<f64>() * self.weights;
        let found = self.tasks.iter().position(|task| {
            drawn -= task.share.weight;
            drawn < 0.0
        });
        found.unwrap_or(0)
    }

    // A task's body is filled in place; once taken out, the rest of the worker can be used beside it.
    fn take(&mut self, index: usize) -> Option<Task> {
        if index < self.tasks.len() { Some(self.tasks.swap_remove(index)) } else { self.wake.take() }
    }

    fn put_back(&mut self, task: Task) {
        if task.share.weight > 0.0 { self.tasks.push(task) } else { self.wake = Some(task) }
    }

    async fn push(&mut self, user: &Arc<User>, task: &mut Task, intended: Instant) -> bool {
        let mut device = user.devices[self.rng.random_range(0..user.devices.len())].lock().await;
        let number = self.shared.population.next_push(user);
        let body = task.body.fill(&device.cursor, number);
        let path = format!("/sync/{APP}");
        let outcome = self.persist(user, &device, &path, Some(body), (task.operation, intended)).await;
        self.shared.population.ended(user, number, task.body.changes(), &outcome);
        outcome.is_ok_and(|answer| move_to(&mut device, &answer).is_some())
    }

    /// Pulls page by page. A new device begins at `since` and leaves no trace.
    async fn pull(&mut self, user: &Arc<User>, operation: OperationId, since: Option<&str>, intended: Instant) -> bool {
        let (mut known, mut fresh);
        let device = match since {
            None => {
                known = user.devices[self.rng.random_range(0..user.devices.len())].lock().await;
                &mut *known
            }
            Some(since) => {
                let name = hyper::http::HeaderValue::from_static("new-device");
                fresh = Position { name, cursor: since.to_owned() };
                &mut fresh
            }
        };
        loop {
            let path = format!("/sync/{APP}/pull?collection={TABLE}&since={}", device.cursor);
            let Ok(answer) = self.persist(user, device, &path, None, (operation, intended)).await else { return false };
            match move_to(device, &answer) {
                Some(true) => {}
                Some(false) => return true,
                None => return false,
            }
        }
    }

    /// Retries a request while its failure may pass and its client waits, since its intended time. Every failed attempt
    /// is counted.
    async fn persist(
        &mut self,
        user: &User,
        device: &Position,
        path: &str,
        body: Option<Bytes>,
        (operation, intended): (OperationId, Instant),
    ) -> Result<Bytes, Failure> {
        let (authorization, client_id) = (&user.authorization, Some(&device.name));
        let call = Call { path, authorization, client_id, body };
        loop {
            let failure = match self.client.call(&call, &mut self.rng).await {
                Ok(answer) => return Ok(answer.body),
                Err(failure) => failure,
            };
            self.recorder.failed(operation, failure.kind());
            let asked = match &failure {
                Failure::Status { retry_after, .. } => retry_after.unwrap_or_default(),
                _ => Duration::ZERO,
            };
            let wait = asked.max(PAUSE.mul_f64(self.rng.random_range(0.5..1.5)));
            if !failure.is_passing() || intended.elapsed() + wait > self.shared.timeout {
                return Err(failure);
            }
            tokio::time::sleep(wait).await;
        }
    }
}

/// Takes the cursor of an answer; returns whether there is more, or none if it is not a valid answer.
fn move_to(device: &mut Position, answer: &[u8]) -> Option<bool> {
    let position = position(answer)?;
    position.synced_until.clone_into(&mut device.cursor);
    Some(position.has_more)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::super::population::Tokens;
    use super::*;
    use crate::engine::Endpoint;

    /// A cluster that was away for minutes leaves thousands waiting; each would be tried for half a minute.
    #[tokio::test]
    async fn what_has_waited_longer_than_a_client_does_is_not_sent() {
        let asked = Arc::new(AtomicU64::new(0));
        let counting = asked.clone();
        let refuses = axum::Router::new().fallback(async move || {
            counting.fetch_add(1, Ordering::Relaxed);
            axum::http::StatusCode::UNAUTHORIZED
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let targets = [format!("http://{}", listener.local_addr().unwrap())];
        tokio::spawn(async move { axum::serve(listener, refuses).await.unwrap() });
        let mix = vec![Share { operation: Kind::Push, changes: 1, weight: 1.0 }];
        let population = Arc::new(Population::new(&Tokens::Given(vec!["token".to_owned()]), 1, 1).unwrap());
        let timeout = Duration::from_millis(20);
        let shared = Arc::new(Shared { population, recorder: Recorder::new(["push 1"]), mix, timeout });
        let client = Client::new(Endpoint::resolve_all(&targets).await.unwrap(), Duration::from_secs(5));
        let worker = Worker::new(&shared, client, 1);
        let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
        let long_ago = Instant::now().checked_sub(timeout * 2).expect("the machine runs for longer");
        for (number, intended) in [(0, long_ago), (1, Instant::now() + Duration::from_secs(60))] {
            sender.send(Arrival { intended, released: intended, number }).unwrap();
        }
        drop(sender);
        worker.run(Arc::new(Mutex::new(receiver)), Event::Nothing).await;
        assert_eq!(asked.load(Ordering::Relaxed), 1);
    }
}
