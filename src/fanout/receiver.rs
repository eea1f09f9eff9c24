//! Dispatches notifications to the sessions they concern.

use super::SessionRegistry;
use super::channel_key::{ChannelKeys, Signature};
use super::codec::{CHANNEL, Payload, PayloadError};
use super::commit_payload::CommitPayload;
use super::legacy;
use super::presence::Presence;
use super::rate::NotificationCounter;
use super::reconciler::Reconciler;
use super::repeats::{self, Repeats};
use super::wakeup::Wakeup;
use crate::clock::Clock;
use crate::protocol::UserKey;
use crate::telemetry::throttle::Throttle;
use crate::telemetry::{Metrics, traces};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// From here on, a delivery with a sampled trace is logged.
const SLOW_DELIVERY: Duration = Duration::from_secs(1);

/// What a notification's signature and date say about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Authenticity {
    /// A replica has just sent it.
    Valid,
    /// A replica sent it, but not lately: somebody may have kept it until it was forgotten here.
    Outdated,
    /// It was received before.
    Repeated,
    /// No key of ours signed it.
    Forged,
}

/// Reads notifications.
pub struct Receiver {
    /// The sessions to wake.
    pub sessions: Arc<dyn SessionRegistry>,
    /// Is told of gaps.
    pub reconciler: Reconciler,
    /// Counts notifications, for the budget.
    pub received: NotificationCounter,
    /// Verifies signatures.
    pub keys: ChannelKeys,
    /// Takes the replicas' reports.
    pub presence: Presence,
    /// Recognizes what was received before.
    pub repeats: Repeats,
    /// Throttles the log line for notifications that cannot be read and are looked up instead.
    pub unreadable: Throttle,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// The clock.
    pub clock: Clock,
}

