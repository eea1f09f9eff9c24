use super::*;

const BUDGET: u32 = 40_000;
const MILLI: Duration = Duration::from_millis(1);

fn limiter(received: &NotificationCounter, replicas: usize) -> RateLimiter {
    let count = ReplicaCount::default();
    count.set(replicas);
    RateLimiter::new(received.clone(), count, BUDGET)
}

/// Notifications in five seconds of publishers that always have something to send, which takes a millisecond.
fn sent(publishers: usize, replicas: usize) -> Vec<usize> {
    let received = NotificationCounter::default();
    let mut publishers: Vec<_> = (0..publishers).map(|_| (limiter(&received, replicas), false, 0)).collect();
    let begun = Instant::now();
    for now in (0..5_000).map(|tick| begun + MILLI * tick) {
        for (rate, sends, sent) in &mut publishers {
            if std::mem::take(sends) {
                received.count();
                *sent += 1;
                rate.end(now, 1);
            }
            if rate.next().is_none_or(|next| next <= now) {
                rate.begin(now);
                *sends = true;
            }
        }
    }
    publishers.into_iter().map(|(.., sent)| sent).collect()
}

#[test]
fn all_replicas_together_keep_to_the_budget_and_each_gets_its_part() {
    for (publishers, replicas) in [(100, 100), (10, 100), (1, 100), (200, 200), (3, 200)] {
        let sent = sent(publishers, replicas);
        let allowed = BUDGET as usize / replicas * 5;
        let all: usize = sent.iter().sum();
        assert!(all <= allowed + 2 * publishers, "{publishers} of {replicas}: {all} of {allowed}");
        assert!(all >= allowed * 6 / 10, "{publishers} of {replicas}: {all} of {allowed}");
        assert!(sent.iter().all(|sent| *sent >= allowed / publishers / 2), "{publishers} of {replicas}: {sent:?}");
    }
}

#[test]
fn where_the_budget_is_not_reached_nothing_waits() {
    for (publishers, replicas) in [(1, 1), (3, 3), (6, 6)] {
        let sent = sent(publishers, replicas);
        assert!(sent.iter().all(|sent| *sent >= 4_990), "a millisecond each: {sent:?}");
    }
}

#[test]
fn a_busy_database_is_left_alone_for_a_while_and_one_that_is_slow_by_nature_is_not() {
    let received = NotificationCounter::default();
    let mut rate = limiter(&received, 3);
    let mut now = Instant::now();
    let mut waits = |after: u64, takes: u32| {
        now += Duration::from_secs(after);
        rate.begin(now);
        now += MILLI * takes;
        rate.end(now, 1);
        rate.next().unwrap().saturating_duration_since(now)
    };
    assert_eq!(waits(0, 1), Duration::ZERO, "the first one shows what is usual");
    assert_eq!(waits(0, 2), Duration::ZERO);
    assert_eq!(waits(0, 10), Duration::ZERO, "a single one that is slow");
    (0..20).for_each(|_| assert!(waits(0, 30) <= LONGEST_REST));
    assert_eq!(waits(0, 30), LONGEST_REST, "all are");
    for _ in 0..30 {
        waits(0, 1);
    }
    assert_eq!(waits(0, 1), Duration::ZERO, "it is over");
    for _ in 0..60 {
        waits(10, 30);
    }
    assert_eq!(waits(0, 30), Duration::ZERO, "its connection has become longer");
}

#[test]
fn the_more_replicas_there_are_the_longer_a_busy_database_is_left_alone() {
    let rests = |replicas: usize| {
        // A budget that is never the limit.
        let mut rate = RateLimiter { budget: u32::MAX, ..limiter(&NotificationCounter::default(), replicas) };
        let mut now = Instant::now();
        for takes in std::iter::once(1).chain([30; 60]) {
            rate.begin(now);
            now += MILLI * takes;
            rate.end(now, 1);
        }
        rate.next().unwrap().saturating_duration_since(now)
    };
    assert_eq!([1, 3, 6, 30, 200].map(rests), [1, 1, 2, 10, 10].map(|times| LONGEST_REST * times));
}

#[tokio::test]
async fn no_wake_up_waits_for_ever_and_the_first_not_at_all() {
    let received = NotificationCounter::default();
    let mut rate = limiter(&received, 10_000);
    assert_eq!(rate.next(), None);
    rate.wait().await;
    let now = Instant::now();
    rate.begin(now);
    (0..1_000_000).for_each(|_| received.count());
    rate.end(now, 1);
    assert_eq!(rate.next(), Some(now + LONGEST));
}

#[test]
fn what_has_no_signature_takes_from_the_budget_and_nobody_is_held_up_by_it_for_long() {
    let received = NotificationCounter::default();
    let mut rate = limiter(&received, 4);
    let now = Instant::now();
    let mut after = |unsigned: usize, signed: usize| {
        rate.begin(now);
        (0..unsigned).for_each(|_| received.count_unsigned());
        (0..signed).for_each(|_| received.count());
        rate.end(now, 1);
        rate.next().unwrap() - now
    };
    let each = MILLI / 10;
    assert_eq!(after(0, 1), each);
    assert_eq!(after(100, 1), each * 101, "programs and older replicas cost the same");
    assert_eq!(after(1_000_000, 1), each + LONGEST_REST, "whoever sends a flood holds nobody up for long");
    assert_eq!(after(1_000_000, 1_000), each * 2_000, "where replicas themselves send much, for as long again");
    assert_eq!(after(1_000_000, 1_000_000), LONGEST);
}
