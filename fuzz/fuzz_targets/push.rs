//! The body of a push: whatever it is, it is read or refused, and read alike when it is read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mana_sync::protocol::Stamp;
use mana_sync::protocol::push::{StampPolicy, read_push};

fuzz_target!(|body: &[u8]| {
    let policy = StampPolicy { now: Stamp::from_millis(1_767_225_600_000), max_ahead: 300_000 };
    if let Ok(push) = read_push(body, None, policy, 1_000) {
        let again = read_push(body, None, policy, 1_000).expect("it was read before");
        assert_eq!(push.row_ids("u", "a"), again.row_ids("u", "a"));
        assert!(push.changes.iter().all(|change| is_object(&change.stamps)));
    }
});

fn is_object(json: &str) -> bool {
    json.starts_with('{') && json.ends_with('}')
}
