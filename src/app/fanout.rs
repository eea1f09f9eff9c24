//! Assembles the fan-out: announcing what is stored here, and receiving what is stored elsewhere.

use super::RunError;
use crate::clock::Clock;
use crate::config::Config;
use crate::db::Connector;
use crate::fanout::listener::{Listener, ListenerStatus, OtherChannels};
use crate::fanout::reconciler::ReconcilerTask;
use crate::fanout::{
    ChannelKeys, Dependencies, NotificationCounter, Presence, Publisher, PublisherConfig, PublisherConnector, Receiver,
    Reconciler, Repeats,
};
use crate::hub::Hub;
use crate::session::rebalance::Rebalancer;
use crate::shutdown::Shutdown;
use crate::store::{Buckets, Layout};
use crate::telemetry::Metrics;
use crate::telemetry::throttle::Throttle;
use std::sync::Arc;

/// The parts used by other modules, and the tasks to start.
pub(super) struct Fanout {
    /// Takes wake-ups to announce.
    pub(super) publisher: Publisher,
    /// Is told of gaps.
    pub(super) reconciler: Reconciler,
    /// The status of the listener.
    pub(super) listener_status: ListenerStatus,
    /// The replicas.
    pub(super) presence: Presence,
    reconciling: Vec<ReconcilerTask>,
    received: NotificationCounter,
    keys: ChannelKeys,
    metrics: Arc<Metrics>,
    clock: Clock,
}

impl Fanout {
    pub(super) fn new(
        config: &Config,
        layout: Layout,
        metrics: &Arc<Metrics>,
        clock: &Clock,
        shutdown: &Shutdown,
    ) -> Fanout {
        let (reconciler, reconciling) = Reconciler::new(layout);
        let draining = shutdown.draining.clone();
        let keys = ChannelKeys::new(&config.fanout, &config.billing.mana_service_key);
        let presence = Presence::new(&config.fanout, &config.replica_name(), metrics.clone(), clock.clone(), draining);
        let publisher = Publisher::new(&config.fanout, metrics.clone());
        let received = NotificationCounter::default();
        Fanout {
            publisher: publisher.with_commits(&config.fanout, keys.clone(), &presence, received.clone(), clock.clone()),
            reconciler,
            listener_status: ListenerStatus::default(),
            presence,
            reconciling,
            received,
            keys,
            metrics: metrics.clone(),
            clock: clock.clone(),
        }
    }

    /// Starts the listener, the publisher, a reconciler for each bucket, and the rebalancer. `others` also use the
    /// listener's connection.
    pub(super) fn start(
        self,
        config: &Config,
        store: &Buckets,
        hub: &Arc<Hub>,
        others: Option<Arc<dyn OtherChannels>>,
        shutdown: &Shutdown,
    ) -> Result<(), RunError> {
        let name = config.replica_name();
        let connector = Connector::new(&config.database.database_url, &format!("mana-sync {name} publish"))?;
        let target = PublisherConnector::new(connector, config.database_prepare);
        let listener = Listener {
            publishing: target.connector(),
            connector: Connector::new(config.database.direct_url(), &format!("mana-sync {name} listen"))?,
            ping: config.listener_ping_ms,
            receiver: Receiver {
                sessions: hub.clone(),
                reconciler: self.reconciler,
                received: self.received.clone(),
                keys: self.keys.clone(),
                presence: self.presence.clone(),
                repeats: Repeats::default(),
                unreadable: Throttle::default(),
                metrics: self.metrics.clone(),
                clock: self.clock,
            },
            listener_status: self.listener_status,
            others,
        };
        let publishing = PublisherConfig {
            target,
            keys: self.keys,
            presence: self.presence.clone(),
            received: self.received,
            budget: config.fanout.notify_budget,
        };
        let stopping = || shutdown.stopping.clone();
        shutdown.essential("listener", listener.run(stopping()));
        shutdown.essential("publisher", self.publisher.run(publishing, stopping()));
        for (task, of) in self.reconciling.into_iter().zip(store.all()) {
            let dependencies = Dependencies {
                heads: of.heads.clone(),
                sessions: hub.clone(),
                metrics: self.metrics.clone(),
                period: config.reconcile_ms,
                recent: config.announce_recent_ms,
            };
            shutdown.essential("reconciler", task.run(dependencies, stopping()));
        }
        if !config.fanout.rebalance_ms.is_zero() {
            let rebalancer = Rebalancer::new(config.fanout.rebalance_ms, self.metrics);
            shutdown.essential("rebalancer", rebalancer.run(self.presence, hub.clone(), stopping()));
        }
        Ok(())
    }
}
