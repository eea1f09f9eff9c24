//! Listens for the notifications of all replicas.
//!
//! It has a connection of its own, straight to the primary: LISTEN does not survive a pooler, and a standby receives
//! nothing. The connection is not trusted: before it counts as listening it has to receive a notification that was sent
//! on another connection, which fails through a pooler that shares its connections between transactions. From then on
//! it is pinged, and replaced if it answers late. After every connect it runs LISTEN first and reconciles afterwards,
//! so that nothing falls in between.

pub use super::listener_status::ListenerStatus;

use super::codec::{CHANNEL, NOTIFY, NOTIFY_TYPES};
use super::receiver::Receiver;
use crate::clock::Clock;
use crate::db::{ConnectError, Connector, Driver, make_orderly};
use crate::failpoints::Failpoint;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_postgres::error::SqlState;
use tokio_postgres::{AsyncMessage, Client};
use tokio_util::sync::CancellationToken;

/// Maximum time for one step: answering a ping, or LISTEN.
const STEP_TIMEOUT: Duration = Duration::from_secs(2);
/// Time limit for sending the echo: longer than [`NOTIFY`] waits for its lock.
const CALL_TIMEOUT: Duration = Duration::from_secs(3);
/// Checks whether the database is still executing LISTEN for a connection with our name. If it does not show what sessions
/// do (`track_activities`, or a right that was revoked), which the one that asks sees by itself, it is believed to.
const IS_LISTENING: &str =
    "select exists (select from pg_stat_activity where application_name = current_setting('application_name')
                    and pid <> pg_backend_pid() and state = 'active' and query like 'listen %')
         or not exists (select from pg_stat_activity where pid = pg_backend_pid() and state = 'active')";
/// Pauses between attempts to connect: the first, and the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// The reasons why a listening connection ended.
#[derive(Debug, thiserror::Error)]
enum ListenError {
    #[error("there is no connection")]
    Connect(#[from] ConnectError),
    #[error("the connection failed")]
    Database(#[from] tokio_postgres::Error),
    #[error("no answer in time")]
    Timeout(#[from] tokio::time::error::Elapsed),
    #[error("the server closed the connection")]
    Closed,
    #[error("this server is a standby, which delivers no notifications")]
    Standby,
    #[error(
        "LISTEN was answered, but notifications do not arrive: DATABASE_LISTEN_URL must point to PostgreSQL itself"
    )]
    Deaf,
    #[error("DATABASE_LISTEN_URL points to a different database than DATABASE_URL")]
    OtherDatabase,
}

impl ListenError {
    /// True if the problem lasts until an operator fixes it.
    fn is_settings(&self) -> bool {
        matches!(self, ListenError::Standby | ListenError::Deaf | ListenError::OtherDatabase)
    }

    /// True if the database takes no notifications from anyone: its queue is full, or a transaction holds the lock.
    fn is_about_notifying(&self) -> bool {
        let codes = [&SqlState::PROGRAM_LIMIT_EXCEEDED, &SqlState::LOCK_NOT_AVAILABLE];
        matches!(self, ListenError::Database(error) if error.code().is_some_and(|code| codes.contains(&code)))
    }
}

/// Additional channels on the listener's connection: another connection that listens would cost the database as much as
/// another replica.
pub trait OtherChannels: Send + Sync + 'static {
    /// Returns the channels to listen on: names of lower-case letters, digits and underscores.
    fn channels(&self) -> Vec<String>;

    /// Reports that everything is received from now on, or nothing any more.
    fn listening(&self, is_listening: bool);

    /// Receives a payload from one of the channels. Must be quick.
    fn receive(&self, payload: &str);
}

/// The listening task.
pub struct Listener {
    /// Connects to PostgreSQL directly.
    pub connector: Connector,
    /// Connects the way publishers do.
    pub publishing: Connector,
    /// Interval between pings of a silent connection.
    pub ping: Duration,
    /// Receives the notifications.
    pub receiver: Receiver,
    /// Reports whether the listener is listening.
    pub listener_status: ListenerStatus,
    /// Other users of this connection.
    pub others: Option<Arc<dyn OtherChannels>>,
}

impl Listener {
    /// Listens until told to stop, whatever happens to the connection.
    pub async fn run(self, stop: CancellationToken) {
        let mut pause = BACKOFF.0;
        while let Some(ended) = stop.run_until_cancelled(self.listen()).await {
            let was_up = self.listener_status.set(false);
            self.receiver.metrics.listener_up.set(0);
            self.others.iter().for_each(|others| others.listening(false));
            let Err(error) = ended;
            self.listener_status.set_problem(error.is_settings().then(|| error.to_string()));
            tracing::warn!(error = &error as &dyn std::error::Error, "the listener has no connection; reconnecting");
            pause = if was_up { BACKOFF.0 } else { (pause * 2).min(BACKOFF.1) };
            let jittered = self.receiver.clock.jitter(pause, 0.5..1.5);
            if stop.run_until_cancelled(tokio::time::sleep(jittered)).await.is_none() {
                break;
            }
        }
        self.listener_status.set(false);
        self.receiver.metrics.listener_up.set(0);
    }

