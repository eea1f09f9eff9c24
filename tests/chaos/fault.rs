//! The faults: how each one begins, and how it is undone.

use crate::cluster::FaultyCluster;
use crate::misbehaving_clients;
use crate::support::proxy::{Mode, Proxy};
use crate::workload::Workload;
use mana_dev::{Mode as Service, Shutdown};
use nix::sys::signal::Signal;
use std::time::Duration;

/// A fault. Replicas are numbered from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// `kill -9`, and a restart at the end.
    Killed(usize),
    /// The process exits between the commit of a push and its notification; restarted at the end.
    KilledBeforeNotify(usize),
    /// SIGSTOP, and SIGCONT at the end.
    Frozen(usize),
    /// `pg_terminate_backend` of every listening connection.
    ListenersTerminated,
    /// The same for every connection.
    EverybodyTerminated,
    /// The network between a replica's listener and the database.
    ListenNetwork(usize, Network),
    /// The network between a replica's pool and publisher and the database.
    QueryNetwork(usize, Network),
    PostgresRestarted(Stop),
    /// Stopped, and restarted at the end.
    PostgresGone,
    /// The table of changes is locked.
    TableLocked,
    Issuer(Outside),
    KeysRotated,
    Credits(Outside),
    /// Notifications on our channel that no replica sent.
    GarbageNotified,
    /// Clients that connect and never authenticate.
    Unauthenticated(usize),
    /// Clients that send heads and bodies byte by byte.
    SlowSenders(usize),
    /// A WebSocket and a stream that are not read until the end.
    SlowReaders(usize),
    /// One user pushes as fast as possible.
    PushStorm(usize),
    /// Pushes of thousands of changes, and to hundreds of tables.
    HugePushes(usize),
}

/// A fault of the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// Open connections are reset, once.
    Cut,
    /// Bytes are lost silently; at the end, connections that have lost some are reset.
    Swallows,
    /// The same, but those connections stay silent for good; only new ones work.
    Forgets,
    Delays(Duration),
    Refuses,
}

/// A mode of stopping PostgreSQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    Fast,
    Immediate,
}

/// A fault of an external service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outside {
    Fails,
    Hangs,
    Rambles,
}

impl Fault {
    /// The resource that the fault needs exclusively: faults with the same one take turns.
    pub fn needs(self) -> (u8, usize) {
        match self {
            Fault::Killed(replica) | Fault::KilledBeforeNotify(replica) | Fault::Frozen(replica) => (0, replica),
            Fault::ListenNetwork(replica, _) => (1, replica),
            Fault::QueryNetwork(replica, _) => (2, replica),
            Fault::ListenersTerminated
            | Fault::EverybodyTerminated
            | Fault::PostgresRestarted(_)
            | Fault::PostgresGone
            | Fault::TableLocked
            | Fault::GarbageNotified => (3, 0),
            Fault::Issuer(_) | Fault::KeysRotated => (4, 0),
            Fault::Credits(_) => (5, 0),
            Fault::Unauthenticated(_)
            | Fault::SlowSenders(_)
            | Fault::SlowReaders(_)
            | Fault::PushStorm(_)
            | Fault::HugePushes(_) => (6, 0),
        }
    }

