//! From a commit to every listening device: wake-ups, the channel, and what happens when it fails (G4).

#[path = "../support/mod.rs"]
mod support;

mod channel;
mod faults;
mod held;
mod overheard;
mod rebalance;
mod reconnect;
mod wakeups;
mod with_commit;
