use super::super::dates::Dates;
use super::super::testing::fanout_config;
use super::*;

fn replica(name: &str, settings: &[&str]) -> Presence {
    let metrics = Arc::new(Metrics::new());
    metrics.listener_up.set(1);
    Presence::new(&fanout_config(settings), name, metrics, Clock::system(), CancellationToken::new())
}

fn names(presence: &Presence) -> Vec<String> {
    presence.replicas().iter().map(|replica| replica.name.clone()).collect()
}

/// The same message with another date.
fn dated(message: &str, at: u64) -> String {
    let mut said: Envelope = serde_json::from_str(message).unwrap();
    said.presence.as_mut().unwrap().at = at;
    serde_json::to_string(&said).unwrap()
}

/// Its first message.
fn hello(replica: &Presence) -> String {
    replica.message(Instant::now(), false)
}

/// Reports every second from `from` to `to`.
fn goes_on(replica: &Presence, from: Instant, to: Instant) {
    let seconds = (to - from).as_secs();
    (1..=seconds).for_each(|second| drop(replica.message(from + Duration::from_secs(second), false)));
    replica.message(to, false);
}

#[test]
fn everybody_knows_who_is_there_and_who_is_gone() {
    let (a, b, begun) = (replica("a", &[]), replica("b", &[]), Instant::now());
    assert_eq!((names(&a), a.count().get()), (vec!["a".to_owned()], 1));
    b.0.metrics.connections.set(12);
    a.receive(&hello(&b), begun).unwrap();
    assert_eq!((names(&a), a.count().get(), a.0.metrics.replicas.get()), (vec!["a".into(), "b".into()], 2, 2));
    assert_eq!((a.replicas()[1].connections, a.replicas()[1].draining), (12, false));

    a.message(begun + Duration::from_millis(2_900), false);
    assert_eq!(names(&a), ["a", "b"], "one that missed two periods is still there");
    a.message(begun + Duration::from_millis(3_000), false);
    assert_eq!(names(&a), ["a"], "three, and it is gone");
}

#[test]
fn a_replica_that_says_goodbye_is_gone_at_once_and_stays_gone() {
    let (a, b, begun) = (replica("a", &[]), replica("b", &[]), Instant::now());
    let (hello, goodbye) = (hello(&b), b.message(begun, true));
    let at = Clock::system().millis();
    let receive =
        |message: &str, at, after| a.receive(&dated(message, at), begun + Duration::from_secs(after)).unwrap();
    receive(&hello, at - 2, 0);
    receive(&goodbye, at - 1, 0);
    assert_eq!(names(&a), ["a"]);
    for (repeated, after) in [(at - 2, 0), (at - 1, 0), (at - 600_000, 0), (at - 2, 100)] {
        receive(&hello, repeated, after);
        assert_eq!(names(&a), ["a"], "what was said before changes nothing: {repeated} {after}");
    }
    receive(&hello, at + 1, 100);
    assert_eq!(names(&a), ["a", "b"], "said later: it is still there after all");
    receive(&goodbye, at - 1, 100);
    assert_eq!(names(&a), ["a", "b"], "nor does a goodbye that is repeated");
}

#[test]
fn when_one_was_last_heard_is_known_also_once_it_is_gone() {
    let (a, b, begun) = (replica("a", &[]), replica("b", &[]), Instant::now());
    assert_eq!(a.last_heard("b"), None);
    a.receive(&hello(&b), begun).unwrap();
    goes_on(&a, begun, begun + Duration::from_secs(60));
    assert_eq!((names(&a), a.last_heard("b")), (vec!["a".to_owned()], Some(begun)));
    let later = begun + Duration::from_secs(61);
    a.receive(&dated(&hello(&b), Clock::system().millis() + 5), later).unwrap();
    assert_eq!((names(&a).len(), a.last_heard("b"), a.last_heard("c")), (2, Some(later), None));
}

