//! The distribution of logs over buckets.
//!
//! A bucket is a schema with the log's tables, indexes and functions. A database that is not distributed has one: the
//! tables where they are. All of a user's data is in one bucket, so every statement concerns a single bucket.

use crate::protocol::UserKey;
use std::fmt;
use tokio_postgres::Client;

/// Maximum number of buckets.
pub const MAX_BUCKETS: u16 = 64;

/// Works before the migration that added the column `on_citus`, because migrations use it too.
const LAYOUT: &str = "
select buckets, is_moving, (to_jsonb(l) ->> 'on_citus')::boolean from sync_layout l where one";

/// The distribution of logs over buckets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    buckets: u16,
    /// True if each bucket is a distributed schema of Citus: on a server chosen by Citus, where not every statement
    /// runs.
    on_citus: bool,
}

/// The layout, and whether logs are still being moved into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LayoutState {
    pub(super) layout: Layout,
    pub(super) is_moving: bool,
}

impl Default for Layout {
    fn default() -> Self {
        Layout::ONE
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = if self.on_citus { " on Citus" } else { "" };
        match self.buckets {
            1 => write!(f, "one bucket{place}"),
            count => write!(f, "{count} buckets{place}"),
        }
    }
}

impl Layout {
    /// The tables where they are, undistributed.
    pub const ONE: Layout = Layout { buckets: 1, on_citus: false };

    /// Returns a layout with this many buckets; `None` if that is zero, or more than [`MAX_BUCKETS`].
    pub fn over(buckets: u16) -> Option<Layout> {
        (1..=MAX_BUCKETS).contains(&buckets).then_some(Layout { buckets, on_citus: false })
    }

    /// The same layout, with buckets that are distributed schemas of Citus, or not.
    #[must_use]
    pub(super) fn with_citus(self, on_citus: bool) -> Layout {
        Layout { on_citus, ..self }
    }

    /// Returns true if the buckets are distributed schemas of Citus.
    pub fn is_on_citus(self) -> bool {
        self.on_citus
    }

    /// Returns the number of buckets.
    pub fn count(self) -> usize {
        usize::from(self.buckets)
    }

    /// Returns the bucket of a user's logs: the first 32 bits of the user's key, which is a digest, modulo the number
    /// of buckets. SQL computes the same in `sync_bucket_of`. It must never change.
    pub fn bucket_of(self, user: UserKey) -> usize {
        (user.0.as_u128() >> 96) as usize % self.count()
    }

    /// Returns the schemas of the buckets, in order; empty if the database is not distributed.
    pub fn schemas(self) -> Vec<String> {
        (0..self.count()).filter_map(|bucket| self.schema(bucket)).collect()
    }

    /// Returns a bucket's schema; `None` if the database is not distributed.
    pub fn schema(self, bucket: usize) -> Option<String> {
        (self.buckets > 1).then(|| format!("sync_b{bucket:02}"))
    }
}

impl LayoutState {
    /// Reads the layout over a connection to the main schema, which must have been migrated.
    pub(super) async fn read(connection: &Client) -> Result<LayoutState, tokio_postgres::Error> {
        let row = connection.query_opt(LAYOUT, &[]).await?;
        match row {
            None => Ok(LayoutState::from_row(None, None, None)),
            Some(row) => Ok(LayoutState::from_row(row.try_get(0)?, row.try_get(1)?, row.try_get(2)?)),
        }
    }

    /// Decodes the columns of the layout's row, which are `None` if there is no row.
    pub(super) fn from_row(buckets: Option<i32>, is_moving: Option<bool>, on_citus: Option<bool>) -> LayoutState {
        let layout = buckets.and_then(|buckets| Layout::over(u16::try_from(buckets).ok()?)).unwrap_or(Layout::ONE);
        LayoutState { layout: layout.with_citus(on_citus.unwrap_or(false)), is_moving: is_moving.unwrap_or(false) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_spread_evenly_and_one_bucket_has_all() {
        let four = Layout::over(4).unwrap();
        let mut counts = [0; 4];
        for n in 0..4000 {
            let user = UserKey::of(&format!("user-{n}"));
            counts[four.bucket_of(user)] += 1;
            assert_eq!(Layout::ONE.bucket_of(user), 0);
        }
        assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
    }

    #[test]
    fn the_hash_is_what_it_was() {
        // The location of stored logs depends on it.
        let of = |user| Layout::over(64).unwrap().bucket_of(UserKey::of(user));
        let key = UserKey::of("user-1").0.simple().to_string();
        assert_eq!(of("user-1"), u32::from_str_radix(&key[..8], 16).unwrap() as usize % 64);
    }

    #[test]
    fn schemas_have_names_of_one_length() {
        assert_eq!(Layout::ONE.schemas(), Vec::<String>::new());
        assert_eq!(Layout::over(11).unwrap().schemas()[9..], ["sync_b09", "sync_b10"]);
        assert_eq!(Layout::over(0), None);
        assert_eq!(Layout::over(65), None);
    }
}
