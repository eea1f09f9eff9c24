//! Fetches packages from the npm registry with npm itself, which knows the user's mirrors and proxies.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{DevError, child};

/// Fetches a package and unpacks it below `work`, which exists and is empty. Returns the folder of its files.
pub async fn unpack(package: &str, work: &Path) -> Result<PathBuf, DevError> {
    let mut pack = Command::new("npm");
    pack.args(["pack", "--silent", package]).current_dir(work);
    tool(pack).await?;
    let archive = find(work, "tgz")?;
    let mut untar = Command::new("tar");
    untar.arg("-xzf").arg(&archive).arg("-C").arg(work);
    tool(untar).await?;
    let action = format!("remove {}", archive.display());
    fs::remove_file(archive).map_err(DevError::io(action))?;
    Ok(work.join("package"))
}

/// Runs a program to its end; its output is reported if it fails.
pub(crate) async fn tool(command: Command) -> Result<(), DevError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let finished = child::run(command).await.map_err(DevError::io(format!("run {program}")))?;
    if finished.status.success() {
        return Ok(());
    }
    Err(DevError::Tool { program, status: finished.status, output: finished.output })
}

/// Finds the file with this extension in a folder.
pub(crate) fn find(folder: &Path, extension: &str) -> Result<PathBuf, DevError> {
    let action = format!("find what was downloaded to {}", folder.display());
    let entries = fs::read_dir(folder).map_err(DevError::io(action.clone()))?;
    entries
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|found| found == extension))
        .ok_or_else(|| DevError::io(action)(std::io::ErrorKind::NotFound.into()))
}
