//! Decides which rows of a record, and which of their fields, stay in the log when it is trimmed in place, so that a
//! log costs only what is alive in it.
//!
//! Every field that is not its record's winner, by stamp and position, is removed from rows older than the horizon; a
//! row with nothing left goes. Rows never move and never gain content. So every cursor stays valid, every page is a
//! subset of what it was, and every reader that continues ends up with the same state as without trimming (G3):
//!
//! 1. The winner of every field stays, at its own position, with its own author: every reader whose cursor is before it
//!    gets it, and it beats everything else that is left, wherever that is.
//! 2. A record's first row stays, with at least one field (for an insert, the one that carries its stamp). Existing
//!    clients ignore the delete of a record they do not have, so without its first row a deleted record would reappear
//!    with the next edit. If the first row is itself a delete, which creates no record, the first row that is not a
//!    delete stays as well; and because clients may have ignored the delete before it, so does the best write of
//!    `deletedAt` from there on.
//! 3. Rows that claim future stamps stay whole, because they tell what their devices hold ([`super::merge`]). So do
//!    rows younger than the horizon. Both count when winners are determined.
//! 4. A value that lost only because another with the very same stamp was stored later stays, unless its row has to
//!    stay anyway: sent again after it was forgotten, it would be the one stored later. Values without a stamp of their
//!    own are exempt: all of them are equally old, and programs write nothing else.
//! 5. All rows of one record are trimmed at once. If rows go, the deletes that stay are marked: a page that a reader
//!    got before may have left something out because of a row that is gone now.
//!
//! A record that was deleted long ago may be *purged*: then only its field `deletedAt` is kept.

use super::cursor::Cursor;
use super::merge::{Rank, StoredChange, UnreadableChange};
use super::push::Op;
use super::push::wire::InsertMembers;
use super::stamp::Stamp;
use std::collections::HashMap;

const DELETED_AT: &str = "deletedAt";
/// Approximate memory of a winner without its name, in bytes.
const WINNER: usize = 96;
/// The members that may carry an insert's stamp.
const STAMP_MEMBERS: [&str; 2] = ["updatedAt", "createdAt"];

/// The properties of a row that trimming depends on, without its values.
#[derive(Clone, Debug)]
pub struct RowWrites {
    /// Its position, in microseconds.
    pub at: i64,
    op: Op,
    is_protected: bool,
    writes: Vec<Write>,
    /// True if it writes a value to `deletedAt` that deletes the record.
    deletes: bool,
    /// For an insert: the members that must stay as long as anything of it does, because they tell its stamp.
    carriers: Vec<&'static str>,
}

#[derive(Clone, Debug)]
struct Write {
    name: String,
    stamp: Stamp,
    /// Length of its value in bytes.
    length: usize,
}

/// A field that is removed, and the stamp it had.
pub type LostField<'a> = (&'a str, Stamp);

/// The decision about a row.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// It stays as it is.
    Whole,
    /// It stays without these fields.
    Without(Vec<LostField<'a>>),
    /// It goes, and had these fields.
    Gone(Vec<LostField<'a>>),
}

impl RowWrites {
    /// Reads a row. `is_protected`: true if it stays whole, because it is younger than the horizon or claims future
    /// stamps.
    pub fn read(change: &StoredChange, is_protected: bool) -> Result<RowWrites, UnreadableChange> {
        let fields = change.fields()?;
        let deletes = fields.iter().any(|write| write.name == DELETED_AT && write.value != "null");
        let carriers = if change.op == Op::Insert { carriers(change)? } else { vec![] };
        let write = |write: super::merge::FieldWrite<'_>| Write {
            length: write.value.len(),
            name: write.name.into_owned(),
            stamp: write.stamp,
        };
        let writes = fields.into_iter().map(write).collect();
        Ok(RowWrites { at: change.at, op: change.op, is_protected, writes, deletes, carriers })
    }

    /// Returns the field that stays if none wins and one has to: the least significant.
    fn least(&self) -> Option<&str> {
        let cost = |write: &&Write| {
            let is_stamp = STAMP_MEMBERS.contains(&write.name.as_str());
            (!is_stamp, write.name == DELETED_AT, write.length)
        };
        self.writes.iter().min_by_key(cost).map(|write| write.name.as_str())
    }
}

/// Returns the members of an insert that tell its stamp: the one that carries it and, if clients look at another one
/// first, that one too, so that the change is sent in the same form as before.
fn carriers(change: &StoredChange) -> Result<Vec<&'static str>, UnreadableChange> {
    let data = change.data.as_deref().unwrap_or("{}");
    let members: InsertMembers<'_> =
        serde_json::from_str(data).map_err(|source| UnreadableChange { at: change.at, source })?;
    Ok(match members.carrier() {
        Some(carrier) if carrier.is_first => vec![carrier.name],
        Some(_) => STAMP_MEMBERS.to_vec(),
        None => vec![],
    })
}

