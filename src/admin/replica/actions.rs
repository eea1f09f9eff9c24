//! What operators have this replica do.

use super::LocalReplica;
use crate::admin::message::Action;
use crate::admin::report::{Outcome, time};
use crate::protocol::UserKey;
use crate::shutdown::Drained;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, UNIX_EPOCH};

/// Allows logs to be trimmed again when it is dropped, however the trimming ended.
struct EndOfTrimming(Arc<AtomicBool>);

impl Drop for EndOfTrimming {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

impl LocalReplica {
    /// Carries out an action, and logs it.
    pub(super) fn act(&self, action: Action) -> Outcome {
        let outcome = match &action {
            Action::Disconnect { user_id, device } => {
                let closed = self.parts.hub.close_user(UserKey::of(user_id), device.as_deref());
                self.done(&ended(closed))
            }
            Action::RefuseToken { token_id, until, stored } => self.refuse(token_id, *until, *stored),
            Action::AcceptToken { token_id } => match self.parts.auth.refused().accept(token_id) {
                true => self.done("accepted again"),
                false => self.done("was not refused"),
            },
            Action::Drain { drained } => self.drain(&self.parts.shutdown.drained, *drained),
            Action::Compact => self.trim(),
            Action::Log { filter } => match self.parts.log.set(filter) {
                Ok(()) => self.done(&format!("the log filter is now {filter}")),
                Err(error) => self.not_done(&error.to_string()),
            },
            Action::Rates { pushes, pulls } => self.limit(*pushes, *pulls),
            Action::Unknown => self.not_done("this replica's version does not support the action"),
        };
        tracing::warn!(action = action.name(), done = outcome.done, "operator action: {}", outcome.message);
        outcome
    }

    fn refuse(&self, token_id: &str, until: u64, is_stored: bool) -> Outcome {
        let until = UNIX_EPOCH + Duration::from_millis(until);
        match self.parts.auth.refused().refuse(token_id, until, is_stored) {
            Ok(until) => {
                let closed = self.parts.hub.close_token(token_id);
                self.done(&format!("refused until {}; {}", time(until), ended(closed)))
            }
            Err(error) => self.not_done(&error.to_string()),
        }
    }

    /// Begins to trim all logs in the background, at the usual gentle pace.
    fn trim(&self) -> Outcome {
        let (Some(mut compactor), trimming) = (self.parts.compaction.compactor(), self.trimming.clone()) else {
            return self.not_done("COMPACT_AFTER_MS is 0 on this replica: logs are not trimmed");
        };
        if trimming.swap(true, Ordering::Relaxed) {
            return self.not_done("logs are already being trimmed");
        }
        let trimming = EndOfTrimming(trimming);
        let stopping = self.parts.shutdown.stopping.clone();
        let others = self.parts.presence.clone();
        compactor = compactor.sharing_with(move || others.replicas().len());
        self.parts.shutdown.background.spawn(async move {
            match stopping.run_until_cancelled(compactor.trim_all(None, None, |_| ())).await {
                Some(Ok(done)) => tracing::info!(
                    logs = done.logs,
                    failed = done.failed,
                    rows = done.trimmed.gone,
                    "all logs have been trimmed"
                ),
                Some(Err(error)) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "not all logs could be trimmed");
                }
                None => tracing::info!("trimming all logs was interrupted"),
            }
            drop(trimming);
        });
        self.done("trimming has started; the log reports when it is done")
    }

    fn drain(&self, drained: &Drained, wanted: bool) -> Outcome {
        let is_last = !self.parts.presence.replicas().iter().skip(1).any(|other| other.ready && !other.draining);
        let message = match (wanted, drained.set(wanted)) {
            (true, true) if is_last => {
                "drained: not ready, and its sessions are leaving. No other replica is ready, so none serves clients now"
            }
            (true, true) => "drained: not ready, and its sessions are leaving",
            (true, false) => "already drained",
            (false, true) => "taken back",
            (false, false) => "was not drained",
        };
        self.done(message)
    }

    fn limit(&self, pushes: Option<u32>, pulls: Option<u32>) -> Outcome {
        let rates = &self.parts.rates;
        pushes.into_iter().for_each(|per_second| rates.pushes.set(per_second));
        pulls.into_iter().for_each(|per_second| rates.pulls.set(per_second));
        let said = |per_second: u32| match per_second {
            0 => "without limit".to_owned(),
            _ => format!("{per_second} times per second"),
        };
        let (pushes, pulls) = (said(rates.pushes.per_second()), said(rates.pulls.per_second()));
        self.done(&format!("users may push {pushes} and pull {pulls}"))
    }

    fn done(&self, message: &str) -> Outcome {
        Outcome { replica: self.name.clone(), done: true, message: message.to_owned() }
    }

    pub(super) fn not_done(&self, message: &str) -> Outcome {
        Outcome { done: false, ..self.done(message) }
    }
}

impl Action {
    /// Returns the action's name in logs.
    pub fn name(&self) -> &'static str {
        match self {
            Action::Disconnect { device: None, .. } => "disconnect_user",
            Action::Disconnect { device: Some(_), .. } => "disconnect_device",
            Action::RefuseToken { .. } => "refuse_token",
            Action::AcceptToken { .. } => "accept_token",
            Action::Drain { drained: true } => "drain",
            Action::Drain { drained: false } => "take_back",
            Action::Compact => "compact",
            Action::Log { .. } => "log",
            Action::Rates { .. } => "rates",
            Action::Unknown => "unknown",
        }
    }
}

fn ended(sessions: usize) -> String {
    match sessions {
        1 => "1 session was ended".to_owned(),
        _ => format!("{sessions} sessions were ended"),
    }
}
