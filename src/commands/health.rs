//! `mana-sync health`: asks a replica on this machine whether it is ready, at the address from its settings.

use crate::config::{Networks, reachable, read_networks};
use clap::Args;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{error::Elapsed, timeout};

/// Maximum time for the replica to answer.
const TIMEOUT: Duration = Duration::from_secs(3);
/// Maximum number of bytes read of an answer.
const MAX_ANSWER: u64 = 64 << 10;

/// Arguments of `mana-sync health`: the replica's own settings.
#[derive(Args, Debug)]
pub struct HealthArgs {
    /// Port that the replica listens on.
    #[arg(long, env, default_value_t = 3050)]
    port: u16,

    /// Address that PORT listens on. If it is unspecified, as by default, this machine is queried.
    #[arg(long, env, default_value_t = IpAddr::V4(Ipv4Addr::UNSPECIFIED))]
    bind_address: IpAddr,

    /// The admin port, which is queried instead if it is set: it reports what is missing, regardless of PUBLIC_METRICS.
    #[arg(long, env)]
    admin_port: Option<u16>,

    /// Address that ADMIN_PORT listens on.
    #[arg(long, env, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    admin_host: IpAddr,

    /// Addresses or networks of load balancers.
    #[arg(long, env, default_value = "", hide_default_value = true, value_delimiter = ',', value_parser = read_networks)]
    trusted_proxies: Vec<Networks>,

    /// True if PORT expects the PROXY protocol on every connection from TRUSTED_PROXIES.
    #[arg(long, env, default_value_t = false, action = clap::ArgAction::Set)]
    proxy_protocol: bool,
}

/// The replica's answer.
#[derive(Debug)]
pub struct Readiness {
    /// True if it is ready.
    pub ready: bool,
    /// The answer's body.
    pub text: String,
}

/// The reasons why readiness is not known.
#[derive(Debug, thiserror::Error)]
pub enum HealthError {
    /// Nothing answers at the address.
    #[error("no answer from {address}")]
    Connection {
        /// The address.
        address: SocketAddr,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The replica takes too long.
    #[error("the replica did not answer in time")]
    Timeout(#[from] Elapsed),
    /// Something listens there that is not a replica.
    #[error("the server at {0} does not speak HTTP")]
    Answer(SocketAddr),
}

impl HealthArgs {
    fn admin(&self) -> Option<SocketAddr> {
        let port = self.admin_port.filter(|port| *port != 0)?;
        Some(SocketAddr::new(reachable(self.admin_host), port))
    }

    /// True if PORT expects the PROXY protocol from this address.
    fn is_balancer(&self, own: IpAddr) -> bool {
        self.proxy_protocol && self.trusted_proxies.iter().flatten().any(|network| network.contains(own))
    }
}

/// Asks the replica whether it is ready.
///
/// # Errors
/// There is no usable answer.
pub async fn run(args: &HealthArgs) -> Result<Readiness, HealthError> {
    let admin = args.admin();
    let address = admin.unwrap_or_else(|| SocketAddr::new(reachable(args.bind_address), args.port));
    let asking = async {
        let mut stream = TcpStream::connect(address).await?;
        let speaks_first = admin.is_none() && args.is_balancer(stream.local_addr()?.ip());
        // As a balancer does for its own probes. In HTTP/1.0 the answer ends with the connection.
        let head = if speaks_first { "PROXY UNKNOWN\r\n" } else { "" };
        let request = format!("{head}GET /health/ready HTTP/1.0\r\nHost: {address}\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(MAX_ANSWER).read_to_end(&mut answer).await?;
        Ok::<_, io::Error>(answer)
    };
    let answer = timeout(TIMEOUT, asking).await?.map_err(|source| HealthError::Connection { address, source })?;
    read(&String::from_utf8_lossy(&answer)).ok_or(HealthError::Answer(address))
}

/// Parses an answer; none if it is not HTTP.
fn read(answer: &str) -> Option<Readiness> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.")?.split(' ').nth(1)?;
    Some(Readiness { ready: status == "200", text: body.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_answer_is_not_taken_for_one() {
        for answer in ["", "HTTP/1.1 200 OK", "SSH-2.0-x\r\n\r\n", "HTTP/1.1\r\n\r\nready"] {
            assert!(read(answer).is_none(), "{answer:?}");
        }
        let ready = |answer| read(answer).map(|readiness| (readiness.ready, readiness.text));
        assert_eq!(ready("HTTP/1.0 200 OK\r\nA: b\r\n\r\n{}"), Some((true, "{}".to_owned())));
        assert_eq!(ready("HTTP/1.1 503 No\r\n\r\nwhy"), Some((false, "why".to_owned())));
    }
}
