//! The files of a run: the JSON with everything, the page that shows it, and the JUnit XML for CI.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::html;
use super::junit::junit;
use super::model::{Report, SCHEMA_VERSION};

/// The reasons why a report could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("{} could not be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// It cannot be written.
    #[error("{} could not be written", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// It is not a report.
    #[error("{} is not a report", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: serde_json::Error,
    },
    /// Its name is that of its page.
    #[error("{} is the name of the page next to it; choose one that ends in .json", path.display())]
    Name {
        /// The file.
        path: PathBuf,
    },
    /// It is a report of another version.
    #[error("{} has schema version {found}, and this program reads {SCHEMA_VERSION}", path.display())]
    Schema {
        /// The file.
        path: PathBuf,
        /// The version.
        found: u32,
    },
}

/// What reports of all versions have in common.
#[derive(Deserialize)]
struct AnyReport {
    #[serde(default)]
    schema_version: u32,
}

/// Reads a run's JSON.
pub fn read(path: &Path) -> Result<Report, FileError> {
    let text = fs::read(path).map_err(|source| FileError::Read { path: path.to_owned(), source })?;
    let malformed = |source| FileError::Json { path: path.to_owned(), source };
    // Its version first: the rest may have changed in another one.
    let any: AnyReport = serde_json::from_slice(&text).map_err(malformed)?;
    match any.schema_version {
        SCHEMA_VERSION => serde_json::from_slice(&text).map_err(malformed),
        found => Err(FileError::Schema { path: path.to_owned(), found }),
    }
}

/// Writes `path` and, next to it, with the same name, the page (`.html`) and the report for CI systems (`.junit.xml`);
/// returns the page's path. Folders are created.
pub fn write(report: &Report, path: &Path) -> Result<PathBuf, FileError> {
    let page = path.with_extension("html");
    if page == path {
        return Err(FileError::Name { path: page });
    }
    let json = serde_json::to_vec(report).map_err(|source| FileError::Json { path: path.to_owned(), source })?;
    write_text(path, &json)?;
    write_text(&page, html::page(report).as_bytes())?;
    write_text(&path.with_extension("junit.xml"), junit(report).as_bytes())?;
    Ok(page)
}

/// Writes a file, creating its folders.
pub fn write_text(path: &Path, text: &[u8]) -> Result<(), FileError> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let made = folder.map_or(Ok(()), fs::create_dir_all);
    made.and_then(|()| fs::write(path, text)).map_err(|source| FileError::Write { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_a_report_is_refused() {
        let folder = std::env::temp_dir().join(format!("mana-load-files-{}", std::process::id()));
        let path = folder.join("deep").join("run.json");
        assert!(matches!(read(&path), Err(FileError::Read { .. })));
        write_text(&path, b"{}").unwrap();
        assert!(matches!(read(&path), Err(FileError::Schema { found: 0, .. })));
        write_text(&path, b"[").unwrap();
        assert!(matches!(read(&path), Err(FileError::Json { .. })));
        write_text(&path, br#"{"schema_version":1000,"operations":{}}"#).unwrap();
        assert!(matches!(read(&path), Err(FileError::Schema { found: 1000, .. })), "of whatever form the rest is");
        let report = Report { schema_version: SCHEMA_VERSION, ..Report::default() };
        assert!(matches!(write(&report, &path.with_extension("html")), Err(FileError::Name { .. })));
        let page = write(&report, &path).unwrap();
        assert_eq!(read(&path).unwrap(), report);
        assert!(fs::read_to_string(path.with_extension("junit.xml")).unwrap().starts_with("<?xml"));
        assert!(fs::read_to_string(&page).unwrap().starts_with("<!DOCTYPE html>"));
        fs::remove_dir_all(folder).unwrap();
    }
}
