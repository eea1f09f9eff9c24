//! Answering the questions of others, and getting to know them.

use super::super::message::{Asked, Head, Kind, MessageError, Question};
use super::{ANSWER_TIMEOUT, AskError, CHANNEL, Inner, MAX_NAME, Replicas, own_channel};
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// The longest pause before those that have not told are asked again.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

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
        let mut catching_up = JoinSet::new();
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
    /// Tells the others that this replica is there, finds out who they are, and refuses the tokens that they refuse: again
    /// and again until all that are there have told. Does not end.
    async fn catch_up(self) {
        let inner = &self.0;
        inner.is_settled.store(false, Ordering::Relaxed);
        inner.state().told_by.clear();
        let (mut pause, mut asked_of) = (ANSWER_TIMEOUT, Vec::new());
        loop {
            let others = self.ask_others(&Asked { replica: None, question: Question::RefusedTokens }).await;
            others.answers.into_iter().for_each(|answered| inner.take_over(answered));
            match others.problem {
                None => inner.is_settled.store(true, Ordering::Relaxed),
                // Once it listens it begins anew.
                Some(AskError::Deaf) => return,
                Some(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "the other replicas are not known yet");
                }
            }
            loop {
                let untold = inner.untold();
                if untold.iter().any(|name| !asked_of.contains(name)) {
                    pause = ANSWER_TIMEOUT;
                }
                // Who never tells has no admin port, or another token.
                let is_settled = inner.is_settled.load(Ordering::Relaxed);
                if !is_settled || !untold.is_empty() && pause <= LONGEST_PAUSE {
                    asked_of = untold;
                    break;
                }
                inner.local.others_change().await;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE * 2);
        }
    }
}

impl Inner {
    /// The replicas that are there and have not told which tokens they refuse.
    fn untold(&self) -> Vec<String> {
        let mut others = self.local.others();
        // As they say it in their answers.
        others.iter_mut().for_each(|name| name.truncate(name.floor_char_boundary(MAX_NAME)));
        let state = self.state();
        others.into_iter().filter(|name| !state.told_by.contains(name)).collect()
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
        tracing::warn!(error = &error as &dyn std::error::Error, "a question of an operator could not be answered");
    }
}