impl Receiver {
    /// Dispatches a notification. One that concerns nobody here costs a signature check and a look-up for each of its
    /// entries; of the rest, only its date is read.
    pub(super) fn receive(&self, payload: &str) {
        let received = match Payload::parse(payload) {
            Some(payload) => payload.and_then(|payload| self.receive_signed(payload)),
            None => match CommitPayload::parse(payload) {
                Some(payload) => payload.and_then(|payload| self.receive_with_commit(payload)),
                None => self.receive_unsigned(payload),
            },
        };
        if let Err(error) = received {
            self.metrics.notifications_unreadable.inc();
            if let Some(unwritten) = self.unreadable.is_due() {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, unwritten, "a notification cannot be read; reconciling instead");
                self.reconciler.reconcile_now();
            }
        }
    }

    fn receive_signed(&self, payload: Payload<'_>) -> Result<(), PayloadError> {
        let date = || payload.date().or_else(|| payload.said().and_then(Presence::date_of));
        let authenticity = self.count(payload.verified(&self.keys), date);
        if authenticity == Authenticity::Repeated {
            return Ok(());
        }
        let (mut count, mut concern, mut unreadable) = (0, Vec::new(), None);
        self.sessions.with_connected(&mut |is_connected| {
            for entry in payload.entries() {
                match entry {
                    Ok(entry) if is_connected(entry.user) => concern.push(entry),
                    Ok(_) => {}
                    Err(error) => unreadable = Some(error),
                }
                count += 1;
            }
        });
        if let Some(error) = unreadable {
            return Err(error);
        }
        self.count_wakeups(authenticity, count);
        // An entry that cannot be read, perhaps because a newer version wrote it, does not affect the others.
        let mut read = Ok(());
        if authenticity == Authenticity::Valid {
            for entry in &concern {
                read = entry.read().map(|wakeup| self.deliver(wakeup)).and(read);
            }
        } else if !concern.is_empty() {
            self.distrust(concern.iter().map(|entry| entry.user));
        }
        match payload.said().filter(|_| authenticity != Authenticity::Forged) {
            Some(said) => self.presence.receive(said, Instant::now()).map_err(PayloadError::Json).and(read),
            None => read,
        }
    }

    /// Receives what a push announced with its own commit.
    fn receive_with_commit(&self, payload: CommitPayload<'_>) -> Result<(), PayloadError> {
        let authenticity = self.count(payload.verified(&self.keys), || payload.date());
        self.count_wakeups(authenticity, 1);
        if authenticity == Authenticity::Repeated || !self.sessions.is_connected(payload.user) {
            return Ok(());
        }
        if authenticity != Authenticity::Valid {
            self.distrust(std::iter::once(payload.user));
            return Ok(());
        }
        payload.read().map(|wakeup| self.deliver(wakeup))
    }

    /// Judges a notification by its signature, if that is a replica's, and its date, and counts it before anything else.
    /// What others forge or repeat uses nothing of the budget.
    fn count(&self, signature: Option<Signature>, date: impl FnOnce() -> Option<Duration>) -> Authenticity {
        let Some(signature) = signature else {
            self.metrics.notifications_unverified.inc();
            return Authenticity::Forged;
        };
        if self.repeats.note(signature) {
            self.metrics.notifications_repeated.inc();
            return Authenticity::Repeated;
        }
        if date().is_some_and(|date| repeats::is_outdated(date, self.clock.since_epoch())) {
            self.metrics.notifications_repeated.inc();
            self.received.count_unsigned();
            return Authenticity::Outdated;
        }
        self.received.count();
        Authenticity::Valid
    }

    /// Counts the wake-ups of a notification, unless anybody could have made them up or sent them again.
    fn count_wakeups(&self, authenticity: Authenticity, count: u64) {
        if matches!(authenticity, Authenticity::Valid | Authenticity::Outdated) {
            self.metrics.wakeups_received.inc_by(count);
        }
        if authenticity == Authenticity::Valid {
            self.received.count_wakeups(count);
        }
    }

    /// Receives a notification that is not from a replica of this version with one of our keys: it only names users.
    fn receive_unsigned(&self, payload: &str) -> Result<(), PayloadError> {
        let users = legacy::users(payload)?;
        self.received.count_unsigned();
        self.metrics.wakeups_received.inc_by(users.len() as u64);
        self.distrust(users.into_iter().filter(|user| self.sessions.is_connected(*user)));
        Ok(())
    }

    /// Asks the database what there is to announce to these users, instead of relying on the notification.
    fn distrust(&self, users: impl Iterator<Item = UserKey>) {
        self.metrics.notifications_unsigned.inc();
        users.for_each(|user| self.reconciler.check(user));
    }

    fn deliver(&self, wakeup: Wakeup) {
        if wakeup.is_beyond(self.clock.since_epoch()) {
            return self.distrust(std::iter::once(wakeup.user));
        }
        let delivery = traces::process(CHANNEL, &wakeup.app, &wakeup.pushes);
        delivery.in_scope(|| {
            if wakeup.tables.is_some() {
                self.sessions.announce(&wakeup);
                self.observe_delivery(&wakeup);
            } else {
                self.reconciler.look_up(wakeup);
            }
        });
    }

    fn observe_delivery(&self, wakeup: &Wakeup) {
        let since = self.clock.since_epoch().saturating_sub(Duration::from_micros(wakeup.last().max(0) as u64));
        self.metrics.delivery_seconds.record(since.as_secs_f64(), &self.clock);
        if since >= SLOW_DELIVERY && !wakeup.pushes.is_empty() {
            tracing::info!(seconds = since.as_secs_f64(), "a delivery was slow; this is its trace");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fanout::channel_key::tests::keys;
    use crate::fanout::rate::{RateLimiter, ReplicaCount};
    use crate::fanout::reconciler::ReconcilerTask;
    use crate::fanout::testing::fanout_config;
    use crate::fanout::wakeup::tests::wakeup;
    use crate::hub::{Hub, Interest};
    use crate::store::Layout;
    use tokio_util::sync::CancellationToken;

    fn replica(name: &str) -> (Receiver, Vec<ReconcilerTask>) {
        let (metrics, clock) = (Arc::new(Metrics::new()), Clock::system());
        let (reconciler, tasks) = Reconciler::new(Layout::ONE);
        let (config, draining) = (fanout_config(&[]), CancellationToken::new());
        let receiver = Receiver {
            sessions: Arc::new(Hub::new(metrics.clone(), clock.clone())),
            reconciler,
            received: NotificationCounter::default(),
            keys: keys(&["key"]),
            presence: Presence::new(&config, name, metrics.clone(), clock.clone(), draining),
            repeats: Repeats::default(),
            unreadable: Throttle::default(),
            metrics,
            clock,
        };
        (receiver, tasks)
    }

    /// A wake-up for changes stored this long ago.
    fn stored_before(receiver: &Receiver, user: UserKey, age: Duration) -> Wakeup {
        let at = (receiver.clock.since_epoch() - age).as_micros() as i64;
        Wakeup { user, ranges: vec![(at - 20, at)], ..wakeup("", "todo", None, &["tasks"]) }
    }

    #[test]
    fn what_is_received_again_is_ignored_and_what_is_outdated_is_looked_up() {
        let (receiver, mut tasks) = replica("a");
        let hub = Arc::new(Hub::new(receiver.metrics.clone(), receiver.clock.clone()));
        let receiver = Receiver { sessions: hub.clone(), ..receiver };
        let user = UserKey::of("u");
        let session = hub.join(user, Interest::default(), "sse");
        let fresh = stored_before(&receiver, user, Duration::from_secs(1));
        let outdated = stored_before(&receiver, user, Duration::from_secs(180));
        let published = |wakeup: &Wakeup| crate::fanout::codec::encode(&receiver.keys, None, [wakeup]).remove(0);
        let committed = |wakeup: &Wakeup| {
            let (before, last) = wakeup.ranges[0];
            crate::fanout::commit_payload::compose(&receiver.keys, last as u128, wakeup).payload(before, last)
        };
        let metrics = &receiver.metrics;
        for (n, payload) in [published(&fresh), committed(&fresh)].iter().enumerate() {
            receiver.receive(payload);
            assert!(session.mailbox().take_now().is_some(), "it is delivered");
            receiver.receive(payload);
            assert!(session.mailbox().take_now().is_none(), "it is not delivered again");
            assert_eq!(metrics.notifications_repeated.get(), n as u64 + 1);
        }
        assert_eq!(tasks[0].next_check(), None);
        for payload in [published(&outdated), committed(&outdated)] {
            receiver.receive(&payload);
            assert!(session.mailbox().take_now().is_none(), "it is not believed");
            assert_eq!(tasks[0].next_check(), Some(user));
        }
        assert_eq!((metrics.notifications_repeated.get(), metrics.notifications_unverified.get()), (4, 0));
        assert_eq!((metrics.wakeups_received.get(), receiver.received.wakeups()), (4, 2));
    }

    /// What is repeated could be sent so often that no replica gets its turn.
    #[tokio::test]
    async fn what_is_received_again_takes_nothing_from_the_budget() {
        let (receiver, _tasks) = replica("a");
        let wakeup = stored_before(&receiver, UserKey::of("u"), Duration::from_secs(1));
        let payload = crate::fanout::codec::encode(&receiver.keys, None, [&wakeup]).remove(0);
        // Each takes a hundredth of a second; all of them would take the longest time that there is, 2 s.
        let mut rate = RateLimiter::new(receiver.received.clone(), ReplicaCount::default(), 100);
        let begun = Instant::now();
        rate.begin(begun);
        (0..1_000).for_each(|_| receiver.receive(&payload));
        rate.end(begun, 1);
        let turn = tokio::time::timeout(Duration::from_secs(1), rate.wait()).await;
        turn.expect("those that were repeated take nothing");
    }

    #[test]
    fn of_several_replicas_in_a_process_each_reconciles_at_once_where_it_cannot_read() {
        for (receiver, tasks) in [replica("a"), replica("b")] {
            assert!(!tasks[0].is_wanted());
            receiver.receive("nonsense");
            assert_eq!(receiver.metrics.notifications_unreadable.get(), 1);
            assert!(tasks[0].is_wanted());
        }
    }
}
