use super::*;
use std::collections::HashMap;

const WINDOW: Duration = Duration::from_secs(60);

fn replica(connections: usize) -> Replica {
    Replica { connections: connections as u64, ready: true, ..Replica::default() }
}

/// A model of a cluster: devices, each on a replica since a certain step.
struct Model {
    begun: Instant,
    now: u32,
    /// For each replica, its devices and the step at which each came, oldest first.
    replicas: Vec<(Rebalancer, VecDeque<(usize, u32)>)>,
    /// Devices on their way back, and when they arrive.
    away: VecDeque<(usize, u32)>,
    closed: HashMap<usize, usize>,
    /// How many each replica has closed.
    rebalanced: Vec<u64>,
}

impl Model {
    fn new(replicas: usize, devices: usize) -> Model {
        let mut all: Vec<_> =
            (0..replicas).map(|_| (Rebalancer::new(WINDOW, Arc::default()), VecDeque::new())).collect();
        for device in 0..devices {
            all[device % replicas].1.push_back((device, 0));
        }
        Model {
            begun: Instant::now(),
            now: STEPS * (AGE + 1),
            replicas: all,
            away: VecDeque::new(),
            closed: HashMap::new(),
            rebalanced: vec![0; replicas],
        }
    }

    fn time(&self, step: u32) -> Instant {
        self.begun + WINDOW / STEPS * step
    }

    /// Runs for this many windows; closed devices come back five steps later, where `place` says.
    fn run(&mut self, windows: u32, mut place: impl FnMut(usize) -> usize) {
        let mut said = self.reports();
        for _ in 0..windows * STEPS {
            self.now += 1;
            let now = self.time(self.now);
            while self.away.front().is_some_and(|(_, back)| *back <= self.now)
                && let Some((device, _)) = self.away.pop_front()
            {
                let at = place(self.replicas.len());
                self.replicas[at].1.push_back((device, self.now));
            }
            // Other replicas' counts are known a little later.
            if self.now.is_multiple_of(2) {
                said = self.reports();
            }
            for own in 0..self.replicas.len() {
                let mut known = vec![self.reports()[own].clone()];
                known.extend((0..said.len()).filter(|other| *other != own).map(|other| said[other].clone()));
                let Some(step) = self.replicas[own].0.step(now, &known) else { continue };
                self.close(own, step);
            }
        }
    }

    fn close(&mut self, own: usize, step: Step) {
        let (rebalancer, devices) = &self.replicas[own];
        let may = |(_, came): &&(usize, u32)| rebalancer.may_close(step, self.begun + WINDOW / STEPS * *came);
        let closed: Vec<_> = devices.iter().filter(may).take(step.count).copied().collect();
        let mut left = closed.iter().peekable();
        self.replicas[own].1.retain(|device| left.next_if_eq(&device).is_none());
        for (device, _) in &closed {
            self.away.push_back((*device, self.now + 5));
            *self.closed.entry(*device).or_default() += 1;
        }
        let now = self.time(self.now);
        self.replicas[own].0.has_closed(now, closed.len(), step.count);
        self.rebalanced[own] += closed.len() as u64;
    }

    fn add(&mut self, replicas: usize) {
        self.replicas.extend((0..replicas).map(|_| (Rebalancer::new(WINDOW, Arc::default()), VecDeque::new())));
        self.rebalanced.resize(self.replicas.len(), 0);
    }

    /// What each replica announces.
    fn reports(&self) -> Vec<Replica> {
        let report = |(index, (held, rebalanced)): (usize, (usize, &u64))| Replica {
            id: index.to_string(),
            rebalanced: *rebalanced,
            ..replica(held)
        };
        self.held().into_iter().zip(&self.rebalanced).enumerate().map(report).collect()
    }

    fn held(&self) -> Vec<usize> {
        self.replicas.iter().map(|(_, devices)| devices.len()).collect()
    }

    fn is_even(&self) -> bool {
        self.farthest() <= 0.1
    }

    /// The largest deviation from the mean, as a fraction of it.
    fn farthest(&self) -> f64 {
        let held = self.held();
        let mean = held.iter().sum::<usize>() as f64 / held.len() as f64;
        held.iter().map(|held| (*held as f64 - mean).abs() / mean).fold(0.0, f64::max)
    }

    fn closes(&self) -> usize {
        self.closed.values().sum()
    }
}

fn in_turn() -> impl FnMut(usize) -> usize {
    let mut next = 0;
    move |replicas| {
        next += 1;
        next % replicas
    }
}

#[test]
fn replicas_that_were_added_get_their_part_and_no_device_is_closed_twice() {
    for (before, added, devices) in
        [(3, 3, 300), (3, 3, 65_000), (1, 1, 100), (3, 9, 3_000), (5, 1, 5_000), (20, 2, 20_000)]
    {
        let mut model = Model::new(before, devices);
        model.run(2, in_turn());
        assert_eq!(model.closes(), 0, "it was even");
        model.add(added);
        model.run(5, in_turn());
        assert!(model.is_even(), "{before}+{added}, {devices}: {:?}", model.held());
        assert!(model.closed.values().all(|closes| *closes == 1), "{before}+{added}, {devices}");
        assert!(model.closes() <= devices, "{}", model.closes());
        let closes = model.closes();
        model.run(5, in_turn());
        assert_eq!(model.closes(), closes, "one wave, and no other after it: {:?}", model.held());
    }
}

