//! The time of a bare notification: NOTIFY on one connection, received by LISTEN on another. No wake-up that goes
//! through the database can be faster.

use std::time::{Duration, Instant};

use futures_util::future::poll_fn;
use tokio::sync::mpsc;
use tokio_postgres::{AsyncMessage, Client, NoTls};

use super::BaselineError;

const CHANNEL: &str = "mana_load_baseline";
const LATE: Duration = Duration::from_secs(5);

/// Two connections, one that notifies and one that listens.
pub struct NotifyPair {
    sender: Client,
    /// Listens for as long as it is held.
    _listener: Client,
    heard: mpsc::UnboundedReceiver<(String, Instant)>,
}

fn database(action: &'static str) -> impl Fn(tokio_postgres::Error) -> BaselineError {
    move |source| BaselineError::Database { action, source }
}

impl NotifyPair {
    pub async fn connect(url: &str) -> Result<Self, BaselineError> {
        let (sender, connection) = tokio_postgres::connect(url, NoTls).await.map_err(database("be reached"))?;
        tokio::spawn(connection);
        let (listener, mut connection) = tokio_postgres::connect(url, NoTls).await.map_err(database("be reached"))?;
        let (tell, heard) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            // Ends with the connection; the receiver then times out and reports it.
            while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
                if let AsyncMessage::Notification(notification) = message
                    && tell.send((notification.payload().to_owned(), Instant::now())).is_err()
                {
                    return;
                }
            }
        });
        listener.batch_execute(&format!("listen {CHANNEL}")).await.map_err(database("listen"))?;
        Ok(Self { sender, _listener: listener, heard })
    }

    /// Measures this many round trips one after the other, with a pause before each: seconds from sending to arrival.
    pub async fn measure(
        &mut self,
        count: usize,
        pause: Duration,
        seconds: &mut Vec<f64>,
    ) -> Result<(), BaselineError> {
        let notify = self.sender.prepare("select pg_notify($1, $2)").await.map_err(database("prepare NOTIFY"))?;
        for number in 0..count {
            tokio::time::sleep(pause).await;
            let payload = number.to_string();
            let sent = Instant::now();
            self.sender.execute(&notify, &[&CHANNEL, &payload]).await.map_err(database("notify"))?;
            let arrived = loop {
                let heard = tokio::time::timeout(LATE, self.heard.recv()).await.ok().flatten();
                let lost = || BaselineError::Nothing { what: format!("a notification did not come within {LATE:?}") };
                let (what, when) = heard.ok_or_else(lost)?;
                if what == payload {
                    break when;
                }
            };
            seconds.push((arrived - sent).as_secs_f64());
        }
        Ok(())
    }
}
