//! The replicas, which come and go: each on its own address, all on the same port, like containers.

use crate::support::*;
use mana_dev::{Replica, ReplicaOptions, Services};
use socket2::{Domain, Socket, Type};
use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

/// The number of servers that deploy/haproxy.cfg has room for.
const MOST: u8 = 12;
/// Longer than a stop may take.
const STOP_LIMIT: Duration = Duration::from_secs(45);

/// All replicas, and the addresses for further ones.
pub struct Fleet {
    pub port: u16,
    services: Services,
    settings: Vec<(String, String)>,
    running: VecDeque<RunningReplica>,
    free: VecDeque<Ipv4Addr>,
    started: usize,
    logs: tempfile::TempDir,
    _ports: Vec<Socket>,
}

pub struct RunningReplica {
    pub address: Ipv4Addr,
    process: Replica,
}

impl Fleet {
    /// Creates an empty fleet that uses the database and services of a cluster.
    pub fn new(cluster: &Cluster, settings: &[(&str, String)]) -> Fleet {
        let services = Services {
            database_url: cluster.database_url.clone(),
            jwks_url: cluster.issuer.jwks_url(),
            credits_url: cluster.credits.url(),
            service_key: SERVICE_KEY.to_owned(),
            port: 0,
            extra: vec![],
        };
        let free: VecDeque<Ipv4Addr> = (1..=MOST).map(|number| Ipv4Addr::new(127, 0, 77, number)).collect();
        // Bound, but never listening: no other program is given this port, and SO_REUSEPORT lets the replicas use it.
        let hold = |address: Ipv4Addr, port: u16| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            socket.set_reuse_port(true)?;
            socket.bind(&SocketAddr::from((address, port)).into())?;
            Ok::<_, std::io::Error>(socket)
        };
        let first = hold(free[0], 0).unwrap();
        let port = first.local_addr().unwrap().as_socket().unwrap().port();
        let others = free.iter().skip(1).map(|address| hold(*address, port));
        let others: Result<Vec<Socket>, _> = others.collect();
        let ports = std::iter::once(first).chain(others.expect("the port is free on all our addresses")).collect();
        let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        let logs = tempfile::tempdir().unwrap();
        Fleet { port, services, settings, running: VecDeque::new(), free, started: 0, logs, _ports: ports }
    }

    /// All possible addresses of replicas.
    pub fn candidates(&self) -> Vec<Ipv4Addr> {
        self.free.iter().chain(self.running.iter().map(|member| &member.address)).copied().collect()
    }

    pub fn len(&self) -> usize {
        self.running.len()
    }

    /// Starts this many replicas at once and waits until they are ready. Returns their addresses.
    pub async fn start(&mut self, count: usize) -> Vec<Ipv4Addr> {
        let starting = self.spawn(count);
        let addresses = starting.iter().map(|member| member.address).collect();
        self.ready(starting).await;
        addresses
    }

    /// Starts this many replicas at once.
    pub fn spawn(&mut self, count: usize) -> Vec<RunningReplica> {
        (0..count).map(|_| self.spawn_one()).collect()
    }

    /// Waits until the started replicas are ready, and adds them to the fleet.
    pub async fn ready(&mut self, starting: Vec<RunningReplica>) {
        for member in &starting {
            member.process.wait_ready(TIMEOUT).await.unwrap();
        }
        self.running.extend(starting);
    }

    fn spawn_one(&mut self) -> RunningReplica {
        let address = self.free.pop_front().expect("there are never more than the balancer has places for");
        self.started += 1;
        let number = self.started;
        let own = [
            ("BIND_ADDRESS", address.to_string()),
            ("PORT", self.port.to_string()),
            ("REUSE_PORT", "true".to_owned()),
            ("REPLICA_ID", format!("replica-{number}")),
        ];
        let own = own.map(|(name, value)| (name.to_owned(), value));
        let env = self.services.env().into_iter().chain(own).chain(self.settings.iter().cloned());
        let options = ReplicaOptions {
            exe: env!("CARGO_BIN_EXE_mana-sync").into(),
            name: format!("replica {number}"),
            env: env.collect(),
            log: Some(self.logs.path().join(format!("replica-{number}.log"))),
            base_url: format!("http://{address}:{}", self.port),
        };
        RunningReplica { address, process: Replica::spawn(options).unwrap() }
    }

    /// Tells the oldest replicas to stop.
    pub fn stop(&mut self, count: usize) -> Vec<RunningReplica> {
        let leaving: Vec<RunningReplica> = self.running.drain(..count).collect();
        leaving.iter().for_each(|member| member.process.signal(nix::sys::signal::Signal::SIGTERM));
        leaving
    }

    /// Waits until they have stopped, which must be orderly. Returns their addresses.
    pub async fn gone(&mut self, leaving: Vec<RunningReplica>) -> Vec<Ipv4Addr> {
        for member in &leaving {
            let ended = tokio::time::timeout(STOP_LIMIT, member.process.ended()).await;
            let status = ended.unwrap_or_else(|_| panic!("{} did not stop in time", member.process.name()));
            assert_eq!(status.code(), Some(0), "{}: {}", member.process.name(), member.process.log_tail());
        }
        let addresses: Vec<Ipv4Addr> = leaving.iter().map(|member| member.address).collect();
        self.free.extend(&addresses);
        addresses
    }

    /// The number of WebSockets and streams of each replica.
    pub async fn spread(&self, http: &reqwest::Client) -> Vec<u64> {
        let mut spread = Vec::new();
        for member in &self.running {
            let health = http.get(format!("{}/health", member.process.base_url())).timeout(TIMEOUT).send().await;
            let health: serde_json::Value = serde_json::from_str(&health.unwrap().text().await.unwrap()).unwrap();
            spread.push(health["connections"].as_u64().unwrap());
        }
        spread
    }
}
