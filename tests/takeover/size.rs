//! A takeover of two million rows: `cargo test --test takeover two_million -- --ignored --nocapture`, with `MANA_SYNC_EXE` for a
//! release build.

use super::fold::of_old_table;
use super::old::{Form, database};
use super::support::Cluster;
use super::whole::{compare_records, killed_when};
use super::{connect, migrated};
use sqlx::Connection;
use std::time::Instant;

const ROWS: u32 = 2_000_000;
const USERS: u32 = 500;

/// True if a line reports that half of the rows are copied.
fn is_half_way(line: &str) -> bool {
    line.split_once(" of ").and_then(|(done, _)| done.parse::<u32>().ok()).is_some_and(|done| done >= ROWS / 2)
}

#[tokio::test]
#[ignore = "takes minutes"]
async fn two_million_rows_of_each_form_are_taken_over_though_killed_half_way() {
    for form in [Form::Older, Form::Newest] {
        let url = database(form, ROWS, USERS).await;
        let mut connection = connect(&url).await;
        let (before, count) = of_old_table(&mut connection, form, "sync_changes").await;
        connection.close().await.unwrap();
        assert_eq!(count, ROWS as usize);
        let started = Instant::now();
        assert!(killed_when(&url, is_half_way).await);
        let killed = started.elapsed().as_secs_f64();
        let said = migrated(&url, &[]).await;
        let seconds = started.elapsed().as_secs_f64();
        println!(
            "{form:?}: killed after {killed:.1} s, done after {seconds:.1} s, {:.0} rows a second\n{said}",
            f64::from(ROWS) / seconds
        );
        compare_records(&Cluster::start_over(&url).await, before, ROWS, USERS).await;
    }
}
