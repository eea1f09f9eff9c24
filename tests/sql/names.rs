//! Names and stamps are handled in SQL as in the replicas.

use super::support::*;
use mana_sync::protocol::{Log, Stamp};
use sqlx::Row;

#[tokio::test]
async fn users_and_logs_have_the_same_names_in_sql() {
    let cluster = shared().await;
    let long = "ü".repeat(127);
    for (user, app) in
        [("u", "todo"), ("", ""), ("user-1", "a/b c"), (long.as_str(), long.as_str()), ("🦀", "x"), ("a:b", "'quoted'")]
    {
        let row = sqlx::query("select sync_user_key($1), sync_log_id($1, $2)").bind(user).bind(app);
        let row = row.fetch_one(&cluster.pool).await.unwrap();
        let log = Log::new(user.into(), app);
        assert_eq!((row.get(0), row.get(1)), (log.user.0, log.id.0), "{user} {app}");
    }
}

/// Spellings in every combination of their parts, valid and invalid.
fn spellings() -> Vec<String> {
    let days = ["2024-02-29", "2023-02-29", "1900-02-29", "2000-02-29", "2024-04-31", "0000-01-01", "9999-12-31"];
    let days = days.into_iter().chain(["2024-00-10", "2024-13-01", "2024-01-00", "24-01-01", "2024-1-1", "0001-01-01"]);
    let times = ["00:00:00", "23:59:59", "23:59:60", "24:00:00", "10:60:00", "10:00:61", "10:05"];
    let fractions = ["", ".", ".5", ".123", ".1239", ".123456789", ".1234567899", ".x"];
    let offsets = ["Z", "z", "", "+00:00", "-00:30", "+02:00", "-23:59", "+24:00", "+01:60", "+0100", "−01:00", " Z"];
    let mut all: Vec<String> = ["", "yesterday", "1704103500000", "2024-01-01", "null", "T"].map(str::to_owned).into();
    for (day, time) in days.flat_map(|day| times.map(|time| (day, time))) {
        for (fraction, offset) in fractions.iter().flat_map(|fraction| offsets.map(|offset| (fraction, offset))) {
            let separator = ["T", "t", " ", "_"][all.len() * 7 / 5 % 4];
            all.push(format!("{day}{separator}{time}{fraction}{offset}"));
        }
    }
    all
}

#[tokio::test]
async fn stamps_are_read_in_sql_as_the_replicas_read_them() {
    let cluster = shared().await;
    let spellings = spellings();
    let read: Vec<Option<String>> =
        sqlx::query_scalar("select sync_stamp(s) from unnest($1::text[]) with ordinality as u (s, n) order by n")
            .bind(&spellings)
            .fetch_all(&cluster.pool)
            .await
            .unwrap();
    let mut stamps = 0;
    for (spelled, read) in spellings.iter().zip(&read) {
        let expected = Stamp::parse(spelled).ok().map(|stamp| stamp.to_string());
        assert_eq!(*read, expected, "{spelled}");
        stamps += usize::from(expected.is_some());
    }
    assert!(stamps > 400, "only {stamps} are stamps");
}
