//! A client's connection, as seen by the requests on it.

use super::meter::Meter;
use crate::limits::addresses::AddressPlace;
use crate::telemetry::Metrics;
use axum::http::{Extensions, HeaderMap, HeaderName};
use std::net::IpAddr;
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;

/// A place among the connections of the address of the client behind a balancer. Whatever outlives the answer to its
/// request holds a clone.
#[derive(Clone, Debug)]
pub(super) struct ClientPlace {
    place: Arc<AddressPlace>,
}

/// The header in which load balancers name the scheme that a client used.
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Marks a request that a balancer received over TLS.
#[derive(Clone, Copy, Debug)]
pub(super) struct OverTls;

impl OverTls {
    /// Reads what a trusted balancer says. If there are several, the first is nearest to the client. For WebSockets
    /// some write `wss`.
    pub(super) fn of(headers: &HeaderMap) -> Option<OverTls> {
        let schemes = headers.get(FORWARDED_PROTO)?.to_str().ok()?;
        let scheme = schemes.split(',').next()?.trim();
        (scheme.eq_ignore_ascii_case("https") || scheme.eq_ignore_ascii_case("wss")).then_some(OverTls)
    }
}

/// Returns the scheme that the client used, as far as it is known: a replica itself does not speak TLS.
pub(super) fn scheme_of(extensions: &Extensions) -> &'static str {
    if extensions.get::<OverTls>().is_some() { "https" } else { "http" }
}

/// Returns the address of the client that sent a request, if it is known.
pub(super) fn address_of(extensions: &Extensions) -> Option<IpAddr> {
    match extensions.get::<ClientPlace>() {
        Some(client) => client.place.address(),
        None => extensions.get::<Connection>()?.place.address.address(),
    }
}

/// A place among the connections of this replica. Whatever lives as long as the connection holds a clone.
#[derive(Clone, Debug)]
pub(super) struct Connection {
    place: Arc<Place>,
}

/// The contents of a [`Connection`].
#[derive(Debug)]
pub(super) struct Place {
    pub(super) _permit: OwnedSemaphorePermit,
    pub(super) address: AddressPlace,
    pub(super) meter: Meter,
    pub(super) metrics: Arc<Metrics>,
}

impl ClientPlace {
    pub(super) fn new(place: AddressPlace) -> ClientPlace {
        ClientPlace { place: Arc::new(place) }
    }
}

impl Connection {
    pub(super) fn new(place: Place) -> Connection {
        Connection { place: Arc::new(place) }
    }

    /// The meter that counts the bytes it makes us hold.
    pub(super) fn meter(&self) -> &Meter {
        &self.place.meter
    }

    /// Counts that there was no memory for the client's input.
    pub(super) fn count_no_room(&self) {
        self.place.metrics.refused.with_label_values(&["unauthenticated_bytes"]).inc();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.metrics.tcp_connections.dec();
    }
}
