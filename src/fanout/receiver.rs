//! Dispatches notifications to the sessions they concern.

use super::SessionRegistry;
use super::channel_key::ChannelKeys;
use super::codec::{CHANNEL, Payload, PayloadError};
use super::commit_payload::CommitPayload;
use super::legacy;
use super::presence::Presence;
use super::rate::NotificationCounter;
use super::reconciler::Reconciler;
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
    /// Throttles the log line for notifications that cannot be read and are looked up instead.
    pub unreadable: Throttle,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// The clock.
    pub clock: Clock,
}

impl Receiver {
    /// Dispatches a notification. One that concerns nobody here costs a signature check and a look-up for each of its
    /// entries; nothing else of it is read.
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
        let is_signed = self.count(payload.is_signed(&self.keys));
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
        self.metrics.wakeups_received.inc_by(count);
        let said = payload.said();
        if concern.is_empty() && said.is_none() {
            return Ok(());
        }
        if !is_signed {
            self.distrust(concern.iter().map(|entry| entry.user));
            return Ok(());
        }
        // An entry that cannot be read, perhaps because a newer version wrote it, does not affect the others.
        let mut read = Ok(());
        for entry in &concern {
            read = entry.read().map(|wakeup| self.deliver(wakeup)).and(read);
        }
        match said {
            Some(said) => self.presence.receive(said, Instant::now()).map_err(PayloadError::Json).and(read),
            None => read,
        }
    }

    /// Receives what a push announced with its own commit.
    fn receive_with_commit(&self, payload: CommitPayload<'_>) -> Result<(), PayloadError> {
        let is_signed = self.count(payload.is_signed(&self.keys));
        self.metrics.wakeups_received.inc();
        if !self.sessions.is_connected(payload.user) {
            return Ok(());
        }
        if !is_signed {
            self.distrust(std::iter::once(payload.user));
            return Ok(());
        }
        payload.read().map(|wakeup| self.deliver(wakeup))
    }

    /// Counts a notification, signed or not, before anything else: forged ones use nothing of the budget.
    fn count(&self, is_signed: bool) -> bool {
        match is_signed {
            true => self.received.count(),
            false => self.metrics.notifications_unverified.inc(),
        }
        is_signed
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
    use crate::fanout::reconciler::ReconcilerTask;
    use crate::fanout::testing::fanout_config;
    use crate::hub::Hub;
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
            unreadable: Throttle::default(),
            metrics,
            clock,
        };
        (receiver, tasks)
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
