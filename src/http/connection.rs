//! A client's connection, as what it carries sees it.

use super::meter::Meter;
use crate::limits::addresses::AddressPlace;
use crate::telemetry::Metrics;
use axum::http::Extensions;
use std::net::IpAddr;
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;

/// A place among the connections of the client's address, for whom a balancer asks. What lives longer than the answer to
/// its request holds a clone.
#[derive(Clone, Debug)]
pub(super) struct ClientPlace {
    place: Arc<AddressPlace>,
}

/// The address of whoever sends a request, as far as it is known.
pub(super) fn address_of(extensions: &Extensions) -> Option<IpAddr> {
    match extensions.get::<ClientPlace>() {
        Some(client) => client.place.address(),
        None => extensions.get::<Connection>()?.place.address.address(),
    }
}

/// A place among the connections of this replica. What lives as long as the connection holds a clone.
#[derive(Clone, Debug)]
pub(super) struct Connection {
    place: Arc<Place>,
}

/// What such a place consists of.
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

    /// What counts the bytes that it makes us hold.
    pub(super) fn meter(&self) -> &Meter {
        &self.place.meter
    }

    /// Counts that it found no memory for what its client sends.
    pub(super) fn count_no_room(&self) {
        self.place.metrics.refused.with_label_values(&["unauthenticated_bytes"]).inc();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.metrics.tcp_connections.dec();
    }
}
