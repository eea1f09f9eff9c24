//! Reads notifications of the previous form: from replicas of an older version, and from `sync_push` in SQL.
//!
//! They are not signed, so only the users are taken from them; what was stored is asked of the database.

use super::codec::{PayloadError, read_user};
use crate::protocol::UserKey;
use serde::Deserialize;
use std::borrow::Cow;

const VERSION: u32 = 1;

/// user, app, client, tables, ranges
type Entry<'a> = (Cow<'a, str>, Cow<'a, str>, Option<Cow<'a, str>>, Option<Vec<Cow<'a, str>>>, Vec<(i64, i64)>);

#[derive(Deserialize)]
struct Payload<'a> {
    v: u32,
    #[serde(borrow)]
    w: Vec<Entry<'a>>,
}

/// Returns the users that a payload concerns.
pub(super) fn users(payload: &str) -> Result<Vec<UserKey>, PayloadError> {
    let payload: Payload<'_> = serde_json::from_str(payload).map_err(PayloadError::Json)?;
    if payload.v != VERSION {
        return Err(PayloadError::Version(payload.v));
    }
    payload.w.iter().map(|(user, ..)| read_user(user).ok_or(PayloadError::User)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whom_older_replicas_and_sql_tell_of_is_read() {
        let (user, other) = (UserKey::of("u"), UserKey::of("\u{1}"));
        let names = [user, other].map(|user| {
            use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
            URL_SAFE_NO_PAD.encode(user.0.as_bytes())
        });
        let [a, b] = names;
        let of_a_replica = format!(
            r#"{{"v":1,"w":[["{a}","todo","phone",["tasks"],[[1700000000000000,1700000000000020]]],["{b}","é\n",null,null,[]]],"t":[[0,["x"]]]}}"#
        );
        assert_eq!(users(&of_a_replica).unwrap(), [user, other]);
        let of_sql = format!(r#"{{"v": 1, "w": [["{a}", "todo", "svc", ["tasks"], [[0, 20]]]]}}"#);
        assert_eq!(users(&of_sql).unwrap(), [user]);
    }

    #[test]
    fn what_cannot_be_read_is_an_error() {
        for payload in ["", "todo", "{}", r#"{"v":1}"#, r#"{"v":2,"w":[]}"#, r#"{"v":1,"w":[["!","a",null,null,[]]]}"#]
        {
            assert!(users(payload).is_err(), "{payload}");
        }
    }
}
