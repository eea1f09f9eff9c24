//! What a fresh device reads, by the edits that the same records have seen: from a log that was never trimmed, and from the
//! same log trimmed.

use std::time::{Duration, Instant};

use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::limits::{EDITS_READ, EDITS_SECONDS};
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

/// Inserts of all records, then the edits in turn of all records, each of some neighbouring fields of it, a millisecond
/// apart. The last is two minutes old.
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
         select jsonb_object_agg('field' || (f + 3 * (n / {records})) % {fields}, 'value ' || n) as data,
                jsonb_object_agg('field' || (f + 3 * (n / {records})) % {fields}, sync_iso(a.at)) as stamps
         from generate_series(1, case when n < {records} then {fields} else {edited} end) as f
     ) w";

/// Rows that hold what lives: the newest of each field of each record.
const WINNERS: &str = "
select count(distinct at) from (
    select max(created_at) as at from sync_changes, jsonb_object_keys(data) as field
    group by record_id, field
) newest";

/// What a fresh device read.
#[derive(Clone, Copy, Debug)]
struct Walk {
    rows: f64,
    bytes: f64,
    seconds: f64,
}

/// One size.
struct Point {
    whole: Walk,
    trimmed: Walk,
    /// Rows that hold the newest of a field.
    winners: f64,
    /// How long trimming everything took.
    trimming: f64,
}

/// `edited`: fields that one edit sets.
pub async fn measure(at: &Surroundings, plan: &Plan, edited: u64, log: Log<'_>) -> Result<Measured, BaselineError> {
    let mut points = Vec::with_capacity(plan.edits.len());
    for &edits in &plan.edits {
        let point = point(at, edits, edited, plan.turns).await?;
        log(&format!(
            "edits of {edited} of {FIELDS} fields {}: a fresh device reads {} rows in {}, trimmed {} rows in {}; {} rows hold what lives; trimming took {}",
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
    let of = |value: fn(&Point) -> f64| points.iter().map(value).collect::<Vec<_>>();
    let lines = vec![
        GrowthLine::new("rows, trimmed", Unit::Number, of(|point| point.trimmed.rows), Some(EDITS_READ)),
        GrowthLine::new("bytes, trimmed", Unit::Bytes, of(|point| point.trimmed.bytes), Some(EDITS_READ)),
        GrowthLine::new("time, trimmed", Unit::Seconds, of(|point| point.trimmed.seconds), Some(EDITS_SECONDS)),
        GrowthLine::new("rows for each that holds a winner", Unit::Number, of(|p| p.trimmed.rows / p.winners), None),
        GrowthLine::new(
            "time for that of the log as it was",
            Unit::Share,
            of(|p| p.trimmed.seconds / p.whole.seconds),
            None,
        ),
        GrowthLine::new("time, never trimmed", Unit::Seconds, of(|point| point.whole.seconds), None),
        GrowthLine::new("bytes, never trimmed", Unit::Bytes, of(|point| point.whole.bytes), None),
        GrowthLine::new("trimming everything", Unit::Seconds, of(|point| point.trimming), None),
    ];
    let note = format!(
        "One log of {} records with {FIELDS} fields; each edit sets {edited} of them; a fresh device reads it to its end, the \
         fastest of {} times, before and after `mana-sync compact`",
        number(RECORDS as f64),
        plan.turns
    );
    let sizes = plan.edits.iter().map(|&edits| edits as f64).collect();
    let growth = Growth { name: "edits".to_owned(), size: format!("edits, {edited} fields each"), note, sizes, lines };
    Ok(Measured { growth, generator_busy: None })
}

async fn point(at: &Surroundings, edits: u64, edited: u64, turns: usize) -> Result<Point, BaselineError> {
    at.fresh_database(DATABASE).await?;
    // It trims when it is told to.
    let replica = at.replica("replica", DATABASE, &[("COMPACT_AFTER_MS", "0")]).await?;
    device(at, "beginner")?.push(&mut client(replica.base()).await?, &mut StdRng::seed_from_u64(1)).await?;
    let database = at.connect(DATABASE).await?;
    let failed = |source| BaselineError::Database { action: "be filled", source };
    let fill = [("{records}", RECORDS), ("{edits}", edits), ("{fields}", FIELDS), ("{edited}", edited)]
        .iter()
        .fold(FILL.to_owned(), |fill, (name, value)| fill.replace(name, &value.to_string()));
    database.batch_execute(&fill).await.map_err(failed)?;
    let vacuum = ["vacuum analyze sync_changes", "checkpoint"];
    for statement in vacuum {
        database.batch_execute(statement).await.map_err(failed)?;
    }
    let winners: i64 = database.query_one(WINNERS, &[]).await.and_then(|row| row.try_get(0)).map_err(failed)?;
    let whole = initial_sync(at, replica.base(), &database, turns).await?;
    let begun = Instant::now();
    at.command("compact", DATABASE, &[("COMPACT_AFTER_MS", "60000")]).await?;
    let trimming = begun.elapsed().as_secs_f64();
    for statement in vacuum {
        database.batch_execute(statement).await.map_err(failed)?;
    }
    let trimmed = initial_sync(at, replica.base(), &database, turns).await?;
    replica.stop().await?;
    Ok(Point { whole, trimmed, winners: winners as f64, trimming })
}

/// Reads the log to its end, some times; the fastest.
async fn initial_sync(
    at: &Surroundings,
    base: &str,
    database: &tokio_postgres::Client,
    turns: usize,
) -> Result<Walk, BaselineError> {
    let failed = |source| BaselineError::Database { action: "count its rows", source };
    let count = database.query_one("select count(*) from sync_changes", &[]).await;
    let rows: i64 = count.and_then(|row| row.try_get(0)).map_err(failed)?;
    let (mut client, mut rng) = (client(base).await?, StdRng::seed_from_u64(2));
    let mut fastest: Option<Walk> = None;
    for _ in 0..turns {
        let mut fresh = device(at, "fresh")?;
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
            fastest = Some(Walk { rows: rows as f64, bytes: bytes as f64, seconds });
        }
    }
    fastest.ok_or_else(|| BaselineError::Nothing { what: "nothing was read".to_owned() })
}

async fn client(base: &str) -> Result<Client, BaselineError> {
    Ok(Client::new(Endpoint::resolve_all(&[base.to_owned()]).await?, TIMEOUT))
}

fn device(at: &Surroundings, client: &str) -> Result<LeanDevice, BaselineError> {
    let token = at.mint.token(USER, Duration::from_secs(3600))?;
    let identity = Identity { user: USER.to_owned(), app: "bench".to_owned(), client: client.to_owned(), token };
    Ok(LeanDevice::new(&identity, "packages", 1, Shape::Fields)?)
}
