//! The account that runs PostgreSQL, and where its files can be.
//!
//! PostgreSQL refuses to run as root. For root it runs as `postgres`, or else as `nobody`, and that account has to be
//! able to enter every folder above its files, which it can't below a private home.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, lchown},
    path::{Component, Path, PathBuf},
};

use nix::unistd::{User, geteuid};
use sha2::{Digest as _, Sha256};

use super::DevError;

/// Alternative places for files that can't be where requested: the first one that is writable.
const ELSEWHERE: [&str; 2] = ["/var/lib/mana-sync-dev", "/var/tmp/mana-sync-dev"];

/// The folder of the local cluster's data, its key, and a fetched PostgreSQL.
pub fn default_folder() -> PathBuf {
    PathBuf::from(".dev")
}

/// The unprivileged account that PostgreSQL runs under when we are root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account {
    /// Its user id.
    pub uid: u32,
    /// Its group id.
    pub gid: u32,
}

impl Account {
    /// None if we aren't root: then PostgreSQL runs as ourselves.
    pub fn for_postgres() -> Result<Option<Self>, DevError> {
        if !geteuid().is_root() {
            return Ok(None);
        }
        for name in ["postgres", "nobody"] {
            let user = User::from_name(name)
                .map_err(|errno| DevError::io(format!("look up the user {name}"))(errno.into()))?;
            if let Some(user) = user {
                return Ok(Some(Self { uid: user.uid.as_raw(), gid: user.gid.as_raw() }));
            }
        }
        Err(DevError::Usage("PostgreSQL refuses to run as root, and there is no user postgres or nobody".into()))
    }

    /// True if it may enter a folder or execute a file at `path`, going by owner and mode.
    fn may_execute(self, path: &Path) -> io::Result<bool> {
        let meta = fs::metadata(path)?;
        let bit = if meta.uid() == self.uid {
            0o100
        } else if meta.gid() == self.gid {
            0o010
        } else {
            0o001
        };
        Ok(meta.mode() & bit != 0)
    }

    /// True if it can reach and execute the file, or reach and enter the folder.
    pub fn can_reach(self, path: &Path) -> bool {
        let Ok(real) = path.canonicalize() else {
            return false;
        };
        real.ancestors().all(|part| self.may_execute(part).unwrap_or(false))
    }

    /// Gives a folder and everything in it to this account.
    pub fn own(self, path: &Path) -> io::Result<()> {
        lchown(path, Some(self.uid), Some(self.gid))?;
        if fs::symlink_metadata(path)?.is_dir() {
            for entry in fs::read_dir(path)? {
                self.own(&entry?.path())?;
            }
        }
        Ok(())
    }
}

/// Returns `wanted` made absolute, if PostgreSQL can use a folder there; else another place, always the same for the
/// same `wanted`. The parent folder of the result exists afterwards.
pub fn reachable(wanted: &Path, account: Option<Account>) -> Result<PathBuf, DevError> {
    let wanted = absolute(wanted)?;
    let parent = wanted.parent().unwrap_or(&wanted);
    create(parent)?;
    let Some(account) = account else {
        return Ok(wanted);
    };
    if account.can_reach(parent) {
        return Ok(wanted);
    }
    let key = Sha256::digest(wanted.as_os_str().as_encoded_bytes());
    let key: String = key.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    for base in ELSEWHERE {
        if let Ok(folder) = private_to_root(Path::new(base), &key)
            && account.can_reach(&folder)
        {
            let name = wanted.file_name().unwrap_or_default();
            return Ok(folder.join(name));
        }
    }
    Err(DevError::DataDirectory {
        path: wanted,
        problem: format!(
            "the user that PostgreSQL runs under can't get there, nor to {}; choose another \
             folder with --data-dir",
            ELSEWHERE.join(" or ")
        ),
    })
}

/// Creates folders that only root may change but all may enter; refuses anything that another user put there.
fn private_to_root(base: &Path, key: &str) -> io::Result<PathBuf> {
    let folder = base.join(key);
    for part in [base, &folder] {
        match fs::create_dir(part) {
            Ok(()) => fs::set_permissions(part, fs::Permissions::from_mode(0o755))?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        let meta = fs::symlink_metadata(part)?;
        if !meta.is_dir() || meta.uid() != 0 || meta.mode() & 0o022 != 0 {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
    }
    Ok(folder)
}

/// Makes a path absolute and resolves symbolic links in its existing part, so that one place has one name.
fn absolute(path: &Path) -> Result<PathBuf, DevError> {
    let full = std::path::absolute(path).map_err(DevError::io(format!("find the folder {}", path.display())))?;
    let mut known = PathBuf::new();
    for part in full.components() {
        match part {
            Component::ParentDir => {
                known.pop();
            }
            other => known.push(other),
        }
        if let Ok(real) = known.canonicalize() {
            known = real;
        }
    }
    Ok(known)
}

/// Creates a folder and its missing parents.
pub fn create(folder: &Path) -> Result<(), DevError> {
    fs::create_dir_all(folder).map_err(DevError::io(format!("create {}", folder.display())))
}

/// Lets everybody enter a folder of ours, whatever our umask is.
pub fn open_folder(folder: &Path) -> Result<(), DevError> {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))
        .map_err(DevError::io(format!("open {} to PostgreSQL's user", folder.display())))
}
