//! Why somebody other than root and one user could change an object: its owner, its mode, its file system.
#![forbid(unsafe_code)]

use rustix::fs::{FileType, Stat};
use std::os::fd::{AsFd, OwnedFd};

/// `f_type` of a file system that a process implements (statfs(2)).
const FUSE: i64 = 0x6573_5546;

/// Why somebody other than root and the calling user could change an object, or replace what is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Flaw {
    /// It belongs to another user.
    Owner {
        /// The user.
        uid: u32,
        /// It is a symbolic link.
        link: bool,
    },
    /// Its mode allows others to write.
    Mode {
        /// Its permission bits.
        mode: u32,
        /// Its group.
        gid: u32,
    },
    /// Its file system is a process of another user, who controls the contents.
    Fuse {
        /// Who mounted it; `None` if unknown.
        uid: Option<u32>,
    },
}

/// Whether others may add entries to this directory but not replace each other's.
pub(super) fn is_root_sticky(stat: &Stat) -> bool {
    stat.st_uid == 0 && stat.st_mode & 0o1000 != 0 && FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

/// Why somebody other than root and `user` could put entries into a directory. The mode of a user's directory is that user's
/// decision; in root's, nobody else may write.
pub(super) fn placing_flaw(stat: &Stat, user: u32) -> Option<Flaw> {
    object_flaw(stat, user).filter(|flaw| user == 0 || !matches!(flaw, Flaw::Mode { .. }))
}

/// Why somebody other than root and `uid` could change the object. POSIX ACLs need no extra check: the group bits of a file
/// with an ACL are the ACL's mask (acl(5)), so an entry can grant writing only if these bits do.
///
/// `None` for sockets, pipes and devices: users of this function refuse them anyway.
pub(crate) fn object_flaw(stat: &Stat, uid: u32) -> Option<Flaw> {
    let kind = FileType::from_raw_mode(stat.st_mode);
    let link = kind == FileType::Symlink;
    if !link && !matches!(kind, FileType::Directory | FileType::RegularFile) {
        return None;
    }
    if stat.st_uid != 0 && stat.st_uid != uid {
        return Some(Flaw::Owner { uid: stat.st_uid, link });
    }
    // A link has no permissions of its own.
    (!link && stat.st_mode & 0o022 != 0).then_some(Flaw::Mode { mode: stat.st_mode & 0o7777, gid: stat.st_gid })
}

/// Whether the object's file system is a process of somebody other than root and `uid`.
pub(super) fn foreign_fuse(fd: &OwnedFd, uid: u32) -> Option<Flaw> {
    let fuse = rustix::fs::fstatfs(fd).map_or(true, |system| system.f_type == FUSE);
    if !fuse {
        return None;
    }
    let owner = crate::mounts::of(fd.as_fd()).ok().and_then(|mount| mount.fuse_user());
    (owner != Some(0) && owner != Some(uid)).then_some(Flaw::Fuse { uid: owner })
}
