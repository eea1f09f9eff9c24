//! Judges whether the generator was the bottleneck: then the numbers are its own and not the cluster's.

use super::model::{Generator, Phase, Second};

/// At this load of its threads, a generator has no capacity left to be on time.
const BUSY: f64 = 0.85;
/// Latency counts from the intended time, so lateness is part of every latency. Beyond this it is reported; a generator
/// that had capacity and was late anyway was kept waiting, and was not the bottleneck.
const LATE_SECONDS: f64 = 0.010;
/// At this load of all processors, everything that runs on the machine slows the rest.
const FULL: f64 = 0.95;

impl Generator {
    /// Judges the seconds that ended within measured phases. One second in ten may be beyond the limits: the start of a
    /// thousand connections is not the load being measured.
    pub fn judge(phases: &[Phase], series: &[Second], threads: u64, lateness_p99_seconds: Option<f64>) -> Self {
        let measured: Vec<&Second> = series.iter().filter(|second| Phase::any_measured(phases, second)).collect();
        let share = |second: &&Second| second.generator.cpu_seconds / second.length_seconds / threads.max(1) as f64;
        let busy = measured.iter().filter_map(|second| second.generator.machine_busy_share).collect();
        let mut verdict = Self {
            threads,
            cpu_seconds: measured.iter().map(|second| second.generator.cpu_seconds).sum(),
            cpu_p90_share: p90(measured.iter().map(share).collect()).unwrap_or(0.0),
            machine_busy_p90_share: p90(busy),
            lateness_p99_seconds,
            ..Self::default()
        };
        verdict.reason =
            if measured.is_empty() { "not known: no whole second was measured".to_owned() } else { verdict.decide() };
        verdict
    }

    /// Sets `was_the_limit` and returns the reason.
    fn decide(&mut self) -> String {
        let threads =
            if self.threads == 1 { "its only thread".to_owned() } else { format!("its {} threads", self.threads) };
        let cpu = format!("it used {} of {threads}", percent(self.cpu_p90_share));
        let late = self.lateness_p99_seconds.unwrap_or(0.0);
        let lateness = match self.lateness_p99_seconds {
            Some(late) => format!("99 % of its requests were sent within {:.2} ms of their time", late * 1e3),
            None => "it sent as fast as answers came, without a schedule".to_owned(),
        };
        self.was_the_limit = Some(self.cpu_p90_share >= BUSY);
        let mut reason = if self.cpu_p90_share >= BUSY {
            format!("{cpu}: give it more processors, or less to do")
        } else if late > LATE_SECONDS {
            format!("{lateness}, which adds to every latency; {cpu}")
        } else {
            format!("{cpu}; {lateness}")
        };
        if let Some(busy) = self.machine_busy_p90_share.filter(|&busy| busy >= FULL) {
            let busy = percent(busy);
            reason += &format!(". All processors of its machine were {busy} busy; other processes had the rest");
        }
        reason
    }
}

/// Returns the value that nine of ten do not exceed.
fn p90(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let rank = (values.len() * 9).div_ceil(10);
    values.get(rank.checked_sub(1)?).copied()
}

fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::model::GeneratorSecond;

    fn judged(cpu_seconds: f64, lateness: Option<f64>, busy: f64) -> Generator {
        let phase = |name: &str, start: f64, end: f64, measured| Phase {
            name: name.to_owned(),
            start_seconds: start,
            end_seconds: end,
            measured,
        };
        let phases = [phase("warm-up", 0.0, 5.0, false), phase("steady", 5.0, 25.0, true)];
        let series: Vec<Second> = (1..=25)
            .map(|at| {
                // The warm-up and one second of the rest are fully busy, which must not decide.
                let cpu_seconds = if at <= 6 { 2.0 } else { cpu_seconds };
                let generator =
                    GeneratorSecond { cpu_seconds, machine_busy_share: Some(busy), ..GeneratorSecond::default() };
                Second { at_seconds: at.into(), length_seconds: 1.0, generator, ..Second::default() }
            })
            .collect();
        Generator::judge(&phases, &series, 2, lateness)
    }

    #[test]
    fn idle_and_punctual_is_no_limit() {
        let verdict = judged(0.4, Some(0.0005), 0.5);
        assert_eq!(verdict.was_the_limit, Some(false), "{verdict:?}");
        assert_eq!(verdict.cpu_p90_share, 0.2);
        assert!((verdict.cpu_seconds - (19.0 * 0.4 + 2.0)).abs() < 1e-9);
        assert!(!verdict.reason.contains("All processors"), "{}", verdict.reason);
    }

    #[test]
    fn busy_is_and_late_alone_is_told() {
        assert_eq!(judged(1.72, Some(0.0005), 0.5).was_the_limit, Some(true));
        assert_eq!(judged(1.68, Some(0.0005), 0.5).was_the_limit, Some(false));
        let late = judged(0.4, Some(0.011), 0.5);
        assert_eq!(late.was_the_limit, Some(false));
        assert!(late.reason.contains("within 11.00 ms of their time, which"), "{}", late.reason);
        assert_eq!(judged(1.9, None, 0.5).was_the_limit, Some(true));
    }

    #[test]
    fn a_full_machine_is_told() {
        let verdict = judged(0.4, None, 0.99);
        assert_eq!(verdict.was_the_limit, Some(false));
        assert!(verdict.reason.contains("All processors of its machine were 99 % busy"), "{}", verdict.reason);
    }

    #[test]
    fn without_a_measured_second_nothing_is_known() {
        assert_eq!(Generator::judge(&[], &[], 2, None).was_the_limit, None);
    }
}
