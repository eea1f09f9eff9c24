//! The parts of a replica: first those that others depend on, then the services for clients and operators, then the
//! background tasks.

use super::RunError;
use super::fanout::Fanout;
use crate::admin::{self, Admin};
use crate::auth::Authenticator;
use crate::billing::Billing;
use crate::budget::MemoryBudget;
use crate::clock::Clock;
use crate::config::Config;
use crate::fanout::listener::OtherChannels;
use crate::http::{AppState, Health, PushBudget, ReadAhead, Services};
use crate::hub::{DeviceReads, Hub};
use crate::limits::UserLimits;
use crate::limits::polls::Polls;
use crate::limits::turns::Turns;
use crate::session::{SessionDependencies, Sessions};
use crate::shutdown::Shutdown;
use crate::store::compaction::Compactor;
use crate::store::{Buckets, Layout};
use crate::telemetry::Telemetry;
use reqwest::redirect::Policy;
use std::sync::Arc;
use std::time::Duration;

/// Time limit for connecting to the issuer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// What all parts are constructed from.
pub(super) struct Context<'a> {
    pub(super) config: &'a Arc<Config>,
    pub(super) layout: Layout,
    pub(super) store: &'a Buckets,
    pub(super) clock: &'a Clock,
    pub(super) telemetry: &'a Telemetry,
    pub(super) shutdown: &'a Shutdown,
}

/// The parts that others depend on.
pub(super) struct Parts<'a> {
    context: Context<'a>,
    auth: Arc<Authenticator>,
    hub: Arc<Hub>,
    fanout: Fanout,
    health: Arc<Health>,
    devices: DeviceReads,
    limits: UserLimits,
}

impl<'a> Parts<'a> {
    /// Creates the parts without starting any task. How far devices have read is only tracked if there is an admin port.
    pub(super) fn new(context: Context<'a>, has_admin_port: bool) -> Result<Parts<'a>, RunError> {
        let Context { config, layout, clock, telemetry, shutdown, .. } = &context;
        let (metrics, clock) = (telemetry.metrics.clone(), (*clock).clone());
        // A host that the issuer redirects to is not the issuer.
        let http = reqwest::Client::builder().connect_timeout(CONNECT_TIMEOUT).redirect(Policy::none()).build()?;
        let auth = Arc::new(Authenticator::new(config, http, metrics.clone(), clock.clone()));
        let fanout = Fanout::new(config, *layout, &metrics, &clock, shutdown);
        Ok(Parts {
            hub: Arc::new(Hub::new(metrics.clone(), clock.clone())),
            health: AppState::new_health(config, fanout.listener_status.clone(), auth.clone(), shutdown),
            devices: if has_admin_port { DeviceReads::noting(clock.clone()) } else { DeviceReads::default() },
            limits: UserLimits::new(&config.limits, config.queue_timeout_ms, metrics, clock),
            auth,
            fanout,
            context,
        })
    }

    /// Returns the admin API and its background tasks, if the admin port is open.
    pub(super) fn admin(&self) -> Result<Option<(Admin, admin::Tasks)>, RunError> {
        let Context { config, layout, clock, telemetry, shutdown, .. } = &self.context;
        let metrics = telemetry.metrics.clone();
        let parts = admin::Parts {
            hub: self.hub.clone(),
            health: self.health.clone(),
            auth: self.auth.clone(),
            devices: self.devices.clone(),
            shutdown: (*shutdown).clone(),
            metrics: metrics.clone(),
            log: telemetry.log.clone(),
            rates: self.limits.rates(),
            presence: self.fanout.presence.clone(),
            compaction: admin::Trimming::new(config, *layout, metrics, (*clock).clone()),
            clock: (*clock).clone(),
        };
        Ok(Admin::new(config, parts)?)
    }

    /// Returns the services that the HTTP endpoints use.
    pub(super) fn services(&self) -> Result<Services, RunError> {
        let Context { config, store, clock, telemetry, shutdown, .. } = &self.context;
        let (metrics, clock) = (telemetry.metrics.clone(), (*clock).clone());
        let unread = MemoryBudget::new(config.max_stream_bytes_in_flight as usize, metrics.stream_bytes.clone());
        let closing = shutdown.closing.clone();
        let held = metrics.empty_answers_held.clone();
        Ok(Services {
            config: (*config).clone(),
            auth: self.auth.clone(),
            billing: Billing::new(config, metrics.clone(), clock.clone())?,
            store: (*store).clone(),
            publisher: self.fanout.publisher.clone(),
            push_budget: PushBudget::new(config, &metrics),
            sessions: Arc::new(self.sessions(&unread)),
            unread,
            large: Turns::new(2 * std::thread::available_parallelism().map_or(1, usize::from)),
            limits: self.limits.clone(),
            polls: Polls::new(self.hub.clone(), held, clock.clone(), closing),
            read_ahead: ReadAhead::default(),
            health: self.health.clone(),
            devices: self.devices.clone(),
            shutdown: (*shutdown).clone(),
            metrics,
            traces: telemetry.traces.clone(),
            clock,
        })
    }

    fn sessions(&self, unread: &MemoryBudget) -> Sessions {
        let Context { config, store, clock, telemetry, shutdown, .. } = &self.context;
        let dependencies = SessionDependencies {
            hub: self.hub.clone(),
            reconciler: self.fanout.reconciler.clone(),
            auth: self.auth.clone(),
            budget: unread.clone(),
            reads: store.read_shares(),
            heavy: store.heavy().clone(),
            metrics: telemetry.metrics.clone(),
            clock: (*clock).clone(),
        };
        Sessions::new(config, dependencies, shutdown.closing.clone()).leaving_with(shutdown.drained.clone())
    }

    /// Starts the essential background tasks: without them the replica would look healthy but not work. `others` also
    /// have channels on the listener's connection.
    pub(super) fn start(self, others: Option<Arc<dyn OtherChannels>>) -> Result<(), RunError> {
        let Context { config, layout, store, clock, telemetry, shutdown } = self.context;
        let metrics = telemetry.metrics.clone();
        let stopping = || shutdown.stopping.clone();
        let presence = self.fanout.presence.clone();
        shutdown.essential("issuer keys", self.auth.fetching(stopping()));
        self.fanout.start(config, store, &self.hub, others, shutdown)?;
        let compactor = Compactor::of_replica(config, layout, metrics.clone(), clock.clone())
            .sharing_with(move || presence.replicas().len());
        shutdown.essential("compaction", compactor.run(stopping()));
        shutdown.essential("placements", store.clone().follow_placements(stopping()));
        let (watched, stop) = (store.clone(), stopping());
        shutdown.essential("health", async move { self.health.watch(watched, metrics, stop).await });
        Ok(())
    }
}
