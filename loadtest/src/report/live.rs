//! Shows a run in the terminal: one block, redrawn each second, or elsewhere a line every few seconds.
//!
//! It goes to stderr, so that stdout stays free for results. If stderr can't be written, the run continues without it.

use std::io::{IsTerminal as _, Write as _, stderr};

use super::model::{OperationSecond, ReplicaSample, Second, Unit};
use super::units::{bytes, number, seconds, show_or_none};

/// Interval of plain lines, in seconds.
const LINE_EVERY: u32 = 5;

/// Shows one run.
#[derive(Debug)]
pub struct Live {
    mode: Mode,
    /// The previous sample of each replica: rates are differences.
    before: Vec<Option<ReplicaSample>>,
}

#[derive(Debug)]
enum Mode {
    Silent,
    /// The number of lines of the block on the screen.
    Block(usize),
    /// Seconds since the last line.
    Lines(u32),
}

impl Live {
    /// Shows it on stderr, in the suitable form.
    pub fn on_stderr() -> Self {
        let mode = if stderr().is_terminal() { Mode::Block(0) } else { Mode::Lines(LINE_EVERY - 1) };
        Self { mode, before: Vec::new() }
    }

    /// Shows nothing.
    pub fn silent() -> Self {
        Self { mode: Mode::Silent, before: Vec::new() }
    }

    /// Shows the second that has just ended, in this phase.
    pub(super) fn show(&mut self, phase: &str, second: &Second) {
        let text = match &mut self.mode {
            Mode::Silent => return,
            Mode::Block(on_screen) => {
                let lines = block(phase, second, &self.before);
                let up = if *on_screen > 0 { format!("\u{1b}[{on_screen}A") } else { String::new() };
                *on_screen = lines.len();
                let lines: String = lines.iter().map(|line| format!("{line}\u{1b}[K\n")).collect();
                // Long lines are cut (7l) and not wrapped, or the block would be higher than its lines. The rest of a
                // longer previous block is erased (J).
                format!("\u{1b}[?7l{up}\r{lines}\u{1b}[J\u{1b}[?7h")
            }
            Mode::Lines(since) => {
                *since += 1;
                if *since < LINE_EVERY {
                    return;
                }
                *since = 0;
                line(phase, second) + "\n"
            }
        };
        let _ = stderr().write_all(text.as_bytes());
        self.before.clone_from(&second.replicas);
    }

    /// Leaves the block on the screen.
    pub(super) fn end(&mut self) {
        if let Mode::Block(on_screen) = &mut self.mode {
            *on_screen = 0;
        }
    }
}

fn block(phase: &str, second: &Second, before: &[Option<ReplicaSample>]) -> Vec<String> {
    let mut lines = vec![head(phase, second)];
    let width = second.operations.keys().map(|name| name.chars().count()).max().unwrap_or(0);
    for (name, operation) in &second.operations {
        lines.push(format!("  {name:<width$}  {}", rates(operation, second.length_seconds)));
    }
    for (place, sample) in second.replicas.iter().enumerate() {
        let before = before.get(place).and_then(Option::as_ref);
        lines.push(format!("  replica {}  {}", place + 1, replica(sample.as_ref(), before, second.length_seconds)));
    }
    lines
}

fn line(phase: &str, second: &Second) -> String {
    let operations = second.operations.iter();
    let shown = operations.map(|(name, operation)| format!("{name} {}", rates(operation, second.length_seconds)));
    std::iter::once(head(phase, second)).chain(shown).collect::<Vec<_>>().join(" | ")
}

fn head(phase: &str, second: &Second) -> String {
    let at = second.at_seconds.round() as u64;
    let cpu = second.generator.cpu_seconds / second.length_seconds * 100.0;
    let mut head = format!(
        "{:>2}:{:02} {phase}  connections {}  generator {} % of a core",
        at / 60,
        at % 60,
        number(second.connections as f64),
        number(cpu.round()),
    );
    if let Some(late) = second.generator.lateness_p99_seconds {
        head += &format!(", {} late", seconds(late));
    }
    head
}

fn rates(operation: &OperationSecond, length: f64) -> String {
    let rate = |count: u64| number((count as f64 / length).round());
    let (counts, latency) = (&operation.counts, &operation.latency);
    let shown = |value| show_or_none(Unit::Seconds, value);
    let mut text = format!("{:>7}/s of {:>7}/s", rate(counts.done), rate(counts.intended));
    text += &format!("  p50 {:>7}  p99 {:>7}", shown(latency.p50_seconds), shown(latency.p99_seconds));
    text += &format!("  max {:>7}", shown(latency.max_seconds));
    if counts.failed() > 0 {
        let kinds: Vec<String> = counts.errors.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
        text += &format!("  errors: {}", kinds.join(", "));
    }
    text
}

fn replica(sample: Option<&ReplicaSample>, before: Option<&ReplicaSample>, length: f64) -> String {
    let Some(sample) = sample else { return "does not answer".to_owned() };
    let rest = format!("{:>8}  {} connections", bytes(sample.resident_bytes as f64), sample.connections);
    let Some(rates) = before.and_then(|before| sample.since(before)) else { return format!("started  {rest}") };
    let cpu = number((rates.cpu_seconds / length * 100.0).round());
    format!("{cpu:>3} % of a core  {:>6} pushes/s  {rest}", number((rates.pushes as f64 / length).round()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::model::{Counts, GeneratorSecond, Percentiles};

    fn second() -> Second {
        let counts =
            Counts { intended: 100, sent: 99, done: 97, errors: [("status_503".to_owned(), 2)].into_iter().collect() };
        let latency = Percentiles {
            p50_seconds: Some(0.001),
            p99_seconds: Some(0.01),
            max_seconds: Some(0.5),
            ..Percentiles::default()
        };
        let sample =
            ReplicaSample { cpu_seconds: 3.0, resident_bytes: 2 << 20, pushes: 100, ..ReplicaSample::default() };
        Second {
            at_seconds: 63.0,
            length_seconds: 1.0,
            operations: [("push".to_owned(), OperationSecond { counts, latency })].into_iter().collect(),
            connections: 12,
            generator: GeneratorSecond { cpu_seconds: 0.25, ..GeneratorSecond::default() },
            replicas: vec![Some(sample), None],
        }
    }

    #[test]
    fn the_block_tells_rates_errors_and_who_is_away() {
        let before = ReplicaSample { cpu_seconds: 2.5, pushes: 40, ..ReplicaSample::default() };
        let lines = block("steady", &second(), &[Some(before), None]);
        assert_eq!(lines[0], " 1:03 steady  connections 12  generator 25 % of a core");
        assert_eq!(
            lines[1],
            "  push       97/s of     100/s  p50    1 ms  p99   10 ms  max  500 ms  errors: status_503 2"
        );
        assert_eq!(lines[2], "  replica 1   50 % of a core      60 pushes/s     2 MiB  0 connections");
        assert_eq!(lines[3], "  replica 2  does not answer");
    }

    #[test]
    fn a_restarted_replica_has_no_rates() {
        let before = ReplicaSample { process_start_seconds: 1.0, ..ReplicaSample::default() };
        let lines = block("steady", &second(), &[Some(before), None]);
        assert!(lines[2].contains("started"), "{}", lines[2]);
    }
}
