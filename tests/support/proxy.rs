//! A TCP proxy that disturbs its connections: the network between a replica and its database.

use socket2::SockRef;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// The proxy's treatment of connections and the bytes on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Passes everything on.
    Pass,
    /// Delays each chunk by this much.
    Delay(Duration),
    /// Drops all bytes without closing anything; accepts new connections and stays silent. A connection that has lost
    /// bytes stays silent afterwards too, like one that a firewall has forgotten.
    Swallow,
    /// Resets new connections; open ones continue.
    Refuse,
}

/// A running proxy. Dropping it resets every connection and releases its port.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    _accepting: AbortOnDropHandle<()>,
}

#[derive(Debug)]
struct Shared {
    upstream: Mutex<SocketAddr>,
    mode: Mutex<Mode>,
    /// Ends everything open, or only the connections that have lost bytes.
    cuts: Mutex<Cuts>,
}

#[derive(Clone, Debug, Default)]
struct Cuts {
    all: CancellationToken,
    silent: CancellationToken,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.cut();
    }
}

impl Proxy {
    /// Starts a proxy on a port of its own that forwards to `upstream`.
    pub async fn start(upstream: SocketAddr) -> Proxy {
        Proxy::start_at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), upstream).await
    }

    /// Starts one at this address.
    pub async fn start_at(address: SocketAddr, upstream: SocketAddr) -> Proxy {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared =
            Arc::new(Shared { upstream: Mutex::new(upstream), mode: Mutex::new(Mode::Pass), cuts: Mutex::default() });
        let accepting = tokio::spawn(accept(listener, shared.clone()));
        Proxy { address, shared, _accepting: AbortOnDropHandle::new(accepting) }
    }

    /// The same URL, through this proxy.
    pub fn url(&self, url: &str) -> String {
        through(self.address, url)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn set(&self, mode: Mode) {
        *self.shared.mode.lock().unwrap_or_else(PoisonError::into_inner) = mode;
    }

    /// Leads new connections to another server.
    pub fn lead_to(&self, upstream: SocketAddr) {
        *self.shared.upstream.lock().unwrap_or_else(PoisonError::into_inner) = upstream;
    }

    /// Resets every open connection.
    pub fn cut(&self) {
        let cuts = std::mem::take(&mut *self.shared.cuts());
        cuts.all.cancel();
        cuts.silent.cancel();
    }

    /// Resets the connections that have lost bytes.
    pub fn cut_silent(&self) {
        std::mem::take(&mut self.shared.cuts().silent).cancel();
    }
}

/// A URL with another address in it.
pub fn through(address: SocketAddr, url: &str) -> String {
    let mut url: url::Url = url.parse().unwrap();
    url.set_port(Some(address.port())).unwrap();
    url.to_string()
}

impl Shared {
    fn mode(&self) -> Mode {
        *self.mode.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn upstream(&self) -> SocketAddr {
        *self.upstream.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cuts(&self) -> std::sync::MutexGuard<'_, Cuts> {
        self.cuts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        tokio::spawn(serve(client, shared.clone()));
    }
}

/// Serves one connection, from its beginning to its end.
async fn serve(client: TcpStream, shared: Arc<Shared>) {
    let cuts = shared.cuts().clone();
    let server = match shared.mode() {
        Mode::Refuse => return reset(&client),
        Mode::Swallow => None,
        Mode::Pass | Mode::Delay(_) => match TcpStream::connect(shared.upstream()).await {
            Ok(server) => Some(server),
            Err(_) => return reset(&client),
        },
    };
    for stream in server.iter().chain([&client]) {
        // Without it, forwarded data waits for acknowledgements.
        let _ = stream.set_nodelay(true);
        // Abrupt ends show at once, as when a host reboots; an orderly end is passed on.
        let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
    }
    let silent = AtomicBool::new(server.is_none());
    let (client_in, client_out) = client.into_split();
    let (server_in, server_out) = server.map(TcpStream::into_split).unzip();
    let link = Link { shared: &shared, silent: &silent };
    let passing = async {
        match server_in {
            Some(server_in) => drop(tokio::join!(
                link.pump(client_in, server_out, Side::Client),
                link.pump(server_in, Some(client_out), Side::Server)
            )),
            None => drop(link.pump(client_in, None, Side::Client).await),
        }
    };
    let cut_silent = async {
        cuts.silent.cancelled().await;
        if !silent.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        () = passing => {}
        () = cuts.all.cancelled() => {}
        () = cut_silent => {}
    }
}

fn reset(stream: &TcpStream) {
    // A connection that cannot be reset is closed, which has the same effect.
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Client,
    Server,
}

#[derive(Clone, Copy)]
struct Link<'a> {
    shared: &'a Shared,
    silent: &'a AtomicBool,
}

impl Link<'_> {
    /// Forwards one direction until its end. Returns what must stay open until both are done.
    async fn pump(
        self,
        mut from: OwnedReadHalf,
        mut to: Option<OwnedWriteHalf>,
        side: Side,
    ) -> (OwnedReadHalf, Option<OwnedWriteHalf>) {
        let mut buffer = vec![0; 16 << 10];
        loop {
            let read = from.read(&mut buffer).await.unwrap_or(0);
            let mode = self.shared.mode();
            if mode == Mode::Swallow {
                self.silent.store(true, Ordering::Relaxed);
            }
            let silent = self.silent.load(Ordering::Relaxed);
            match (read, &mut to) {
                // The client is not told that the server has gone; it may itself go at any time.
                (0, _) if silent && side == Side::Server => std::future::pending().await,
                (0, Some(to)) => drop(to.shutdown().await),
                (0, None) => {}
                (_, Some(to)) if !silent => {
                    if let Mode::Delay(delay) = mode {
                        tokio::time::sleep(delay).await;
                    }
                    if to.write_all(&buffer[..read]).await.is_ok() {
                        continue;
                    }
                }
                _ => continue,
            }
            return (from, to);
        }
    }
}
