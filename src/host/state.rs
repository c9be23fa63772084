//! The directory in which upm keeps what one call must tell the next: `/var/lib/upm` for root, else `$XDG_STATE_HOME/upm`
//! or `~/.local/state/upm`.

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

/// Where it is. A variable that is empty or relative counts as unset, as the XDG base directory specification says.
#[must_use]
pub fn state_dir_path() -> Option<PathBuf> {
    if nix::unistd::geteuid().is_root() {
        return Some(PathBuf::from("/var/lib/upm"));
    }
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = variable("XDG_STATE_HOME").or_else(|| variable("HOME").map(|home| home.join(".local/state")))?;
    Some(base.join("upm"))
}

/// Opens it for reading, and makes what is missing of it (mode 0755 for root, 0700 for a user). No symbolic link is
/// followed, and every directory on the way belongs to root or to this user and can be written by its owner alone (root's
/// sticky directories excepted, but not as the last one).
///
/// # Errors
/// `ENOENT` where no variable says where it is; `EPERM` for a directory that others own or can write; `ELOOP` or `ENOTDIR`
/// for a link; what `openat(2)` and `mkdirat(2)` say.
pub fn open_state_dir() -> io::Result<OwnedFd> {
    open_at(&state_dir_path().ok_or(Errno::NOENT)?)
}

fn open_at(path: &Path) -> io::Result<OwnedFd> {
    let user = rustix::process::geteuid().as_raw();
    let mode = if user == 0 { Mode::from_raw_mode(0o755) } else { Mode::RWXU };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut here = rustix::fs::open("/", flags, Mode::empty())?;
    let mut sticky = false;
    for component in path.components() {
        let name: &OsStr = match component {
            Component::RootDir => continue,
            Component::Normal(name) => name,
            _ => return Err(Errno::INVAL.into()),
        };
        here = match rustix::fs::openat(&here, name, flags, Mode::empty()) {
            Err(Errno::NOENT) => {
                match rustix::fs::mkdirat(&here, name, mode) {
                    // Another call was faster.
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(errno) => return Err(errno.into()),
                }
                rustix::fs::openat(&here, name, flags, Mode::empty())?
            }
            other => other?,
        };
        let stat = rustix::fs::fstat(&here)?;
        sticky = stat.st_uid == 0 && stat.st_mode & 0o1000 != 0;
        if (stat.st_uid != 0 && stat.st_uid != user) || (stat.st_mode & 0o022 != 0 && !sticky) {
            return Err(Errno::PERM.into());
        }
    }
    if sticky || rustix::fs::fstat(&here)?.st_uid != user {
        return Err(Errno::PERM.into());
    }
    Ok(rustix::fs::openat(&here, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    /// Not in `/tmp`: what is there is below a sticky directory, which the path to a home is not.
    fn place() -> tempfile::TempDir {
        tempfile::tempdir_in("/var/tmp").unwrap()
    }

    #[test]
    fn it_is_made_with_what_is_missing_above() {
        let dir = place();
        let path = dir.path().join("a/b/upm");
        open_at(&path).unwrap();
        let expected = if nix::unistd::geteuid().is_root() { 0o755 } else { 0o700 };
        let umask = rustix::process::umask(Mode::empty());
        rustix::process::umask(umask);
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, expected & !umask.as_raw_mode());
        open_at(&path).unwrap();
    }

    #[test]
    fn what_others_could_have_placed_is_refused() {
        let dir = place();
        let errno = |path: &Path| open_at(path).unwrap_err().raw_os_error();
        std::fs::create_dir(dir.path().join("real")).unwrap();
        open_at(&dir.path().join("real/upm")).unwrap();
        symlink("real", dir.path().join("link")).unwrap();
        let refused = errno(&dir.path().join("link/upm"));
        assert!([nix::libc::ELOOP, nix::libc::ENOTDIR].map(Some).contains(&refused), "{refused:?}");
        symlink("real", dir.path().join("upm")).unwrap();
        assert!(errno(&dir.path().join("upm")).is_some());
        std::fs::create_dir(dir.path().join("open")).unwrap();
        std::fs::set_permissions(dir.path().join("open"), std::fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(errno(&dir.path().join("open/upm")), Some(nix::libc::EPERM));
        assert!(!dir.path().join("open/upm").exists(), "nothing was made there");
        assert_eq!(errno(Path::new("/tmp")), Some(nix::libc::EPERM), "whoever may write /tmp chose what is in it");
        if nix::unistd::geteuid().is_root() {
            std::fs::create_dir(dir.path().join("theirs")).unwrap();
            std::os::unix::fs::chown(dir.path().join("theirs"), Some(12345), None).unwrap();
            assert_eq!(errno(&dir.path().join("theirs/upm")), Some(nix::libc::EPERM));
        }
    }
}
