//! A fresh device that pulls its whole table page by page, compared with COPY of the same rows.

use std::time::{Duration, Instant};

use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::Row;
use crate::baseline::copy::copy;
use crate::baseline::fill::fill;
use crate::baseline::{BaselineError, Plan, median};
use crate::engine::device::Identity;
use crate::engine::push_body::Shape;
use crate::engine::{Client, Endpoint, LeanDevice};
use crate::local::Surroundings;
use crate::report::model::{Limit, Measurement, Ratio, Unit};

const DATABASE: &str = "bench_hydrate";
const USER: &str = "bench-fresh";
const TIMEOUT: Duration = Duration::from_secs(30);

pub async fn measure(at: &Surroundings, plan: &Plan) -> Result<Row, BaselineError> {
    at.fresh_database(DATABASE).await?;
    let replica = at.replica("replica", DATABASE, &[]).await?;
    let endpoints = Endpoint::resolve_all(&[replica.base().to_owned()]).await?;
    let (mut client, mut rng) = (Client::new(endpoints, TIMEOUT), StdRng::seed_from_u64(1));
    let token = at.mint.token(USER, Duration::from_secs(3600))?;
    let device = |client: &str| {
        let (user, app, token) = (USER.to_owned(), "bench".to_owned(), token.clone());
        LeanDevice::new(&Identity { user, app, client: client.to_owned(), token }, "packages", 1, Shape::Fields)
    };
    device("writer")?.push(&mut client, &mut rng).await?;
    let database = at.connect(DATABASE).await?;
    fill(&database, plan.hydrated as u64 - 1).await?;

    let (mut ours, mut theirs, mut rounds) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=plan.rounds {
        let (_, copied) = copy(&database, USER).await?;
        let mut fresh = device("fresh")?;
        let (begun, mut bytes, mut pages) = (Instant::now(), 0, 0);
        let cpu = replica.cpu();
        loop {
            let page = fresh.pull(&mut client, &mut rng).await?;
            bytes += page.bytes;
            pages += 1;
            if !page.has_more {
                break;
            }
        }
        let pulled = begun.elapsed();
        if pages < plan.hydrated / 1000 {
            return Err(BaselineError::Nothing { what: format!("only {pages} pages were pulled") });
        }
        // The first round fills the caches of both sides.
        if round == 0 {
            continue;
        }
        let cpu = replica.cpu().zip(cpu).map_or(0.0, |(after, before)| (after - before).as_secs_f64());
        let rate = |took: Duration| plan.hydrated as f64 / took.as_secs_f64();
        let share = cpu / pulled.as_secs_f64() * 100.0;
        rounds.push(format!("{:.0} of {:.0} (replica {share:.0} % of a core)", rate(pulled), rate(copied)));
        ours.push(rate(pulled));
        theirs.push(rate(copied));
        if round == plan.rounds {
            rounds.push(format!("{} rows, {:.1} MiB of JSON", plan.hydrated, bytes as f64 / f64::from(1 << 20)));
        }
    }
    replica.stop().await?;
    let ratio = Ratio::new(
        "rows of a fresh device's pull",
        Measurement::new("pages of a pull, one after the other", Unit::PerSecond, median(ours)),
        Measurement::new("COPY TO STDOUT", Unit::PerSecond, median(theirs)),
        Some(Limit::AtLeast(0.5)),
    );
    Ok(Row { ratio, note: rounds.join("; "), generator_busy: 0.0 })
}
