//! A model of trimming: the same devices on the same log, which is trimmed at any moment; their final state is compared
//! with the log as it was stored (G3).

use super::*;
use crate::protocol::trim::{Flaw, RecordTrim, RowWrites, Verdict};
use proptest::test_runner::{Config, TestError, TestRunner};

/// A flaw of trimming beyond those of its verdicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrong {
    Verdict(Flaw),
    /// Rows that claim future stamps are trimmed like any other.
    TrimsClaims,
    /// The rest of a row is delivered at the position of the previous row.
    MovesFields,
    /// A record is trimmed in two transactions, and the process may end in between.
    TrimsInTwo,
}

/// One trimming.
#[derive(Clone, Copy, Debug)]
struct Trimming {
    /// The number of rows younger than the horizon.
    young: i64,
    /// The process ends after this many records.
    crash_after: usize,
    /// True if trimmed rows are remembered.
    history: bool,
}

impl Row {
    fn is_same(&self, other: &Row) -> bool {
        let parts = |row: &Row| (row.change.at, row.change.data.clone(), row.change.stamps.clone());
        parts(self) == parts(other)
    }
}

/// Removes fields from a JSON object.
fn without(json: &str, lost: &[(&str, Stamp)]) -> String {
    let mut members: serde_json::Map<String, Value> = serde_json::from_str(json).unwrap();
    members.retain(|name, _| !lost.iter().any(|(field, _)| field == name));
    Value::Object(members).to_string()
}

impl Log {
    fn trim(&mut self, trimming: Trimming, wrong: Option<Wrong>) {
        let records: Vec<String> = {
            let mut seen = HashSet::new();
            let all = self.rows.iter().map(|row| row.change.record.clone());
            all.filter(|record| seen.insert(record.clone())).collect()
        };
        for record in records.iter().take(trimming.crash_after) {
            self.trim_record(record, trimming, wrong);
        }
        if wrong == Some(Wrong::TrimsInTwo)
            && let Some(record) = records.get(trimming.crash_after)
        {
            let rows = self.rows.clone();
            self.trim_record(record, trimming, None);
            let middle = rows.len() / 2;
            // The first half is unchanged: its transaction was never committed.
            let half = |at: i64| rows.get(middle).is_some_and(|row| at >= row.change.at);
            let trimmed = self.rows.drain(..).filter(|row| half(row.change.at)).collect::<Vec<_>>();
            self.rows = rows.into_iter().take(middle).chain(trimmed).collect();
        }
    }

    fn trim_record(&mut self, record: &str, trimming: Trimming, wrong: Option<Wrong>) {
        let horizon = self.head - trimming.young * Cursor::STEP;
        let flaw = if let Some(Wrong::Verdict(flaw)) = wrong { Some(flaw) } else { None };
        let mut trim = RecordTrim::new(flaw);
        let read = |row: &Row| {
            let claims = !row.claimed_stamps.is_empty() && wrong != Some(Wrong::TrimsClaims);
            RowWrites::read(&row.change, claims || row.change.at > horizon).unwrap()
        };
        let rows: HashMap<Uuid, RowWrites> = {
            let of_record = self.rows.iter().filter(|row| row.change.record == record);
            of_record.map(|row| (row.change.id, read(row))).inspect(|(_, row)| trim.note(row)).collect()
        };
        let (mut any_gone, mut before) = (false, 0);
        self.rows.retain_mut(|row| {
            let Some(writes) = rows.get(&row.change.id) else { return true };
            match trim.verdict(writes) {
                Verdict::Whole => {}
                Verdict::Gone(_) => {
                    any_gone = true;
                    if trimming.history {
                        self.history.insert(row.change.id);
                    }
                    return false;
                }
                Verdict::Without(lost) => {
                    row.change.data = row.change.data.as_deref().map(|data| without(data, &lost));
                    row.change.stamps = without(&row.change.stamps, &lost);
                    if wrong == Some(Wrong::MovesFields) && before > 0 {
                        row.change.at = before + 1;
                    }
                }
            }
            before = row.change.at;
            true
        });
        if any_gone && trim.marks_deletes() {
            let deletes = self.rows.iter_mut().map(|row| &mut row.change);
            deletes
                .filter(|change| change.record == record && change.op == Op::Delete)
                .for_each(|change| change.rows_trimmed = true);
        }
        self.rows.sort_by_key(|row| row.change.at);
    }

