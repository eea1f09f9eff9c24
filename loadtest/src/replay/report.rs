//! The outcome of a replay, as values for tests and as a table for people.

use std::fmt;
use std::time::Duration;

use crate::replay::verdict::Finding;
use crate::transport::Stats;

/// One history, replayed as one user.
#[derive(Clone, Debug)]
pub struct FileReport {
    /// Its name.
    pub name: String,
    /// The user.
    pub user: String,
    /// The app.
    pub app: String,
    /// The number of devices of the history, without the readers.
    pub devices: usize,
    /// The number of lines of the history.
    pub lines: usize,
    /// The number of changes in the file, each of which was answered with 200.
    pub sent: usize,
    /// The number of rows in the database, if it was queried.
    pub stored: Option<usize>,
    /// The number of changes received over the stream.
    pub streamed: usize,
    /// The number of times the stream was reopened.
    pub reconnects: usize,
    /// The number of records that everyone holds in the end.
    pub records: usize,
    /// The measurements of all devices and readers together.
    pub stats: Stats,
    /// The time from the first push to the last answer, without the comparison.
    pub duration: Duration,
    /// Empty if all is well.
    pub findings: Vec<Finding>,
}

/// All histories of a replay.
#[derive(Clone, Debug)]
pub struct ReplayReport {
    /// Each history, for each user it was replayed as.
    pub files: Vec<FileReport>,
    /// The duration of the whole replay.
    pub duration: Duration,
}

impl ReplayReport {
    /// True if everyone holds the same records and everything was stored once.
    pub fn is_good(&self) -> bool {
        self.files.iter().all(|file| file.findings.is_empty())
    }
}

impl FileReport {
    fn cells(&self) -> [String; 14] {
        let quantile = |q: f64| {
            let micros = self.stats.pushes.value_at_quantile(q);
            format!("{:.1} ms", Duration::from_micros(micros).as_secs_f64() * 1_000.0)
        };
        [
            self.name.clone(),
            self.devices.to_string(),
            self.lines.to_string(),
            self.sent.to_string(),
            self.stored.map_or("not asked".to_owned(), |rows| rows.to_string()),
            self.streamed.to_string(),
            self.records.to_string(),
            self.stats.requests.to_string(),
            self.stats.retries.to_string(),
            self.stats.resent.to_string(),
            quantile(0.5),
            quantile(0.99),
            format!("{:.1} s", self.duration.as_secs_f64()),
            if self.findings.is_empty() { "equal".to_owned() } else { "DIFFERENT".to_owned() },
        ]
    }
}

const TITLES: [&str; 14] = [
    "history",
    "devices",
    "lines",
    "changes",
    "stored",
    "streamed",
    "records",
    "requests",
    "retries",
    "sent twice",
    "push p50",
    "push p99",
    "took",
    "everyone",
];

impl fmt::Display for ReplayReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows: Vec<[String; 14]> = self.files.iter().map(FileReport::cells).collect();
        let width = |column: usize| {
            let cells = rows.iter().map(|row| row[column].len());
            cells.chain([TITLES[column].len()]).max().unwrap_or_default()
        };
        let titles = TITLES.map(str::to_owned);
        for row in std::iter::once(&titles).chain(&rows) {
            write!(f, "{:<1$}", row[0], width(0))?;
            for (column, cell) in row.iter().enumerate().skip(1) {
                write!(f, "  {cell:>0$}", width(column))?;
            }
            writeln!(f)?;
        }
        for file in self.files.iter().filter(|file| !file.findings.is_empty()) {
            writeln!(f, "\n{} (user {}), the first differences:", file.name, file.user)?;
            file.findings.iter().try_for_each(|finding| writeln!(f, "  {finding}"))?;
        }
        Ok(())
    }
}
