//! What must hold of whatever comes in, for the fuzzer and for `tests/fuzz`, which keeps this compiling.

use mana_sync::fanout::codec::Payload;
use mana_sync::protocol::push::{StampPolicy, read_push};
use mana_sync::protocol::stream_id::StreamPosition;
use mana_sync::protocol::websocket::ClientMessage;
use mana_sync::protocol::{Cursor, Stamp};

/// A body of a push: it is read or refused, and read alike when it is read again.
pub fn push(body: &[u8]) {
    let policy = StampPolicy { now: Stamp::from_millis(1_767_225_600_000), max_ahead: 300_000 };
    if let Ok(push) = read_push(body, None, policy, 1_000) {
        let again = read_push(body, None, policy, 1_000).expect("it was read before");
        assert_eq!(push.row_ids("u", "a"), again.row_ids("u", "a"));
        assert!(push.changes.iter().all(|change| is_object(&change.stamps)));
    }
}

fn is_object(json: &str) -> bool {
    json.starts_with('{') && json.ends_with('}')
}

/// Cursors, stamps, positions in several logs, and the messages of a WebSocket: what is read is written as it is read.
pub fn text(text: &str) {
    if let Ok(cursor) = Cursor::parse(text) {
        assert_eq!(Cursor::parse(&cursor.to_string()).map(Cursor::micros).ok(), Some(cursor.micros()));
    }
    if let Ok(stamp) = Stamp::parse(text) {
        assert_eq!(Stamp::parse(&stamp.to_string()).ok(), Some(stamp));
    }
    let _ = StreamPosition::parse(text);
    ClientMessage::read(text);
}

/// A notification, which any neighbour on the database may have sent.
pub fn notification(text: &str) {
    if let Some(Ok(payload)) = Payload::parse(text) {
        payload.said();
        payload.entries().for_each(|entry| drop(entry.map(|entry| entry.read())));
    }
}
