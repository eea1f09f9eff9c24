//! Cursors, stamps and the messages of a WebSocket.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mana_sync::protocol::socket::ClientMessage;
use mana_sync::protocol::{Cursor, Stamp};

fuzz_target!(|text: &str| {
    if let Ok(cursor) = Cursor::parse(text) {
        assert_eq!(Cursor::parse(&cursor.to_string()).map(Cursor::micros).ok(), Some(cursor.micros()));
    }
    if let Ok(stamp) = Stamp::parse(text) {
        assert_eq!(Stamp::parse(&stamp.to_string()).ok(), Some(stamp));
    }
    ClientMessage::read(text);
});
