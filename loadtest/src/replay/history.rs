//! Edit histories: one JSON object per line with `appId`, `clientId` and `changes`; the lines are in the order of
//! arrival, their stamps are not.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use serde::Deserialize;

use crate::protocol::{Change, Op};

/// Table and id of a record.
pub type RecordKey = (String, String);

/// The reasons why a file is not a history. Lines count from 1.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    #[error("cannot read {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{path}, line {line}: not appId, clientId and changes")]
    Line {
        path: PathBuf,
        line: usize,
        #[source]
        source: serde_json::Error,
    },
    #[error("{path}, line {line}: deletes {table}/{id}, which no earlier line creates")]
    DeletesNothing { path: PathBuf, line: usize, table: String, id: String },
    #[error("{path}, line {line}: another app than the lines before it; a file is one app of one user")]
    OtherApp { path: PathBuf, line: usize },
    #[error("{path} is empty")]
    Empty { path: PathBuf },
}

/// One push of one device.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Line {
    pub app_id: String,
    pub client_id: String,
    pub changes: Vec<Change>,
}

impl Line {
    /// Returns the records that this line changes without creating them itself.
    pub fn needs(&self) -> Vec<RecordKey> {
        let mut created = BTreeSet::new();
        let mut needs = Vec::new();
        for change in &self.changes {
            let key = (change.table.clone(), change.id.clone());
            if matches!(change.op, Op::Insert { .. }) {
                created.insert(key);
            } else if !created.contains(&key) && !needs.contains(&key) {
                needs.push(key);
            }
        }
        needs
    }

    /// Returns the records that this line creates.
    pub fn creates(&self) -> impl Iterator<Item = RecordKey> {
        let inserts = self.changes.iter().filter(|change| matches!(change.op, Op::Insert { .. }));
        inserts.map(|change| (change.table.clone(), change.id.clone()))
    }
}

/// A whole file.
#[derive(Clone, Debug)]
pub struct History {
    /// The file's name up to its first dot.
    pub name: String,
    pub app: String,
    pub lines: Vec<Line>,
    pub tables: BTreeSet<String>,
    /// The indexes in `lines` of each device's lines, in order.
    pub devices: BTreeMap<String, Vec<usize>>,
    /// The index of the first line that creates a record.
    pub created: HashMap<RecordKey, usize>,
}

impl History {
    /// Reads a file; one that ends in `.gz` is decompressed.
    pub fn read(path: &Path) -> Result<Self, HistoryError> {
        let failed = |source| HistoryError::Read { path: path.to_owned(), source };
        let file = File::open(path).map_err(failed)?;
        let unpacked: Box<dyn Read> = match path.extension().is_some_and(|extension| extension == "gz") {
            true => Box::new(MultiGzDecoder::new(file)),
            false => Box::new(file),
        };
        let mut lines = Vec::new();
        for (index, text) in BufReader::new(unpacked).lines().enumerate() {
            let text = text.map_err(failed)?;
            if text.trim().is_empty() {
                continue;
            }
            let invalid = |source| HistoryError::Line { path: path.to_owned(), line: index + 1, source };
            lines.push(serde_json::from_str(&text).map_err(invalid)?);
        }
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let name = name.split('.').next().unwrap_or_default().to_owned();
        Self::from_lines(name, lines, path)
    }

    fn from_lines(name: String, lines: Vec<Line>, path: &Path) -> Result<Self, HistoryError> {
        let Some(app) = lines.first().map(|line| line.app_id.clone()) else {
            return Err(HistoryError::Empty { path: path.to_owned() });
        };
        let (mut tables, mut devices, mut created) = (BTreeSet::new(), BTreeMap::<_, Vec<_>>::new(), HashMap::new());
        for (index, line) in lines.iter().enumerate() {
            let (path, number) = (path.to_owned(), index + 1);
            if line.app_id != app {
                return Err(HistoryError::OtherApp { path, line: number });
            }
            devices.entry(line.client_id.clone()).or_default().push(index);
            for change in &line.changes {
                tables.insert(change.table.clone());
                let key = (change.table.clone(), change.id.clone());
                if matches!(change.op, Op::Insert { .. }) {
                    created.entry(key).or_insert(index);
                } else if matches!(change.op, Op::Delete { .. }) && !created.contains_key(&key) {
                    return Err(HistoryError::DeletesNothing { path, line: number, table: key.0, id: key.1 });
                }
            }
        }
        Ok(Self { name, app, lines, tables, devices, created })
    }

    /// The number of changes in the file.
    pub fn changes(&self) -> usize {
        self.lines.iter().map(|line| line.changes.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn history(lines: serde_json::Value) -> Result<History, HistoryError> {
        History::from_lines("test".to_owned(), serde_json::from_value(lines).unwrap(), Path::new("test"))
    }

    fn line(device: &str, id: &str, op: &str) -> serde_json::Value {
        let change = json!({"table": "t", "id": id, "op": op, "data": {}, "fields": {}});
        json!({"appId": "a", "clientId": device, "changes": [change]})
    }

    #[test]
    fn a_line_needs_what_it_does_not_create_itself() {
        let history = history(json!([line("d", "r", "insert"), line("e", "r", "update")])).unwrap();
        assert!(history.lines[0].needs().is_empty());
        assert_eq!(history.lines[1].needs(), [("t".to_owned(), "r".to_owned())]);
        assert_eq!(history.created[&("t".to_owned(), "r".to_owned())], 0);
        assert_eq!(history.devices.len(), 2);
    }

    #[test]
    fn a_delete_of_nothing_would_be_waited_for_for_ever() {
        let deletes = history(json!([line("d", "r", "delete"), line("d", "r", "insert")]));
        assert!(matches!(deletes, Err(HistoryError::DeletesNothing { line: 1, .. })));
    }

    #[test]
    fn the_histories_of_the_repository_are_readable() {
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("data");
        let engine = History::read(&data.join("edits-engine.jsonl.gz")).unwrap();
        let registry = History::read(&data.join("edits-registry.jsonl.gz")).unwrap();
        assert_eq!((engine.lines.len(), engine.devices.len(), engine.changes()), (440, 18, 1_355));
        assert_eq!((registry.lines.len(), registry.devices.len(), registry.changes()), (3_941, 41, 4_175));
    }
}
