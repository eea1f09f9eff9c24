//! PostgreSQL's data folder: made once, checked at each start, freed from what a crash left running.

use std::{
    fs, io,
    os::unix::{
        fs::{DirBuilderExt as _, MetadataExt as _},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::Binaries;
use crate::{DevError, child, place::Account, wait};

/// The superuser, and the only user, of our clusters.
pub const SUPERUSER: &str = "postgres";

/// Makes `dir` ready for a start. The caller holds the lock that stands for it, so whatever runs
/// in it is left from a crash.
pub async fn prepare(binaries: &Binaries, dir: &Path, account: Option<Account>) -> Result<(), DevError> {
    match fs::read_to_string(dir.join("PG_VERSION")) {
        Ok(version) => {
            check_version(dir, &version, binaries)?;
            take_over(dir, account)?;
            stop_leftovers(dir).await
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => initdb(binaries, dir, account).await,
        Err(source) => Err(DevError::Io { action: format!("read the data folder {}", dir.display()), source }),
    }
}

fn check_version(dir: &Path, version: &str, binaries: &Binaries) -> Result<(), DevError> {
    let version = version.trim();
    if version == binaries.major().to_string() {
        return Ok(());
    }
    Err(DevError::DataDirectory {
        path: dir.to_owned(),
        problem: format!(
            "was made by PostgreSQL {version}, and {} has PostgreSQL {}; --reset starts afresh",
            binaries.folder().display(),
            binaries.major()
        ),
    })
}

/// The folder may have been made by an ordinary user, and we are root now.
fn take_over(dir: &Path, account: Option<Account>) -> Result<(), DevError> {
    let action = format!("give {} to PostgreSQL's user", dir.display());
    let Some(account) = account else {
        return Ok(());
    };
    let owner = fs::metadata(dir).map(|meta| meta.uid());
    match owner {
        Ok(uid) if uid == account.uid => Ok(()),
        _ => account.own(dir).map_err(DevError::io(action)),
    }
}

/// Into a folder beside it that is renamed when complete: an interrupted one is no half database.
async fn initdb(binaries: &Binaries, dir: &Path, account: Option<Account>) -> Result<(), DevError> {
    let occupied = fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some());
    if occupied {
        return Err(DevError::DataDirectory {
            path: dir.to_owned(),
            problem: "is neither empty nor a PostgreSQL data folder".into(),
        });
    }
    let new = beside(dir, ".new");
    let make = || {
        match fs::remove_dir_all(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs::DirBuilder::new().mode(0o700).create(&new)?;
        account.map_or(Ok(()), |account| account.own(&new))
    };
    make().map_err(DevError::io(format!("create {}", new.display())))?;
    let mut command = command(&binaries.program("initdb"), account);
    command.arg("-D").arg(&new).args(["-U", SUPERUSER, "--auth=trust", "--encoding=UTF8"]).args([
        "--locale=C",
        "--no-sync",
        "--no-instructions",
    ]);
    let finished = child::run(command).await.map_err(DevError::io("run initdb"))?;
    if !finished.status.success() {
        return Err(DevError::Tool { program: "initdb".into(), status: finished.status, output: finished.output });
    }
    fs::rename(&new, dir).map_err(DevError::io(format!("create {}", dir.display())))
}

/// One of PostgreSQL's programs, under the right user and untouched by our own PG* settings.
pub fn command(program: &Path, account: Option<Account>) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if name.starts_with("PG") || name.starts_with("LC_") || name == "LANG" {
            command.env_remove(name);
        }
    }
    command.env("LC_ALL", "C").current_dir("/");
    if let Some(account) = account {
        command.uid(account.uid).gid(account.gid);
    }
    command
}

/// `…/postgres` with `.log` becomes `…/postgres.log`.
pub fn beside(dir: &Path, suffix: &str) -> PathBuf {
    let mut name = dir.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    dir.with_file_name(name)
}

/// Stops the postmaster that `postmaster.pid` names if it really is one of this folder, and waits
/// until none of its processes is left: a new one can't start before.
pub async fn stop_leftovers(dir: &Path) -> Result<(), DevError> {
    const TIMEOUT: Duration = Duration::from_secs(10);
    let postmaster =
        fs::read_to_string(dir.join("postmaster.pid")).ok().and_then(|text| text.lines().next()?.trim().parse().ok());
    for signal in [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGKILL] {
        let running = processes(dir);
        if running.is_empty() {
            return Ok(());
        }
        for pid in running {
            if Some(pid) == postmaster || signal == Signal::SIGKILL {
                let _ = kill(Pid::from_raw(pid), signal);
            }
        }
        all_gone(dir, TIMEOUT).await;
    }
    if all_gone(dir, TIMEOUT).await {
        return Ok(());
    }
    Err(DevError::NotStopped { who: format!("what still runs in {}", dir.display()), within: TIMEOUT })
}

/// Whether none of its processes is left, or will be within `limit`.
pub async fn all_gone(dir: &Path, limit: Duration) -> bool {
    wait::until(limit, async || processes(dir).is_empty().then_some(())).await.is_some()
}

/// The PostgreSQL processes whose working directory this is, which is where PostgreSQL puts itself.
fn processes(dir: &Path) -> Vec<i32> {
    let here = |pid: &i32| {
        let process = PathBuf::from(format!("/proc/{pid}"));
        fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd == dir)
            && fs::read_to_string(process.join("comm")).is_ok_and(|name| name.trim() == "postgres")
    };
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(here)
        .collect()
}
