use super::*;
use futures_util::FutureExt;

const MIB: usize = 1 << 20;

fn budget(mib: usize) -> MemoryBudget {
    MemoryBudget::new(mib * MIB, IntGauge::new("reserved", "for the test").unwrap())
}

fn reserved(budget: &MemoryBudget) -> usize {
    budget.0.reserved.get() as usize
}

#[tokio::test]
async fn one_user_gets_a_share_and_waits_for_what_it_holds_itself() {
    let budget = budget(48);
    let (alice, bob) = (budget.of(UserKey::of("alice")), budget.of(UserKey::of("bob")));
    let mut held = alice.reserve(10 * MIB).await.unwrap();
    assert_eq!(reserved(&budget), 10 * MIB);
    let again = budget.of(UserKey::of("alice"));
    assert!(again.reserve(3 * MIB).now_or_never().is_none(), "a share is 12 MiB");
    let of_bob = bob.reserve(100 * MIB).now_or_never().flatten().expect("another user has a share too");
    let mut other = again.reserve(MIB).await.unwrap();
    assert!(!alice.resize(&mut other, 3 * MIB), "not so much is left");
    assert!(again.grow(&mut other, 3 * MIB).now_or_never().is_none());
    assert!(again.grow(&mut other, 2 * MIB).now_or_never().flatten().is_some());
    assert_eq!(reserved(&budget), 24 * MIB);
    drop(other);
    assert!(alice.resize(&mut held, MIB));
    assert_eq!(reserved(&budget), 13 * MIB);
    assert!(alice.reserve(11 * MIB).now_or_never().is_some());
    drop((held, of_bob));
    assert_eq!(reserved(&budget), 0);
    let last = bob.reserve(MIB).await;
    drop((alice, again, bob));
    assert_eq!(budget.users().len(), 1, "what is held keeps its share");
    drop(last);
    assert!(budget.users().is_empty(), "nothing is kept of users who have left");
}

#[tokio::test]
async fn those_who_have_not_authenticated_share_all_of_their_budget_and_an_address_has_a_part_of_it() {
    let gauge = IntGauge::new("reserved", "for the test").unwrap();
    let all = MemoryBudget::of_unauthenticated(40 * MIB, gauge.clone());
    let address = |last| all.of_address(Some(IpAddr::from([192, 0, 2, last])));
    let held = [address(1).reserve(MIB).await.unwrap(), address(1).reserve(11 * MIB).await.unwrap()];
    assert!(address(1).reserve(MIB).now_or_never().is_none(), "a share is 12 MiB");
    assert!(address(2).reserve(12 * MIB).now_or_never().is_some(), "another address has a share too");
    drop(held);
    let budget = all.of_address(None);
    let held = budget.reserve(30 * MIB).await.unwrap();
    assert!(all.of_address(None).reserve(11 * MIB).now_or_never().is_none());
    assert_eq!(gauge.get() as usize, 30 * MIB);
    drop(held);
    assert!(budget.reserve(100 * MIB).now_or_never().is_some(), "all there is");
    assert_eq!(gauge.get(), 0);
}

#[tokio::test]
async fn all_together_get_what_there_is() {
    let budget = budget(24);
    let users = ["a", "b", "c"].map(|user| budget.of(UserKey::of(user)));
    let held = [users[0].reserve(12 * MIB).await, users[1].reserve(12 * MIB).await];
    assert!(users[2].reserve(MIB).now_or_never().is_none());
    let mut small = users[2].reserve(1).now_or_never().flatten().expect("what is small does not wait for it");
    assert!(!users[2].resize(&mut small, MIB) && users[2].grow(&mut small, MIB).now_or_never().is_none());
    assert!(users[2].resize(&mut small, SMALL));
    drop(held);
    assert!(users[2].grow(&mut small, MIB).now_or_never().flatten().is_some());
    assert_eq!((small.of_small.is_some(), reserved(&budget)), (false, MIB));
    assert!(users[2].resize(&mut small, 1));
    drop(small);
    assert_eq!(reserved(&budget), 0);
    assert_eq!(budget.0.units.available_permits(), budget.0.total, "all of it is back where it came from");
    assert_eq!(budget.0.small.units.available_permits(), budget.0.total / FOR_SMALL);
}

#[tokio::test]
async fn one_user_gets_a_share_of_what_there_is_for_small_ones_and_the_rest_from_the_whole() {
    let budget = budget(128);
    let (alice, bob) = (budget.of(UserKey::of("alice")), budget.of(UserKey::of("bob")));
    let mut held = Vec::new();
    for _ in 0..1_000 {
        held.push(alice.reserve(8 << 10).await.unwrap());
    }
    let small = &budget.0.small.units;
    let left = small.available_permits() * UNIT;
    assert_eq!(left, 16 * MIB - MIB / 2, "a thirty-second of the lane");
    assert!(bob.reserve(SMALL).now_or_never().flatten().is_some());
    // A reservation that outgrows the small share moves to the main budget, and releases what it had.
    let first = &mut held[0];
    assert!(first.of_small.is_some());
    assert!(alice.resize(first, 9 << 10) && first.of_small.is_none());
    assert!(alice.grow(first, 64 << 10).now_or_never().is_some());
    assert_eq!(small.available_permits() * UNIT, left + (8 << 10));
    // A reservation that shrinks makes room for another.
    assert!(alice.resize(&mut held[1], 4 << 10));
    let another = alice.reserve(12 << 10).await.unwrap();
    assert!(another.of_small.is_some());
    drop((held, another));
    assert_eq!((small.available_permits() * UNIT, reserved(&budget)), (16 * MIB, 0));
    assert_eq!(budget.0.units.available_permits(), budget.0.total);
}

#[tokio::test]
async fn a_budget_says_what_is_small_and_what_is_larger_than_all_there_is_for_it_is_not() {
    let gauge = IntGauge::new("reserved", "for the test").unwrap();
    let budget = MemoryBudget::with_small(MIB, MIB, gauge);
    let alice = budget.of(UserKey::of("alice"));
    let small = alice.reserve(MIB / FOR_SMALL).now_or_never().flatten().unwrap();
    let large = alice.reserve(MIB / FOR_SMALL + 1).now_or_never().flatten().unwrap();
    assert!(small.of_small.is_some() && large.of_small.is_none());
}

#[tokio::test]
async fn only_so_many_who_have_not_authenticated_wait() {
    let gauge = IntGauge::new("reserved", "for the test").unwrap();
    let all = MemoryBudget::of_unauthenticated(12 * MIB, gauge.clone());
    let budget = all.of_address(None);
    let held = budget.reserve(12 * MIB).await;
    let mut waiting: Vec<_> = (0..MAX_WAITING_UNAUTHENTICATED).map(|_| Box::pin(budget.reserve(UNIT))).collect();
    for reserving in &mut waiting {
        assert!(reserving.now_or_never().is_none());
    }
    assert!(budget.reserve(UNIT).now_or_never().expect("it does not wait").is_none());
    drop(waiting.split_off(1));
    let mut next = Box::pin(budget.reserve(UNIT));
    assert!((&mut next).now_or_never().is_none(), "a place is free once somebody has given up");
    drop(held);
    let (first, next) = (waiting.remove(0).await, next.await);
    assert!(first.is_some() && next.is_some());
    assert_eq!(all.0.waiting.available_permits(), MAX_WAITING_UNAUTHENTICATED);
}
