use super::*;
use crate::protocol::push::{StampPolicy, read_push};
use crate::protocol::{Log, Stamp};
use crate::store::batcher::waiting::MAX_WAITING_OF_USER;
use std::sync::atomic::{AtomicUsize, Ordering};

fn job(user: &str, changes: usize) -> Job {
    static MADE: AtomicUsize = AtomicUsize::new(0);
    named(user, changes, MADE.fetch_add(1, Ordering::Relaxed))
}

/// A push with the same row ids for the same name.
fn named(user: &str, changes: usize, name: usize) -> Job {
    let change = |n| {
        let fields = r#"{"f":{"value":1,"updatedAt":"2024-01-01T10:00:00Z"}}"#;
        format!(r#"{{"table":"t","id":"{name}-{n}","op":"update","fields":{fields}}}"#)
    };
    let body = format!(r#"{{"clientId":"c","changes":[{}]}}"#, (0..changes).map(change).collect::<Vec<_>>().join(","));
    let policy = StampPolicy { now: Stamp::from_millis(1_700_000_000_000), max_ahead: 0 };
    let push = read_push(body.as_bytes(), None, policy, usize::MAX).unwrap();
    let ids = push.row_ids(user, "a");
    Job::new(Log::new(user.into(), "a"), push.into(), ids, Box::new(|_: &crate::store::Pushed| ()))
}

/// An empty queue for a pool of this many connections.
fn queue_for(pool_size: usize) -> FairQueue {
    FairQueue::new(pool_size, IntGauge::new("waiting", "for the test").unwrap())
}

fn log(user: &str) -> LogId {
    LogId::of(UserKey::of(user), "a")
}

fn waiting(jobs: impl IntoIterator<Item = Job>) -> FairQueue {
    let mut queue = queue_for(20);
    jobs.into_iter().for_each(|job| assert!(queue.push(job).is_none()));
    queue
}

/// The number of changes of each push in the next batch; `None` if none should start.
fn sizes(queue: &mut FairQueue) -> Option<Vec<usize>> {
    Some(queue.next_batch()?.iter().map(Job::size).collect())
}

/// Nothing is left, and nothing is remembered.
fn assert_empty(queue: &FairQueue) {
    assert_eq!((queue.waiting.all, queue.ready_pushes, queue.logs.len()), (0, 0, 0));
    assert_eq!(queue.waiting.gauge.get(), 0);
    assert!(
        queue.waiting.of_users.is_empty()
            && queue.ready.is_empty()
            && queue.alone.is_empty()
            && queue.very_large.is_empty()
            && queue.locked.is_empty()
    );
}

#[test]
fn at_rest_a_push_goes_at_once_and_the_more_batches_run_the_more_must_wait() {
    let mut queue = queue_for(20);
    let mut user = 0;
    for (running, enough) in MIN_BATCH.into_iter().enumerate() {
        assert_eq!(queue.batches, running);
        for arrived in 1..=enough {
            user += 1;
            queue.push(job(&user.to_string(), 1));
            let started = sizes(&mut queue);
            assert_eq!(started.map(|batch| batch.len()), (arrived == enough).then_some(enough));
        }
    }
    (0..100).for_each(|_| drop(queue.push(job("late", 1))));
    assert_eq!(sizes(&mut queue), None, "enough run");
    queue.batches = 0;
    assert_eq!(sizes(&mut queue), Some(vec![1; MAX_PUSHES]));
}

#[test]
fn a_batch_is_filled_in_the_order_of_arrival_up_to_its_limits() {
    let mut queue = waiting([60, 60, 60, 60, 60, 1].map(|changes| job("u", changes)));
    assert_eq!(sizes(&mut queue), Some(vec![60, 60, 60, 60]), "nobody overtakes in a log");
    assert_eq!(sizes(&mut queue), None, "a log is in one batch at a time");
    queue.release(log("u"));
    assert_eq!(sizes(&mut queue), Some(vec![60, 1]));
    queue.release(log("u"));
    assert_empty(&queue);
}

#[test]
fn each_user_has_a_turn_whatever_the_others_have_waiting() {
    let mut queue = waiting((0..1000).map(|_| job("noisy", 1)));
    for user in ["v", "w"] {
        (2..4).for_each(|changes| drop(queue.push(job(user, changes))));
    }
    let batch = sizes(&mut queue).unwrap();
    assert_eq!((batch.len(), &batch[..6]), (MAX_PUSHES, &[1, 2, 2, 1, 3, 3][..]));
    assert_eq!(sizes(&mut queue), None, "all logs are busy");
    queue.push(job("x", 4));
    assert_eq!(sizes(&mut queue), Some(vec![4]), "others need not wait for the end of the batch");
    ["noisy", "v", "w", "x"].into_iter().for_each(|user| queue.release(log(user)));
    assert_eq!((queue.waiting.all, queue.ready_pushes), (1004 - MAX_PUSHES, 1004 - MAX_PUSHES));
}

#[test]
fn what_is_sent_again_while_it_waits_does_not_ride_with_its_first_attempt() {
    let mut queue = waiting([named("u", 2, 7), named("v", 1, 8), named("u", 3, 7)]);
    assert_eq!(sizes(&mut queue), Some(vec![2, 1]));
    queue.release(log("u"));
    assert_eq!(sizes(&mut queue), Some(vec![3]));
}

#[test]
fn what_goes_alone_has_half_of_the_pool_and_one_user_two_places() {
    let mut queue = queue_for(8);
    let large = |user: &str, app: &str| {
        let mut job = job(user, MAX_CHANGES + 1);
        job.entry.log = Log::new(user.into(), app);
        job
    };
    (0..5).for_each(|app| drop(queue.push(large("u", &app.to_string()))));
    queue.push(job("u", 1));
    assert!(queue.next_alone().is_some() && queue.next_alone().is_some());
    assert!(queue.next_alone().is_none(), "two of one user");
    ["v", "w", "x"].into_iter().for_each(|user| drop(queue.push(large(user, "a"))));
    assert!(queue.next_alone().is_some() && queue.next_alone().is_some());
    assert!(queue.next_alone().is_none(), "half of the pool");
    assert_eq!(sizes(&mut queue), Some(vec![1]), "what is small rides all the same");
    queue.alone_ended(Way::Alone, UserKey::of("u"));
    queue.release(LogId::of(UserKey::of("u"), "0"));
    assert_eq!(queue.next_alone().unwrap().entry.log.user, UserKey::of("x"), "who has had no turn yet comes first");
    queue.alone_ended(Way::Alone, UserKey::of("v"));
    assert_eq!(queue.next_alone().unwrap().entry.log.user, UserKey::of("u"));
}

#[test]
fn few_very_large_pushes_run_at_once_and_keep_none_that_are_merely_large() {
    let mut queue = queue_for(20);
    (0..9).for_each(|user| drop(queue.push(job(&format!("very-large-{user}"), 2_001))));
    let running: Vec<_> = std::iter::from_fn(|| queue.next_alone()).map(|job| job.way()).collect();
    assert_eq!(running, [Way::VeryLarge; 3]);
    queue.push(job("large", MAX_CHANGES + 1));
    assert_eq!(queue.next_alone().map(|job| job.way()), Some(Way::Alone));
    queue.push(job("sent again", 2_001).looking_first());
    assert!(queue.next_alone().is_none(), "what is sent again is as large");
    queue.alone_ended(Way::VeryLarge, UserKey::of("very-large-0"));
    assert_eq!(queue.next_alone().map(|job| job.entry.log.user), Some(UserKey::of("very-large-3")), "in turn");
}

#[test]
fn what_is_locked_has_places_apart_from_what_is_large_and_one_user_two_of_them() {
    let mut queue = queue_for(16);
    let locked = |user: &str, app: usize| {
        let mut job = job(user, 1).going(Way::Locked);
        job.entry.log = Log::new(user.into(), &app.to_string());
        job
    };
    (0..5).for_each(|app| drop(queue.push(locked("u", app))));
    (0..3).for_each(|app| drop(queue.push(locked("v", app))));
    queue.push(job("w", MAX_CHANGES + 1));
    assert_eq!(queue.next_alone().map(|job| job.way()), Some(Way::Alone), "it is not behind them");
    let mut next = || queue.next_alone().map(|job| job.entry.log.user);
    let (u, v) = (UserKey::of("u"), UserKey::of("v"));
    assert_eq!([next(), next(), next(), next()], [Some(u), Some(v), Some(u), Some(v)], "in turn");
    assert_eq!(next(), None, "a quarter of the pool");
    queue.alone_ended(Way::Locked, u);
    assert_eq!(queue.next_alone().map(|job| job.entry.log.user), Some(u), "the next one of its own");
    assert!(queue.next_alone().is_none());
    queue.alone_ended(Way::Locked, v);
    queue.alone_ended(Way::Locked, u);
    let left: Vec<_> = std::iter::from_fn(|| queue.next_alone()).map(|job| job.entry.log.user).collect();
    assert_eq!(left.len(), 2);
}

#[test]
fn what_is_put_back_waits_until_its_log_is_released_and_can_be_given_up_meanwhile() {
    let mut queue = waiting([1, 2].map(|changes| job("u", changes)));
    let mut batch = queue.next_batch().unwrap();
    let (second, first) = (batch.pop().unwrap(), batch.pop().unwrap());
    let id = second.id;
    queue.batch_ended();
    queue.put_back(vec![first.going(Way::Locked), second.going(Way::Locked)]);
    queue.release(log("u"));
    let mut first = queue.next_alone().unwrap();
    assert_eq!((first.size(), queue.next_alone().is_none()), (1, true));
    assert!(first.next_pause() < first.next_pause());
    // It is pausing: its log is busy, and its place is free.
    queue.put_back(vec![first]);
    queue.alone_ended(Way::Locked, UserKey::of("u"));
    assert!(queue.next_alone().is_none() && sizes(&mut queue).is_none());
    queue.push(job("u", 3));
    assert_eq!(queue.remove(log("u"), id).unwrap().size(), 2);
    queue.release(log("u"));
    assert_eq!(queue.next_alone().unwrap().size(), 1);
    queue.alone_ended(Way::Locked, UserKey::of("u"));
    queue.release(log("u"));
    assert_eq!(sizes(&mut queue), Some(vec![3]), "what came later rides again");
    queue.release(log("u"));
    assert_empty(&queue);
}

#[test]
fn whoever_gives_up_costs_the_others_nothing_and_nothing_of_them_stays() {
    let mut queue = queue_for(20);
    queue.batches = MIN_BATCH.len();
    for round in 0..3 {
        let jobs: Vec<_> = (0..2_000).map(|n| job(&format!("{round}-{n}"), 1)).collect();
        let ids: Vec<_> = jobs.iter().map(|job| (job.entry.log.id, job.id)).collect();
        jobs.into_iter().for_each(|job| assert!(queue.push(job).is_none()));
        ids.into_iter().for_each(|(log, id)| assert!(queue.remove(log, id).is_some()));
    }
    queue.push(job("u", 1));
    queue.batches = 0;
    assert_eq!(sizes(&mut queue), Some(vec![1]));
    queue.release(log("u"));
    assert_empty(&queue);
}

#[test]
fn what_a_batch_leaves_is_next_in_its_log_and_alone() {
    let mut queue = waiting([1, 2].map(|changes| job("u", changes)));
    queue.push(job("v", 3));
    let batch = queue.next_batch().unwrap();
    assert_eq!(batch.iter().map(Job::size).collect::<Vec<_>>(), [1, 3, 2]);
    queue.push(job("u", 4));
    queue.batch_ended();
    queue.put_back(batch.into_iter().filter(|job| job.size() != 3).map(|job| job.going(Way::Alone)).collect());
    assert!(queue.next_alone().is_none(), "the batch has not released them");
    ["u", "v"].into_iter().for_each(|user| queue.release(log(user)));
    for size in [1, 2] {
        assert_eq!(sizes(&mut queue), None);
        assert_eq!(queue.next_alone().unwrap().size(), size);
        queue.alone_ended(Way::Alone, UserKey::of("u"));
        queue.release(log("u"));
    }
    assert_eq!(sizes(&mut queue), Some(vec![4]));
    queue.release(log("u"));
    assert_empty(&queue);
}

#[test]
fn what_is_given_up_leaves_at_once_wherever_it_waits() {
    let mut queue = waiting([1, 2, 3].map(|changes| job("u", changes)));
    queue.push(job("v", MAX_CHANGES + 1));
    let numbers = |queue: &FairQueue, user| queue.logs[&log(user)].jobs.iter().map(|job| job.id).collect::<Vec<_>>();
    let ids = numbers(&queue, "u");
    assert_eq!(queue.remove(log("u"), ids[1]).unwrap().size(), 2);
    assert!(queue.remove(log("u"), ids[1]).is_none(), "once");
    let large = numbers(&queue, "v")[0];
    assert!(queue.remove(log("v"), large).is_some());
    assert_eq!(sizes(&mut queue), Some(vec![1, 3]));
    assert!(queue.remove(log("u"), ids[0]).is_none(), "it is being stored");
    queue.push(job("u", 5));
    let id = numbers(&queue, "u")[0];
    assert!(queue.remove(log("u"), id).is_some());
    queue.release(log("u"));
    assert_empty(&queue);
    // The first one is stored alone and the next in a batch, and the other way round.
    for changes in [[MAX_CHANGES + 1, 1], [1, MAX_CHANGES + 1]] {
        let mut queue = waiting(changes.map(|changes| job("u", changes)));
        let id = numbers(&queue, "u")[0];
        queue.remove(log("u"), id).unwrap();
        assert!(queue.next_batch().is_some() || queue.next_alone().is_some());
        queue.release(log("u"));
        assert_empty(&queue);
    }
}

#[test]
fn one_user_has_an_eighth_of_what_may_wait() {
    let mut queue = waiting((0..MAX_WAITING_OF_USER).map(|_| job("noisy", 1)));
    assert!(queue.push(job("noisy", 1)).is_some(), "the user has a share");
    assert!(queue.push(job("other", 1)).is_none(), "and others have theirs");
    let batch = queue.next_batch().unwrap();
    let taken = batch.iter().filter(|job| job.entry.log.user == UserKey::of("noisy")).count();
    let mut room = 0;
    while queue.push(job("noisy", 1)).is_none() {
        room += 1;
    }
    assert_eq!(room, taken, "what is being stored does not wait");
}

#[test]
fn whatever_holds_pushes_up_leaves_a_quarter_of_the_pool_to_reads() {
    let mut queue = queue_for(20);
    let mut started = 0;
    for n in 0..100 {
        queue.push(job(&format!("small-{n}"), 1));
        started += usize::from(queue.next_batch().is_some());
        // They are slow, and no longer counted.
        queue.batches = 0;
    }
    assert_eq!(started, 15);
    (0..20).for_each(|n| drop(queue.push(job(&format!("large-{n}"), MAX_CHANGES + 1))));
    assert!(queue.next_alone().is_none());
    queue.batch_statement_ended();
    assert!(queue.next_alone().is_none(), "what goes alone leaves some to batches");
    assert!(queue.next_batch().is_some());
    (0..4).for_each(|_| queue.batch_statement_ended());
    assert!(queue.next_alone().is_some() && queue.next_alone().is_none());
    let most = |pool_size| {
        let queue = queue_for(pool_size);
        (queue.most, queue.most_for_alone)
    };
    assert_eq!([1, 2, 3, 4, 8, 20].map(most), [(1, 1), (1, 1), (2, 1), (3, 2), (6, 5), (15, 12)]);
}
