//! Answers other replicas' questions, gets to know them, and reads the refused tokens: at the start, and whenever it may
//! have missed that one was refused.

use super::super::message::{Asked, Head, Kind, MessageError, Question};
use super::{ANSWER_TIMEOUT, AskError, CHANNEL, Inner, KeepError, Replicas, SEND_TIMEOUT, own_channel};
use crate::db::Session;
use crate::store::refused_tokens;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Pauses between attempts to read the refused tokens.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The task that answers other replicas' questions, to be run once.
#[derive(Debug)]
pub struct Answering {
    pub(super) replicas: Replicas,
    pub(super) questions: mpsc::Receiver<(Head, Asked)>,
}

impl Answering {
    /// Answers until told to stop; then says goodbye.
    pub async fn run(mut self, stop: CancellationToken) {
        let inner = self.replicas.0.clone();
        let (mut catching_up, mut reading_again) = (JoinSet::new(), JoinSet::new());
        loop {
            tokio::select! {
                Some((head, asked)) = self.questions.recv() => {
                    let inner = inner.clone();
                    tokio::spawn(async move { answer(&inner, &head, asked.question).await });
                }
                () = inner.listens_anew.notified() => {
                    catching_up.abort_all();
                    catching_up.spawn(self.replicas.clone().catch_up());
                }
                () = inner.missed.notified(), if reading_again.is_empty() => {
                    reading_again.spawn(self.replicas.clone().read_again());
                }
                Some(_) = reading_again.join_next() => {}
                () = tokio::time::sleep(Duration::from_secs(10)) => {
                    inner.sending.close_if_idle().await;
                    inner.keeping.close_if_idle().await;
                }
                () = stop.cancelled() => break,
            }
        }
        if !inner.state().peers.is_empty()
            && let Err(error) = inner.send(CHANNEL, Kind::Goodbye, inner.local.clock.random_u64(), &()).await
        {
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                "cannot tell the other replicas that this one is stopping"
            );
        }
    }
}

impl Replicas {
    /// Runs whenever this replica begins to listen: from then on it hears messages, and has to catch up on earlier
    /// ones.
    async fn catch_up(self) {
        self.0.is_settled.store(false, Ordering::Relaxed);
        // The listener is connected to the primary. These may still be to one that was replaced and has not ended: what
        // is sent there nobody hears.
        tokio::join!(self.0.sending.close(), self.0.keeping.close());
        tokio::join!(self.read_refused(), self.greet());
    }

    /// Reads the refused tokens again, and pauses: somebody may repeat old messages without end.
    async fn read_again(self) {
        self.read_refused().await;
        tokio::time::sleep(LONGEST_PAUSE).await;
    }

    /// Reads the stored refused tokens and refuses them; retries until it succeeds.
    async fn read_refused(&self) {
        let inner = &self.0;
        let mut pause = FIRST_PAUSE;
        while let Err(error) = self.take_over_refused().await {
            tracing::warn!(error = &error as &dyn std::error::Error, "cannot read the refused tokens");
            inner.local.cannot_read_refused(&error);
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn take_over_refused(&self) -> Result<(), KeepError> {
        loop {
            let mark = self.0.local.refused_mark();
            let read = async |client: &Session| Ok::<_, KeepError>(refused_tokens::read(client).await?);
            let tokens = self.0.keeping.within(SEND_TIMEOUT, read).await?;
            if self.0.local.refuse_as_kept(tokens, mark) {
                return Ok(());
            }
        }
    }

    /// Tells the others that this replica exists, and finds out which others exist, by asking any question.
    async fn greet(&self) {
        let inner = &self.0;
        loop {
            let others = self.ask_others(&Asked { replica: None, question: Question::RefusedTokens }).await;
            match others.problem {
                None => return inner.is_settled.store(true, Ordering::Relaxed),
                // It starts over once it listens.
                Some(AskError::Deaf) => return,
                Some(error) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "cannot determine yet which other replicas exist"
                    );
                    tokio::time::sleep(ANSWER_TIMEOUT).await;
                }
            }
        }
    }
}

async fn answer(inner: &Inner, head: &Head, question: Question) {
    let mut answer = inner.local.answer(question).await;
    let sent = loop {
        match inner.send(&own_channel(head.from), Kind::Answer, head.id, &answer).await {
            Err(AskError::Message(MessageError::TooLong)) if answer.shorten() => {}
            sent => break sent,
        }
    };
    if let Err(error) = sent {
        tracing::warn!(error = &error as &dyn std::error::Error, "cannot answer an operator's query");
    }
}
