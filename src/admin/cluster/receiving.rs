//! Receives messages from other replicas: questions, answers to ours, and goodbyes.

use super::super::message::{Asked, Head, Kind, MAX_AGE, MessageError, Question, read, read_body};
use super::{Answered, CHANNEL, Inner, MAX_ANSWERS, MAX_REMEMBERED, Peer, Replicas, own_channel};
use crate::fanout::listener::OtherChannels;
use std::sync::atomic::Ordering;
use tokio::time::Instant;

impl Inner {
    fn receive_message(&self, payload: &str) -> Result<(), MessageError> {
        // A message that is not encrypted with our key is not for us.
        let Some(message) = read(&self.keys, payload) else { return Ok(()) };
        let (head, part) = message?;
        if head.from == self.local.instance || !head.is_recent(&self.local.clock) {
            return Ok(());
        }
        match head.kind {
            Kind::Question if head.parts == 1 => {
                let asked: Asked = read_body(&part)?;
                // No process is told to do something before it exists: this is a replay of an old message.
                if matches!(asked.question, Question::Do { .. }) && self.local.began_after(head.at) {
                    return Ok(());
                }
                self.note_peer(&head);
                let is_meant = asked.replica.as_ref().is_none_or(|name| *name == self.local.name);
                if is_meant && self.is_new(head.id) && self.questions.try_send((head, asked)).is_err() {
                    tracing::warn!("too many operator queries are waiting; one was dropped");
                }
                Ok(())
            }
            Kind::Answer => {
                self.note_peer(&head);
                self.take_part(&head, part)
            }
            Kind::Goodbye if self.local.began_after(head.at) => Ok(()),
            Kind::Goodbye => {
                let mut state = self.state();
                state.peers.remove(&head.from);
                for waiting in state.asked.values_mut() {
                    waiting.expected.remove(&head.from);
                    waiting.news.notify_one();
                }
                Ok(())
            }
            Kind::Question | Kind::Unknown => Ok(()),
        }
    }

    fn note_peer(&self, head: &Head) {
        let peer = Peer { name: head.name.clone(), heard: Instant::now(), heard_at: self.local.clock.millis() };
        let mut state = self.state();
        if !state.peers.contains_key(&head.from) {
            // A process that was killed and restarted. If both are running, the other one becomes known again with its
            // next message.
            state.peers.retain(|_, known| known.name != head.name);
        }
        state.peers.insert(head.from, peer);
    }

    /// True if a question has not been received before.
    fn is_new(&self, id: u64) -> bool {
        let mut state = self.state();
        if state.heard.len() >= MAX_REMEMBERED {
            state.heard.retain(|_, heard| heard.elapsed() <= MAX_AGE * 2);
        }
        state.heard.len() < MAX_REMEMBERED && state.heard.insert(id, Instant::now()).is_none()
    }

    fn take_part(&self, head: &Head, part: Vec<u8>) -> Result<(), MessageError> {
        let mut state = self.state();
        let Some(waiting) = state.asked.get_mut(&head.id) else { return Ok(()) };
        waiting.bytes += part.len();
        if waiting.bytes > MAX_ANSWERS {
            return Err(MessageError::TooLong);
        }
        let parts = waiting.parts.entry(head.from).or_default();
        parts.insert(head.part, part);
        if parts.len() < head.parts as usize {
            return Ok(());
        }
        let whole: Vec<u8> =
            waiting.parts.remove(&head.from).into_iter().flatten().flat_map(|(_, part)| part).collect();
        let took = waiting.began.elapsed();
        let answer = read_body(&whole);
        waiting.expected.remove(&head.from);
        waiting.news.notify_one();
        waiting.answers.push(Answered { name: head.name.clone(), answer: answer?, took: Some(took) });
        Ok(())
    }
}

impl OtherChannels for Replicas {
    fn channels(&self) -> Vec<String> {
        vec![CHANNEL.to_owned(), own_channel(self.0.local.instance)]
    }

    fn listening(&self, is_listening: bool) {
        self.0.is_listening.store(is_listening, Ordering::Relaxed);
        if is_listening {
            self.0.listens_anew.notify_one();
        }
    }

    fn receive(&self, payload: &str) {
        if let Err(error) = self.0.receive_message(payload) {
            tracing::warn!(error = &error as &dyn std::error::Error, "cannot read a message from another replica");
        }
    }
}
