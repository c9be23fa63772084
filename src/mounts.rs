//! Where an object is in its file system, independent of the mounts that show it: `/proc/self/mountinfo`
//! (proc_pid_mountinfo(5)).
//!
//! A bind mount gives a directory a second name. So [`Spot`]s are compared instead of names: the file system and the path in it.
#![forbid(unsafe_code)]

use rustix::fs::{AtFlags, StatxFlags, statx};
use std::ffi::OsString;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// Limit for the mount table's bytes: room for some 100 000 mounts, the kernel's own limit (`fs.mount-max`).
const MAX_BYTES: u64 = 64 << 20;

/// A place in a file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spot {
    /// Major and minor number of the file system, as in the mount table.
    device: Vec<u8>,
    /// Relative to the file system's own root.
    path: PathBuf,
}

impl Spot {
    /// Whether `other` is this place or inside it.
    #[must_use]
    pub fn holds(&self, other: &Spot) -> bool {
        self.device == other.device && other.path.starts_with(&self.path)
    }
}

/// One mount of this process's mount namespace.
#[derive(Debug, Clone)]
pub struct Mount {
    id: u64,
    parent: u64,
    device: Vec<u8>,
    root: PathBuf,
    point: PathBuf,
    options: Vec<u8>,
    file_system: Vec<u8>,
    source: Vec<u8>,
    super_options: Vec<u8>,
}

impl Mount {
    fn parse(line: &[u8]) -> Option<Mount> {
        let mut words = line.split(|byte| *byte == b' ');
        let mut word = || words.next();
        let number = |word: &[u8]| std::str::from_utf8(word).ok()?.parse().ok();
        let (id, parent) = (number(word()?)?, number(word()?)?);
        let device = word()?.to_vec();
        let (root, point) = (unescape(word()?), unescape(word()?));
        let options = word()?.to_vec();
        // A hyphen ends the optional fields.
        let mut after = words.skip_while(|word| *word != b"-").skip(1);
        let file_system = after.next()?.to_vec();
        let (source, super_options) = (after.next()?.to_vec(), after.next()?.to_vec());
        Some(Mount { id, parent, device, root, point, options, file_system, source, super_options })
    }

    /// Its number, as in `STATX_MNT_ID` (statx(2)).
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Its mount point.
    #[must_use]
    pub fn point(&self) -> &Path {
        &self.point
    }

    /// Whether it has a mount option, such as `ro` (mount(8), "FILESYSTEM-INDEPENDENT MOUNT OPTIONS").
    #[must_use]
    pub fn has(&self, option: &str) -> bool {
        self.options.split(|byte| *byte == b',').any(|one| one == option.as_bytes())
    }

    /// The type of its file system (filesystems(5)).
    #[must_use]
    pub fn file_system(&self) -> &[u8] {
        &self.file_system
    }

    /// The mounted source: a device, or `server:/export`.
    #[must_use]
    pub fn source(&self) -> &[u8] {
        &self.source
    }

    /// The part of its file system that it shows.
    #[must_use]
    pub fn shows(&self) -> Spot {
        Spot { device: self.device.clone(), path: self.root.clone() }
    }

    /// The user who mounted a FUSE file system (`user_id=`, fuse(4)).
    #[must_use]
    pub fn fuse_user(&self) -> Option<u32> {
        // The last one: the security module's options before it can contain text of that user.
        let option = self.super_options.rsplit(|byte| *byte == b',').find_map(|one| one.strip_prefix(b"user_id="))?;
        std::str::from_utf8(option).ok()?.parse().ok()
    }

    /// The place of `path` in the file system; `path` must be in this mount.
    pub(crate) fn spot(&self, path: &Path) -> io::Result<Spot> {
        let rest = path.strip_prefix(&self.point).map_err(|_| {
            let (path, point) = (path.display(), self.point.display());
            io::Error::other(format!("{path}: its mount {point} has just been moved; try again"))
        })?;
        let path = if rest.as_os_str().is_empty() { self.root.clone() } else { self.root.join(rest) };
        Ok(Spot { device: self.device.clone(), path })
    }
}

/// Decodes a path: the kernel writes space, tab, newline, `\\` and `#` as three octal digits (proc_pid_mountinfo(5)).
#[must_use]
fn unescape(word: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(word.len());
    let mut at = 0;
    while at < word.len() {
        let code = word.get(at + 1..at + 4).filter(|_| word[at] == b'\\');
        match code.and_then(|code| u8::from_str_radix(std::str::from_utf8(code).ok()?, 8).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 4;
            }
            None => {
                out.push(word[at]);
                at += 1;
            }
        }
    }
    PathBuf::from(OsString::from_vec(out))
}

/// The mounts of this process's mount namespace.
#[derive(Debug, Clone)]
pub struct Table(Vec<Mount>);

