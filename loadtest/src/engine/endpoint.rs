//! The target of requests: a parsed base URL, and connections to it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, LazyLock};

use hyper::http::HeaderValue;
use reqwest::Url;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio_rustls::TlsConnector;

/// The reasons why a base URL cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// It is not a base URL.
    #[error("{url:?} is not a base URL; it should look like http://127.0.0.1:3050")]
    Url {
        /// The URL.
        url: String,
    },
    /// Its host cannot be found.
    #[error("no address was found for {url}")]
    Lookup {
        /// The URL.
        url: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Its host has no address.
    #[error("{url} has no address")]
    NoAddress {
        /// The URL.
        url: String,
    },
}

/// A target.
#[derive(Clone, Debug)]
pub struct Endpoint {
    url: String,
    address: SocketAddr,
    /// The value of the header Host.
    pub(super) host: HeaderValue,
    /// The prefix of every path; empty, or with a leading slash and no trailing one.
    pub(super) prefix: String,
    tls: Option<ServerName<'static>>,
}

/// A connection, with or without TLS.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

impl Endpoint {
    /// Parses a base URL and looks up its address, once.
    pub async fn resolve(base: &str) -> Result<Self, EndpointError> {
        let invalid = || EndpointError::Url { url: base.to_owned() };
        let url = Url::parse(base).map_err(|_| invalid())?;
        let name = url.host_str().ok_or_else(invalid)?.to_owned();
        let port = url.port_or_known_default().ok_or_else(invalid)?;
        let tls = match url.scheme() {
            "http" => None,
            "https" => Some(ServerName::try_from(name.clone()).map_err(|_| invalid())?),
            _ => return Err(invalid()),
        };
        let host = match url.port() {
            Some(port) => format!("{name}:{port}"),
            None => name.clone(),
        };
        let lookup = |source| EndpointError::Lookup { url: base.to_owned(), source };
        let bare = name.trim_matches(['[', ']']);
        let address = lookup_host((bare, port)).await.map_err(lookup)?.next();
        Ok(Self {
            url: base.trim_end_matches('/').to_owned(),
            address: address.ok_or_else(|| EndpointError::NoAddress { url: base.to_owned() })?,
            host: HeaderValue::from_str(&host).map_err(|_| invalid())?,
            prefix: url.path().trim_end_matches('/').to_owned(),
            tls,
        })
    }

    /// Resolves all of them, in the order given.
    pub async fn resolve_all(bases: &[String]) -> Result<Arc<[Self]>, EndpointError> {
        let mut all = Vec::with_capacity(bases.len());
        for base in bases {
            all.push(Self::resolve(base).await?);
        }
        Ok(all.into())
    }

    /// The base URL, without a trailing slash.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Its address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Opens a connection. `from` is the local address, for more connections than one address has ports.
    pub async fn connect(&self, from: Option<IpAddr>) -> io::Result<Box<dyn Io>> {
        let stream = self.connect_tcp(from).await?;
        match &self.tls {
            None => Ok(Box::new(stream)),
            Some(name) => Ok(Box::new(CONNECTOR.connect(name.clone(), stream).await?)),
        }
    }

    async fn connect_tcp(&self, from: Option<IpAddr>) -> io::Result<TcpStream> {
        let stream = match from {
            None => TcpStream::connect(self.address).await?,
            Some(from) => {
                let socket = if from.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
                choose_port_late(&socket)?;
                socket.bind((from, 0).into())?;
                socket.connect(self.address).await?
            }
        };
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

/// Defers the choice of the port until the socket connects, when it only has to differ from those to the same target.
/// Linux takes milliseconds to find an unused one once thousands are in use.
#[cfg(target_os = "linux")]
fn choose_port_late(socket: &TcpSocket) -> io::Result<()> {
    nix::sys::socket::setsockopt(socket, nix::sys::socket::sockopt::IpBindAddressNoPort, &true).map_err(io::Error::from)
}

#[cfg(not(target_os = "linux"))]
fn choose_port_late(_: &TcpSocket) -> io::Result<()> {
    Ok(())
}

static CONNECTOR: LazyLock<TlsConnector> = LazyLock::new(|| {
    let mut roots = RootCertStore::empty();
    // A store without roots trusts nobody: a failure to load them shows as a refused certificate.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    TlsConnector::from(Arc::new(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth()))
});

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_base_url_is_taken_apart() {
        let plain = Endpoint::resolve("http://127.0.0.1:3050/").await.unwrap();
        assert_eq!((plain.url(), plain.prefix.as_str()), ("http://127.0.0.1:3050", ""));
        assert_eq!((plain.host.to_str().unwrap(), plain.address().port()), ("127.0.0.1:3050", 3050));
        let below = Endpoint::resolve("https://127.0.0.1/sync-service/").await.unwrap();
        assert_eq!((below.prefix.as_str(), below.address().port()), ("/sync-service", 443));
        for bad in ["127.0.0.1:3050", "ws://127.0.0.1", "http://"] {
            assert!(Endpoint::resolve(bad).await.is_err(), "{bad}");
        }
    }
}
