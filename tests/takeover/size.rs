//! Two million rows: `cargo test --release --test takeover two_million -- --ignored --nocapture`.

use super::old::{Form, database};
use super::{migrated, value};
use std::time::Instant;

#[tokio::test]
#[ignore = "takes minutes"]
async fn two_million_rows_of_each_form() {
    for form in [Form::Older, Form::Newest] {
        let url = database(form, 2_000_000, 500).await;
        let started = Instant::now();
        let said = migrated(&url, &[]).await;
        let seconds = started.elapsed().as_secs_f64();
        assert_eq!(value::<i64>(&url, "select count(*) from sync_changes").await, 2_000_000);
        println!("{form:?}: {seconds:.1} s, {:.0} rows a second\n{said}", 2_000_000.0 / seconds);
    }
}
