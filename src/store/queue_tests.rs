use super::*;
use crate::protocol::push::{StampPolicy, read_push};
use crate::protocol::{Log, Stamp};
use std::sync::atomic::{AtomicUsize, Ordering};

fn job(user: &str, changes: usize) -> Job {
    static MADE: AtomicUsize = AtomicUsize::new(0);
    named(user, changes, MADE.fetch_add(1, Ordering::Relaxed))
}

/// A push that is the same wherever it has the same name.
fn named(user: &str, changes: usize, name: usize) -> Job {
    let change = |n| {
        let fields = r#"{"f":{"value":1,"updatedAt":"2024-01-01T10:00:00Z"}}"#;
        format!(r#"{{"table":"t","id":"{name}-{n}","op":"update","fields":{fields}}}"#)
    };
    let body = format!(r#"{{"clientId":"c","changes":[{}]}}"#, (0..changes).map(change).collect::<Vec<_>>().join(","));
    let policy = StampPolicy { now: Stamp::from_millis(1_700_000_000_000), max_ahead: 0 };
    let push = read_push(body.as_bytes(), None, policy, usize::MAX).unwrap();
    let ids = push.row_ids(user, "a");
    Job::new(Log::new(user.into(), "a"), push.into(), ids, Box::new(|_| ())).0
}

fn waiting(jobs: impl IntoIterator<Item = Job>) -> State {
    State { waiting: jobs.into_iter().collect(), ..State::default() }
}

/// The changes of each push in the next batch; none if there is no reason to start one.
fn sizes(state: &mut State) -> Option<Vec<usize>> {
    Some(state.next()?.iter().map(|job| job.entry.push.changes.len()).collect())
}

#[test]
fn at_rest_a_push_goes_at_once_and_the_more_batches_run_the_more_must_wait() {
    let mut state = State::default();
    let mut user = 0;
    for (running, enough) in ENOUGH.into_iter().enumerate() {
        assert_eq!(state.running, running);
        for arrived in 1..=enough {
            user += 1;
            state.waiting.push_back(job(&user.to_string(), 1));
            let started = sizes(&mut state);
            assert_eq!(started.map(|batch| batch.len()), (arrived == enough).then_some(enough));
        }
    }
    state.waiting.extend((0..100).map(|_| job("late", 1)));
    assert_eq!(sizes(&mut state), None, "enough run");
    state.running = 0;
    assert_eq!(sizes(&mut state), Some(vec![1; MAX_PUSHES]));
}

#[test]
fn a_batch_is_filled_in_the_order_of_arrival_up_to_its_limits() {
    let mut state = waiting([60, 60, 60, 60, 60, 1].map(|changes| job("u", changes)));
    assert_eq!(sizes(&mut state), Some(vec![60, 60, 60, 60, 1]));
    state.busy.clear();
    assert_eq!(sizes(&mut state), Some(vec![60]));
    let mut state = waiting([MAX_CHANGES + 1, 1].map(|changes| job("u", changes)));
    assert_eq!(sizes(&mut state), Some(vec![MAX_CHANGES + 1]), "what is larger than a batch goes by itself");
}

#[test]
fn what_is_sent_again_while_it_waits_does_not_ride_with_its_first_attempt() {
    let mut state = waiting([named("u", 2, 7), named("u", 3, 7), named("u", 1, 8)]);
    assert_eq!(sizes(&mut state), Some(vec![2, 1]));
    state.busy.clear();
    assert_eq!(sizes(&mut state), Some(vec![3]));
}

#[test]
fn what_is_pushed_to_a_log_that_is_in_a_batch_waits_for_it_and_holds_up_nobody() {
    let mut state = waiting([job("u", 1)]);
    assert_eq!(sizes(&mut state), Some(vec![1]));
    state.waiting.extend([job("u", 2), job("u", 3)]);
    assert_eq!(sizes(&mut state), None);
    state.waiting.push_back(job("v", 4));
    assert_eq!(sizes(&mut state), Some(vec![4]));
    state.running -= 1;
    state.busy.remove(&Log::new("u".into(), "a").id);
    assert_eq!(sizes(&mut state), Some(vec![2, 3]), "both, in their order");
}
