//! `mount_setattr(2)` (Linux 5.12), which neither nix nor rustix offers.

use super::check;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Read-only.
pub const RDONLY: u64 = libc::MOUNT_ATTR_RDONLY;
/// Set-id bits and file capabilities have no effect.
pub const NOSUID: u64 = libc::MOUNT_ATTR_NOSUID;
/// Device nodes cannot be opened.
pub const NODEV: u64 = libc::MOUNT_ATTR_NODEV;
/// Nothing can be executed.
pub const NOEXEC: u64 = libc::MOUNT_ATTR_NOEXEC;

/// Sets attributes of the mount (or detached tree) behind `fd`: `set` flags, private propagation, and an id mapping taken
/// from the user namespace `idmap` when given. With `recursive` all mounts below change as well.
///
/// # Errors
/// `EINVAL` where the file system has no id-mapping, `EPERM` without `CAP_SYS_ADMIN` over the mount.
pub fn set_attributes(fd: BorrowedFd<'_>, set: u64, idmap: Option<BorrowedFd<'_>>, recursive: bool) -> io::Result<()> {
    let mut attr = libc::mount_attr { attr_set: set, attr_clr: 0, propagation: libc::MS_PRIVATE, userns_fd: 0 };
    if let Some(userns) = idmap {
        attr.attr_set |= libc::MOUNT_ATTR_IDMAP;
        attr.userns_fd = userns.as_raw_fd() as u64;
    }
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a NUL-terminated literal, `attr` outlives the call and its size is passed with it.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw mut attr,
            size_of::<libc::mount_attr>(),
        )
    })?;
    Ok(())
}
