//! A device of a history that goes through its lines.
//!
//! - **A line that changes a record waits until the device holds it.** A person can only change or delete what is on
//!   their screen, so existing clients never send an update before its insert has arrived; the same goes for deletes.
//!   This terminates: the creating line is earlier in the file, so the earliest open line never waits. And it checks
//!   more than polling would: once the creation was answered with 200, a single pull to the end must bring it (G2),
//!   from any replica.
//! - **Several lines may go in one push**, as after a while offline. That is sound because nothing is received between
//!   the edits and the push, just as on a device that is offline; a line that would have to wait ends the batch before
//!   it, as its creating line may itself depend on what is still unsent.
//! - **A push may be sent twice**, with its first answer thrown away.

use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::time::timeout;

use crate::device::Device;
use crate::replay::board::Board;
use crate::replay::history::{History, Line, RecordKey};
use crate::replay::progress::Progress;
use crate::replay::{ReplayError, ReplayOptions};

/// A device at work.
pub struct Author {
    pub device: Device,
    pub history: Arc<History>,
    pub board: Arc<Board>,
    pub progress: Arc<Progress>,
    pub options: Arc<ReplayOptions>,
    pub seed: u64,
}

impl Author {
    /// Goes through the device's lines; returns the device after the last one.
    pub async fn run(mut self) -> Result<Device, ReplayError> {
        let mut rng = StdRng::seed_from_u64(self.seed);
        let history = self.history.clone();
        let places = history.devices.get(self.device.client_id()).map_or(&[][..], Vec::as_slice);
        let mut rest = places;
        while let Some(&first) = rest.first() {
            self.wait_for_needs(&history.lines[first], first).await?;
            let most = self.draw_batch(&mut rng);
            let mut taken = 0;
            for &place in rest.iter().take(most) {
                let line = &history.lines[place];
                if taken > 0 && self.missing(line, place).is_some() {
                    break;
                }
                line.changes.iter().for_each(|change| self.device.edit(change.clone()));
                taken += 1;
            }
            self.device.push().await?;
            let (sent, later) = rest.split_at(taken);
            self.board.publish(sent.iter().flat_map(|&place| history.lines[place].creates()));
            self.progress.lines(taken);
            rest = later;
            if rng.random_bool(self.options.pulls) {
                self.device.pull_all().await?;
            }
        }
        Ok(self.device)
    }

    /// Returns one line in most cases, sometimes up to the limit.
    fn draw_batch(&self, rng: &mut StdRng) -> usize {
        match self.options.batch {
            0 | 1 => 1,
            most if rng.random_bool(0.15) => rng.random_range(2..=most),
            _ => 1,
        }
    }

    /// Returns the first record that the line needs and the device doesn't hold, if an earlier line creates it.
    fn missing(&self, line: &Line, place: usize) -> Option<(RecordKey, usize)> {
        line.needs().into_iter().find_map(|key| {
            let created = *self.history.created.get(&key)?;
            (created < place && !self.device.holds(&key.0, &key.1)).then_some((key, created))
        })
    }

    async fn wait_for_needs(&mut self, line: &Line, place: usize) -> Result<(), ReplayError> {
        while let Some((key, created)) = self.missing(line, place) {
            let within = self.options.wait;
            let there = timeout(within, self.board.wait_for(&key)).await;
            let (client_id, line) = (self.device.client_id().to_owned(), created + 1);
            let (table, id) = key;
            if there.is_err() {
                return Err(ReplayError::Waited { client_id, table, id, line, within });
            }
            self.device.pull(&table).await?;
            if !self.device.holds(&table, &id) {
                return Err(ReplayError::Missed { client_id, table, id, line });
            }
        }
        Ok(())
    }
}
