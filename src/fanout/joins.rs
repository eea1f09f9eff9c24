//! Finds out the positions of users' logs when their first session begins.

use super::dependencies::{Dependencies, USERS_PER_QUERY};
use super::heads;
use crate::protocol::UserKey;
use crate::store::{Head, StoreError};
use std::collections::{HashMap, HashSet};
use tokio::sync::{mpsc, oneshot};

/// A user whose first session has begun.
#[derive(Debug)]
pub(super) struct Join {
    pub(super) user: UserKey,
    pub(super) begun: oneshot::Sender<()>,
}

/// Answers requests until their senders are gone.
pub(super) async fn run(dependencies: &Dependencies, mut joins: mpsc::Receiver<Join>) {
    let mut batch = Vec::new();
    while joins.recv_many(&mut batch, USERS_PER_QUERY).await > 0 {
        let users: Vec<UserKey> = batch.iter().map(|join| join.user).collect();
        match dependencies.heads.of_users(&users).await {
            Ok(heads) => {
                let too_many: HashSet<UserKey> = heads.too_many.into_iter().collect();
                let large: Vec<Join> = batch.extract_if(.., |join| too_many.contains(&join.user)).collect();
                begin_all(dependencies, &mut batch, heads.heads);
                begin_large(dependencies, large).await;
            }
            Err(error) => cannot_join(&error, &mut batch),
        }
    }
}

fn cannot_join(error: &StoreError, joins: &mut Vec<Join>) {
    let error = error as &dyn std::error::Error;
    tracing::warn!(error, sessions = joins.len(), "cannot read the heads of logs for new sessions");
    // Dropping a request notifies its session.
    joins.clear();
}

fn begin_all(dependencies: &Dependencies, joins: &mut Vec<Join>, heads: Vec<Head>) {
    let mut by_user: HashMap<UserKey, Vec<Head>> = HashMap::new();
    for head in heads {
        by_user.entry(head.user).or_default().push(head);
    }
    for join in joins.drain(..) {
        dependencies.sessions.begin(join.user, by_user.get(&join.user).map_or(&[], Vec::as_slice), 0);
        // A session that has gone in the meantime does not mind.
        let _ = join.begun.send(());
    }
}

/// Begins users with very many logs, after all others.
async fn begin_large(dependencies: &Dependencies, joins: Vec<Join>) {
    for join in joins {
        match dependencies.heads.newest(join.user).await {
            Ok(newest) => {
                dependencies.sessions.begin(join.user, &newest, heads::others(&newest));
                let _ = join.begun.send(());
            }
            Err(error) => cannot_join(&error, &mut vec![join]),
        }
    }
}
