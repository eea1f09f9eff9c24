//! PostgreSQL's data folder: created once, checked at each start, and cleared of processes left by a crash.

use std::{
    fs, io,
    os::unix::{
        fs::{DirBuilderExt as _, MetadataExt as _},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::Binaries;
use crate::{DevError, child::run_tool, place::Account, wait};

/// The superuser, and only user, of our clusters.
pub const SUPERUSER: &str = "postgres";

/// Prepares `dir` for a start. The caller holds the folder's lock, so any process in it is left from a crash.
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
            "was created by PostgreSQL {version}, but {} has PostgreSQL {}; --reset starts over",
            binaries.folder().display(),
            binaries.major()
        ),
    })
}

/// Takes over a folder that was created by an ordinary user, if we are root now.
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

/// True if the data folder `dir` was made by the major version of these programs.
pub fn is_of(dir: &Path, binaries: &Binaries) -> Result<bool, DevError> {
    let version = fs::read_to_string(dir.join("PG_VERSION"));
    let version = version.map_err(DevError::io(format!("read the data folder {}", dir.display())))?;
    Ok(version.trim() == binaries.major().to_string())
}

/// Copies a data folder that no server uses, with its owner.
pub async fn copy(from: &Path, to: &Path) -> Result<(), DevError> {
    let mut command = Command::new("cp");
    command.args(["-a", "--reflink=auto"]).arg(from).arg(to);
    run_tool(command).await
}

/// Creates it in a neighbouring folder that is renamed when complete, so an interrupted run leaves no partial database.
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
    run_tool(command).await?;
    fs::rename(&new, dir).map_err(DevError::io(format!("create {}", dir.display())))
}

/// Creates a command for one of PostgreSQL's programs, under the right user and without our own PG* settings.
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

/// Stops the postmaster named by `postmaster.pid` if it really is one of this folder, and waits until none of its
/// processes is left: a new one can't start before that.
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

/// Stops all processes of a server before it kills the first: none sees another end. If the postmaster were killed
/// alone, transactions that wait for a synchronous standby would give that up and become visible for a moment, although
/// the standby may never have them.
pub fn kill_at_once(dir: &Path) {
    for signal in [Signal::SIGSTOP, Signal::SIGKILL] {
        for pid in processes(dir) {
            // It may have ended by itself.
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }
}

/// Removes the shared memory of a server that was killed. A restart does that too, but some are never restarted, and a
/// machine has 4096 of these segments.
pub fn free_shared_memory(dir: &Path) {
    if let Some(segment) = shared_memory(dir) {
        // It may be gone already, and there is nobody to tell.
        let _ = Command::new("ipcrm").args(["-m", &segment]).stderr(Stdio::null()).status();
    }
}

/// Returns the id of the System V segment that is noted in `postmaster.pid`: the second word of the seventh line. A
/// server that stops by itself removes that file.
fn shared_memory(dir: &Path) -> Option<String> {
    let noted = fs::read_to_string(dir.join("postmaster.pid")).ok()?;
    noted.lines().nth(6)?.split_whitespace().nth(1).map(str::to_owned)
}

/// True if none of its processes is left, or will be within `limit`.
pub async fn all_gone(dir: &Path, limit: Duration) -> bool {
    wait::until(limit, async || processes(dir).is_empty().then_some(())).await.is_some()
}

/// Returns the PostgreSQL processes whose working directory is this folder, which is where PostgreSQL runs.
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
