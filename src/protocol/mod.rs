//! The wire protocol: types, stamps, cursors, validation and merging. Pure functions, no I/O.
//!
//! The rules of `docs/protocol.md` live here and nowhere else:
//!
//! * [`stamp`]: field stamps, compared as instants, written as `toISOString` writes them.
//! * [`cursor`]: the opaque, fixed-width `since` / `syncedUntil` strings.
//! * [`push`]: the body of a push, parsed and validated into changes ready to be stored.
//! * [`identity`]: row ids derived from changes, so that a change is stored once however often it is sent (G1).
//! * [`keys`]: short keys for users and logs, however long their ids are.
//! * [`merge`]: what a device must not be sent, or must be sent with another stamp, so that clients that compare stamp
//!   strings converge (G3).
//! * [`trim`]: which rows of a record stay in the log.
//! * [`conflicts`]: the pushed values that lose to what others stored.
//! * [`page`]: stored changes written as JSON; [`page_bound`]: how many of them together.
//! * [`stream_id`]: a reader's position in several logs.
//! * [`websocket`]: the messages of a WebSocket; [`close`]: the reasons for closing one.

pub mod close;
pub mod conflicts;
pub mod cursor;
pub mod identity;
pub mod json;
pub mod keys;
pub mod merge;
pub mod page;
pub mod page_bound;
pub mod push;
pub mod stamp;
pub mod stream_id;
pub mod trim;
pub mod websocket;

pub use cursor::Cursor;
pub use keys::{Log, LogId, UserKey};
pub use merge::adjusted_stamp;
pub use stamp::Stamp;