impl Table {
    /// Reads the table.
    ///
    /// # Errors
    /// `/proc` is not available, or the table cannot be parsed.
    pub fn read() -> io::Result<Self> {
        let mut text = Vec::new();
        std::fs::File::open("/proc/self/mountinfo")?.take(MAX_BYTES + 1).read_to_end(&mut text)?;
        let too_long = || io::Error::other("too many mounts");
        (text.len() as u64 <= MAX_BYTES).then_some(()).ok_or_else(too_long)?;
        let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let mounts: Option<Vec<Mount>> = lines.map(Mount::parse).collect();
        mounts.map(Table).ok_or_else(|| io::Error::other("/proc/self/mountinfo has an invalid line"))
    }

    /// All mounts.
    pub fn iter(&self) -> impl Iterator<Item = &Mount> {
        self.0.iter()
    }

    fn by_id(&self, id: u64) -> Option<&Mount> {
        self.0.iter().find(|mount| mount.id == id)
    }

    /// The mount that an object is in.
    pub(crate) fn of(&self, fd: BorrowedFd<'_>) -> io::Result<&Mount> {
        let id = mount_id(fd)?;
        self.by_id(id).ok_or_else(|| io::Error::other(format!("mount {id} is not in /proc/self/mountinfo")))
    }

    /// The place of `path` in its file system, and of each mount point on the way to it. `fd` is its directory.
    ///
    /// # Errors
    /// A mount is not in the table.
    pub(crate) fn way_from(&self, fd: BorrowedFd<'_>, path: &Path) -> io::Result<Vec<Spot>> {
        let mut mount = self.of(fd)?;
        let mut path = path;
        let mut spots = vec![mount.spot(path)?];
        while let Some(above) = self.by_id(mount.parent).filter(|above| above.id != mount.id) {
            path = &mount.point;
            mount = above;
            spots.push(mount.spot(path)?);
        }
        Ok(spots)
    }

    /// The paths of what a mount shows in other mounts that show more of its file system, the widest first.
    #[must_use]
    pub fn wider(&self, mount: u64) -> Vec<PathBuf> {
        let Some(own) = self.by_id(mount) else { return Vec::new() };
        let shown = self.0.iter().filter(|other| other.device == own.device && other.root != own.root);
        let mut wider: Vec<(usize, PathBuf)> = shown
            .filter_map(|other| {
                let below = own.root.strip_prefix(&other.root).ok()?;
                Some((other.root.as_os_str().len(), other.point.join(below)))
            })
            .collect();
        wider.sort_by_key(|(length, _)| *length);
        wider.into_iter().map(|(_, path)| path).collect()
    }

    /// The mounts inside `path`, which are granted with it.
    pub fn below<'t>(&'t self, path: &'t Path) -> impl Iterator<Item = &'t Mount> {
        self.0.iter().filter(move |mount| mount.point != path && mount.point.starts_with(path))
    }
}

/// The mount that an object is in.
///
/// # Errors
/// As [`Table::read`]; the kernel does not report the mount.
pub fn of(fd: BorrowedFd<'_>) -> io::Result<Mount> {
    Table::read()?.of(fd).cloned()
}

/// From `STATX_MNT_ID` (statx(2), since Linux 5.8), or from proc_pid_fdinfo(5) if the host's filter denies that call.
fn mount_id(fd: BorrowedFd<'_>) -> io::Result<u64> {
    if let Ok(found) = statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID) {
        if found.stx_mask & StatxFlags::MNT_ID.bits() != 0 {
            return Ok(found.stx_mnt_id);
        }
    }
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd()))?;
    let id = text.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok());
    id.ok_or_else(|| io::Error::other("the kernel does not report the mount of a file"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read() {
        let line =
            br"36 35 98:0 /mnt\0401 /mnt/a\134b rw,noatime shared:1 - fuse.x /dev/root rw,user_id=1000,group_id=0";
        let mount = Mount::parse(line).unwrap();
        assert_eq!((mount.id, mount.parent), (36, 35));
        assert_eq!(mount.root, Path::new("/mnt 1"));
        assert_eq!(mount.point(), Path::new(r"/mnt/a\b"));
        assert!(mount.has("rw") && mount.has("noatime") && !mount.has("r") && !mount.has("user_id=1000"));
        assert_eq!((mount.file_system(), mount.fuse_user()), (&b"fuse.x"[..], Some(1000)));
        assert_eq!(mount.source(), b"/dev/root");
        assert_eq!(mount.spot(Path::new(r"/mnt/a\b/c")).unwrap().path, Path::new("/mnt 1/c"));
        assert!(mount.spot(Path::new("/mnt/other")).is_err());
        assert!(Mount::parse(b"36 x 98:0 / / rw").is_none());
    }

    #[test]
    fn paths_are_unescaped_once() {
        for (written, path) in [
            ("/a\\040b\\011c\\012d\\134e\\043", "/a b\tc\nd\\e#"),
            ("/a\\134040", "/a\\040"),
            ("/plain", "/plain"),
            ("/\\999\\04", "/\\999\\04"),
            ("/\\777", "/\\777"),
        ] {
            assert_eq!(unescape(written.as_bytes()), Path::new(path), "{written}");
        }
    }
}
