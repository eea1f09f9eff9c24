//! The cost of the real histories in `loadtest/data`, untrimmed and trimmed: rows, bytes of the log, and what a fresh
//! device reads, uncompressed and compressed. They are replayed through a replica by the devices that wrote them, and
//! compared as by `mana-load replay`.

use std::path::{Path, PathBuf};

use super::edits::{InitialSync, Whose, initial_sync};
use super::encodings::{self, ENCODINGS, Encoded};
use super::{Log, Measured, Plan};
use crate::baseline::BaselineError;
use crate::local::{Replica, Surroundings};
use crate::replay::{self, ReplayOptions};
use crate::report::model::{Growth, GrowthLine, Unit};
use crate::report::units::{number, seconds};

const DATABASE: &str = "bench_replays";
/// The folder of the histories, relative to where `make growth` runs.
const FOLDER: &str = "loadtest/data";
/// The table of all of them.
const TABLE: &str = "packages";

/// A history, before and after trimming.
struct Replayed {
    name: String,
    before: State,
    after: State,
}

struct State {
    /// Bytes of values, stamps and other members, as counted by the server.
    bytes: f64,
    initial_sync: InitialSync,
    /// By encoding.
    encoded: Vec<Encoded>,
}

pub async fn measure(at: &Surroundings, plan: &Plan, log: Log<'_>) -> Result<Measured, BaselineError> {
    let mut all = Vec::new();
    for file in files()? {
        let replayed = replay(at, &file, plan.turns).await?;
        let told = |state: &State| {
            let InitialSync { rows, bytes, seconds: took } = state.initial_sync;
            format!(
                "{} rows of {} bytes, read as {} bytes in {}",
                number(rows),
                number(state.bytes),
                number(bytes),
                seconds(took)
            )
        };
        log(&format!("replays {}: {}; trimmed {}", replayed.name, told(&replayed.before), told(&replayed.after)));
        all.push(replayed);
    }
    let growth = Growth {
        name: "replays".to_owned(),
        size: "1 as written, 2 trimmed".to_owned(),
        note: format!(
            "The histories of {FOLDER}, each replayed by its devices into a log of its own; a fresh device reads it to its \
             end, the fastest of {} times, before and after `COMPACT_AFTER_MS=0 mana-sync compact`",
            plan.turns
        ),
        sizes: vec![1.0, 2.0],
        lines: all.iter().flat_map(lines).collect(),
    };
    Ok(Measured { growth, generator_busy: None })
}

fn lines(replayed: &Replayed) -> Vec<GrowthLine> {
    let line = |name: &str, unit, of: &dyn Fn(&State) -> f64| {
        let values = vec![of(&replayed.before), of(&replayed.after)];
        GrowthLine::new(format!("{}: {name}", replayed.name), unit, values, None)
    };
    let mut lines = vec![
        line("rows", Unit::Number, &|state| state.initial_sync.rows),
        line("bytes stored", Unit::Bytes, &|state| state.bytes),
        line("time of a fresh device", Unit::Seconds, &|state| state.initial_sync.seconds),
    ];
    for (at, encoding) in ENCODINGS.iter().enumerate() {
        lines.push(line(&format!("bytes of its pages, {encoding}"), Unit::Bytes, &|state| state.encoded[at].bytes));
        let name = format!("processor time of the replica, {encoding}");
        lines.push(line(&name, Unit::Seconds, &|state| state.encoded[at].cpu));
    }
    lines
}

fn files() -> Result<Vec<PathBuf>, BaselineError> {
    let missing =
        || BaselineError::Nothing { what: format!("there are no histories in {FOLDER}: run this in the repository") };
    let entries = Path::new(FOLDER).read_dir().map_err(|_| missing())?;
    let mut files: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.sort();
    if files.is_empty() { Err(missing()) } else { Ok(files) }
}

async fn replay(at: &Surroundings, file: &Path, turns: usize) -> Result<Replayed, BaselineError> {
    at.fresh_database(DATABASE).await?;
    // It only trims when told to.
    let replica = at.replica("replica", DATABASE, &[("COMPACT_AFTER_MS", "0")]).await?;
    let options = ReplayOptions {
        database_url: Some(at.url_of(DATABASE)),
        ..ReplayOptions::new(vec![file.to_owned()], vec![replica.base().to_owned()], at.mint.clone())
    };
    let report = Box::pin(replay::run(options)).await.map_err(|source| BaselineError::Replay(source.into()))?;
    let Some(file) = report.files.first().filter(|_| report.is_good()) else {
        return Err(BaselineError::Nothing { what: format!("devices differ after a replay:\n{report}") });
    };
    let whose = Whose { user: &file.user, app: &file.app, table: TABLE };
    let before = state(at, &replica, whose, turns).await?;
    at.command("compact", DATABASE, &[("COMPACT_AFTER_MS", "0")]).await?;
    let after = state(at, &replica, whose, turns).await?;
    replica.stop().await?;
    let name = file.name.split('.').next().unwrap_or(&file.name).to_owned();
    Ok(Replayed { name, before, after })
}

async fn state(at: &Surroundings, replica: &Replica, whose: Whose<'_>, turns: usize) -> Result<State, BaselineError> {
    let database = at.connect(DATABASE).await?;
    let failed = |source| BaselineError::Database { action: "count its bytes", source };
    database.batch_execute("vacuum analyze sync_changes").await.map_err(failed)?;
    let bytes = database.query_one("select coalesce(sum(size), 0)::float8 from sync_changes", &[]).await;
    let bytes = bytes.and_then(|row| row.try_get(0)).map_err(failed)?;
    // The first time, its pages are read from the disk.
    let initial_sync = initial_sync(at, replica.base(), &database, turns.max(2), whose).await?;
    let encoded = encodings::measure(at, replica, whose).await?;
    Ok(State { bytes, initial_sync, encoded })
}
