//! The cost of a fresh device by the number of edits of the same records: reading a log that was never trimmed, and the
//! same log trimmed.

use std::time::{Duration, Instant};

use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::limits::{EDITS_READ, EDITS_ROWS, EDITS_SECONDS, EDITS_SHARE, MANY_EDITS};
use super::{Log, Measured, Plan};
use crate::baseline::BaselineError;
use crate::engine::device::Identity;
use crate::engine::push_body::Shape;
use crate::engine::{Client, Endpoint, LeanDevice};
use crate::local::Surroundings;
use crate::report::model::{Growth, GrowthLine, Unit};
use crate::report::units::{number, seconds};

const DATABASE: &str = "bench_edits";
const USER: &str = "bench-edits";
const RECORDS: u64 = 10_000;
const FIELDS: u64 = 10;
const TIMEOUT: Duration = Duration::from_secs(30);
const SHARE: &str = "time for that of the log as it was";
const FOR_WINNERS: &str = "rows for each that holds a winner";

/// Inserts of all records, then edits of all records in turn, each of some adjacent fields, a millisecond apart. The
/// last one is two minutes old.
const FILL: &str = "
insert into sync_changes (id, app_id, table_name, record_id, user_id, op, data, field_timestamps, client_id, created_at,
                          log_id, size)
select lpad(to_hex(n), 32, '0')::uuid, h.app_id, 'packages', 'record/' || n % {records}, h.user_id,
       case when n < {records} then 'insert' else 'update' end, w.data, w.stamps, 'writer', a.at, h.log_id,
       octet_length(w.data::text) + octet_length(w.stamps::text)
from sync_heads h, generate_series(0, {records} + {edits} - 1) as n,
     lateral (select date_trunc('milliseconds', now()) - interval '2 minutes'
                         - ({records} + {edits} - n) * interval '1 millisecond' as at) a,
     lateral (
         select jsonb_object_agg('field' || (f + 3 * (n / {records})) % e.of, 'value ' || n) as data,
                jsonb_object_agg('field' || (f + 3 * (n / {records})) % e.of, sync_iso(a.at)) as stamps
         from (select case when n < {records} then {fields} else {edited} end as count,
                      case when n < {records} then {fields} else {of} end as of) e,
              generate_series(1, e.count) as f
     ) w";

/// The number of rows with live data, the newest of each field of each record; and the number including the first row
/// of each record, which stays as well.
const WINNERS: &str = "
with newest as (
    select max(created_at) as at from sync_changes, jsonb_object_keys(data) as field group by record_id, field
), firsts as (
    select min(created_at) as at from sync_changes group by record_id
)
select (select count(distinct at) from newest),
       (select count(*) from (select at from newest union select at from firsts) kept)";

/// The amount that a fresh device has read.
#[derive(Clone, Copy, Debug)]
pub struct InitialSync {
    pub rows: f64,
    pub bytes: f64,
    pub seconds: f64,
}

/// The log and the table that it reads.
#[derive(Clone, Copy, Debug)]
pub struct Whose<'a> {
    pub user: &'a str,
    pub app: &'a str,
    pub table: &'a str,
}

const BENCH: Whose<'_> = Whose { user: USER, app: "bench", table: "packages" };

/// The measurements at one size.
struct Point {
    whole: InitialSync,
    trimmed: InitialSync,
    /// Rows that hold the newest value of a field.
    winners: f64,
    /// The same, including the first row of each record.
    kept: f64,
    /// Seconds that trimming everything took.
    trimming: f64,
}

/// The fields that edits set.
#[derive(Clone, Copy, Debug)]
pub struct Edited {
    /// Fields set by one edit.
    pub at_once: u64,
    /// The number of fields it chooses from.
    pub of: u64,
}

impl Edited {
    /// All fields one by one: each ends in a row of its own.
    pub const SINGLY: Edited = Edited { at_once: 1, of: FIELDS };
    /// Half of them each time, so that three rows hold them all.
    pub const BY_HALVES: Edited = Edited { at_once: 5, of: FIELDS };
    /// The same, except for one that no edit sets, such as the time of creation: the first row holds live data.
    pub const ALL_BUT_ONE: Edited = Edited { at_once: 5, of: FIELDS - 1 };
}

