//! Answering the questions of others, and getting to know them.

use super::super::message::{Answer, Asked, Head, Kind, Question};
use super::{ANSWER_TIMEOUT, AskError, CHANNEL, Inner, Replicas, own_channel};
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// What answers the others' questions, to be run once.
#[derive(Debug)]
pub struct Answering {
    pub(super) replicas: Replicas,
    pub(super) questions: mpsc::Receiver<(Head, Asked)>,
}

impl Answering {
    /// Answers until told to stop; then says goodbye.
    pub async fn run(mut self, stop: CancellationToken) {
        let inner = self.replicas.0.clone();
        loop {
            tokio::select! {
                Some((head, asked)) = self.questions.recv() => {
                    let inner = inner.clone();
                    tokio::spawn(async move { answer(&inner, &head, asked.question).await });
                }
                () = inner.listens_anew.notified() => {
                    let replicas = self.replicas.clone();
                    tokio::spawn(async move { replicas.catch_up().await });
                }
                () = tokio::time::sleep(Duration::from_secs(10)) => inner.sending.close_if_idle().await,
                () = stop.cancelled() => break,
            }
        }
        if !inner.state().peers.is_empty()
            && let Err(error) = inner.send(CHANNEL, Kind::Goodbye, inner.local.clock.random_u64(), &()).await
        {
            tracing::debug!(error = &error as &dyn std::error::Error, "the other replicas were not told goodbye");
        }
    }
}

impl Replicas {
    /// Tells the others that this replica is there, finds out who they are, and refuses the tokens that they refuse.
    async fn catch_up(&self) {
        let inner = &self.0;
        inner.is_settled.store(false, Ordering::Relaxed);
        let others = self.ask_others(&Asked { replica: None, question: Question::RefusedTokens }).await;
        for answered in others.answers {
            if let Answer::RefusedTokens(tokens) = answered.answer {
                inner.local.refuse_like(&tokens);
            }
        }
        match others.problem {
            None => inner.is_settled.store(true, Ordering::Relaxed),
            // Once it listens it asks.
            Some(AskError::Deaf) => {}
            Some(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "the other replicas are not known yet");
                tokio::time::sleep(ANSWER_TIMEOUT).await;
                inner.listens_anew.notify_one();
            }
        }
    }
}

async fn answer(inner: &Inner, head: &Head, question: Question) {
    let answer = inner.local.answer(question).await;
    if let Err(error) = inner.send(&own_channel(head.from), Kind::Answer, head.id, &answer).await {
        tracing::warn!(error = &error as &dyn std::error::Error, "a question of an operator could not be answered");
    }
}
