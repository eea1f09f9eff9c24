//! Sample reports.

use std::time::Duration;

use mana_load::report::model::{
    Build, Check, Counts, Database, Generator, GeneratorSecond, Growth, GrowthLine, Limit, Machine, Measurement,
    Operation, OperationSecond, Phase, Ratio, Replica, ReplicaSample, SCHEMA_VERSION, Second, Settings, Threshold,
    Unit,
};
use mana_load::report::{LatencyHistogram, Report};

/// A run of this many seconds: a ramp, a steady phase and a storm, a replica that is away for a while and comes back
/// as another process, and a few errors. `slower` multiplies its latencies.
pub fn usual(seconds: u32, slower: f64) -> Report {
    let (ramp, storm) = (f64::from(seconds) * 0.2, f64::from(seconds) * 0.8);
    let phase = |name: &str, start_seconds: f64, end_seconds: f64, measured| Phase {
        name: name.to_owned(),
        start_seconds,
        end_seconds,
        measured,
    };
    let phases = vec![
        phase("ramp", 0.0, ramp, false),
        phase("steady", ramp, storm, true),
        phase("storm", storm, f64::from(seconds), true),
    ];
    let series: Vec<Second> = (1..=seconds).map(|at| second(at, seconds, slower)).collect();
    let names = ["push, 10 changes", "pull", "wake-up through another replica"];
    let operations: Vec<Operation> =
        names.iter().enumerate().map(|(place, name)| operation(name, place, &series, ramp, slower)).collect();
    Report {
        schema_version: SCHEMA_VERSION,
        name: "mixed".to_owned(),
        description: "A day of real users: few devices each, bursts, offline catch-ups, long-idle sockets.".to_owned(),
        started_at: "2026-01-02T03:04:05.000Z".to_owned(),
        ended_at: "2026-01-02T03:06:05.000Z".to_owned(),
        tool: Build { name: "mana-load".to_owned(), version: "0.1.0".to_owned(), profile: "release".to_owned() },
        machine: Machine {
            cpu_model: "A Processor 9000".to_owned(),
            cpu_cores: 2,
            memory_bytes: 24 << 30,
            kernel: "6.1.0".to_owned(),
            os: "Debian GNU/Linux 12 (bookworm)".to_owned(),
        },
        replicas: (1..=3)
            .map(|n| Replica {
                name: format!("replica {n}"),
                url: format!("http://127.0.0.1:305{n}"),
                version: "0.1.0".to_owned(),
            })
            .collect(),
        database: Some(Database {
            version: "PostgreSQL 15.14".to_owned(),
            settings: [("fsync", "on"), ("shared_buffers", "128MB"), ("synchronous_commit", "on")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
        }),
        settings: Settings {
            targets: vec!["http://127.0.0.1:3050".to_owned()],
            scenario: serde_json::json!({ "users": 500, "phases": [{ "name": "steady", "rate_per_second": 900 }] }),
        },
        thresholds: vec![
            Threshold::new("push p99", Unit::Seconds, Limit::AtMost(0.05 * slower), operations[0].latency.p99_seconds),
            Threshold::new("failed pushes", Unit::Share, Limit::AtMost(0.001), Some(0.000_4)),
        ],
        checks: vec![
            Check {
                name: "nothing was missed (G2)".to_owned(),
                passed: true,
                detail: "120 readers brought all of 54,000 acknowledged changes, in order".to_owned(),
            },
            Check {
                name: "all devices agree (G3)".to_owned(),
                passed: true,
                detail: "500 devices hold 8,211 records".to_owned(),
            },
        ],
        ratios: vec![
            Ratio::new(
                "pushes of 1 change",
                Measurement::new("over HTTP", Unit::PerSecond, 2_168.0),
                Measurement::new("pgbench, the same statement", Unit::PerSecond, 3_847.0),
                Some(Limit::AtLeast(0.5)),
            )
            .with_note("20 connections and clients, 3 rounds of 5 s alternately"),
            Ratio::new(
                "commit to wake-up, p50",
                Measurement::new("through another replica", Unit::Seconds, 0.002_1),
                Measurement::new("bare NOTIFY to LISTEN", Unit::Seconds, 0.000_9),
                Some(Limit::AtMost(2.0)),
            ),
        ],
        growth: vec![Growth {
            name: "stored".to_owned(),
            size: "stored changes".to_owned(),
            note: "Logs of 1,000 changes, one request at a time".to_owned(),
            sizes: vec![50_000.0, 500_000.0, 5_000_000.0],
            lines: vec![
                GrowthLine::new(
                    "push p50",
                    Unit::Seconds,
                    vec![0.001_1, 0.001_12, 0.001_18 * slower],
                    Some(Limit::AtMost(1.2)),
                ),
                GrowthLine::new("rows", Unit::PerSecond, vec![1e5, 9e4, 4e4], Some(Limit::AtLeast(0.8))),
                GrowthLine::new(
                    "processor while idle",
                    Unit::Share,
                    vec![0.001, 0.01, 0.02],
                    Some(Limit::AtMost(100.0)),
                ),
            ],
        }],
        generator: Generator::judge(&phases, &series, 2, Some(0.000_8)),
        operations,
        phases,
        series,
        merged_from: Vec::new(),
    }
}

/// A deterministic wobble, -1 to 1.
fn wobble(n: u32) -> f64 {
    (f64::from(n) * 12.9898).sin() * (f64::from(n) * 0.7).cos()
}

fn rate(at: u32, seconds: u32) -> f64 {
    let part = f64::from(at) / f64::from(seconds);
    match part {
        _ if part < 0.2 => 900.0 * part / 0.2,
        _ if part < 0.8 => 900.0,
        _ => 1_600.0,
    }
}

fn second(at: u32, seconds: u32, slower: f64) -> Second {
    let (rate, part) = (rate(at, seconds), f64::from(at) / f64::from(seconds));
    let storm = if part > 0.8 { 4.0 } else { 1.0 };
    let away = part > 0.5 && part < 0.6;
    let operation = |share: f64, base: f64| {
        let intended = (rate * share) as u64;
        let failed = if away { intended / 50 } else { 0 };
        let mut counts = Counts { intended, sent: intended, done: intended - failed, ..Counts::default() };
        if failed > 0 {
            counts.errors = [("connection".to_owned(), failed / 2), ("status_503".to_owned(), failed / 2)].into();
        }
        let base = base * slower * storm * (1.0 + 0.2 * wobble(at));
        let latency = mana_load::report::model::Percentiles {
            mean_seconds: Some(base * 1.2),
            p50_seconds: Some(base),
            p90_seconds: Some(base * 2.0),
            p99_seconds: Some(base * 5.0 * (1.0 + 0.3 * wobble(at + 7))),
            p999_seconds: Some(base * 10.0),
            max_seconds: Some(base * 14.0 * (1.5 + wobble(at + 3))),
        };
        OperationSecond { counts, latency }
    };
    let replica = |n: u32| {
        let restarted = n == 2 && part >= 0.6;
        let since = if restarted { f64::from(at) - f64::from(seconds) * 0.6 } else { f64::from(at) };
        (n != 2 || !away).then(|| ReplicaSample {
            cpu_seconds: since * (0.25 + 0.02 * f64::from(n)),
            resident_bytes: 18_000_000 + (since * 20_000.0) as u64 + u64::from(n) * 1_000_000,
            pushes: (since * 300.0) as u64,
            changes_stored: (since * 3_000.0) as u64,
            connections: 400,
            process_start_seconds: if restarted { 500.0 } else { 0.0 },
        })
    };
    Second {
        at_seconds: f64::from(at),
        length_seconds: 1.0,
        operations: [
            ("push, 10 changes".to_owned(), operation(0.6, 0.003)),
            ("pull".to_owned(), operation(0.4, 0.001)),
            ("wake-up through another replica".to_owned(), operation(0.6, 0.002)),
        ]
        .into(),
        connections: if away { 900 } else { 1_200 },
        generator: GeneratorSecond {
            cpu_seconds: 0.2 * storm.sqrt(),
            machine_busy_share: Some((0.7 + 0.1 * wobble(at)) * storm.sqrt().min(1.3)),
            lateness_p99_seconds: Some(0.0006 * storm),
            lateness_max_seconds: Some(0.004 * storm),
        },
        replicas: (0..3).map(replica).collect(),
    }
}

fn operation(name: &str, place: usize, series: &[Second], from: f64, slower: f64) -> Operation {
    let mut counts = Counts::default();
    let mut histogram = LatencyHistogram::default();
    let measured: Vec<&Second> = series.iter().filter(|second| second.at_seconds > from).collect();
    for second in &measured {
        let of_second = &second.operations[name];
        counts.add(&of_second.counts);
        for n in 0..of_second.counts.done {
            // An exponential tail above the median of that second.
            let share = (n as f64 + 0.5) / of_second.counts.done as f64;
            let median = of_second.latency.p50_seconds.unwrap_or(0.001);
            let latency = median * (0.6 - 0.55 * (1.0 - share).ln());
            histogram.record(Duration::from_secs_f64(latency));
        }
    }
    histogram.record(Duration::from_secs_f64(0.25 * slower / (1.0 + place as f64)));
    Operation {
        name: name.to_owned(),
        measured_seconds: measured.len() as f64,
        counts,
        latency: (&histogram).into(),
        latency_histogram_microseconds: histogram,
    }
}

/// Markup in every text that a report can hold.
pub fn hostile() -> Report {
    let evil = |place: &str| format!("</script><script>window.hit='{place}'</script><img src=x onerror=\"hit()\">&\"'");
    let mut report = usual(30, 1.0);
    (report.name, report.description) = (evil("name"), evil("description"));
    (report.started_at, report.ended_at) = (evil("began"), evil("ended"));
    report.tool = Build { name: evil("tool"), version: evil("version"), profile: evil("profile") };
    report.machine.cpu_model = evil("cpu");
    (report.machine.kernel, report.machine.os) = (evil("kernel"), evil("os"));
    for replica in &mut report.replicas {
        *replica = Replica { name: evil("replica"), url: evil("url"), version: evil("version") };
    }
    report.database = Some(Database {
        version: evil("postgres"),
        settings: [(evil("setting"), evil("value"))].into_iter().collect(),
    });
    report.settings.targets = vec![evil("target")];
    report.settings.scenario = serde_json::json!({ evil("key"): [evil("value")] });
    report.phases.iter_mut().for_each(|phase| phase.name = evil("phase"));
    report.checks.push(Check { name: evil("check"), passed: false, detail: evil("detail") });
    report.thresholds.push(Threshold::new(evil("threshold"), Unit::Bytes, Limit::AtMost(1.0), Some(f64::NAN)));
    report.ratios.push(
        Ratio::new(
            evil("ratio"),
            Measurement::new(evil("ours"), Unit::Number, 1.0),
            Measurement::new(evil("baseline"), Unit::Number, 0.0),
            None,
        )
        .with_note(evil("note")),
    );
    for growth in &mut report.growth {
        (growth.name, growth.size, growth.note) = (evil("growth"), evil("size"), evil("how"));
        growth.lines.push(GrowthLine::new("", Unit::Number, vec![0.0, f64::NAN, 1.0], None));
        growth.lines.iter_mut().for_each(|line| line.name = evil("line"));
    }
    report.generator.reason = evil("reason");
    for operation in &mut report.operations {
        operation.name = evil(&operation.name);
    }
    for second in &mut report.series {
        let operations = std::mem::take(&mut second.operations);
        second.operations = operations.into_iter().map(|(name, operation)| (evil(&name), operation)).collect();
        for operation in second.operations.values_mut() {
            operation.counts.errors.insert(evil("error"), 3);
        }
    }
    report
}
