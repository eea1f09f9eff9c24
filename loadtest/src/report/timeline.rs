//! Follows a run second by second: gathers what workers recorded, reads the replicas, shows it, and creates the
//! [`Report`] at the end.
//!
//! What a worker records belongs to the phase in which it is recorded; a new phase begins with an empty tally, in the
//! middle of a second if need be. Only measured phases count for the totals.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use chrono::{SecondsFormat, Utc};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::{MissedTickBehavior, interval_at};

use super::live::Live;
use super::model::{
    Build, Generator, GeneratorSecond, Machine, Operation, OperationSecond, Phase, Replica, Report, SCHEMA_VERSION,
    Second,
};
use super::recorder::{OperationTally, Recorder, Tally, lock};
use super::scrape::Scraper;
use super::usage::{MachineTicks, own_cpu};

const SECOND: Duration = Duration::from_secs(1);

/// A run being followed. Dropping it stops following and discards everything.
#[derive(Debug)]
pub struct Timeline {
    shared: Arc<Shared>,
    started_at: String,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Vec<Replica>>,
}

impl Timeline {
    /// Starts the run now, in no phase. Needs a tokio runtime, whose threads count as the generator's.
    pub fn start(recorder: Arc<Recorder>, scraper: Scraper, live: Live) -> Self {
        let shared = Arc::new(Shared::new(recorder));
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(follow(shared.clone(), scraper, live, stopped));
        Self { shared, started_at: now(), stop, task }
    }

    /// Ends the current phase, if there is one, and begins another.
    pub fn phase(&self, name: &str, measured: bool) {
        let mut state = self.shared.end_phase();
        let start_seconds = self.shared.begun.elapsed().as_secs_f64();
        let name = name.to_owned();
        state.phases.push(Phase { name, start_seconds, end_seconds: start_seconds, measured });
    }

    /// Ends the last phase and waits for the current second, so that every second of the series is complete. The report
    /// lacks only what the caller knows: name, settings, database, checks, thresholds and ratios.
    pub async fn finish(self) -> Result<Report, JoinError> {
        let last = self.shared.end_phase();
        let threads = Handle::current().metrics().num_workers() as u64;
        drop(last);
        // It has not ended before: only this stops it, or a panic, which the task reports.
        let _ = self.stop.send(());
        let replicas = self.task.await?;
        let mut state = lock(&self.shared.state);
        let (phases, series) = (std::mem::take(&mut state.phases), std::mem::take(&mut state.series));
        let names = self.shared.recorder.operations();
        let operations = names.iter().zip(&state.totals.operations);
        let lateness = state.totals.lateness.quantile_seconds(0.99);
        Ok(Report {
            schema_version: SCHEMA_VERSION,
            started_at: self.started_at,
            ended_at: now(),
            tool: this_build(),
            machine: Machine::here(),
            replicas,
            operations: operations.map(|(name, tally)| total(name, tally, state.measured)).collect(),
            generator: Generator::judge(&phases, &series, threads, lateness),
            phases,
            series,
            ..Report::default()
        })
    }
}

async fn follow(
    shared: Arc<Shared>,
    mut scraper: Scraper,
    mut live: Live,
    mut stopped: oneshot::Receiver<()>,
) -> Vec<Replica> {
    let mut ticks = interval_at((shared.begun + SECOND).into(), SECOND);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut last = false;
    while !last {
        ticks.tick().await;
        last = !matches!(stopped.try_recv(), Err(oneshot::error::TryRecvError::Empty));
        let (phase, mut second) = shared.end_second();
        second.replicas = scraper.sample().await;
        live.show(&phase, &second);
        lock(&shared.state).series.push(second);
    }
    live.end();
    scraper.replicas().to_vec()
}

#[derive(Debug)]
struct Shared {
    recorder: Arc<Recorder>,
    begun: Instant,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    phases: Vec<Phase>,
    series: Vec<Second>,
    /// The tally of the current second so far.
    pending: Tally,
    /// The tally and the length of the measured phases.
    totals: Tally,
    measured: Duration,
    gathered_at: Instant,
    second_began: Instant,
    cpu: Duration,
    machine: Option<MachineTicks>,
}

impl Shared {
    fn new(recorder: Arc<Recorder>) -> Self {
        let (begun, empty) = (Instant::now(), Tally::new(recorder.operations().len()));
        // What was recorded before the run does not belong to it.
        recorder.drain_into(&mut empty.clone());
        let state = State {
            phases: Vec::new(),
            series: Vec::new(),
            pending: empty.clone(),
            totals: empty,
            measured: Duration::ZERO,
            gathered_at: begun,
            second_began: begun,
            cpu: own_cpu(),
            machine: MachineTicks::now(),
        };
        Self { recorder, begun, state: Mutex::new(state) }
    }

