//! One device after the other, one request at a time: the latency of a push and a small pull when nothing waits for
//! anything else, and only the stored data makes a difference.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio_postgres::Row;

use super::BaselineError;
use crate::engine::closed::Work;
use crate::engine::device::Identity;
use crate::engine::push_body::Shape;
use crate::engine::{Client, Endpoint, Failure, LeanDevice};
use crate::local::Surroundings;

/// Changes in a small pull.
pub const PULLED: i64 = 50;
/// Minimum size of a change in an answer: a delete's members and their names.
const LEAST_BYTES: usize = 60;
const TIMEOUT: Duration = Duration::from_secs(30);
const TOKEN_TTL: Duration = Duration::from_secs(3600);

/// For each place in order, the head of its log, and a cursor followed by this many changes of its table.
const CURSORS: &str = "
select to_char(h.head at time zone 'utc', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'), to_char((
    select created_at from sync_changes c where c.log_id = h.log_id and c.table_name = place.table_name
    order by created_at desc offset $4 limit 1
) at time zone 'utc', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')
from unnest($1::text[], $2::text[], $3::text[]) with ordinality as place (user_id, app_id, table_name, number)
join sync_heads h using (user_id, app_id)
order by number";

/// The place that a change goes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub user: String,
    pub app: String,
    pub table: String,
}

/// The kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// One change, by a device that has read the whole log.
    Push,
    /// [`PULLED`] changes, by a device that has pushed none of them.
    Pull,
}

struct Spot {
    writer: LeanDevice,
    reader: LeanDevice,
    /// The index of its log in [`Visitor::heads`].
    log: usize,
    /// The cursor at which its pulls start.
    since: String,
}

/// Sends requests on one connection, each to a random place.
pub struct Visitor {
    client: Client,
    rng: StdRng,
    places: Vec<Place>,
    spots: Vec<Spot>,
    /// The newest cursor of each log, as its only writer knows it: the tables of a log share it, as on a device.
    heads: Vec<String>,
    what: What,
}

impl Work for Visitor {
    async fn once(&mut self) -> Result<(), Failure> {
        let spot = self.rng.random_range(0..self.spots.len());
        self.visit(spot).await
    }
}

impl Visitor {
    pub async fn new(at: &Surroundings, base: &str, places: &[Place]) -> Result<Self, BaselineError> {
        let client = Client::new(Endpoint::resolve_all(&[base.to_owned()]).await?, TIMEOUT);
        // Another run on the same database must not send identical pushes, which would be retries.
        let run: u32 = rand::random();
        let (mut spots, mut logs) = (Vec::with_capacity(places.len()), Vec::<(&str, &str)>::new());
        for Place { user, app, table } in places {
            // Places of one log are adjacent.
            if logs.last() != Some(&(user, app)) {
                logs.push((user, app));
            }
            let token = at.mint.token(user, TOKEN_TTL)?;
            let device = |name: &str| {
                let client = format!("{name}-{run}-{}", spots.len());
                let (user, app, token) = (user.clone(), app.clone(), token.clone());
                LeanDevice::new(&Identity { user, app, client, token }, table, 1, Shape::Fields)
            };
            let (writer, reader) = (device("writer")?, device("reader")?);
            spots.push(Spot { writer, reader, log: logs.len() - 1, since: String::new() });
        }
        let heads = vec![crate::protocol::BEGINNING.to_owned(); logs.len()];
        let rng = StdRng::seed_from_u64(places.len() as u64);
        Ok(Self { client, rng, places: places.to_vec(), spots, heads, what: What::Push })
    }

    /// Visits every place once; pushes, if no kind has been set.
    pub async fn warm_up(&mut self) -> Result<(), Failure> {
        for spot in 0..self.spots.len() {
            self.visit(spot).await?;
        }
        Ok(())
    }

    async fn visit(&mut self, spot: usize) -> Result<(), Failure> {
        match self.what {
            What::Push => self.push(spot).await,
            What::Pull => self.pull(spot).await,
        }
    }

    /// Switches to pushes or pulls, from the current positions of the logs: pulls bring the newest changes of their
    /// tables, whoever has pushed in the meantime.
    pub async fn turn_to(&mut self, what: What, sql: &tokio_postgres::Client) -> Result<(), BaselineError> {
        let column = |name: fn(&Place) -> &String| self.places.iter().map(name).collect::<Vec<_>>();
        let (users, apps) = (column(|place| &place.user), column(|place| &place.app));
        let tables = column(|place| &place.table);
        let failed = |source| BaselineError::Database { action: "report its cursors", source };
        let rows = sql.query(CURSORS, &[&users, &apps, &tables, &PULLED]).await.map_err(failed)?;
        let short = || BaselineError::Nothing { what: format!("a log has no {PULLED} changes of its table") };
        let cursor = |row: &Row, column: usize| row.try_get::<_, Option<String>>(column).map_err(failed);
        if rows.len() != self.spots.len() {
            return Err(short());
        }
        for (spot, row) in self.spots.iter_mut().zip(&rows) {
            self.heads[spot.log] = cursor(row, 0)?.ok_or_else(short)?;
            spot.since = cursor(row, 1)?.ok_or_else(short)?;
        }
        self.what = what;
        Ok(())
    }

    async fn push(&mut self, spot: usize) -> Result<(), Failure> {
        let Spot { writer, log, .. } = &mut self.spots[spot];
        let head = &mut self.heads[*log];
        writer.set_cursor(head);
        writer.push(&mut self.client, &mut self.rng).await?;
        writer.cursor().clone_into(head);
        Ok(())
    }

    async fn pull(&mut self, spot: usize) -> Result<(), Failure> {
        let Spot { reader, since, .. } = &mut self.spots[spot];
        reader.set_cursor(since);
        let page = reader.pull(&mut self.client, &mut self.rng).await?;
        match page.bytes >= LEAST_BYTES * PULLED as usize {
            true => Ok(()),
            false => Err(Failure::Answer("fewer changes than requested")),
        }
    }
}
