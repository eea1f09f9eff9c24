//! The PROXY protocol, versions 1 and 2 (https://www.haproxy.org/download/2.8/doc/proxy-protocol.txt): a header in
//! which a balancer names its client, before anything else on the connection.

use std::io::{Error, ErrorKind, Result};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use tokio::io::{AsyncRead, AsyncReadExt};

/// The start of a version 2 header.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Maximum length of a version 1 line in bytes, including its end.
const MAX_LINE: usize = 107;
/// Maximum length of the rest of a version 2 header in bytes: addresses, and what may follow them.
const MAX_REST: usize = 4096;

/// Reads the header and nothing after it. Returns the client's address; none if the balancer speaks for itself, as in
/// its probes, or gives no address.
///
/// # Errors
/// The bytes are not a valid header.
pub(super) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<IpAddr>> {
    match stream.read_u8().await? {
        b'P' => read_line(stream).await,
        first if first == SIGNATURE[0] => read_binary(stream).await,
        _ => Err(malformed()),
    }
}

fn malformed() -> Error {
    Error::new(ErrorKind::InvalidData, "no PROXY protocol header")
}

/// Version 1, after its first letter: `PROXY TCP4 192.0.2.1 192.0.2.2 4711 443`.
async fn read_line(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<IpAddr>> {
    let mut line = vec![b'P'];
    // Byte by byte: what follows belongs to the request, and must stay in the socket.
    while !line.ends_with(b"\r\n") {
        if line.len() == MAX_LINE {
            return Err(malformed());
        }
        line.push(stream.read_u8().await?);
    }
    let line = std::str::from_utf8(&line).map_err(|_| malformed())?;
    let words: Vec<&str> = line.trim_end().split(' ').collect();
    match words[..] {
        ["PROXY", "UNKNOWN", ..] => Ok(None),
        ["PROXY", "TCP4", source, _, _, _] => {
            source.parse::<Ipv4Addr>().map(|address| Some(address.into())).map_err(|_| malformed())
        }
        ["PROXY", "TCP6", source, _, _, _] => {
            source.parse::<Ipv6Addr>().map(|address| Some(address.into())).map_err(|_| malformed())
        }
        _ => Err(malformed()),
    }
}

/// Version 2, after its first byte.
async fn read_binary(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<IpAddr>> {
    let mut head = [0; 15];
    stream.read_exact(&mut head).await?;
    if head[..11] != SIGNATURE[1..] || head[11] >> 4 != 2 {
        return Err(malformed());
    }
    let (command, family) = (head[11] & 0xf, head[12] >> 4);
    let mut rest = vec![0; usize::from(u16::from_be_bytes([head[13], head[14]]))];
    if rest.len() > MAX_REST {
        return Err(malformed());
    }
    stream.read_exact(&mut rest).await?;
    match (command, family) {
        // LOCAL: the balancer speaks for itself.
        (0, _) => Ok(None),
        (1, 1) => rest.first_chunk::<4>().map(|bytes| Some(Ipv4Addr::from(*bytes).into())).ok_or_else(malformed),
        (1, 2) => rest.first_chunk::<16>().map(|bytes| Some(Ipv6Addr::from(*bytes).into())).ok_or_else(malformed),
        (1, _) => Ok(None),
        _ => Err(malformed()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Returns the result and the remaining bytes.
    async fn read_all(bytes: &[u8]) -> (Result<Option<IpAddr>>, Vec<u8>) {
        let mut stream = bytes;
        (read(&mut stream).await, stream.to_vec())
    }

    fn binary(command: u8, family: u8, addresses: &[u8]) -> Vec<u8> {
        let length = (addresses.len() as u16).to_be_bytes();
        [&SIGNATURE[..], &[0x20 | command, family << 4 | 1], &length, addresses].concat()
    }

    #[tokio::test]
    async fn both_versions_say_who_the_client_is_and_leave_what_follows() {
        let (v4, v6) = ("192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap());
        let IpAddr::V6(address) = v6 else { unreachable!() };
        let six = [&address.octets()[..], &[0; 20]].concat();
        for (header, client) in [
            (b"PROXY TCP4 192.0.2.1 192.0.2.2 4711 443\r\n".to_vec(), Some(v4)),
            (b"PROXY TCP6 2001:db8::1 ::1 4711 443\r\n".to_vec(), Some(v6)),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN ff:: ff:: 1 1\r\n".to_vec(), None),
            (binary(1, 1, &[192, 0, 2, 1, 192, 0, 2, 2, 1, 1, 1, 187]), Some(v4)),
            (binary(1, 1, &[&[192, 0, 2, 1, 192, 0, 2, 2, 1, 1, 1, 187][..], b"\x04\x00\x01x"].concat()), Some(v4)),
            (binary(1, 2, &six), Some(v6)),
            (binary(0, 0, &[]), None),
            (binary(1, 3, &[0; 216]), None),
        ] {
            let (read, left) = read_all(&[&header[..], b"GET / HTTP/1.1\r\n"].concat()).await;
            assert_eq!(read.unwrap(), client);
            assert_eq!(left, b"GET / HTTP/1.1\r\n");
        }
        for wrong in [
            &b"GET / HTTP/1.1\r\n\r\n"[..],
            b"PROXY TCP4 192.0.2.1\r\n",
            b"PROXY TCP4 x y 1 2\r\n",
            b"PROXY TCP6 192.0.2.1 ::1 1 2\r\n",
            &binary(1, 1, &[1, 2, 3]),
            &binary(2, 1, &[0; 12]),
            &b"P".repeat(200),
            &binary(1, 1, &[0; 5000]),
            b"",
        ] {
            assert!(read_all(wrong).await.0.is_err(), "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_is_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300), version in 0..3) {
            let begin: &[u8] = match version { 0 => b"", 1 => b"PROXY TCP4 ", _ => &SIGNATURE };
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let _ = runtime.block_on(read_all(&[begin, &bytes].concat()));
        }
    }
}