    /// Returns, by record and field, the winner's rank, value and author.
    fn winners(rows: &[Row]) -> BTreeMap<(String, String), (Rank, String, String)> {
        let mut best: BTreeMap<_, (Rank, String, String)> = BTreeMap::new();
        for row in rows {
            for write in row.change.fields().unwrap() {
                let own = ((write.stamp, row.change.at), write.value.to_string(), row.client.clone());
                let entry = best.entry((row.change.record.clone(), write.name.to_string())).or_insert(own.clone());
                if own.0 >= entry.0 {
                    *entry = own;
                }
            }
        }
        best
    }

    /// Checks what holds at every moment: the winners are there, at the same position; every record has its first row;
    /// and a record is trimmed entirely or not at all.
    fn check(&self, before: &[Row], horizon: i64) -> Result<(), String> {
        if Log::winners(&self.rows) != Log::winners(before) {
            return Err("a winner is not where it was".into());
        }
        let firsts = |rows: &[Row]| {
            let mut firsts = BTreeMap::new();
            for row in rows {
                firsts.entry(row.change.record.clone()).or_insert(row.change.at);
            }
            firsts
        };
        if firsts(&self.rows) != firsts(before) {
            return Err("a record is without its first row".into());
        }
        let lines = |rows: &[Row], record: &str| -> Vec<String> {
            let of_record = rows.iter().filter(|row| row.change.record == record);
            of_record.map(|row| format!("{} {:?} {}", row.change.at, row.change.data, row.change.stamps)).collect()
        };
        for record in firsts(before).into_keys() {
            let now = lines(&self.rows, &record);
            if now == lines(before, &record) {
                continue;
            }
            let mut again = self.clone();
            let young = (self.head - horizon) / Cursor::STEP;
            again.trim_record(&record, Trimming { young, crash_after: 1, history: false }, None);
            if now != lines(&again.rows, &record) {
                return Err(format!("{record} is trimmed in part"));
            }
        }
        let young = |rows: &[Row]| -> Vec<String> {
            let stays = rows.iter().filter(|row| row.change.at > horizon || !row.claimed_stamps.is_empty());
            stays.map(|row| format!("{} {:?} {}", row.change.at, row.change.data, row.change.stamps)).collect()
        };
        if young(&self.rows) != young(before) {
            return Err("a row that is young or claims a stamp is not whole".into());
        }
        Ok(())
    }
}

/// A step of the other model, or a trimming.
#[derive(Clone, Debug)]
enum Event {
    Step(Step),
    Trim(Trimming),
    /// Drops the oldest history.
    Forget,
}

fn trimming() -> impl Strategy<Value = Trimming> {
    let young = prop::sample::select(vec![0, 0, 0, 2, 5]);
    let crash_after = prop::sample::select(vec![usize::MAX, usize::MAX, 0, 1, 2]);
    (young, crash_after, any::<bool>()).prop_map(|(young, crash_after, history)| Trimming {
        young,
        crash_after,
        history,
    })
}

fn history() -> impl Strategy<Value = (Vec<Event>, [i64; 4], Vec<Trimming>)> {
    let event = prop_oneof![
        20 => step().prop_map(Event::Step),
        5 => trimming().prop_map(Event::Trim),
        1 => Just(Event::Forget),
    ];
    let skews = prop::array::uniform4(prop::sample::select(vec![0, 0, -7_200_000, 60_000, 3_600_000]));
    (prop::collection::vec(event, 1..70), skews, prop::collection::vec(trimming(), 1..6))
}