#[test]
fn what_is_too_old_or_too_far_ahead_is_not_heard() {
    let (a, b) = (replica("a", &[]), replica("b", &[]));
    for at in [Clock::system().millis() - 200_000, Clock::system().millis() + 200_000, 0, u64::MAX] {
        a.receive(&dated(&hello(&b), at), Instant::now()).unwrap();
        assert_eq!(names(&a), ["a"]);
    }
    assert_eq!(a.0.metrics.presence_misdated.get(), 4);
    assert!(a.receive("nonsense", Instant::now()).is_err());
    a.receive(r#"{"question":{"kind":"later"}}"#, Instant::now()).unwrap();
}

#[test]
fn whoever_hears_nothing_forgets_nobody() {
    let (a, b, begun) = (replica("a", &[]), replica("b", &[]), Instant::now());
    a.receive(&hello(&b), begun).unwrap();
    a.0.metrics.listener_up.set(0);
    let later = begun + Duration::from_secs(3_600);
    a.message(later, false);
    assert_eq!(names(&a), ["a", "b"]);
    a.0.metrics.listener_up.set(1);
    a.hears_again(later);
    a.message(later, false);
    assert_eq!(names(&a), ["a", "b"], "it may have spoken meanwhile");
    assert_eq!(a.0.metrics.replicas_lost.get(), 0);
    goes_on(&a, later, later + Duration::from_secs(4));
    assert_eq!(names(&a), ["a"]);
    assert_eq!(a.0.metrics.replicas_lost.get(), 1, "it has not said goodbye");
}

#[test]
fn whoever_was_frozen_forgets_nobody_and_then_those_who_are_gone() {
    for frozen in [4, 10, 120] {
        let (a, b, begun) = (replica("a", &[]), replica("b", &[]), Instant::now());
        a.receive(&hello(&b), begun).unwrap();
        goes_on(&a, begun, begun + Duration::from_secs(1));
        let resumed = begun + Duration::from_secs(1 + frozen);
        a.message(resumed, false);
        assert_eq!((names(&a), a.0.metrics.replicas_lost.get()), (vec!["a".into(), "b".into()], 0), "{frozen}");
        goes_on(&a, resumed, resumed + Duration::from_secs(2));
        assert_eq!((names(&a), a.0.metrics.replicas_lost.get()), (vec!["a".to_owned()], 1), "{frozen}");
    }
}

#[tokio::test]
async fn it_is_said_rarely_with_what_is_sent_anyway_and_at_once_when_it_drains() {
    let (a, begun) = (replica("a", &["--presence-ms", "3600000"]), Instant::now());
    let after = |minutes: u64| begun + Duration::from_secs(minutes * 60);
    a.due().await;
    a.message(begun, false);
    assert_eq!((a.next(), a.along(begun)), (Some(after(60)), None));
    assert!(a.along(after(30)).is_some(), "half a period has passed");
    assert_eq!(a.next(), Some(after(90)));
    a.0.draining.cancel();
    a.due().await;
    assert!(a.message(begun, false).contains("\"draining\":true"));
    tokio::select! {
        biased;
        () = a.due() => panic!("once"),
        () = std::future::ready(()) => {}
    }
    a.unsaid();
    a.due().await;
}

#[test]
fn the_more_there_are_the_less_often_it_is_said() {
    for (replicas, period) in [(1, 1_000), (40, 1_000), (100, 5_000), (200, 20_000), (1_000, 30_000)] {
        let a = replica("a", &["--notify-budget", "40000"]);
        a.0.count.set(replicas);
        assert_eq!(a.period(), Duration::from_millis(period), "{replicas}");
    }
}

#[test]
fn changes_are_told_to_whoever_watches_and_nothing_else_is() {
    let (a, b, begun) = (replica("a", &[]), replica("b", &[]), Instant::now());
    let mut watch = a.watch();
    watch.mark_unchanged();
    let first = hello(&b);
    a.receive(&first, begun).unwrap();
    assert!(watch.has_changed().unwrap());
    watch.mark_unchanged();
    a.receive(&dated(&first, Clock::system().millis() + 5), begun).unwrap();
    assert!(!watch.has_changed().unwrap(), "the same again");
    b.0.metrics.connections.set(1);
    a.receive(&dated(&hello(&b), Clock::system().millis() + 9), begun).unwrap();
    assert!(watch.has_changed().unwrap());
    assert_eq!(replica(&"ü".repeat(300), &[]).own().name.len(), 254);
}

#[test]
fn how_long_its_own_word_takes_is_known() {
    let (a, begun) = (replica("a", &[]), Instant::now());
    let after = |millis| begun + Duration::from_millis(millis);
    let first = a.message(begun, false);
    a.receive(&first, after(30)).unwrap();
    assert!((a.0.metrics.listener_lag.get() - 0.03).abs() < 1e-6);
    let second = a.message(after(1_000), false);
    a.receive(&first, after(2_000)).unwrap();
    assert!((a.0.metrics.listener_lag.get() - 0.03).abs() < 1e-6, "an older one says nothing of now");
    a.receive(&second, after(3_000)).unwrap();
    assert!((a.0.metrics.listener_lag.get() - 2.0).abs() < 1e-6);
    assert_eq!(names(&a), ["a"]);
}

#[test]
fn dates_go_on_where_a_clock_is_set_back() {
    const HOUR: u64 = 3_600_000;
    let noon = 1_700_000_000_000;
    for back in [1, 60_000, 121_000, 24 * HOUR] {
        let (mut dates, begun) = (Dates::default(), Instant::now());
        let after = |seconds: u64| begun + Duration::from_secs(seconds);
        let mut last = dates.of_message(noon, begun);
        for second in 1..300 {
            let date = dates.of_message(noon + second * 1_000 - back, after(second));
            assert!(date > last && date.abs_diff(noon + second * 1_000) <= 1_000, "{back} {second}");
            last = date;
            assert_eq!(
                dates.off_by(date, noon + second * 1_000 - back, after(second)),
                None,
                "others have the right one"
            );
        }
        let date = dates.of_message(noon + 400_000, after(400));
        assert_eq!(date, noon + 400_000, "it is right again");
    }
}

#[test]
fn a_clock_that_was_ahead_and_is_put_right_is_followed_as_soon_as_another_agrees() {
    let (ahead, right) = (1_700_000_000_000 + 7_200_000, 1_700_000_000_000);
    let (mut dates, begun) = (Dates::default(), Instant::now());
    assert_eq!(dates.of_message(ahead, begun), ahead);
    assert_eq!(dates.off_by(right, ahead, begun), Some(7_200_000));
    assert_eq!(dates.off_by(right + 5, right, begun), None);
    assert_eq!(dates.of_message(right + 9, begun), right + 9);
}

#[test]
fn two_messages_in_one_millisecond_are_told_apart() {
    let (mut dates, now) = (Dates::default(), Instant::now());
    let (first, second) = (dates.of_message(5_000, now), dates.of_message(5_000, now));
    assert!(second > first);
}

#[test]
fn one_that_is_told_to_speak_very_rarely_is_waited_for() {
    let (a, b, begun) = (replica("a", &[]), replica("b", &["--presence-ms", "60000"]), Instant::now());
    a.receive(&b.message(begun, false), begun).unwrap();
    goes_on(&a, begun, begun + Duration::from_secs(63));
    assert_eq!(names(&a), ["a", "b"]);
    a.message(begun + Duration::from_secs(64), false);
    assert_eq!(names(&a), ["a"]);
}

#[test]
fn who_is_gone_is_known_soon_however_rarely_they_speak() {
    for (budget, others, every, gone) in
        [(40_000, 2, 1_000, 3_000), (40_000, 100, 5_000, 9_000), (40_000, 200, 20_000, 24_000)]
    {
        let (a, b, begun) =
            (replica("a", &["--notify-budget", &budget.to_string()]), replica("b", &[]), Instant::now());
        b.0.count.set(others);
        assert_eq!(b.period(), Duration::from_millis(every));
        a.receive(&b.message(begun, false), begun).unwrap();
        goes_on(&a, begun, begun + Duration::from_millis(gone - 1));
        assert_eq!(names(&a), ["a", "b"], "{others}");
        a.message(begun + Duration::from_millis(gone), false);
        assert_eq!(names(&a), ["a"], "{others}");
    }
}
