//! Resolves a path in the root that a call would get: mounts, links, the host's files, and the permissions of the plugin's user.
//! Nothing is mounted and no plugin code runs: a process with the plugin's user id opens the path component by component.

use crate::confine::proc::shown;
use crate::confine::{capabilities, trees};
use crate::decide::plan::{Mount, Plan, RUNNER_PATH, Source};
use crate::supervise::apart;
use crate::types::{Code, Failure};
use crate::walk::{self, How};
use rustix::fs::{Access, FileType, Mode, OFlags, access, accessat, fstat, openat, readlinkat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

/// Limit for the links to follow, as in the kernel (path_resolution(7)).
const MAX_LINKS: usize = 40;
/// Limit for the bytes of an answer.
const MAX_ANSWER: u64 = 1 << 16;

/// The result for a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Way {
    /// Whether access is allowed.
    pub yes: bool,
    /// `root` if mounts decide, `permissions` if the host's permissions do.
    pub layer: Barrier,
    /// The reason.
    pub why: String,
    /// The path with links resolved, which a grant would have to name.
    pub at: PathBuf,
    /// Whether a grant would change the answer.
    pub grantable: bool,
}

/// What decides about a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Barrier {
    /// Mounts: what is in the root, and whether it is writable.
    Root,
    /// Modes, owners and ACLs of the host.
    Permissions,
}

/// Where `path` leads in the root of `plan`, and whether it can be read (listed, looked up) or written (created, changed).
/// `made`: directories that a call creates if they are missing.
///
/// # Errors
/// Those of the call itself.
pub fn look(plan: &Plan, path: &Path, write: bool, made: &[&Path]) -> Result<Way, Failure> {
    let as_root = nix::unistd::getuid().is_root();
    let mut roots = Vec::new();
    for mount in &plan.mounts {
        roots.push(match mount.source {
            Source::Host { .. } => open_root(plan, mount, as_root, made)?,
            _ => None,
        });
    }
    let way = Walk { plan, roots, write };
    let internal = |error: std::io::Error| Failure::new(Code::Internal, format!("upm explain: {error}"));
    let found = apart::run(MAX_ANSWER, None, || {
        let found = if as_root { become_plugin(plan.outside).and_then(|()| way.go(path)) } else { way.go(path) };
        serde_json::to_vec(&found.map_err(|error| error.to_string())).unwrap_or_default()
    })
    .map_err(internal)?;
    let way: Result<Way, String> = serde_json::from_slice(&found.bytes).map_err(|error| internal(error.into()))?;
    way.map_err(|error| internal(std::io::Error::other(error)))
}

/// A mount's directory or file; as root with the flags and ids that the plugin would see.
fn open_root(plan: &Plan, mount: &Mount, as_root: bool, made: &[&Path]) -> Result<Option<OwnedFd>, Failure> {
    // A link, a device or a missing path refuses the call, except a directory that the call itself creates.
    if made.iter().any(|dir| dir.starts_with(&mount.path))
        && walk::find(&mount.path, How::NoLinks).is_err_and(|error| error.errno() == Errno::NOENT)
    {
        return Ok(None);
    }
    if as_root {
        return Ok(trees::open(&plan.of_mount(mount), true)?.pop().map(|tree| tree.mount));
    }
    let open = || walk::find(&mount.path, How::NoLinks).map_err(|error| error.errno())?.share();
    let object = open().map_err(|errno: Errno| {
        Failure::new(
            Code::SandboxFailed,
            format!("{} ({}): {errno}; calls are refused", mount.path.display(), mount.why),
        )
    })?;
    Ok(Some(object))
}

/// Changes to the plugin's user, without supplementary groups and capabilities.
fn become_plugin((uid, gid): (u32, u32)) -> std::io::Result<()> {
    nix::unistd::setgroups(&[])?;
    nix::unistd::setresgid(gid.into(), gid.into(), gid.into())?;
    nix::unistd::setresuid(uid.into(), uid.into(), uid.into())?;
    capabilities::clear().map_err(|error| std::io::Error::other(error.to_string()))
}

/// What is at a place in the root.
#[derive(Clone)]
enum Node {
    /// A directory of the sealed root.
    Sealed,
    /// A tmpfs, or a directory that the call creates: empty at its start.
    Empty(usize),
    /// A host object, with the mount that it is in.
    Host(usize, Rc<OwnedFd>),
    /// A file of the sealed root.
    Made,
    /// A device node.
    Device,
    /// An object in the call's own `/proc`.
    Proc,
    /// `/dev/pts`, or a file in it.
    Terminals,
}

