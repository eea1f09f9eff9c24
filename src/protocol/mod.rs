//! The wire protocol: types, stamps, cursors, validation and merging. Pure functions, no I/O.
//!
//! `PROTOCOL.md`'s rules live here and nowhere else:
//!
//! * [`stamp`]: field stamps, compared as instants, written as `toISOString` writes them.
//! * [`cursor`]: the opaque, fixed-width `since` / `syncedUntil` strings.
//! * [`push`]: the body of a push, read and validated into changes ready to be stored.
//! * [`identity`]: row ids that are a function of the change, so that it is stored once however often it is sent (G1).
//! * [`keys`]: short names for users and logs, however long their ids are.
//! * [`merge`]: what a device must not be sent, or must be sent with another stamp, so that clients which
//!   compare stamp strings converge (G3).
//! * [`trim`]: what of a record's rows stays in the log.
//! * [`conflicts`]: which of a push's values lose to what others stored.
//! * [`page`]: stored changes written as JSON.
//! * [`stream_id`]: where a reader of several logs stands.
//! * [`websocket`]: the messages of a WebSocket; [`close`]: why one ends.

pub mod close;
pub mod conflicts;
pub mod cursor;
pub mod identity;
pub mod json;
pub mod keys;
pub mod merge;
pub mod page;
pub mod push;
pub mod stamp;
pub mod stream_id;
pub mod trim;
pub mod websocket;

pub use cursor::Cursor;
pub use keys::{Log, LogId, UserKey};
pub use merge::adjusted_stamp;
pub use stamp::Stamp;
