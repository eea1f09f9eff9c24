//! The checks at the end of every run: nothing acknowledged is missing, nothing is duplicated or of unknown origin, all
//! devices agree, and every listener was notified (G1 to G4).

use std::collections::BTreeMap;
use std::fmt::Write as _;

use futures_util::StreamExt as _;

use super::listeners::{Account, Changes, missed_changes, missed_wakeup, parse_record};
use super::population::{APP, Ledger, Population, TABLE, User};
use crate::device::{Device, DeviceError, DeviceOptions, Mode};
use crate::report::model::Check;
use crate::snapshot::Snapshot;

const AT_ONCE: usize = 8;
/// Number of findings that are described.
const SHOWN: usize = 5;

/// The number of items checked, and the problems found.
#[derive(Debug, Default)]
pub struct Findings {
    pub looked_at: usize,
    pub wrong: usize,
    shown: Vec<String>,
}

impl Findings {
    pub fn add(&mut self, what: String) {
        self.wrong += 1;
        if self.shown.len() < SHOWN {
            self.shown.push(what);
        }
    }

    fn check(self, name: &str, things: &str) -> Check {
        let mut detail = format!("{} {things}", self.looked_at);
        if self.wrong > 0 {
            let _ = write!(detail, "; {} wrong: {}", self.wrong, self.shown.join("; "));
        }
        Check { name: name.to_owned(), passed: self.wrong == 0, detail }
    }
}

/// Reads up to `limit` users' logs with two new devices each, one by pulls and one by pushes, both through all targets.
pub async fn verify_users(
    population: &Population,
    targets: &[String],
    limit: usize,
    http: &reqwest::Client,
) -> Vec<Check> {
    // Users with the most to lose are included, regardless of the limit.
    let mut users: Vec<_> = population.users.iter().collect();
    users.sort_by_key(|user| std::cmp::Reverse(user.ledger().sent.len()));
    users.truncate(limit);
    let (mut stored, mut agree) = (Findings::default(), Findings::default());
    let reading = futures_util::stream::iter(users).map(|user| async move { (user, read(user, targets, http).await) });
    let mut reading = std::pin::pin!(reading.buffer_unordered(AT_ONCE));
    while let Some((user, read)) = reading.next().await {
        agree.looked_at += 1;
        match read {
            Ok((received, by_pull, by_push)) => {
                let ledger = user.ledger();
                stored.looked_at += ledger.acknowledged.values().sum::<usize>();
                for problem in compare_with_ledger(&ledger, &by_pull, received) {
                    stored.add(format!("{}: {problem}", user.id));
                }
                for difference in by_pull.differences(&by_push, 1) {
                    agree.add(format!("{}: by pull and by push: {difference}", user.id));
                }
            }
            Err(error) => agree.add(format!("{}: {}", user.id, causes(&error))),
        }
    }
    vec![
        stored.check("acknowledged changes are read back, once and whole (G1, G2)", "acknowledged changes"),
        agree.check("new devices agree, and every answer keeps the protocol (G2, G3)", "users, two devices each"),
    ]
}

/// Returns the number of changes received by pulls, and what both devices hold.
async fn read(
    user: &User,
    targets: &[String],
    http: &reqwest::Client,
) -> Result<(usize, Snapshot, Snapshot), DeviceError> {
    let device = |name: &str, mode| {
        let options = DeviceOptions::new(APP, name, &user.token, targets, &[TABLE]);
        Device::new(http.clone(), DeviceOptions { mode, ..options })
    };
    let mut pulls = device("verifier-pull", Mode::default())?;
    let received = pulls.pull_all().await?;
    let mut pushes = device("verifier-push", Mode::FollowsHasMore)?;
    pushes.push().await?;
    Ok((received, pulls.snapshot(), pushes.snapshot()))
}

/// Every push creates records that no other creates, one per change: what is received is exactly what was acknowledged,
/// plus at most the pushes with unknown outcome.
pub fn compare_with_ledger(ledger: &Ledger, held: &Snapshot, received: usize) -> Vec<String> {
    let mut problems = Vec::new();
    let records = held.0.get(TABLE);
    let mut found: BTreeMap<u64, usize> = BTreeMap::new();
    for id in records.into_iter().flat_map(|records| records.keys()) {
        match parse_record(id) {
            Some((number, _)) => *found.entry(number).or_default() += 1,
            None => problems.push(format!("the record {id} was never pushed")),
        }
    }
    for (number, &changes) in &ledger.acknowledged {
        match found.remove(number) {
            Some(there) if there == changes => {}
            there => problems.push(format!(
                "push {number} was acknowledged with {changes} changes, {} are there",
                there.unwrap_or(0)
            )),
        }
    }
    for (number, there) in found {
        match ledger.unknown.get(&number) {
            Some(&changes) if changes == there => {}
            Some(&changes) => problems.push(format!("push {number} is there with only {there} of {changes} changes")),
            None => problems.push(format!("push {number} is there but was never acknowledged")),
        }
    }
    let distinct = records.map_or(0, BTreeMap::len);
    if received != distinct {
        problems.push(format!("{received} changes were received for {distinct} records: some are stored twice"));
    }
    problems
}

