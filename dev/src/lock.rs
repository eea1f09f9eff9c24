//! Locks a folder for one user at a time. The kernel releases the lock when its holder ends, however it ends.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{Read as _, Seek as _, Write as _},
    path::Path,
};

use super::DevError;

/// The lock, held as long as this value lives.
#[derive(Debug)]
pub struct FolderLock {
    _file: File,
}

impl FolderLock {
    /// Takes the lock `file` for `folder`, or reports the process that holds it.
    pub fn take(file: &Path, folder: &Path) -> Result<Self, DevError> {
        let mut handle = open(file)?;
        match handle.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(DevError::InUse { folder: folder.to_owned(), holder: holder(&mut handle) });
            }
            Err(TryLockError::Error(source)) => {
                return Err(DevError::Io { action: format!("lock {}", file.display()), source });
            }
        }
        write_pid(&mut handle).map_err(DevError::io(format!("write {}", file.display())))?;
        Ok(Self { _file: handle })
    }

    /// Waits for the lock, without a limit: for work that another process does for us.
    pub async fn wait_for(file: &Path) -> Result<Self, DevError> {
        let handle = open(file)?;
        let action = format!("lock {}", file.display());
        loop {
            match handle.try_lock() {
                Ok(()) => return Ok(Self { _file: handle }),
                Err(TryLockError::WouldBlock) => {
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
                Err(TryLockError::Error(source)) => return Err(DevError::Io { action, source }),
            }
        }
    }
}

fn open(file: &Path) -> Result<File, DevError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(file)
        .map_err(DevError::io(format!("open {}", file.display())))
}

fn holder(handle: &mut File) -> Option<u32> {
    let mut text = String::new();
    handle.read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

fn write_pid(handle: &mut File) -> std::io::Result<()> {
    handle.set_len(0)?;
    handle.rewind()?;
    writeln!(handle, "{}", std::process::id())
}
