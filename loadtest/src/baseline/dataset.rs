//! A database with so much in it and a replica before it.

use super::BaselineError;
use super::fill::fill;
use super::visits::{Place, Visitor, What};
use crate::engine::one_by_one::one_by_one;
use crate::local::{Replica, Surroundings};
use crate::report::LatencyHistogram;

/// The planner's count of rows may be off by this share.
const ESTIMATE: f32 = 0.1;
/// One request in so many, before those that count.
const WARM_UP: usize = 10;

/// What is to be stored.
#[derive(Clone, Debug)]
pub struct Dataset {
    /// The database's name.
    pub database: String,
    /// Where changes go; places of one log follow each other.
    pub places: Vec<Place>,
    /// Changes that every log has besides one for each of its places.
    pub filled: u64,
    /// Whether the database is kept for the next run, because filling takes much longer than measuring.
    pub kept: bool,
}

impl Dataset {
    /// So many changes in logs of a thousand, each of another user. Kept as `bench_stored_N`.
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

    /// All logs, begun by as many users.
    fn logs(&self) -> usize {
        let mut logs: Vec<_> = self.places.iter().map(|place| (&place.user, &place.app)).collect();
        logs.dedup();
        logs.len()
    }

    /// Whether an earlier run has filled it. One that was broken off leaves less.
    async fn is_there(&self, at: &Surroundings) -> Result<bool, BaselineError> {
        if !self.kept || !at.has_database(&self.database).await? {
            return Ok(false);
        }
        let (logs, least) = (self.logs(), (self.logs() as u64 * self.filled) as f32 * (1.0 - ESTIMATE));
        let query = "select (select count(*) from sync_heads) >= $1 and reltuples >= $2 \
                     from pg_class where oid = to_regclass('sync_changes')";
        let row = at.connect(&self.database).await?.query_opt(query, &[&(logs as i64), &least]).await;
        // Where not even the schema is there, the question fails; and the answer is no.
        Ok(row.ok().flatten().is_some_and(|row| row.get(0)))
    }
}

/// A dataset with its replica, and what visits to it took.
pub struct Side {
    replica: Replica,
    sql: tokio_postgres::Client,
    visitor: Visitor,
    latencies: Latencies,
}

/// What visits took.
#[derive(Clone, Debug, Default)]
pub struct Latencies {
    pub pushes: LatencyHistogram,
    pub pulls: LatencyHistogram,
}

impl Side {
    /// Fills the database, unless it is there already.
    pub async fn start(at: &Surroundings, dataset: &Dataset) -> Result<Self, BaselineError> {
        let database = &dataset.database;
        let there = dataset.is_there(at).await?;
        match there {
            // What filled it may have been of an earlier schema.
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
        // What was not touched since the server started has to be read, and since the last checkpoint, to be written
        // whole into the log. That is true of the first visit alone, and more of them are first visits where more is
        // stored.
        for what in [What::Push, What::Pull] {
            visitor.turn_to(what, &sql).await?;
            visitor.warm_up().await?;
        }
        Ok(Self { replica, sql, visitor, latencies: Latencies::default() })
    }

    /// Where the replica is.
    pub fn base(&self) -> &str {
        self.replica.base()
    }

    /// So many requests, after some that do not count.
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

/// Visits all sides alternately, so many times each for pushes and for pulls, there and back again, so that what else
/// the machine does slows all of them alike: the shorter the turns, the more so.
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
