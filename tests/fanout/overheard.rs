//! The channel as seen by any client that may connect.

use crate::support::*;
use sqlx::postgres::PgListener;
use tokio::time::timeout;

/// Returns the next notification that contains this text.
pub async fn said(listener: &mut PgListener, text: &str) -> String {
    let said = async {
        loop {
            let payload = listener.recv().await.unwrap().payload().to_owned();
            if payload.contains(text) {
                return payload;
            }
        }
    };
    timeout(TIMEOUT, said).await.expect("it is said")
}

/// Listens on the channel that replicas share.
pub async fn overhear(cluster: &Cluster) -> PgListener {
    let mut listener = PgListener::connect(&cluster.database_url).await.unwrap();
    listener.listen("mana_sync").await.unwrap();
    listener
}