    /// Listens on one connection, from its beginning to its end.
    async fn listen(&self) -> Result<std::convert::Infallible, ListenError> {
        let (client, mut driver) = timeout(STEP_TIMEOUT * 2, self.connector.connect()).await??;
        if Failpoint::ListenLate.is_on() {
            self.receiver.reconciler.reconcile_now();
            self.drive(&mut driver, &Echo::new(&self.receiver.clock), tokio::time::sleep(STEP_TIMEOUT / 4)).await?;
        }
        let echo = Echo::new(&self.receiver.clock);
        self.listen_on(&client, &mut driver, &echo).await?;
        self.await_echo(&mut driver, &echo).await?;
        self.listener_status.set(true);
        self.receiver.presence.hears_again(Instant::now());
        self.receiver.metrics.listener_up.set(1);
        self.receiver.metrics.listener_connects.inc();
        if !Failpoint::ListenLate.is_on() {
            self.receiver.reconciler.reconcile_now();
        }
        tracing::info!("listening");
        self.listen_for_others(&client, &mut driver, &echo).await?;
        let mut ticks = interval(self.ping);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.drive(&mut driver, &echo, ticks.tick()).await?;
            self.drive(&mut driver, &echo, timeout(STEP_TIMEOUT, client.simple_query(""))).await???;
        }
    }

    /// Runs LISTEN. It takes long if the database's notification queue has grown large, because LISTEN reads the queue
    /// first.
    async fn listen_on(&self, client: &Client, driver: &mut Driver, echo: &Echo) -> Result<(), ListenError> {
        let mut listening = pin!(start_listening(client, echo));
        loop {
            let elapsed = match self.drive(driver, echo, timeout(STEP_TIMEOUT, &mut listening)).await? {
                Ok(listens) => return listens,
                Err(elapsed) => elapsed,
            };
            match self.drive(driver, echo, timeout(STEP_TIMEOUT, Box::pin(self.is_listening()))).await? {
                Ok(Ok(true)) => {
                    tracing::warn!(
                        "LISTEN is slow because the database's notification queue is large: until it completes, only the reconciler finds what was stored"
                    );
                    self.listener_status.set(true);
                }
                _ => return Err(elapsed.into()),
            }
        }
    }

    async fn is_listening(&self) -> Result<bool, ListenError> {
        let session = self.connector.open_orderly().await?;
        let asked = session.query_typed(IS_LISTENING, &[]).await;
        session.close().await;
        match asked {
            Ok(rows) => Ok(rows[0].try_get(0)?),
            // The same.
            Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits for a notification that was sent the way publishers send theirs.
    async fn await_echo(&self, driver: &mut Driver, echo: &Echo) -> Result<(), ListenError> {
        match self.drive(driver, echo, timeout(CALL_TIMEOUT, Box::pin(call(&self.publishing, echo)))).await?? {
            Err(error) if error.is_about_notifying() => {
                // The cause may be in another database of the server. The reconciler finds what is stored all the same.
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "the database accepts no notifications: until it does, only the reconciler finds what was stored"
                );
                return Ok(());
            }
            called => called?,
        }
        if self.drive(driver, echo, timeout(STEP_TIMEOUT, echo.received.notified())).await?.is_ok() {
            return Ok(());
        }
        // Is the connection deaf, or only to that sender?
        self.drive(driver, echo, timeout(CALL_TIMEOUT, Box::pin(call(&self.connector, echo)))).await???;
        match self.drive(driver, echo, timeout(STEP_TIMEOUT, echo.received.notified())).await? {
            Ok(()) => Err(ListenError::OtherDatabase),
            Err(_) => Err(ListenError::Deaf),
        }
    }

    /// Runs a future while driving the connection and receiving what arrives on it.
    async fn drive<T>(
        &self,
        driver: &mut Driver,
        echo: &Echo,
        doing: impl Future<Output = T>,
    ) -> Result<T, ListenError> {
        let mut doing = pin!(doing);
        loop {
            tokio::select! {
                message = poll_fn(|cx| driver.poll_message(cx)) => match message {
                    Some(Ok(AsyncMessage::Notification(note))) if note.channel() == CHANNEL => self.receiver.receive(note.payload()),
                    Some(Ok(AsyncMessage::Notification(received))) if received.channel() == echo.channel => echo.received.notify_one(),
                    Some(Ok(AsyncMessage::Notification(received))) => self.others.iter().for_each(|others| others.receive(received.payload())),
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Err(error.into()),
                    None => return Err(ListenError::Closed),
                },
                done = &mut doing => return Ok(done),
            }
        }
    }

    async fn listen_for_others(&self, client: &Client, driver: &mut Driver, echo: &Echo) -> Result<(), ListenError> {
        let Some(others) = &self.others else { return Ok(()) };
        let listen: String = others.channels().iter().map(|channel| format!("listen {channel};")).collect();
        self.drive(driver, echo, timeout(STEP_TIMEOUT, client.batch_execute(&listen))).await???;
        others.listening(true);
        Ok(())
    }
}

/// A channel for one connection only, to prove that it receives.
struct Echo {
    channel: String,
    received: Notify,
}

impl Echo {
    fn new(clock: &Clock) -> Echo {
        Echo { channel: format!("{CHANNEL}_echo_{:016x}", clock.random_u64()), received: Notify::new() }
    }
}

/// Sends the echo's notification, on a connection of its own.
async fn call(connector: &Connector, echo: &Echo) -> Result<(), ListenError> {
    let session = connector.open().await?;
    let [channel, payloads] = NOTIFY_TYPES;
    session.query_typed(NOTIFY, &[(&echo.channel, channel), (&[""].as_slice(), payloads)]).await?;
    session.close().await;
    Ok(())
}

async fn start_listening(client: &Client, echo: &Echo) -> Result<(), ListenError> {
    // LISTEN may take long, and a listener may be silent for as long as there is nothing to announce.
    make_orderly(client).await?;
    let standby: bool = client.query_typed("select pg_is_in_recovery()", &[]).await?[0].try_get(0)?;
    if standby {
        return Err(ListenError::Standby);
    }
    Ok(client.batch_execute(&format!("listen {CHANNEL}; listen {}", echo.channel)).await?)
}
