use super::*;
use crate::clock::ManualClock;

fn limits(pushes: u32, pulls: u32, bytes: u64, clock: &ManualClock) -> UserLimits {
    let config = LimitsConfig {
        max_user_pushes_per_second: pushes,
        max_user_pulls_per_second: pulls,
        max_user_bytes_per_day: bytes,
        max_user_bytes_stored: 0,
        max_connections_per_address: 0,
        trusted_proxies: vec![],
        proxy_protocol: false,
        max_user_apps: 0,
    };
    UserLimits::new(&config, Duration::ZERO, Arc::new(Metrics::new()), clock.clock())
}

#[test]
fn each_user_has_a_rate_of_its_own_and_each_limit_a_count() {
    let clock = ManualClock::at_present(1);
    let limits = limits(2, 1, 1_000, &clock);
    let (alice, bob) = (UserKey::of("alice"), UserKey::of("bob"));
    let pushed = (0..100).take_while(|_| limits.push(alice).is_ok()).count();
    assert_eq!(pushed, 20);
    let LimitReached::Pushes(wait) = limits.push(alice).unwrap_err() else { panic!("another limit") };
    assert_eq!(wait, Duration::from_millis(500));
    assert!(limits.push(bob).is_ok() && limits.pull(alice).is_ok(), "others, and pulls, are not concerned");
    assert_eq!(limits.push_bytes(alice, 900), Ok(()));
    let refused = limits.push_bytes(alice, 200).unwrap_err();
    assert_eq!(refused.retry_after(), 8_640);
    assert_eq!(limits.metrics.refused.with_label_values(&["user_bytes_per_day"]).get(), 1);
    assert!(limits.metrics.refused.with_label_values(&["user_pushes"]).get() >= 2);
}

/// A body may be larger than what a day allows, and is then paid for over days.
#[test]
fn nobody_is_told_to_wait_for_more_than_a_day() {
    let clock = ManualClock::at_present(1);
    let limits = limits(0, 0, 1_000, &clock);
    let user = UserKey::of("u");
    assert_eq!(limits.push_bytes(user, 10_000_000), Ok(()));
    assert_eq!(limits.push_bytes(user, 1).unwrap_err().retry_after(), 86_400);
}

#[test]
fn without_limits_nothing_is_remembered() {
    let limits = limits(0, 0, 0, &ManualClock::at_present(1));
    for _ in 0..10_000 {
        assert!(limits.push(UserKey::of("u")).is_ok() && limits.push_bytes(UserKey::of("u"), 1 << 30).is_ok());
    }
    limits.users.run_pending_tasks();
    assert_eq!(limits.users.entry_count(), 0);
}
