//! Latency of a push and of a pull where much is stored, against the same where little is.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::Row;
use super::pushes::refuse_failures;
use crate::engine::closed::{Work, closed_loop};
use crate::engine::device::Identity;
use crate::engine::push_body::Shape;
use crate::engine::{Client, Endpoint, Failure, LeanDevice};
use crate::local::{Replica, Surroundings};
use crate::report::LatencyHistogram;
use crate::report::model::{Limit, Measurement, Ratio, Unit};
use crate::yardstick::fill::fill;
use crate::yardstick::{Plan, YardstickError};

/// Of every log.
const CHANGES: u64 = 1000;
const WARM_UP: Duration = Duration::from_millis(500);
const LENGTH: Duration = Duration::from_secs(2);
const TURNS: usize = 4;
/// How far back a pull asks: fifty changes of a filled log.
const BACK: &str = "interval '50.5 milliseconds'";

#[derive(Clone, Copy)]
enum What {
    Push,
    Pull,
}

/// One connection; every request is of another user.
struct Visitor {
    client: Client,
    rng: StdRng,
    devices: Vec<(LeanDevice, String)>,
    what: What,
}

impl Work for Visitor {
    async fn once(&mut self) -> Result<(), Failure> {
        let device = self.rng.random_range(0..self.devices.len());
        let (device, cursor) = &mut self.devices[device];
        match self.what {
            What::Push => device.push(&mut self.client, &mut self.rng).await.map(|_| ()),
            What::Pull => {
                device.set_cursor(cursor);
                device.pull(&mut self.client, &mut self.rng).await.map(|_| ())
            }
        }
    }
}

/// One amount of stored changes, with a replica before it.
struct Side {
    replica: Replica,
    visitor: Vec<Visitor>,
    pushes: LatencyHistogram,
    pulls: LatencyHistogram,
}

impl Side {
    /// The database is kept for the next run: filling takes much longer than measuring.
    async fn start(at: &Surroundings, changes: u64) -> Result<Self, YardstickError> {
        let database = format!("bench_stored_{changes}");
        let filled = at.has_database(&database).await?;
        if !filled {
            at.create_database(&database).await?;
        }
        let replica = at.replica(&format!("replica-{changes}"), &database, &[]).await?;
        let endpoints = Endpoint::resolve_all(&[replica.base().to_owned()]).await?;
        let mut client = Client::new(endpoints, Duration::from_secs(30));
        let mut rng = StdRng::seed_from_u64(changes);
        let mut devices = Vec::new();
        for number in 0..(changes / CHANGES).max(1) {
            let user = format!("bench-user-{number}");
            let token = at.mint.token(&user, Duration::from_secs(3600))?;
            let run = rng.random_range(0..u32::MAX);
            let identity = Identity { user, app: "bench".to_owned(), client: format!("visitor-{run}"), token };
            let mut device = LeanDevice::new(&identity, "packages", 1, Shape::Fields)?;
            if !filled {
                device.push(&mut client, &mut rng).await?;
            }
            devices.push((device, identity.user));
        }
        let sql = at.connect(&database).await?;
        if !filled && let Err(error) = fill(&sql, CHANGES - 1).await {
            // What is half full must not be taken for full the next time.
            at.drop_database(&database).await?;
            return Err(error);
        }
        let cursors = cursors(&sql).await?;
        for (device, user) in &mut devices {
            let missing = || YardstickError::Nothing { what: format!("{user} has no log in {database}") };
            let cursor = cursors.get(user.as_str()).ok_or_else(missing)?;
            device.set_cursor(cursor);
            cursor.clone_into(user);
        }
        let visitor = vec![Visitor { client, rng, devices, what: What::Push }];
        Ok(Self { replica, visitor, pushes: LatencyHistogram::default(), pulls: LatencyHistogram::default() })
    }

    async fn visit(&mut self, what: What) -> Result<(), YardstickError> {
        let mut visitor = std::mem::take(&mut self.visitor);
        visitor.iter_mut().for_each(|visitor| visitor.what = what);
        let (measured, visitor) = closed_loop(visitor, 1, WARM_UP, LENGTH).await?;
        self.visitor = visitor;
        refuse_failures(&measured)?;
        match what {
            What::Push => self.pushes.merge(&measured.latency),
            What::Pull => self.pulls.merge(&measured.latency),
        }
        Ok(())
    }
}

/// By user, a cursor some changes before the head.
async fn cursors(sql: &tokio_postgres::Client) -> Result<std::collections::HashMap<String, String>, YardstickError> {
    let query = format!(
        "select user_id, to_char((head - {BACK}) at time zone 'utc', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') \
         from sync_heads"
    );
    let failed = |source| YardstickError::Database { action: "say its heads", source };
    let rows = sql.query(&query, &[]).await.map_err(failed)?;
    rows.iter().map(|row| Ok((row.try_get(0).map_err(failed)?, row.try_get(1).map_err(failed)?))).collect()
}

/// Both amounts by turns, one connection each, so that nothing waits for anything else.
pub async fn measure(at: &Surroundings, plan: &Plan) -> Result<Vec<Row>, YardstickError> {
    let mut few = Side::start(at, plan.stored.0).await?;
    let mut many = Side::start(at, plan.stored.1).await?;
    for _ in 0..TURNS {
        for what in [What::Push, What::Pull] {
            few.visit(what).await?;
            many.visit(what).await?;
        }
    }
    few.replica.stop().await?;
    many.replica.stop().await?;
    let row = |name: &str, many: &LatencyHistogram, few: &LatencyHistogram| {
        let p50 = |of: &LatencyHistogram| of.quantile_seconds(0.5).unwrap_or(0.0);
        let p99 = |of: &LatencyHistogram| of.quantile_seconds(0.99).unwrap_or(0.0) * 1e3;
        let ratio = Ratio::new(
            format!("{name} latency with {} changes stored, p50", thousands(plan.stored.1)),
            Measurement::new("many stored", Unit::Seconds, p50(many)),
            Measurement::new(format!("{} stored", thousands(plan.stored.0)), Unit::Seconds, p50(few)),
            Some(Limit::AtMost(1.2)),
        );
        let note =
            format!("p99 {:.2} ms of {:.2} ms; one request at a time, each of another user", p99(many), p99(few));
        Row { ratio, note, generator_busy: 0.0 }
    };
    Ok(vec![row("push", &many.pushes, &few.pushes), row("pull", &many.pulls, &few.pulls)])
}

fn thousands(count: u64) -> String {
    match count {
        count if count >= 1_000_000 => format!("{} million", count / 1_000_000),
        count => format!("{},000", count / 1000),
    }
}