/// A deliberate error, so that tests can show that they would notice it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// Sometimes the winner goes as well.
    DropsWinner,
    /// Of equal stamps the one stored first wins.
    TakesFirstOfTies,
    /// A record's first row goes like any other.
    DropsFirstRow,
    /// Deletes are not marked after rows of their record have gone.
    ForgetsMarks,
}

/// Trims the rows of one record in two passes: [`note`](RecordTrim::note) every row in log order, then ask for the
/// [`verdict`](RecordTrim::verdict) on each.
#[derive(Debug, Default)]
pub struct RecordTrim {
    winners: HashMap<String, Rank>,
    /// Approximate memory of the winners in bytes.
    bytes: usize,
    /// The position of its first row, and of the first one that creates the record.
    first: Option<i64>,
    first_known: Option<i64>,
    /// The best write of `deletedAt` that readers from the beginning do not ignore.
    heeded_delete: Option<Rank>,
    /// True if the winner of `deletedAt` deletes the record.
    is_deleted: bool,
    is_purged: bool,
    has_deletes: bool,
    flaw: Option<Flaw>,
}

impl RecordTrim {
    /// Creates an instance without rows; tests may add a flaw.
    pub fn new(flaw: Option<Flaw>) -> RecordTrim {
        RecordTrim { flaw, ..RecordTrim::default() }
    }

    /// Notes the record's next row.
    pub fn note(&mut self, row: &RowWrites) {
        self.first.get_or_insert(row.at);
        match row.op {
            Op::Delete => self.has_deletes = true,
            Op::Insert | Op::Update => drop(self.first_known.get_or_insert(row.at)),
        }
        for write in &row.writes {
            let rank = (write.stamp, row.at);
            let is_delete = write.name == DELETED_AT;
            if is_delete && self.first_known.is_some() {
                self.heeded_delete = self.heeded_delete.max(Some(rank));
            }
            match self.winners.get_mut(&write.name) {
                Some(best) if rank < *best => continue,
                Some(best) if self.flaw == Some(Flaw::TakesFirstOfTies) && rank.0 == best.0 => continue,
                Some(best) => *best = rank,
                None => {
                    self.bytes += WINNER + write.name.len();
                    self.winners.insert(write.name.clone(), rank);
                }
            }
            if is_delete {
                self.is_deleted = row.deletes;
            }
        }
    }

    /// Approximate memory it takes, in bytes: it grows with the number of different fields.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Purges the record if it was deleted at or before this position. Called once all rows are noted.
    pub fn purge(&mut self, deleted_before: i64) {
        let deleted = self.winners.get(DELETED_AT).is_some_and(|(_, at)| *at <= deleted_before);
        self.is_purged = self.is_deleted && deleted;
    }

    /// True if the record's deletes are to be marked if any of its rows goes.
    pub fn marks_deletes(&self) -> bool {
        self.has_deletes && self.flaw != Some(Flaw::ForgetsMarks)
    }

    /// Returns the decision about one of the rows.
    pub fn verdict<'a>(&self, row: &'a RowWrites) -> Verdict<'a> {
        if row.is_protected {
            return Verdict::Whole;
        }
        let must_stay =
            (Some(row.at) == self.first || Some(row.at) == self.first_known) && self.flaw != Some(Flaw::DropsFirstRow);
        let wins = |write: &Write| self.wins(write, row.at) || (!must_stay && self.ties(write, row.at));
        let any_wins = row.writes.iter().any(wins);
        if !any_wins && !must_stay {
            return Verdict::Gone(row.writes.iter().map(|write| (write.name.as_str(), write.stamp)).collect());
        }
        let has_carrier = row.writes.iter().any(|write| row.carriers.contains(&write.name.as_str()));
        let least = if any_wins || has_carrier { None } else { row.least() };
        let stays = |write: &&Write| {
            wins(write) || row.carriers.contains(&write.name.as_str()) || least == Some(write.name.as_str())
        };
        let lost: Vec<_> =
            row.writes.iter().filter(|write| !stays(write)).map(|write| (write.name.as_str(), write.stamp)).collect();
        if lost.is_empty() { Verdict::Whole } else { Verdict::Without(lost) }
    }

    /// True if it has the winner's stamp.
    fn ties(&self, write: &Write, at: i64) -> bool {
        let winner = self.winners.get(&write.name);
        !self.is_purged
            && self.flaw != Some(Flaw::TakesFirstOfTies)
            && !self.drops(at)
            && write.stamp != Stamp::EPOCH
            && winner.is_some_and(|(stamp, _)| *stamp == write.stamp)
    }

    /// True if the flaw removes everything written at this position.
    fn drops(&self, at: i64) -> bool {
        self.flaw == Some(Flaw::DropsWinner) && at / Cursor::STEP % 5 == 0
    }

    fn wins(&self, write: &Write, at: i64) -> bool {
        let rank = (write.stamp, at);
        let is_delete = write.name == DELETED_AT;
        if self.is_purged && !is_delete {
            return false;
        }
        if self.drops(at) {
            return false;
        }
        self.winners.get(&write.name) == Some(&rank) || (is_delete && self.heeded_delete == Some(rank))
    }
}
