//! Directories and control files of the cgroup tree (cgroups(7); cgroup-v2.rst of the kernel).

use crate::units::Cpus;
use rustix::fs::{Mode, OFlags, fgetxattr, fstat, mkdirat, openat, statfs};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// `CGROUP2_SUPER_MAGIC` of linux/magic.h.
const MAGIC: u64 = 0x6367_7270;
/// Where cgroup v2 is mounted: alone, or beside version 1.
pub(super) const MOUNTS: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
/// Bytes read of a control file.
const FILE: usize = 4096;

/// A directory of the tree.
pub(super) struct Directory {
    pub(super) fd: OwnedFd,
    /// As `/proc/PID/cgroup` shows it.
    pub(super) path: PathBuf,
}

impl Directory {
    pub(super) fn open(mount: &str, path: &Path) -> rustix::io::Result<Directory> {
        let full = Path::new(mount).join(path.strip_prefix("/").unwrap_or(path));
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(Directory { fd: rustix::fs::open(full, flags, Mode::empty())?, path: path.to_path_buf() })
    }

    pub(super) fn child(&self, name: &str) -> rustix::io::Result<Directory> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(Directory { fd: openat(&self.fd, name, flags, Mode::empty())?, path: self.path.join(name) })
    }

    pub(super) fn file(&self, name: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        openat(&self.fd, name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
    }

    pub(super) fn read(&self, name: &str) -> rustix::io::Result<String> {
        read(self.file(name, OFlags::RDONLY)?.as_fd())
    }

    /// One write is one command.
    pub(super) fn write(&self, name: &str, text: &str) -> rustix::io::Result<()> {
        rustix::io::write(self.file(name, OFlags::WRONLY)?, text.as_bytes()).map(drop)
    }

    /// The root of the whole tree: only the root has no `cgroup.events`, and may hold processes and cgroups with controllers.
    pub(super) fn is_root(&self) -> bool {
        self.file("cgroup.events", OFlags::RDONLY).is_err_and(|error| error == Errno::NOENT)
    }

    pub(super) fn owned(&self, by: u32) -> bool {
        fstat(&self.fd).is_ok_and(|stat| stat.st_uid == by)
    }

    /// Only the owner and root can create anything in it.
    pub(super) fn closed(&self) -> bool {
        fstat(&self.fd).is_ok_and(|stat| stat.st_mode & 0o022 == 0)
    }

    fn marked(&self) -> bool {
        ["user.delegate", "trusted.delegate"].into_iter().any(|name| {
            let mut value = [0u8; 8];
            fgetxattr(&self.fd, name, &mut value).is_ok_and(|length| value[..length] == *b"1")
        })
    }

    /// Whether it was given to `caller`: it has the mark, or a user owns it and another owns `above`, which holds it.
    pub(super) fn delegated(&self, caller: u32, above: Option<&Directory>) -> bool {
        let given = || caller != 0 && above.is_none_or(|above| !above.owned(caller));
        self.owned(caller) && self.closed() && (self.marked() || given())
    }

    /// Whether `caller` may use it when no other process is in it. A user's service manager marks nothing (systemd 252), so
    /// ownership must do. Root, who owns everything, needs the mark.
    pub(super) fn usable(&self, caller: u32) -> bool {
        self.owned(caller) && self.closed() && (caller != 0 || self.marked())
    }

    /// Whether this process is the only one in it.
    pub(super) fn alone(&self) -> bool {
        self.read("cgroup.procs").is_ok_and(|inhabitants| inhabitants.trim_end() == std::process::id().to_string())
    }

    /// Creates a directory in it, or opens the one that exists.
    pub(super) fn make(&self, name: &str) -> rustix::io::Result<Directory> {
        match mkdirat(&self.fd, name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => self.child(name),
            Err(error) => Err(error),
        }
    }

    /// Which controllers of use here a file lists.
    pub(super) fn controllers(&self, file: &str) -> rustix::io::Result<Controllers> {
        let list = self.read(file)?;
        let has = |name| list.split_ascii_whitespace().any(|word| word == name);
        Ok(Controllers { memory: has("memory"), pids: has("pids"), cpu: has("cpu") })
    }

    /// Enables controllers for the cgroups in it.
    pub(super) fn enable(&self, wanted: Controllers) -> rustix::io::Result<()> {
        let on = self.controllers("cgroup.subtree_control")?;
        let missing = wanted.each().into_iter().zip(on.each()).filter(|((_, wanted), (_, on))| *wanted && !on);
        let words: Vec<String> = missing.map(|((name, _), _)| format!("+{name}")).collect();
        if words.is_empty() { Ok(()) } else { self.write("cgroup.subtree_control", &words.join(" ")) }
    }
}

/// Controllers of use here.
#[derive(Debug, Clone, Copy)]
pub(super) struct Controllers {
    pub(super) memory: bool,
    pub(super) pids: bool,
    pub(super) cpu: bool,
}

impl Controllers {
    /// As the kernel's files name them.
    fn each(self) -> [(&'static str, bool); 3] {
        [("memory", self.memory), ("pids", self.pids), ("cpu", self.cpu)]
    }

    /// Itself, unless it is empty.
    pub(super) fn any(self) -> Option<Self> {
        self.each().iter().any(|(_, here)| *here).then_some(self)
    }

    /// What a call enables: more groups cost the scheduler time, so `cpu` only where `cpus` is granted.
    pub(super) fn used(self, cpus: Option<Cpus>) -> Self {
        Controllers { cpu: self.cpu && cpus.is_some(), ..self }
    }
}

/// The first bytes of a control file.
pub(super) fn read(file: BorrowedFd<'_>) -> rustix::io::Result<String> {
    let mut buffer = [0u8; FILE];
    let length = rustix::io::pread(file, &mut buffer, 0)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

/// A number of a file of `name number` lines.
pub(super) fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?.trim_end().parse().ok()
}

/// Where cgroup v2 is mounted.
pub(super) fn mounted() -> Option<&'static str> {
    MOUNTS.into_iter().find(|mount| statfs(*mount).is_ok_and(|file_system| file_system.f_type as u64 == MAGIC))
}