/// Checks what permanent listeners should have received.
pub fn verify_listeners(accounts: &[Account]) -> Vec<Check> {
    let (mut sockets, mut streams) = (Findings::default(), Findings::default());
    for account in accounts {
        match account {
            Account::Socket { user, last_wakeup } => {
                sockets.looked_at += 1;
                if missed_wakeup(user, *last_wakeup).is_some() {
                    sockets.add(format!("{}: its last push woke nobody", user.id));
                }
            }
            Account::Stream { user, heard } => {
                streams.looked_at += 1;
                for problem in compare_stream(&user.ledger(), heard) {
                    streams.add(format!("{}: {problem}", user.id));
                }
            }
        }
    }
    let mut checks = Vec::new();
    if sockets.looked_at > 0 {
        checks.push(sockets.check("woken for the last change within 5 s (G4)", "WebSockets"));
    }
    if streams.looked_at > 0 {
        checks.push(streams.check("streams delivered every change once (G2)", "streams"));
    }
    checks
}

/// Compares a stream from the beginning with what was acknowledged.
pub fn compare_stream(ledger: &Ledger, heard: &Changes) -> Vec<String> {
    let missed = missed_changes(ledger, heard);
    let mut problems: Vec<String> =
        missed.map(|(push, index)| format!("change {index} of push {push} never came")).collect();
    for ((push, index), times) in heard {
        if *times > 1 {
            problems.push(format!("change {index} of push {push} came {times} times"));
        }
        if !ledger.acknowledged.contains_key(push) && !ledger.unknown.contains_key(push) {
            problems.push(format!("push {push} was received but is not this user's"));
        }
    }
    problems
}

fn causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |&cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ledger(acknowledged: &[(u64, usize)], unknown: &[(u64, usize)]) -> Ledger {
        let map = |of: &[(u64, usize)]| of.iter().copied().collect();
        Ledger { acknowledged: map(acknowledged), unknown: map(unknown), ..Ledger::default() }
    }

    fn held(records: &[(u64, usize)]) -> Snapshot {
        let ids = records.iter().map(|(push, index)| (format!("device/{index}/{push:010}"), json!({"a": 1})));
        Snapshot(serde_json::from_value(json!({TABLE: ids.collect::<serde_json::Map<_, _>>()})).unwrap())
    }

    #[test]
    fn what_is_there_as_acknowledged_is_right() {
        let ledger = ledger(&[(0, 2), (7, 1)], &[(8, 1), (9, 1)]);
        let held = held(&[(0, 0), (0, 1), (7, 0), (8, 0)]);
        assert_eq!(compare_with_ledger(&ledger, &held, 4), Vec::<String>::new());
    }

    #[test]
    fn a_lost_push_a_torn_one_and_one_stored_twice_are_found() {
        let sent = ledger(&[(0, 2), (7, 1)], &[(8, 3)]);
        let lost = compare_with_ledger(&sent, &held(&[(0, 0), (0, 1)]), 2);
        assert!(lost.len() == 1 && lost[0].contains("push 7"), "{lost:?}");
        let torn = compare_with_ledger(&sent, &held(&[(0, 0), (7, 0), (8, 0)]), 3);
        assert_eq!(torn.len(), 2, "{torn:?}");
        let twice = compare_with_ledger(&sent, &held(&[(0, 0), (0, 1), (7, 0)]), 4);
        assert!(twice.len() == 1 && twice[0].contains("twice"), "{twice:?}");
        let foreign = compare_with_ledger(&sent, &held(&[(0, 0), (0, 1), (7, 0), (5, 0)]), 4);
        assert!(foreign.len() == 1 && foreign[0].contains("never"), "{foreign:?}");
    }

    #[test]
    fn a_stream_that_missed_or_repeated_a_change_is_found() {
        let sent = ledger(&[(0, 2)], &[(3, 1)]);
        let heard = |of: &[((u64, usize), u32)]| of.iter().copied().collect::<Changes>();
        assert!(compare_stream(&sent, &heard(&[((0, 0), 1), ((0, 1), 1), ((3, 0), 1)])).is_empty());
        assert_eq!(compare_stream(&sent, &heard(&[((0, 0), 1)])).len(), 1);
        assert_eq!(compare_stream(&sent, &heard(&[((0, 0), 2), ((0, 1), 1)])).len(), 1);
        assert_eq!(compare_stream(&sent, &heard(&[((0, 0), 1), ((0, 1), 1), ((4, 0), 1)])).len(), 1);
    }

    #[test]
    fn a_finding_fails_its_check() {
        let mut findings = Findings { looked_at: 3, ..Findings::default() };
        findings.add("gone".to_owned());
        let check = findings.check("name", "things");
        assert!(!check.passed && check.detail == "3 things; 1 wrong: gone", "{check:?}");
    }
}
