//! The one way to PostgreSQL: for queries, publishing, listening and migrations alike.
//!
//! * [`connect`](Connector): to whichever of a URL's hosts and their addresses can be used, of which several are tried at
//!   once (`staggered`); `tls`, `verify`, `chain` and `certificate_name`: as `sslmode` says.
//! * [`pool`](Pool): a bounded number of connections, each of which has shown that it works before it is lent, and
//!   statements that are prepared once on each; what fails with its connection is done once more. `manager`: how its
//!   connections are made and tested; `guard`: one that is lent.
//! * `route`: several servers of which any will do, and one does best.
//! * `health`: what is known of idle connections; `stall`: whether the database still works on what it was asked, or the
//!   network has forgotten the connection.
//! * [`error`]: what an error means for whoever asked.

mod certificate_name;
mod chain;
mod connect;
pub mod error;
mod guard;
mod health;
mod manager;
mod pool;
mod route;
mod sql;
mod staggered;
mod stall;
mod tls;
mod types;
mod verify;

pub use connect::{Connector, Driver, Resolver, Session};
pub use error::{ConnectError, DbError};
pub use pool::{Pool, PoolConfig, PoolStatus};
pub use sql::{RowSink, Sql};
pub use tls::TlsError;
pub use types::{JsonText, Micros};
