//! Generates load, cheaply, because it shares its machine with the servers that it measures.
//!
//! ```text
//! endpoint ─► client: one keep-alive connection to each target, driven by the task that waits for the answer
//! push_body ─► device: one clientId that pushes and pulls, with as little work as possible
//! closed: as fast as N connections can        one_by_one: a number of requests, one after the other
//! socket, feed: the two ways of being notified, ten thousand at a time
//! usage: the generator's own cost
//! ```
//! [`crate::device`] is the other kind of device, which keeps records and checks every answer.

pub(crate) mod client;
pub(crate) mod closed;
pub(crate) mod device;
pub(crate) mod endpoint;
pub(crate) mod feed;
pub(crate) mod one_by_one;
pub(crate) mod push_body;
pub(crate) mod socket;
pub mod usage;

pub use client::{Answer, Client, Failure};
pub use device::LeanDevice;
pub use endpoint::{Endpoint, EndpointError};
pub use feed::Feed;
pub use socket::{Socket, SocketEvent};