    /// Counts what was recorded so far for the current phase, and ends it now.
    fn end_phase(&self) -> std::sync::MutexGuard<'_, State> {
        let mut state = lock(&self.state);
        let mut tally = Tally::new(self.recorder.operations().len());
        self.recorder.drain_into(&mut tally);
        let now = Instant::now();
        let length = now - std::mem::replace(&mut state.gathered_at, now);
        state.pending.add(&tally);
        if let Some(phase) = state.phases.last_mut() {
            phase.end_seconds = (now - self.begun).as_secs_f64();
            if phase.measured {
                state.totals.add(&tally);
                state.measured += length;
            }
        }
        state
    }

    /// Ends a second; returns it, without the replicas, and the name of the current phase.
    fn end_second(&self) -> (String, Second) {
        let mut state = self.end_phase();
        let now = state.gathered_at;
        let length_seconds = (now - std::mem::replace(&mut state.second_began, now)).as_secs_f64();
        let (cpu, machine) = (own_cpu(), MachineTicks::now());
        let cpu_before = std::mem::replace(&mut state.cpu, cpu);
        let machine_before = std::mem::replace(&mut state.machine, machine);
        let names = self.recorder.operations().iter().cloned();
        let operations = names
            .zip(&state.pending.operations)
            .map(|(name, tally)| (name, OperationSecond { counts: tally.counts(), latency: (&tally.latency).into() }));
        let second = Second {
            at_seconds: (now - self.begun).as_secs_f64(),
            length_seconds,
            operations: operations.collect(),
            connections: self.recorder.connections(),
            generator: GeneratorSecond {
                cpu_seconds: cpu.saturating_sub(cpu_before).as_secs_f64(),
                machine_busy_share: machine.zip(machine_before).and_then(|(now, then)| now.busy_share_since(then)),
                lateness_p99_seconds: state.pending.lateness.quantile_seconds(0.99),
                lateness_max_seconds: state.pending.lateness.max_seconds(),
            },
            replicas: Vec::new(),
        };
        state.pending.clear();
        (state.phases.last().map_or(String::new(), |phase| phase.name.clone()), second)
    }
}

fn total(name: &str, tally: &OperationTally, measured: Duration) -> Operation {
    Operation {
        name: name.to_owned(),
        measured_seconds: measured.as_secs_f64(),
        counts: tally.counts(),
        latency: (&tally.latency).into(),
        latency_histogram_microseconds: tally.latency.clone(),
    }
}

fn this_build() -> Build {
    let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
    Build {
        name: env!("CARGO_PKG_NAME").to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        profile: profile.to_owned(),
    }
}

fn now() -> String {
    Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::live::Live;
    use crate::transport::http_client;

    #[tokio::test]
    async fn phases_part_the_counts_and_only_measured_ones_are_totalled() {
        let recorder = Recorder::new(["push", "pull"]);
        let (push, worker) = (recorder.operation("push").unwrap(), recorder.worker());
        let record = |times: u64| {
            for n in 1..=times {
                worker.intended(push);
                worker.sent(push, Duration::from_micros(10));
                worker.done(push, Duration::from_millis(n));
            }
        };
        record(1_000);
        let scraper = Scraper::new(http_client().unwrap(), Vec::<String>::new());
        let timeline = Timeline::start(recorder.clone(), scraper, Live::silent());
        timeline.phase("warm-up", false);
        record(7);
        timeline.phase("steady", true);
        record(100);
        worker.failed(push, "timeout");
        timeline.phase("storm", true);
        record(10);
        timeline.phase("after", false);
        record(3);
        let report = timeline.finish().await.unwrap();

        let names: Vec<&str> = report.phases.iter().map(|phase| phase.name.as_str()).collect();
        assert_eq!(names, ["warm-up", "steady", "storm", "after"]);
        assert!(report.phases.windows(2).all(|pair| pair[0].end_seconds <= pair[1].start_seconds));
        let total = report.operation("push").unwrap();
        assert_eq!((total.counts.intended, total.counts.done, total.counts.failed()), (110, 110, 1));
        assert!((total.latency.max_seconds.unwrap() - 0.1).abs() < 0.001);
        assert_eq!(total.latency_histogram_microseconds.count(), 110);
        assert_eq!(report.operation("pull").unwrap().latency.p50_seconds, None);
        let done: u64 = report.series.iter().map(|second| second.operations["push"].counts.done).sum();
        assert_eq!(done, 120, "the series has every phase, and nothing from before the run");
        assert!(report.series.iter().all(|second| second.length_seconds > 0.5));
    }
}