/// The result of a step.
enum Step {
    To(Node),
    Link(PathBuf),
    Missing,
}

struct Walk<'p> {
    plan: &'p Plan,
    roots: Vec<Option<OwnedFd>>,
    write: bool,
}

impl Walk<'_> {
    fn go(&self, path: &Path) -> std::io::Result<Way> {
        let mut stack = vec![(PathBuf::from("/"), Node::Sealed)];
        let mut todo = parts(path);
        let mut links = 0;
        while let Some(name) = todo.pop() {
            if name == ".." {
                if stack.len() > 1 {
                    stack.pop();
                }
                continue;
            }
            let (above, node) = stack.last().cloned().unwrap_or((PathBuf::from("/"), Node::Sealed));
            let at = above.join(&name);
            match self.step(&node, &above, &at, &name) {
                Ok(Step::To(next)) => stack.push((at, next)),
                Ok(Step::Link(to)) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Ok(no(
                            Barrier::Root,
                            format!("{}: too many symbolic links (ELOOP)", at.display()),
                            path,
                            false,
                        ));
                    }
                    if to.is_absolute() {
                        stack.truncate(1);
                    }
                    todo.extend(parts(&to));
                }
                Ok(Step::Missing) => return Ok(self.missing(&node, &above, &at, &todo)),
                Err(errno) => {
                    let whole = todo.iter().rev().fold(at.clone(), |path, part| path.join(part));
                    let layer = if errno == Errno::ACCESS { Barrier::Permissions } else { Barrier::Root };
                    return Ok(no(layer, self.refused(&above, errno), &whole, false));
                }
            }
        }
        let (at, node) = stack.pop().unwrap_or((PathBuf::from("/"), Node::Sealed));
        let directory = path.as_os_str().as_bytes().ends_with(b"/");
        Ok(self.found(&node, &at, directory))
    }

    /// Resolves the next name. A mount hides what is below it.
    fn step(&self, node: &Node, above: &Path, at: &Path, name: &OsStr) -> Result<Step, Errno> {
        if name.len() > 255 {
            return Err(Errno::NAMETOOLONG);
        }
        if let Node::Host(_, object) = node {
            if FileType::from_raw_mode(fstat(object)?.st_mode) != FileType::Directory {
                return Err(Errno::NOTDIR);
            }
            accessat(object, ".", Access::EXEC_OK, rustix::fs::AtFlags::empty())?;
        }
        if let Some(index) = self.plan.mounts.iter().position(|mount| mount.path == at) {
            return Ok(match &self.plan.mounts[index].source {
                Source::Link(to) => Step::Link(to.clone()),
                Source::File(_) => Step::To(Node::Made),
                Source::Device => Step::To(Node::Device),
                Source::Proc => Step::To(Node::Proc),
                Source::Tmpfs { .. } => Step::To(Node::Empty(index)),
                Source::Terminals(_) => Step::To(Node::Terminals),
                Source::Host { .. } => Step::To(match &self.roots[index] {
                    Some(root) => Node::Host(index, Rc::new(rustix::io::fcntl_dupfd_cloexec(root, 0)?)),
                    None => Node::Empty(index),
                }),
            });
        }
        let leads = || {
            let below = |path: &Path| path.starts_with(at);
            below(Path::new(RUNNER_PATH)) || self.plan.mounts.iter().any(|mount| below(&mount.path))
        };
        match node {
            Node::Sealed if at == Path::new(RUNNER_PATH) => Ok(Step::To(Node::Made)),
            Node::Sealed | Node::Empty(_) if leads() => Ok(Step::To(node.clone())),
            Node::Sealed | Node::Empty(_) => Ok(Step::Missing),
            Node::Made | Node::Device => Err(Errno::NOTDIR),
            Node::Proc => proc(above, at, name),
            Node::Terminals if above.ends_with("ptmx") => Err(Errno::NOTDIR),
            Node::Terminals => Ok(if name == "ptmx" { Step::To(Node::Terminals) } else { Step::Missing }),
            Node::Host(index, object) => host(*index, object, name),
        }
    }

    /// The result for a path that does not exist.
    fn missing(&self, node: &Node, above: &Path, at: &Path, rest: &[OsString]) -> Way {
        let whole = rest.iter().rev().fold(at.to_owned(), |path, part| path.join(part));
        let climbs = rest.iter().any(|part| part == "..");
        let shown = at.display();
        match node {
            Node::Empty(index) if !climbs && (self.plan.mounts[*index].write || !self.write) => {
                let mount = self.plan.mounts[*index].path.display();
                let can =
                    if self.plan.mounts[*index].write { "it can create it" } else { "there is nothing to read yet" };
                let yes = self.plan.mounts[*index].write;
                Way {
                    why: format!("{mount} is empty when a call starts; {can}"),
                    yes,
                    ..no(Barrier::Root, String::new(), &whole, false)
                }
            }
            Node::Empty(_) => no(Barrier::Root, format!("{shown} does not exist (ENOENT)"), &whole, false),
            Node::Host(index, object) => {
                let mount = &self.plan.mounts[*index];
                let place = mount.path.display();
                if !self.write || climbs {
                    let why = format!("{shown} does not exist (ENOENT); {place} is in the call's root ({})", mount.why);
                    return no(Barrier::Root, why, &whole, false);
                }
                if !mount.write {
                    return no(Barrier::Root, format!("{place} is read-only in the call (EROFS)"), &whole, true);
                }
                match accessat(object, ".", Access::WRITE_OK | Access::EXEC_OK, rustix::fs::AtFlags::empty()) {
                    Ok(()) => yes(format!("{shown} does not exist; it can be created in {}", above.display()), &whole),
                    Err(errno) => no(Barrier::Permissions, self.refused(above, errno), &whole, false),
                }
            }
            Node::Proc => no(
                Barrier::Root,
                format!("{shown}: /proc has only the call's own processes, and what tells of the machine (ENOENT)"),
                &whole,
                false,
            ),
            Node::Terminals => no(
                Barrier::Root,
                format!("{shown} does not exist until the call opens /dev/ptmx (ENOENT)"),
                &whole,
                false,
            ),
            Node::Sealed | Node::Made | Node::Device => {
                no(Barrier::Root, format!("{shown} is not in the call's root (ENOENT)"), &whole, true)
            }
        }
    }

    fn found(&self, node: &Node, at: &Path, directory: bool) -> Way {
        let shown = at.display();
        let sealed = |what: &str| match self.write {
            true => no(Barrier::Root, format!("{shown} is {what}, which is read-only (EROFS)"), at, true),
            false => yes(format!("{shown} is {what}"), at),
        };
        match node {
            Node::Made | Node::Device if directory => {
                no(Barrier::Root, format!("{shown} is not a directory (ENOTDIR)"), at, false)
            }
            Node::Sealed => sealed("a directory of the sealed root"),
            Node::Made => sealed("a file of the sealed root"),
            Node::Device => yes(format!("{shown} is a device that each call has"), at),
            Node::Proc if self.write && !is_stream(at) => {
                no(Barrier::Root, format!("{shown} is in /proc, which is read-only (EROFS)"), at, false)
            }
            Node::Proc => yes(format!("{shown} is the call's own"), at),
            Node::Terminals if self.write && !at.ends_with("ptmx") => {
                no(Barrier::Root, format!("{shown} has terminals only (EACCES)"), at, false)
            }
            Node::Terminals => yes(format!("{shown} is the call's own"), at),
            Node::Empty(index) => {
                let mount = &self.plan.mounts[*index];
                match self.write && !mount.write {
                    true => no(
                        Barrier::Root,
                        format!("{} is read-only in the call (EROFS)", mount.path.display()),
                        at,
                        true,
                    ),
                    false => yes(format!("{} is empty when a call starts ({})", mount.path.display(), mount.why), at),
                }
            }
            Node::Host(index, object) => self.of_host(&self.plan.mounts[*index], object, at, directory),
        }
    }

    fn of_host(&self, mount: &Mount, object: &OwnedFd, at: &Path, directory: bool) -> Way {
        let shown = at.display();
        let kind = match fstat(object) {
            Ok(stat) => FileType::from_raw_mode(stat.st_mode),
            Err(errno) => return no(Barrier::Permissions, self.refused(at, errno), at, false),
        };
        if directory && kind != FileType::Directory {
            return no(Barrier::Root, format!("{shown} is not a directory (ENOTDIR)"), at, false);
        }
        match kind {
            FileType::CharacterDevice | FileType::BlockDevice => {
                return no(
                    Barrier::Root,
                    format!("{shown} is a device, and its mount does not allow devices (EACCES)"),
                    at,
                    false,
                );
            }
            FileType::Socket => return no(Barrier::Root, format!("{shown} is a socket (ENXIO)"), at, false),
            _ => {}
        }
        if self.write && !mount.write {
            return no(Barrier::Root, format!("{} is read-only in the call (EROFS)", mount.path.display()), at, true);
        }
        let wanted = match (self.write, kind) {
            (true, FileType::Directory) => Access::WRITE_OK | Access::EXEC_OK,
            (true, _) => Access::WRITE_OK,
            (false, _) => Access::READ_OK,
        };
        let allowed = match kind {
            FileType::Directory => accessat(object, ".", wanted, rustix::fs::AtFlags::empty()),
            _ => access(format!("/proc/self/fd/{}", object.as_raw_fd()), wanted),
        };
        match allowed {
            Ok(()) => yes(format!("{} is in the call's root ({})", mount.path.display(), mount.why), at),
            Err(errno) => no(Barrier::Permissions, self.refused(at, errno), at, false),
        }
    }

    fn refused(&self, at: &Path, errno: Errno) -> String {
        let name = nix::errno::Errno::from_raw(errno.raw_os_error());
        match errno {
            Errno::ACCESS => format!(
                "{}: its permissions deny access to the plugin's user, uid {} on the host ({name:?})",
                at.display(),
                self.plan.outside.0
            ),
            _ => format!("{}: {} ({name:?})", at.display(), name.desc()),
        }
    }
}

