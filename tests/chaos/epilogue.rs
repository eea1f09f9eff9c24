//! After the faults: the cluster must work as if nothing had happened.

use crate::cluster::{FaultyCluster, REPLICAS};
use crate::readers::stream_request;
use crate::support::*;
use crate::workload::{TABLES, Workload, insert_of};
use mana_load::stream::StreamReader;
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// Number of changes pushed one by one once there are no more faults.
const CALM: usize = 20;
/// Maximum delay without faults; only reconciliation takes longer than this.
const AT_ONCE: Duration = Duration::from_secs(1);
/// Number of changes that may be slower, because other processes use this machine too.
const TOLERATED: usize = 2;
/// Maximum time for any reader to be notified.
pub const SOON: Duration = Duration::from_secs(5);
const ROUNDS: usize = 5;
/// Maximum time for a replica to learn of a new key: it does not ask the issuer all the time.
const KEYS: Duration = Duration::from_secs(10);

/// Polls until there is a result, for as long as that may take: `limit`, and what a busy machine adds to it.
pub async fn until<T>(cluster: &FaultyCluster, limit: Duration, mut ask: impl AsyncFnMut() -> Option<T>) -> Option<T> {
    match mana_dev::wait::until(limit, &mut ask).await {
        Some(answer) => Some(answer),
        None => mana_dev::wait::until(slack(&cluster.inner).await, ask).await,
    }
}

/// Pushes one change, and measures the time until every reader that is notified of that user's changes has it. Records
/// a violation and returns `None` if one of them is too late.
pub async fn tell(cluster: &FaultyCluster, workload: &Workload, party: usize) -> Option<Duration> {
    let told: Vec<_> = workload.readers().into_iter().filter(|r| r.party == party && r.is_told()).collect();
    let before: Vec<usize> = told.iter().map(|reader| reader.count()).collect();
    let number = workload.next_number();
    let client = format!("calm-{number}");
    let mut device = workload.device(cluster, party, &client);
    let change = insert_of(TABLES[number as usize % TABLES.len()], &client);
    if !workload.push(party, &mut device, vec![change]).await {
        return None;
    }
    let pushed = Instant::now();
    let behind = || told.iter().zip(&before).filter(|(reader, before)| reader.count() <= **before);
    let all_told = until(cluster, SOON, async || behind().next().is_none().then_some(()));
    if all_told.await.is_none() {
        let names: Vec<&str> = behind().map(|(reader, _)| reader.name.as_str()).collect();
        workload.violated(format!("G4: not told within {SOON:?} though all is well: {names:?}"));
        return None;
    }
    Some(pushed.elapsed())
}

/// Each change reaches every notified reader, nearly always at once.
pub async fn nothing_is_slow(cluster: &FaultyCluster, workload: &Workload) {
    let mut times = Vec::new();
    for n in 0..CALM {
        let Some(time) = tell(cluster, workload, n % workload.parties.len()).await else { return };
        times.push(time);
    }
    let slower_than = |limit: Duration| times.iter().filter(|time| **time > limit).count();
    if slower_than(AT_ONCE) > TOLERATED {
        let limit = AT_ONCE + slack(&cluster.inner).await;
        let (slow, slowest) = (slower_than(limit), times.iter().max());
        if slow > TOLERATED {
            workload.violated(format!("G4: in health {slow} of {CALM} changes took over {limit:?}, up to {slowest:?}"));
        }
    }
}

/// Tokens of the issuer's newest key are accepted on every replica.
pub async fn new_keys_are_accepted(cluster: &FaultyCluster, workload: &Workload) {
    if !cluster.has_rotated() {
        return;
    }
    let token = cluster.rotated_token("visitor");
    for (replica, url) in cluster.urls().iter().enumerate() {
        let ask = async || {
            let request = cluster.inner.http.get(format!("{url}/sync/app/pull?collection=a&since={BEGINNING}"));
            let answer = request.bearer_auth(&token).timeout(SOON).send().await;
            answer.is_ok_and(|answer| answer.status() == 200).then_some(())
        };
        if until(cluster, KEYS, ask).await.is_none() {
            workload.violated(format!("replica {replica} does not accept the issuer's new key after {KEYS:?}"));
        }
    }
}

/// A stream that is opened during a push delivers it, whichever comes first.
pub async fn late_comers_miss_nothing(cluster: &FaultyCluster, workload: &Workload) {
    let party = &workload.parties[0];
    let mut device = workload.device(cluster, 0, &format!("late-{}", workload.next_number()));
    if let Err(error) = device.push().await {
        return workload.failed("a device without changes", &error);
    }
    for round in 0..ROUNDS {
        let id = format!("late-{}", workload.next_number());
        let since = device.push_cursor().to_owned();
        let change = insert_of("late", &id);
        let pause = Duration::from_millis(3 * round as u64);
        let pushing = async {
            tokio::time::sleep(pause).await;
            workload.push(0, &mut device, vec![change]).await
        };
        let opening = (0..REPLICAS).map(|replica| {
            let mut asked = stream_request(cluster, party, &format!("late-comer-{replica}"), replica);
            asked.since = Some(since.clone());
            let http = &cluster.inner.http;
            let id = &id;
            async move {
                let mut stream = StreamReader::open(http, &asked).await?;
                while let Some((_, delta)) = stream.next_delta(TIMEOUT).await? {
                    if delta.changes.iter().any(|change| change.id == *id) {
                        return Ok::<_, mana_load::stream::StreamError>(true);
                    }
                }
                Ok(false)
            }
        });
        let opening = timeout(SOON + slack(&cluster.inner).await, futures_util::future::join_all(opening));
        let (pushed, opened) = tokio::join!(pushing, opening);
        match opened {
            _ if !pushed => return,
            Err(_) => return workload.violated(format!("G2: a stream opened during a push lacks it after {SOON:?}")),
            Ok(streams) => {
                for stream in streams.into_iter().filter(|stream| !matches!(stream, Ok(true))) {
                    workload.violated(format!("G2: a stream opened during a push ended without it: {stream:?}"));
                }
            }
        }
    }
}