/// Measures the cost for a fresh device.
pub async fn measure(at: &Surroundings, plan: &Plan, edited: Edited, log: Log<'_>) -> Result<Measured, BaselineError> {
    let mut points = Vec::with_capacity(plan.edits.len());
    let Edited { at_once, of } = edited;
    for &edits in &plan.edits {
        let point = point(at, edits, edited, plan.turns).await?;
        log(&format!(
            "edits of {at_once} of {of} of {FIELDS} fields {}: a fresh device reads {} rows in {}, trimmed {} rows in {}; {} rows hold live data; trimming took {}",
            number(edits as f64),
            number(point.whole.rows),
            seconds(point.whole.seconds),
            number(point.trimmed.rows),
            seconds(point.trimmed.seconds),
            number(point.winners),
            seconds(point.trimming)
        ));
        points.push(point);
    }
    let each = |value: fn(&Point) -> f64| points.iter().map(value).collect::<Vec<_>>();
    let share: fn(&Point) -> f64 = |point| point.trimmed.seconds / point.whole.seconds;
    let of_many = |(point, edits): (&Point, &u64)| if *edits >= MANY_EDITS { share(point) } else { f64::NAN };
    let for_winners = each(|point| point.trimmed.rows / point.winners);
    let lines = vec![
        GrowthLine::new("rows, trimmed", Unit::Number, each(|point| point.trimmed.rows), Some(EDITS_READ)),
        GrowthLine::new("bytes, trimmed", Unit::Bytes, each(|point| point.trimmed.bytes), Some(EDITS_READ)),
        GrowthLine::new("time, trimmed", Unit::Seconds, each(|point| point.trimmed.seconds), Some(EDITS_SECONDS)),
        match edited.at_once == 1 || edited.of < FIELDS {
            true => GrowthLine::absolute(FOR_WINNERS, Unit::Number, for_winners, EDITS_ROWS),
            // Few rows hold live data, and the first one, which stays as well, is not among them.
            false => GrowthLine::new(FOR_WINNERS, Unit::Number, for_winners, None),
        },
        GrowthLine::absolute(
            "rows for each that has to stay",
            Unit::Number,
            each(|point| point.trimmed.rows / point.kept),
            EDITS_ROWS,
        ),
        match at_once {
            // In this case a tenth of all rows is live.
            1 => GrowthLine::new(SHARE, Unit::Share, each(share), None),
            _ => GrowthLine::absolute(
                SHARE,
                Unit::Share,
                points.iter().zip(&plan.edits).map(of_many).collect(),
                EDITS_SHARE,
            ),
        },
        GrowthLine::new("time, never trimmed", Unit::Seconds, each(|point| point.whole.seconds), None),
        GrowthLine::new("bytes, never trimmed", Unit::Bytes, each(|point| point.whole.bytes), None),
        GrowthLine::new("trimming everything", Unit::Seconds, each(|point| point.trimming), None),
    ];
    let note = format!(
        "One log of {} records with {FIELDS} fields; each edit sets {at_once} of {of} of them; a fresh device reads it to its end, the \
         fastest of {} times, before and after `mana-sync compact`",
        number(RECORDS as f64),
        plan.turns
    );
    let sizes = plan.edits.iter().map(|&edits| edits as f64).collect();
    let growth =
        Growth { name: "edits".to_owned(), size: format!("edits, {at_once} of {of} fields each"), note, sizes, lines };
    Ok(Measured { growth, generator_busy: None })
}

async fn point(at: &Surroundings, edits: u64, edited: Edited, turns: usize) -> Result<Point, BaselineError> {
    at.fresh_database(DATABASE).await?;
    // It only trims when told to.
    let replica = at.replica("replica", DATABASE, &[("COMPACT_AFTER_MS", "0")]).await?;
    device(at, "beginner", BENCH)?.push(&mut client(replica.base()).await?, &mut StdRng::seed_from_u64(1)).await?;
    let database = at.connect(DATABASE).await?;
    let failed = |source| BaselineError::Database { action: "be filled", source };
    let (at_once, of) = (edited.at_once, edited.of);
    let fill = [("{records}", RECORDS), ("{edits}", edits), ("{fields}", FIELDS), ("{edited}", at_once), ("{of}", of)];
    let fill = fill.iter().fold(FILL.to_owned(), |fill, (name, value)| fill.replace(name, &value.to_string()));
    database.batch_execute(&fill).await.map_err(failed)?;
    let vacuum = ["vacuum analyze sync_changes", "checkpoint"];
    for statement in vacuum {
        database.batch_execute(statement).await.map_err(failed)?;
    }
    let counted = database.query_one(WINNERS, &[]).await;
    let counted = counted.and_then(|row| Ok::<(i64, i64), _>((row.try_get(0)?, row.try_get(1)?)));
    let (winners, kept) = counted.map_err(failed)?;
    let whole = initial_sync(at, replica.base(), &database, turns, BENCH).await?;
    let begun = Instant::now();
    at.command("compact", DATABASE, &[("COMPACT_AFTER_MS", "60000")]).await?;
    let trimming = begun.elapsed().as_secs_f64();
    for statement in vacuum {
        database.batch_execute(statement).await.map_err(failed)?;
    }
    let trimmed = initial_sync(at, replica.base(), &database, turns, BENCH).await?;
    replica.stop().await?;
    Ok(Point { whole, trimmed, winners: winners as f64, kept: kept as f64, trimming })
}

/// Reads the log to its end several times; returns the fastest.
pub async fn initial_sync(
    at: &Surroundings,
    base: &str,
    database: &tokio_postgres::Client,
    turns: usize,
    whose: Whose<'_>,
) -> Result<InitialSync, BaselineError> {
    let failed = |source| BaselineError::Database { action: "count its rows", source };
    let count = database.query_one("select count(*) from sync_changes", &[]).await;
    let rows: i64 = count.and_then(|row| row.try_get(0)).map_err(failed)?;
    let (mut client, mut rng) = (client(base).await?, StdRng::seed_from_u64(2));
    let mut fastest: Option<InitialSync> = None;
    for _ in 0..turns {
        let mut fresh = device(at, "fresh", whose)?;
        let (begun, mut bytes) = (Instant::now(), 0);
        loop {
            let page = fresh.pull(&mut client, &mut rng).await?;
            bytes += page.bytes;
            if !page.has_more {
                break;
            }
        }
        let seconds = begun.elapsed().as_secs_f64();
        if fastest.is_none_or(|fastest| seconds < fastest.seconds) {
            fastest = Some(InitialSync { rows: rows as f64, bytes: bytes as f64, seconds });
        }
    }
    fastest.ok_or_else(|| BaselineError::Nothing { what: "nothing was read".to_owned() })
}

async fn client(base: &str) -> Result<Client, BaselineError> {
    Ok(Client::new(Endpoint::resolve_all(&[base.to_owned()]).await?, TIMEOUT))
}

fn device(at: &Surroundings, client: &str, Whose { user, app, table }: Whose<'_>) -> Result<LeanDevice, BaselineError> {
    let token = at.mint.token(user, Duration::from_secs(3600))?;
    let identity = Identity { user: user.to_owned(), app: app.to_owned(), client: client.to_owned(), token };
    Ok(LeanDevice::new(&identity, table, 1, Shape::Fields)?)
}
