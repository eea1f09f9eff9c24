//! Ports of 127.0.0.1.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use super::{DevError, say::note};

/// A port that was free a moment ago.
pub fn free_port() -> Result<u16, DevError> {
    TcpListener::bind(local(0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(DevError::io("find a free port"))
}

/// True if nobody listens there at this moment.
pub fn is_free(port: u16) -> bool {
    TcpListener::bind(local(port)).is_ok()
}

/// Returns this port if it is free, else 0, which means any; the user is told.
pub fn preferred(port: u16) -> u16 {
    if is_free(port) {
        return port;
    }
    note(format_args!("Port {port} is taken; using another one (see below)."));
    0
}

/// Returns the loopback address of a port.
pub fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}
