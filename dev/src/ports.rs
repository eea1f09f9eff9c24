//! Ports of 127.0.0.1.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ops::Range;

use rand::random_range;

use super::{DevError, say::note};

/// Ports below those that Linux and macOS give to outgoing connections.
const RESERVED: Range<u16> = 15_000..32_000;

/// A port on which nobody listens. Outgoing connections are not given it either, so it stays free until another program
/// chooses it, too.
pub fn free_port() -> Result<u16, DevError> {
    const TRIES: usize = 200;
    let mut last = None;
    for _ in 0..TRIES {
        let port = random_range(RESERVED);
        match TcpListener::bind(local(port)) {
            Ok(_) => return Ok(port),
            Err(error) => last = Some(error),
        }
    }
    Err(DevError::io("find a free port")(last.expect("it was tried")))
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
