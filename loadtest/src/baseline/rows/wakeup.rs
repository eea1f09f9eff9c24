//! From a commit on one replica to the wake-up on a WebSocket of another, compared with a bare notification.
//!
//! A commit is not observable outside PostgreSQL. The answer to the push is sent after it and takes at most an HTTP
//! round trip to arrive; so the time from commit to wake-up is at most wake-up minus answer plus a round trip, and that
//! is reported.

use std::time::{Duration, Instant};

use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::Row;
use crate::baseline::notify::NotifyPair;
use crate::baseline::{BaselineError, Plan, median};
use crate::engine::client::Call;
use crate::engine::device::Identity;
use crate::engine::push_body::Shape;
use crate::engine::{Client, Endpoint, LeanDevice, Socket, SocketEvent};
use crate::local::{Surroundings, stop_all};
use crate::report::model::{Limit, Measurement, Ratio, Unit};

const DATABASE: &str = "bench_wakeup";
const TURNS: usize = 5;
/// Measurements of each side per turn.
const COUNT: usize = 150;
pub(super) const LATE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(3);

/// Seconds, one value per push.
#[derive(Default)]
pub(super) struct Times {
    pub(super) answered_to_woken: Vec<f64>,
    sent_to_woken: Vec<f64>,
    round_trip: Vec<f64>,
    notify: Vec<f64>,
}

/// Measures both alternately on one thread, so that both or neither include a wake-up of one of our threads.
pub async fn measure(at: &Surroundings, _plan: &Plan) -> Result<Row, BaselineError> {
    at.fresh_database(DATABASE).await?;
    let replicas = at.replicas(2, DATABASE, &[]).await?;
    let bases = [replicas[0].base().to_owned(), replicas[1].base().to_owned()];
    let url = at.url_of(DATABASE);
    let token = at.mint.token("bench-woken", Duration::from_secs(3600))?;
    let alone = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(crate::engine::closed::LoadError::Thread)?;
        runtime.block_on(turns(&bases, &url, token))
    };
    let times = tokio::task::spawn_blocking(alone).await.map_err(|_| crate::engine::closed::LoadError::Panicked)??;
    stop_all(replicas).await?;
    let micros = |seconds: f64| format!("{:.0} µs", seconds * 1e6);
    let round_trip = median(times.round_trip);
    let (after_answer, after_sending) = (median(times.answered_to_woken), median(times.sent_to_woken));
    let ratio = Ratio::new(
        "commit → wake-up via another replica, p50",
        Measurement::new("answer to wake-up, plus an HTTP round trip", Unit::Seconds, after_answer + round_trip),
        Measurement::new("NOTIFY to LISTEN", Unit::Seconds, median(times.notify)),
        Some(Limit::AtMost(1.4)),
    );
    let note = format!(
        "{} pushes one after the other; p50: wake-up {} after the answer, {} after sending the push; HTTP \
         round trip {}",
        TURNS * COUNT,
        micros(after_answer),
        micros(after_sending),
        micros(round_trip)
    );
    Ok(Row { ratio, note, generator_busy: 0.0 })
}

async fn turns(bases: &[String; 2], url: &str, token: String) -> Result<Times, BaselineError> {
    let endpoints = Endpoint::resolve_all(&bases[..1]).await?;
    let far = Endpoint::resolve(&bases[1]).await?;
    let mut socket = Socket::open(&far, &token, Some("listener"), None).await?;
    let identity =
        Identity { user: "bench-woken".to_owned(), app: "bench".to_owned(), client: "writer".to_owned(), token };
    let mut device = LeanDevice::new(&identity, "packages", 1, Shape::Fields)?;
    let (mut client, mut rng) = (Client::new(endpoints, LATE), StdRng::seed_from_u64(1));
    let mut pair = NotifyPair::connect(url).await?;
    let mut times = Times::default();
    for _ in 0..TURNS {
        pair.measure(COUNT, PAUSE, &mut times.notify).await?;
        for _ in 0..COUNT {
            tokio::time::sleep(PAUSE).await;
            let begun = Instant::now();
            let call =
                Call { path: "/health/live", authorization: device.authorization(), client_id: None, body: None };
            client.call(&call, &mut rng).await?;
            times.round_trip.push(begun.elapsed().as_secs_f64());
            one(&mut device, &mut client, &mut rng, &mut socket, &mut times).await?;
        }
    }
    Ok(times)
}

/// Makes one push, and records the times until its wake-up.
pub(super) async fn one(
    device: &mut LeanDevice,
    client: &mut Client,
    rng: &mut StdRng,
    socket: &mut Socket,
    times: &mut Times,
) -> Result<(), BaselineError> {
    let sent = Instant::now();
    let answer = async {
        device.push(client, rng).await?;
        Ok::<_, BaselineError>(Instant::now())
    };
    let wakeup = async {
        let heard = tokio::time::timeout(LATE, socket.next()).await;
        match heard {
            Ok(Ok(SocketEvent::Wakeup)) => Ok(Instant::now()),
            Ok(Ok(other)) => Err(BaselineError::Nothing { what: format!("expected a wake-up, got {other:?}") }),
            Ok(Err(failure)) => Err(failure.into()),
            Err(_) => Err(BaselineError::Nothing { what: format!("no wake-up within {LATE:?}") }),
        }
    };
    let (answered, woken) = tokio::try_join!(answer, wakeup)?;
    let after = match woken.checked_duration_since(answered) {
        Some(after) => after.as_secs_f64(),
        None => -(answered - woken).as_secs_f64(),
    };
    times.answered_to_woken.push(after);
    times.sent_to_woken.push((woken - sent).as_secs_f64());
    Ok(())
}