    /// Runs the fault for this long.
    pub async fn happen(self, cluster: &FaultyCluster, workload: &Workload, lasts: Duration) {
        let end = tokio::time::Instant::now() + lasts;
        match self {
            Fault::Killed(replica) => {
                cluster.kill(replica).await;
                tokio::time::sleep_until(end).await;
                revive(cluster, workload, replica).await;
            }
            Fault::KilledBeforeNotify(replica) => {
                workload.push_and_crash(cluster, replica).await;
                tokio::time::sleep_until(end).await;
                revive(cluster, workload, replica).await;
            }
            Fault::Frozen(replica) => {
                cluster.node(replica).await.process.signal(Signal::SIGSTOP);
                tokio::time::sleep_until(end).await;
                cluster.node(replica).await.process.signal(Signal::SIGCONT);
            }
            Fault::ListenersTerminated => cluster.sql(TERMINATE_LISTENERS).await,
            Fault::EverybodyTerminated => cluster.sql(TERMINATE_ALL).await,
            Fault::ListenNetwork(replica, network) => network.happen(&cluster.doors[replica].listen, end).await,
            Fault::QueryNetwork(replica, network) => network.happen(&cluster.doors[replica].query, end).await,
            Fault::PostgresRestarted(Stop::Fast) => cluster.restart_postgres(Shutdown::Fast).await,
            Fault::PostgresRestarted(Stop::Immediate) => cluster.restart_postgres(Shutdown::Immediate).await,
            Fault::PostgresGone => {
                cluster.stop_postgres().await;
                tokio::time::sleep_until(end).await;
                cluster.restart_postgres(Shutdown::Fast).await;
            }
            Fault::TableLocked => cluster.sql(LOCK_TABLE).await,
            Fault::Issuer(outside) => {
                cluster.inner.issuer.set_mode(outside.mode());
                tokio::time::sleep_until(end).await;
                cluster.inner.issuer.set_mode(Service::Serve);
            }
            Fault::KeysRotated => cluster.rotate_keys(),
            Fault::Credits(outside) => {
                cluster.inner.credits.set_mode(outside.mode());
                tokio::time::sleep_until(end).await;
                cluster.inner.credits.set_mode(Service::Serve);
            }
            Fault::GarbageNotified => cluster.sql(NOTIFY_GARBAGE).await,
            Fault::Unauthenticated(replica) => misbehaving_clients::never_authenticate(cluster, replica, end).await,
            Fault::SlowSenders(replica) => misbehaving_clients::send_slowly(cluster, replica, end).await,
            Fault::SlowReaders(replica) => misbehaving_clients::read_nothing(cluster, workload, replica, end).await,
            Fault::PushStorm(replica) => workload.push_without_pause(cluster, replica, end).await,
            Fault::HugePushes(replica) => workload.push_at_the_limits(cluster, replica).await,
        }
    }
}

async fn revive(cluster: &FaultyCluster, workload: &Workload, replica: usize) {
    if !cluster.revive(replica).await {
        workload.violated(format!("replica {replica} was started again and never lived"));
    }
}

impl Network {
    async fn happen(self, proxy: &Proxy, end: tokio::time::Instant) {
        match self {
            Network::Cut => return proxy.cut(),
            Network::Swallows | Network::Forgets => proxy.set(Mode::Swallow),
            Network::Delays(delay) => proxy.set(Mode::Delay(delay)),
            Network::Refuses => {
                proxy.set(Mode::Refuse);
                proxy.cut();
            }
        }
        tokio::time::sleep_until(end).await;
        proxy.set(Mode::Pass);
        if self == Network::Swallows {
            proxy.cut_silent();
        }
    }
}

impl Outside {
    fn mode(self) -> Service {
        match self {
            Outside::Fails => Service::Error(500),
            Outside::Hangs => Service::Hang,
            Outside::Rambles => Service::Garbage,
        }
    }
}

pub const TERMINATE_LISTENERS: &str =
    "select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'mana-sync % listen'";
const TERMINATE_ALL: &str =
    "select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'mana-sync %'";
/// A single statement, and thus a single transaction: the lock is held during the sleep.
const LOCK_TABLE: &str = "do $$ begin lock table sync_changes in access exclusive mode; perform pg_sleep(2); end $$";
const NOTIFY_GARBAGE: &str = r#"
select pg_notify('mana_sync', payload) from unnest(array[
    '', 'hello', '{}', '[]', 'null', '{"v":1,"w":[["","",null,null,[]]]}', '{"v":99,"w":[]}', repeat('x', 7999),
    '{"v":1,"w":[["AAAAAAAAAAAAAAAAAAAAAA","app-0",null,["tasks"],[[-9223372036854775808,9223372036854775807]]]]}'
]) as payload"#;
