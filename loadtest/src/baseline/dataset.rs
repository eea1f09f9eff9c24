//! A database with a given amount of data, and a replica in front of it.

use super::BaselineError;
use super::fill::fill;
use super::visits::{Place, Visitor, What};
use crate::engine::one_by_one::one_by_one;
use crate::local::{Replica, Surroundings};
use crate::report::LatencyHistogram;

/// The planner's row count may be off by this fraction.
const ESTIMATE: f32 = 0.1;
/// Divisor for the number of uncounted requests before the counted ones.
const WARM_UP: usize = 10;

/// The data to be stored.
#[derive(Clone, Debug)]
pub struct Dataset {
    /// The database's name.
    pub database: String,
    /// The places that changes go to; those of one log are adjacent.
    pub places: Vec<Place>,
    /// Changes in every log besides one for each of its places.
    pub filled: u64,
    /// True if the database is kept for the next run, because filling takes much longer than measuring.
    pub kept: bool,
}

impl Dataset {
    /// This many changes in logs of a thousand, each of another user. Kept as `bench_stored_N`.
    pub fn of_many_users(changes: u64) -> Self {
        const EACH: u64 = 1000;
        let place = |number: u64| Place {
            user: format!("bench-user-{number}"),
            app: "bench".to_owned(),
            table: "packages".to_owned(),
        };
        Self {
            database: format!("bench_stored_{changes}"),
            places: (0..(changes / EACH).max(1)).map(place).collect(),
            filled: EACH - 1,
            kept: true,
        }
    }

    /// Returns the number of logs, each started by another user.
    fn logs(&self) -> usize {
        let mut logs: Vec<_> = self.places.iter().map(|place| (&place.user, &place.app)).collect();
        logs.dedup();
        logs.len()
    }

    /// True if an earlier run has filled it. An interrupted run leaves less.
    async fn is_there(&self, at: &Surroundings) -> Result<bool, BaselineError> {
        if !self.kept || !at.has_database(&self.database).await? {
            return Ok(false);
        }
        let (logs, least) = (self.logs(), (self.logs() as u64 * self.filled) as f32 * (1.0 - ESTIMATE));
        let query = "select (select count(*) from sync_heads) >= $1 and reltuples >= $2 \
                     from pg_class where oid = to_regclass('sync_changes')";
        let row = at.connect(&self.database).await?.query_opt(query, &[&(logs as i64), &least]).await;
        // Without the schema the query fails, which means no.
        Ok(row.ok().flatten().is_some_and(|row| row.get(0)))
    }
}

/// A dataset with its replica, and the latencies of visits to it.
pub struct Side {
    replica: Replica,
    sql: tokio_postgres::Client,
    visitor: Visitor,
    latencies: Latencies,
}

/// The latencies of visits.
#[derive(Clone, Debug, Default)]
pub struct Latencies {
    pub pushes: LatencyHistogram,
    pub pulls: LatencyHistogram,
}

impl Side {
    /// Fills the database, unless that was done before.
    pub async fn start(at: &Surroundings, dataset: &Dataset) -> Result<Self, BaselineError> {
        let database = &dataset.database;
        let there = dataset.is_there(at).await?;
        match there {
            // The run that filled it may have had an earlier schema.
            true => at.command("migrate", database, &[]).await?,
            false => at.fresh_database(database).await?,
        }
        let replica = at.replica(&format!("replica-{database}"), database, &[]).await?;
        let mut visitor = Visitor::new(at, replica.base(), &dataset.places).await?;
        let sql = at.connect(database).await?;
        if !there {
            visitor.warm_up().await?;
            fill(&sql, dataset.filled).await?;
        }
        // Pages not touched since the server started have to be read, and pages not touched since the last checkpoint
        // have to be written whole to the WAL. That is true only of the first visit, and the more is stored, the more
        // visits are first ones.
        for what in [What::Push, What::Pull] {
            visitor.turn_to(what, &sql).await?;
            visitor.warm_up().await?;
        }
        Ok(Self { replica, sql, visitor, latencies: Latencies::default() })
    }

    /// The base URL of the replica.
    pub fn base(&self) -> &str {
        self.replica.base()
    }

    /// Sends this many requests, after some uncounted ones.
    async fn visit(mut self, what: What, requests: usize) -> Result<Self, BaselineError> {
        self.visitor.turn_to(what, &self.sql).await?;
        let (measured, visitor) = one_by_one(self.visitor, requests / WARM_UP, requests).await?;
        self.visitor = visitor;
        let measured = measured?;
        match what {
            What::Push => self.latencies.pushes.merge(&measured),
            What::Pull => self.latencies.pulls.merge(&measured),
        }
        Ok(self)
    }

    /// Stops the replica.
    pub async fn stop(self) -> Result<Latencies, BaselineError> {
        self.replica.stop().await?;
        Ok(self.latencies)
    }
}

/// Visits all sides alternately, this many turns each for pushes and for pulls, back and forth, so that other work of
/// the machine slows all of them alike: the shorter the turns, the more so.
pub async fn interleaved(sides: Vec<Side>, turns: usize, requests: usize) -> Result<Vec<Side>, BaselineError> {
    let mut sides: Vec<(usize, Side)> = sides.into_iter().enumerate().collect();
    for _ in 0..turns {
        for what in [What::Push, What::Pull] {
            let mut warmed = Vec::with_capacity(sides.len());
            for (place, side) in sides {
                warmed.push((place, side.visit(what, requests).await?));
            }
            sides = warmed;
        }
        sides.reverse();
    }
    sides.sort_by_key(|(place, _)| *place);
    Ok(sides.into_iter().map(|(_, side)| side).collect())
}