fn yes(why: String, at: &Path) -> Way {
    Way { yes: true, layer: Barrier::Root, why, at: at.to_owned(), grantable: false }
}

fn no(layer: Barrier, why: String, at: &Path, grantable: bool) -> Way {
    Way { yes: false, layer, why, at: at.to_owned(), grantable }
}

/// The components of `path`, the first one last.
fn parts(path: &Path) -> Vec<OsString> {
    let parts = path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    });
    let mut parts: Vec<OsString> = parts.collect();
    parts.reverse();
    parts
}

/// Resolves the next name in a host directory.
fn host(index: usize, object: &Rc<OwnedFd>, name: &OsStr) -> Result<Step, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let next = match openat(object.as_fd(), name, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(Step::Missing),
        other => other?,
    };
    if FileType::from_raw_mode(fstat(&next)?.st_mode) == FileType::Symlink {
        let to = readlinkat(&next, "", Vec::new())?;
        return Ok(Step::Link(PathBuf::from(OsString::from_vec(to.into_bytes()))));
    }
    Ok(Step::To(Node::Host(index, Rc::new(next))))
}

/// Resolves the next name in the call's own `/proc`. Of its processes only `self` is known beforehand, and has the same files as
/// this process; of everything else it has what [`shown`] says.
fn proc(above: &Path, at: &Path, name: &OsStr) -> Result<Step, Errno> {
    let own = above.starts_with("/proc/self") || above.starts_with("/proc/thread-self");
    if above == Path::new("/proc") {
        return match name.to_str() {
            Some("self" | "thread-self") => Ok(Step::To(Node::Proc)),
            Some(link @ ("mounts" | "net")) => Ok(Step::Link(Path::new("self").join(link))),
            _ if shown(at) => Ok(Step::To(Node::Proc)),
            // Covered.
            _ if rustix::fs::lstat(at).is_ok() && !name.as_bytes()[0].is_ascii_digit() => Err(Errno::ACCESS),
            _ => Ok(Step::Missing),
        };
    }
    if above.starts_with("/proc/sys") {
        return Ok(if shown(at) { Step::To(Node::Proc) } else { Step::Missing });
    }
    if !own {
        return Ok(Step::Missing);
    }
    if above.ends_with("fd") || above.ends_with("fdinfo") {
        // The descriptors that are open when a plugin starts.
        let open = name.to_str().is_some_and(|name| matches!(name, "0" | "1" | "2" | "3"));
        return Ok(if open { Step::To(Node::Proc) } else { Step::Missing });
    }
    if matches!(name.as_bytes(), b"root" | b"cwd") {
        return Ok(Step::Link(PathBuf::from("/")));
    }
    match rustix::fs::lstat(at) {
        Ok(_) => Ok(Step::To(Node::Proc)),
        Err(Errno::NOENT) => Ok(Step::Missing),
        Err(errno) => Err(errno),
    }
}

/// Whether it is one of the plugin's outputs.
fn is_stream(at: &Path) -> bool {
    ["/proc/self/fd/1", "/proc/self/fd/2", "/proc/thread-self/fd/1", "/proc/thread-self/fd/2"]
        .iter()
        .any(|one| at == Path::new(one))
}