#[test]
fn the_least_loaded_first_needs_no_more_than_what_is_too_many() {
    let mut model = Model::new(3, 300);
    model.add(3);
    // A balancer that sends each client to a new replica.
    let mut next = 0;
    model.run(5, |_| {
        next += 1;
        3 + next % 3
    });
    assert!(model.is_even(), "{:?}", model.held());
    assert!(model.closes() <= 150, "{}", model.closes());
}

#[test]
fn clients_that_are_sent_back_at_random_come_to_rest_too() {
    let mut seed = 1_u64;
    let random = move |replicas: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % replicas
    };
    let mut model = Model::new(3, 6_000);
    model.add(3);
    model.run(6, random);
    assert!(model.farthest() < 0.15, "{:?}", model.held());
    assert!(model.closed.values().all(|closes| *closes == 1));
}

/// As after a rollout: the replica that came last holds few, and nobody has been connected for long.
#[test]
fn where_all_have_only_just_come_it_waits_until_they_are_old_enough_and_blames_nobody() {
    for old in [0, 15, 40] {
        let mut model = Model::new(3, 600);
        model.add(1);
        // Some of each replica's devices stayed where they were.
        for (_, devices) in &mut model.replicas {
            devices.iter_mut().skip(old).for_each(|(_, came)| *came = model.now);
        }
        model.run(6, in_turn());
        assert!(model.is_even(), "{old}: {:?}", model.held());
        assert!(model.closed.values().all(|closes| *closes == 1), "{old}");
        for (rebalancer, _) in &model.replicas {
            let uneven = rebalancer.metrics.rebalance_waves.with_label_values(&["uneven"]).get();
            assert_eq!(uneven, 0, "{old}");
        }
    }
}

#[test]
fn counts_that_drift_apart_soon_after_close_no_device_again_before_an_hour_has_passed() {
    for (before, added, devices) in [(3, 3, 300), (3, 3, 3_000), (5, 1, 5_000)] {
        let mut model = Model::new(before, devices);
        model.add(added);
        model.run(5, in_turn());
        // One of them loses a seventh of its devices, here and there: it is no longer within a tenth of the mean.
        let mut number = 0;
        model.replicas.last_mut().unwrap().1.retain(|_| {
            number += 1;
            number % 7 != 0
        });
        assert!(!model.is_even(), "{:?}", model.held());
        model.run(SETTLED - 5, in_turn());
        assert!(model.closed.values().all(|closes| *closes == 1), "{before}+{added}, {devices}");
        model.run(15, in_turn());
        assert!(model.is_even(), "{before}+{added}, {devices}: {:?}", model.held());
        assert!(model.closed.values().all(|closes| *closes <= 2), "{before}+{added}, {devices}");
        let uneven = |rebalancer: &Rebalancer| rebalancer.metrics.rebalance_waves.with_label_values(&["uneven"]).get();
        assert!(model.replicas.iter().all(|(rebalancer, _)| uneven(rebalancer) == 0), "nobody is accused");
    }
}

#[test]
fn a_balancer_that_sends_them_all_back_ends_it() {
    let mut model = Model::new(2, 100);
    model.add(1);
    model.run(5, |_| 0);
    let closes = model.closes();
    assert!(closes <= 110, "each once, about: {closes}");
    model.run(5, |_| 0);
    assert_eq!(model.closes(), closes, "and then a long while nothing");
}

#[test]
fn a_replica_that_the_balancer_does_not_know_costs_a_few_connections_and_not_all() {
    for (loaded, devices, most) in [(2, 100, 68), (3, 30_000, 600), (12, 60_000, 2_400)] {
        let mut model = Model::new(loaded, devices);
        model.add(1);
        let mut next = 0;
        let mut place = |_| {
            next += 1;
            next % loaded
        };
        model.run(9, &mut place);
        let first = model.closes();
        // At most twice what the idle one should hold; and far less where devices are many.
        assert!(first <= most && first <= 2 * devices / (loaded + 1), "{loaded} and an idle one: {first} closed");
        assert!(first > 0, "it was tried");
        model.run(300, &mut place);
        let waves = |model: &Model, outcome: &str| {
            model.replicas[0].0.metrics.rebalance_waves.with_label_values(&[outcome]).get()
        };
        assert!((2..=6).contains(&waves(&model, "uneven")), "ever less often: {}", waves(&model, "uneven"));
        assert_eq!(waves(&model, "even"), 0);
        assert!(model.closes() <= 6 * most, "{}", model.closes());
        // The balancer learns of the idle replica at last.
        model.run(130, in_turn());
        assert!(model.is_even(), "{:?}", model.held());
        assert!(waves(&model, "even") >= 1);
    }
}

#[test]
fn nothing_is_closed_while_one_drains_or_is_not_ready_or_is_alone() {
    let now = Instant::now() + WINDOW * (AGE + 1);
    let step = |replicas: &[Replica]| {
        let mut rebalancer = Rebalancer::new(WINDOW, Arc::default());
        (0..STEPS).any(|step| rebalancer.step(now + WINDOW / STEPS * step, replicas).is_some())
    };
    assert!(step(&[replica(100), replica(0)]));
    assert!(!step(&[replica(100)]));
    assert!(!step(&[replica(100), replica(95)]));
    assert!(!step(&[replica(2), replica(1)]), "as even as it gets");
    let draining = Replica { draining: true, ..replica(0) };
    assert!(!step(&[replica(100), replica(0), draining.clone()]));
    let starting = Replica { ready: false, ..replica(0) };
    assert!(!step(&[replica(100), starting.clone()]), "one that gets nothing yet does not count");
    assert!(!step(&[starting, replica(0)]));
}
