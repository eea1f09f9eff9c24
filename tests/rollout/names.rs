//! A name server that knows one name: the balancer finds the replicas through it, as with containers.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use tokio::net::UdpSocket;
use tokio_util::task::AbortOnDropHandle;

const HEADER: usize = 12;
/// A record type (RFC 1035 and 3596), followed by the class.
const A: [u8; 4] = [0, 1, 0, 1];
/// Response, authoritative, no error.
const FLAGS: [u8; 2] = [0x84, 0x00];
/// The start of every record: a pointer to the name in the question, A, IN, and a TTL of zero.
const RECORD: [u8; 12] = [0xC0, HEADER as u8, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4];

/// The server, which stops when this is dropped.
#[derive(Debug)]
pub struct Names {
    pub at: SocketAddr,
    addresses: Arc<Mutex<Vec<Ipv4Addr>>>,
    _serving: AbortOnDropHandle<()>,
}

impl Names {
    pub async fn start() -> Names {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let at = socket.local_addr().unwrap();
        let addresses: Arc<Mutex<Vec<Ipv4Addr>>> = Arc::default();
        let known = addresses.clone();
        let serving = tokio::spawn(async move {
            let mut query = [0; 512];
            loop {
                let (length, asker) = socket.recv_from(&mut query).await.unwrap();
                let answer = answer(&query[..length], &known.lock().unwrap());
                // A client without an answer asks again.
                let _ = socket.send_to(&answer.unwrap_or_default(), asker).await;
            }
        });
        Names { at, addresses, _serving: AbortOnDropHandle::new(serving) }
    }

    /// Sets the addresses of the name.
    pub fn set(&self, addresses: Vec<Ipv4Addr>) {
        *self.addresses.lock().unwrap() = addresses;
    }
}

/// Answers any query: every name is the replicas' name. There are only A records.
fn answer(query: &[u8], addresses: &[Ipv4Addr]) -> Option<Vec<u8>> {
    let name = query.get(HEADER..)?.iter().position(|byte| *byte == 0)? + 1;
    let question = query.get(HEADER..HEADER + name + A.len())?;
    let addresses = if question.ends_with(&A) { addresses } else { &[] };
    let mut answer = query[..2].to_vec();
    answer.extend(FLAGS);
    answer.extend([0, 1, 0, u8::try_from(addresses.len()).ok()?, 0, 0, 0, 0]);
    answer.extend(question);
    for address in addresses {
        answer.extend(RECORD);
        answer.extend(address.octets());
    }
    Some(answer)
}
