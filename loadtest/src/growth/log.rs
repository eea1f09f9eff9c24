//! Latency of a push and a small pull, and the rate of a fresh device's first pages, by the length of one log.

use std::time::{Duration, Instant};

use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::limits::{LOG_P50, LOG_P99, LOG_RATE};
use super::warmed::{Limits, lines, note, start, visit};
use super::{Log, Measured, Plan, Visits};
use crate::baseline::dataset::{Dataset, Side};
use crate::baseline::visits::Place;
use crate::baseline::{BaselineError, median};
use crate::engine::device::Identity;
use crate::engine::push_body::Shape;
use crate::engine::{Client, Endpoint, LeanDevice};
use crate::local::Surroundings;
use crate::protocol::PULL_PAGE;
use crate::report::model::{Growth, GrowthLine, Unit};
use crate::report::units::number;

const SIZE: &str = "changes in the log";
const USER: &str = "bench-log";
/// Pages that a fresh device pulls; with a shorter log it starts over.
const PAGES: usize = 10;
/// Divisor for the number of requests compared with other dimensions: the shortest log must not become many times as
/// long.
const FEWER: usize = 4;
const TIMEOUT: Duration = Duration::from_secs(30);

fn dataset(size: u64) -> Dataset {
    let (user, app, table) = (USER.to_owned(), "bench".to_owned(), "packages".to_owned());
    Dataset {
        database: format!("bench_log_{size}"),
        places: vec![Place { user, app, table }],
        filled: size - 1,
        kept: false,
    }
}

pub async fn measure(at: &Surroundings, plan: &Plan, log: Log<'_>) -> Result<Measured, BaselineError> {
    let datasets: Vec<_> = plan.log.iter().map(|&size| (size, dataset(size))).collect();
    let sides = start(at, &datasets, SIZE, log).await?;
    let rates = rates(at, &sides, plan, log).await?;
    let visits = Visits { requests: (plan.requests / FEWER).max(1), ..plan.visits() };
    let latencies = visit(sides, &plan.log, visits, SIZE, log).await?;
    let mut lines = lines(&latencies, Limits { p50: LOG_P50, p99: LOG_P99 });
    lines.push(GrowthLine::new("rows of a fresh device's pull", Unit::PerSecond, rates, Some(LOG_RATE)));
    let growth = Growth {
        name: "log".to_owned(),
        size: SIZE.to_owned(),
        note: format!(
            "One user and one log; {}, whose pushes make each log longer; a fresh device's first {PAGES} pages of \
             {} changes, from the beginning again where the log ends before",
            note(visits),
            number(PULL_PAGE as f64)
        ),
        sizes: plan.log.iter().map(|&size| size as f64).collect(),
        lines,
    };
    Ok(Measured { growth, generator_busy: None })
}

/// Returns rows per second of each log's first pages, while the logs still have their nominal length.
async fn rates(at: &Surroundings, sides: &[Side], plan: &Plan, log: Log<'_>) -> Result<Vec<f64>, BaselineError> {
    let mut rates = vec![Vec::new(); sides.len()];
    let mut order: Vec<usize> = (0..sides.len()).collect();
    for _ in 0..plan.visits().turns {
        for &place in &order {
            rates[place].push(first_pages(at, sides[place].base()).await?);
        }
        order.reverse();
    }
    let rates: Vec<f64> = rates.into_iter().map(median).collect();
    for (&size, &rate) in plan.log.iter().zip(&rates) {
        log(&format!("{SIZE} {}: {} rows/s", number(size as f64), number(rate)));
    }
    Ok(rates)
}

/// Returns rows per second of the first pages, which must be full.
async fn first_pages(at: &Surroundings, base: &str) -> Result<f64, BaselineError> {
    let mut client = Client::new(Endpoint::resolve_all(&[base.to_owned()]).await?, TIMEOUT);
    let mut rng = StdRng::seed_from_u64(1);
    let token = at.mint.token(USER, Duration::from_secs(3600))?;
    let identity = Identity { user: USER.to_owned(), app: "bench".to_owned(), client: "fresh".to_owned(), token };
    let mut device = LeanDevice::new(&identity, "packages", 1, Shape::Fields)?;
    // Opens the connection, and fills caches.
    device.pull(&mut client, &mut rng).await?;
    device.forget();
    let begun = Instant::now();
    for _ in 0..PAGES {
        if !device.pull(&mut client, &mut rng).await?.has_more {
            device.forget();
        }
    }
    Ok((PAGES * PULL_PAGE) as f64 / begun.elapsed().as_secs_f64())
}
