//! The only way to PostgreSQL: for queries, publishing, listening and migrations.
//!
//! - [`connect`](Connector): connects to whichever of a URL's hosts and addresses is usable, trying several
//!   concurrently (`staggered`). `tls`, `verify`, `chain` and `certificate_name` implement `sslmode`.
//! - [`pool`](Pool): a bounded number of connections, each of which has shown that it works before it is used, with
//!   statements that are prepared once per connection; a statement that fails with its connection is retried.
//!   `manager`: creates and tests the connections; `guard`: a connection in use.
//! - `route`: several equivalent servers, one of which is preferred. [`identity`]: which of them a connection leads to.
//! - `health`: what is known about idle connections. `stall`: finds out whether the database is still working on a
//!   statement, or the network has dropped the connection.
//! - [`Session`]: a connection of a task's own, outside the pool.
//! - [`ShortestLately`]: what a statement takes while nothing else is going on.
//! - [`error`]: what an error means for a request.

mod certificate_name;
mod chain;
mod connect;
pub mod error;
mod guard;
mod health;
mod identity;
mod manager;
mod pool;
mod route;
mod session;
mod shortest;
mod sql;
mod staggered;
mod stall;
mod tls;
mod types;
mod verify;

pub use connect::{Connector, Driver, Resolver};
pub use error::{ConnectError, DbError};
pub use identity::{Admitted, IDENTITY, identity};
pub use pool::{Pool, PoolConfig, PoolStatus};
pub use session::Session;
pub use shortest::ShortestLately;
pub use sql::{RowSink, Sql, make_orderly};
pub use tls::TlsError;
pub use types::{JsonText, Micros};