/// Returns an error if anything is wrong during the run or at its end.
fn run(events: &[Event], skews: &[i64], at_the_end: &[Trimming], wrong: Option<Wrong>) -> Result<(), String> {
    let mut devices: Vec<Device> = (0..DEVICES).map(|n| Device::new(&format!("d{n}"), Engine::ByStamps)).collect();
    let mut log = Log::default();
    let trim = |log: &mut Log, trimming: Trimming| {
        let before = log.rows.clone();
        log.trim(trimming, wrong);
        let untouched =
            log.rows.len() == before.len() && log.rows.iter().zip(&before).all(|(now, before)| now.is_same(before));
        if untouched {
            return Ok(());
        }
        log.check(&before, log.head - trimming.young * Cursor::STEP)
    };
    for (tick, event) in events.iter().enumerate() {
        match event {
            Event::Step(step) => {
                perform(step, tick, NOW + tick as i64 / 8 * 3, skews, &mut devices, &mut log);
            }
            Event::Trim(trimming) => trim(&mut log, *trimming)?,
            Event::Forget => log.history.clear(),
        }
    }
    let mut endings = at_the_end.iter().cycle();
    for _ in 0..2 {
        for device in &mut devices {
            while device.stream.is_some() && device.read_stream(&log, 2) {
                trim(&mut log, *endings.next().unwrap())?;
            }
            device.push(&mut log, NOW + 1_000, 2, false);
            while device.pull(&log, 2) {
                trim(&mut log, *endings.next().unwrap())?;
            }
        }
    }
    for (name, by_stream) in [("fresh", false), ("streaming", true)] {
        let mut fresh = Device::new(name, Engine::ByStamps);
        while if by_stream { fresh.read_stream(&log, 1) } else { fresh.pull(&log, 1) } {
            trim(&mut log, *endings.next().unwrap())?;
        }
        devices.push(fresh);
    }
    let expected = without_stamps(log.fold());
    for device in &devices {
        let held = without_stamps(device.values());
        if held != expected {
            return Err(format!("{} holds {held:?} and should hold {expected:?}", device.name));
        }
    }
    Ok(())
}

/// Runs this many random histories, with or without a flaw.
fn run_many(cases: u32, wrong: Option<Wrong>) -> Result<(), String> {
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 4_000, ..Config::default() };
    let outcome = TestRunner::new_with_rng(
        config,
        proptest::test_runner::TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha),
    )
    .run(&history(), |(events, skews, at_the_end)| {
        run(&events, &skews, &at_the_end, wrong).map_err(TestCaseError::fail)
    });
    match outcome {
        Ok(()) => Ok(()),
        Err(TestError::Fail(reason, (events, skews, trimmings))) => {
            let events: Vec<String> = events.iter().map(|event| format!("{event:?}")).collect();
            Err(format!("{reason}\n{}\n{skews:?} {trimmings:?}", events.join("\n")))
        }
        Err(error) => Err(error.to_string()),
    }
}

/// Random histories; `TRIM_CASES` sets their number.
#[test]
#[expect(clippy::disallowed_methods, reason = "a test of more cases is asked for by the environment")]
fn trimming_at_any_moment_changes_nothing_for_anybody() {
    let cases = std::env::var("TRIM_CASES").map_or(1_000, |cases| cases.parse().unwrap());
    if let Err(failure) = run_many(cases, None) {
        panic!("{failure}");
    }
}

#[test]
fn every_flaw_of_a_trimming_shows() {
    for wrong in [
        Wrong::Verdict(Flaw::DropsWinner),
        Wrong::Verdict(Flaw::TakesFirstOfTies),
        Wrong::Verdict(Flaw::DropsFirstRow),
        Wrong::TrimsClaims,
        Wrong::MovesFields,
        Wrong::TrimsInTwo,
    ] {
        assert!(run_many(2_000, Some(wrong)).is_err(), "{wrong:?} was not noticed");
    }
}

/// A reader was not sent a record because of a later write of its own, which is trimmed before it reads on: it must not
/// ignore the delete that follows. Random histories rarely contain this.
#[test]
fn a_delete_reaches_who_was_not_sent_its_record() {
    for (wrong, arrives) in [(None, true), (Some(Wrong::Verdict(Flaw::ForgetsMarks)), false)] {
        let (mut log, at) = (Log::default(), |after| Stamp::from_millis(NOW + after));
        let delete = json!({ "table": "t", "id": "r", "op": "delete", "deletedAt": at(2).to_string() });
        for (client, change) in
            [("x", update("f", 1, at(1))), ("y", delete), ("d", update("f", 2, at(3))), ("x", update("f", 3, at(4)))]
        {
            log.push(&read(client, json!([change])));
        }
        // It has lost its database, and stores something before it has read anything.
        let mut device = Device::new("d", Engine::ByStamps);
        device.write("z", Op::Insert, &[("f", json!(1))], NOW + 5);
        device.push(&mut log, NOW + 5, 1, false);
        assert!(!device.records.contains_key("r"), "it was left out");
        log.trim(Trimming { young: 0, crash_after: usize::MAX, history: true }, wrong);
        while device.pull(&log, 1) {}
        assert_eq!(device.values()["r"].contains_key("deletedAt"), arrives, "{wrong:?}");
    }
}
