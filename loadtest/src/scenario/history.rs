//! The users' existing data: pushed before the first phase, and recorded like everything else.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _};
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::population::{APP, Population, TABLE, User};
use crate::engine::client::Call;
use crate::engine::push_body::{PushBody, Shape};
use crate::engine::{Client, Endpoint, Failure};

const AT_ONCE: usize = 16;
const PER_PUSH: usize = 200;
const TIMEOUT: Duration = Duration::from_secs(30);

/// The reason why it could not be pushed.
#[derive(Debug, thiserror::Error)]
#[error("a push of {user} failed")]
pub struct HistoryError {
    user: String,
    #[source]
    source: Failure,
}

/// Pushes this many changes for each user, through all targets.
pub async fn push_history(
    population: &Population,
    endpoints: &Arc<[Endpoint]>,
    changes: usize,
) -> Result<(), HistoryError> {
    let pushing = population.users.iter().enumerate().map(|(seed, user)| async move {
        let mut client = Client::new(endpoints.clone(), TIMEOUT);
        let mut rng = StdRng::seed_from_u64(seed as u64);
        let mut left = changes;
        while left > 0 {
            let size = left.min(PER_PUSH);
            one(population, user, size, &mut client, &mut rng).await?;
            left -= size;
        }
        Ok(())
    });
    futures_util::stream::iter(pushing).buffer_unordered(AT_ONCE).try_collect().await
}

async fn one(
    population: &Population,
    user: &User,
    changes: usize,
    client: &mut Client,
    rng: &mut StdRng,
) -> Result<(), HistoryError> {
    let device = user.devices[0].lock().await;
    let number = population.next_push(user);
    let mut body = PushBody::new("by-header", TABLE, changes, Shape::Mixed);
    // Not with the device's own cursor, which stays at the beginning: its first pull brings all of this.
    let body = Some(body.fill(&device.cursor, number));
    let path = format!("/sync/{APP}");
    let call = Call { path: &path, authorization: &user.authorization, client_id: Some(&device.name), body };
    let outcome = client.call(&call, rng).await.map(|answer| answer.body);
    population.ended(user, number, changes, &outcome);
    outcome.map(drop).map_err(|source| HistoryError { user: user.id.clone(), source })
}
