use super::*;
use crate::protocol::push::{StampPolicy, read_push};
use crate::protocol::{Log, Stamp};

fn job(user: &str, changes: usize) -> Job {
    let change =
        r#"{"table":"t","id":"a","op":"update","fields":{"f":{"value":1,"updatedAt":"2024-01-01T10:00:00Z"}}}"#;
    let body = format!(r#"{{"clientId":"c","changes":[{}]}}"#, vec![change; changes].join(","));
    let policy = StampPolicy { now: Stamp::from_millis(1_700_000_000_000), max_ahead: 0 };
    let push = read_push(body.as_bytes(), None, policy, usize::MAX).unwrap();
    Job::new(Log::new(user.into(), "a"), push.into(), vec![], Box::new(|_| ())).0
}

fn sizes(queue: &mut Queue) -> Vec<usize> {
    queue.next().iter().map(|job| job.entry.push.changes.len()).collect()
}

#[test]
fn what_waits_is_taken_in_its_order_up_to_the_limits_of_a_batch() {
    let mut queue = Queue { attended: true, ..Queue::default() };
    queue.waiting.extend([60, 60, 60, 60, 60, 1].map(|changes| job("u", changes)));
    queue.waiting.extend((0..MAX_PUSHES).map(|_| job("v", 1)));
    assert_eq!(sizes(&mut queue), [60, 60, 60, 60]);
    let second = sizes(&mut queue);
    assert_eq!((second.len(), &second[..3]), (MAX_PUSHES, &[60, 1, 1][..]));
    assert_eq!(sizes(&mut queue), [1, 1]);
    assert!(queue.attended);
    assert!(sizes(&mut queue).is_empty());
    assert!(!queue.attended, "the next push starts somebody anew");
}

#[test]
fn a_push_that_is_larger_than_a_batch_may_be_goes_by_itself() {
    let mut queue = Queue::default();
    queue.waiting.extend([MAX_CHANGES + 1, 1].map(|changes| job("u", changes)));
    assert_eq!(sizes(&mut queue), [MAX_CHANGES + 1]);
    assert_eq!(sizes(&mut queue), [1]);
}
