//! Whether a call may do something, which grant decides, and which configuration change would allow it. `upm explain
//! --may`, the denials of an answer and `upm learn` all use this, with the plan that is enforced.

use super::grant::WATCH_CALLS;
use super::grant::{Decision, levels};
use super::names;
use super::places;
use super::plan::{Mount, Plan, Source, Why};
use crate::config::{self, At, Config, GrantKeys};
use crate::keys::Key;
use crate::types::{Change, Exception, Said, Setting, Sought, Standing};
use nix::errno::Errno;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// The number of watches that a remedy proposes.
const WATCHES: u64 = 64;

/// Something that a plugin may want to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// Read, list or look up this absolute path.
    Read(PathBuf),
    /// Create, change or remove this absolute path.
    Write(PathBuf),
    /// Connect by TCP.
    Connect {
        /// As in the plugin's request.
        host: String,
        /// 1–65535.
        port: u16,
    },
    /// Make this system call.
    Syscall(String),
}

/// The answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// Whether it is allowed.
    pub yes: bool,
    /// The layer that decides.
    pub layer: &'static str,
    /// The reason.
    pub why: String,
    /// The grant key that decides.
    pub key: Key,
    /// What would allow it; `None` if it is allowed.
    pub remedy: Option<Remedy>,
}

/// What would allow an act.
#[derive(Debug, Clone, PartialEq)]
pub enum Remedy {
    /// This configuration change.
    Change(Change),
    /// Nothing, and why.
    Nothing(String),
}

/// What the plugin's filter does with a system call, and why no configuration can add it, if so; `None` if the call does not
/// exist.
pub type Filter<'a> = &'a dyn Fn(&str) -> Option<(Standing, Option<&'static str>)>;

/// Whether a change is possible on this host, and if not, why.
pub type Fits<'a> = &'a dyn Fn(&Change) -> Result<(), String>;

/// A decided call, for questions about it.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// The decision for the method.
    pub decision: &'a Decision,
    /// The plan that is enforced.
    pub plan: &'a Plan,
    /// The plugin's filter.
    pub filter: Filter<'a>,
    /// Whether the host accepts a remedy.
    pub fits: Fits<'a>,
}

impl View<'_> {
    /// Whether the call may do `act`.
    #[must_use]
    pub fn verdict(&self, act: &Act) -> Verdict {
        match act {
            Act::Read(path) => self.path(path, false),
            Act::Write(path) => self.path(path, true),
            Act::Connect { host, port } => self.connect(host, *port),
            Act::Syscall(name) => self.syscall(name),
        }
    }

    /// The key and where its value comes from.
    pub(super) fn rule(&self, key: Key) -> String {
        format!("{key} ({})", self.place(key))
    }

    /// Where the value of a grant key comes from: `FILE:LINE`, or `built-in`.
    #[must_use]
    pub fn place(&self, key: Key) -> String {
        self.at(self.decision.grant.origins[key].line)
    }

    /// A line of the configuration.
    pub(super) fn at(&self, line: Option<usize>) -> String {
        line.map_or_else(|| "built-in".to_owned(), |line| format!("{}:{line}", self.config.path.display()))
    }

    /// A remedy as shown in denials.
    #[must_use]
    pub fn text(&self, remedy: &Remedy) -> String {
        self.lines(remedy).unwrap_or_else(|why| format!("nothing: {why}"))
    }

    /// A remedy as configuration lines, or why there is none; a change that this host would refuse is not a remedy.
    pub(crate) fn lines(&self, remedy: &Remedy) -> Result<String, String> {
        match remedy {
            Remedy::Change(change) => (self.fits)(change).map(|()| self.config.lines(change)),
            Remedy::Nothing(why) => Err(why.clone()),
        }
    }

    /// Sets the grant key in the method's table, the narrowest place.
    pub(super) fn set(&self, key: Key, value: Value) -> Remedy {
        Remedy::Change(Change(vec![self.setting(key, value)]))
    }

    pub(super) fn setting(&self, key: Key, value: Value) -> Setting {
        let table = ["plugins", &self.decision.plugin, "methods", &self.decision.method];
        Setting { table: table.map(str::to_owned).to_vec(), key: key.name().to_owned(), value }
    }

    /// The configured list with more items: in the method's table it replaces the inherited one.
    pub(super) fn with<T>(&self, get: impl Fn(&GrantKeys) -> Option<&At<Vec<T>>>, more: &[String]) -> Value
    where
        T: ToString,
    {
        let found = levels(self.config, self.decision).into_iter().find_map(|(_, keys)| get(keys));
        let mut items: Vec<String> =
            found.map_or_else(Vec::new, |at| at.value.iter().map(ToString::to_string).collect());
        for item in more {
            if !items.contains(item) {
                items.push(item.clone());
            }
        }
        json!(items)
    }

    /// The deepest mount that contains the path decides; in a host directory the file's permissions also decide.
    fn path(&self, path: &Path, write: bool) -> Verdict {
        let plan = self.plan;
        let (yes, why) = match holder(plan, path) {
            None if holds(plan, path, write) => (true, format!("{} is a directory of the sealed root", path.display())),
            None => (false, "it is not in the call's root (ENOENT)".to_owned()),
            Some(mount) if write && !mount.write => {
                (false, format!("{} is read-only in the call (EROFS)", mount.path.display()))
            }
            Some(mount) => (
                true,
                format!(
                    "{} is in the call's root ({}); the file's permissions also apply",
                    mount.path.display(),
                    mount.why
                ),
            ),
        };
        let remedy = (!yes).then(|| self.grant_for(path, path, write));
        Verdict { yes, layer: "root", why, key: path_key(path, write), remedy }
    }

    /// The change that grants `target` to allow `asked` inside it; none if either is a place with policy or secrets.
    #[must_use]
    pub fn grant_for(&self, asked: &Path, target: &Path, write: bool) -> Remedy {
        if path_key(asked, write) == Key::Pty {
            return match self.plan.has_terminals() {
                true => Remedy::Nothing("/dev/pts has only terminals that the call itself has opened".to_owned()),
                false => self.set(Key::Pty, true.into()),
            };
        }
        match places::unproposed(asked, write) {
            Some(why) if !config::is_reserved(asked) => Remedy::Nothing(why),
            _ => self.grant_path(&[target.to_owned()], write),
        }
    }

    /// The change that grants these paths, or why it would be invalid.
    #[must_use]
    pub fn grant_path(&self, paths: &[PathBuf], write: bool) -> Remedy {
        for path in paths {
            if config::is_reserved(path) {
                return Remedy::Nothing("/, /proc, /sys, /dev and /run are never granted".to_owned());
            }
            let system = |mount: &&Mount| !mount.why.is_grant();
            if let Some(mount) = self.plan.mounts.iter().filter(system).find(|mount| mount.path.starts_with(path)) {
                return Remedy::Nothing(format!(
                    "{} would cover {}, which each call has its own copy of; grant a path inside it",
                    path.display(),
                    mount.path.display()
                ));
            }
            if let Some(why) = places::unproposed(path, write) {
                return Remedy::Nothing(why);
            }
            let runs = |mount: &&Mount| matches!(mount.why, Why::Interpreter | Why::Plugin | Why::EgressClient);
            let below = |mount: &&Mount| write && path.starts_with(&mount.path);
            if let Some(mount) = self.plan.mounts.iter().filter(runs).find(below) {
                return Remedy::Nothing(format!(
                    "{} is in {}, which calls run or rely on ({})",
                    path.display(),
                    mount.path.display(),
                    mount.why
                ));
            }
            if let Some(what) = write.then(|| self.config.ruled_by(path)).flatten() {
                return Remedy::Nothing(format!("write access to {} would let a plugin change {what}", path.display()));
            }
        }
        let paths: Vec<String> = paths.iter().map(|path| path.to_string_lossy().into_owned()).collect();
        if write {
            self.set(Key::Write, self.with(|keys| keys.write.as_ref(), &paths))
        } else {
            self.set(Key::Read, self.with(|keys| keys.read.as_ref(), &paths))
        }
    }

    /// What to grant for a file that was looked for: its directory, because programs replace files by new ones. Only the file
    /// if its directory would grant too much: a directory that each call has its own copy of, one above the
    /// directory in which something is already granted, a home, a top-level directory, or one that contains the configuration.
    #[must_use]
    pub fn nearest(&self, path: &Path) -> PathBuf {
        let Some(dir) = path.parent() else { return path.to_owned() };
        let short = dir.components().count() < 3;
        let home = dir.parent() == Some(Path::new("/home")) || dir == Path::new("/root");
        let above = |mount: &Mount| {
            mount.path.starts_with(dir)
                && mount.path != dir
                && !(mount.why.is_grant() && mount.path.parent() == Some(dir))
        };
        let wide = self.config.path.starts_with(dir) || self.config.dir.starts_with(dir);
        if short || home || wide || self.plan.mounts.iter().any(above) { path.to_owned() } else { dir.to_owned() }
    }

    fn connect(&self, host: &str, port: u16) -> Verdict {
        let name = names::normalize(host);
        let rule = name.as_deref().and_then(|name| names::rule_for(&self.plan.egress, name, port));
        let verdict = |yes, why, remedy| Verdict { yes, layer: "egress", why, key: Key::Egress, remedy };
        match rule {
            Some(rule) => verdict(true, format!("[egress.{}] grants it", rule.group), None),
            None => verdict(
                false,
                format!("no granted group has {host}:{port}; direct connections to addresses are never allowed"),
                Some(self.grant_hosts(&[(name.unwrap_or_else(|| host.to_owned()), port)])),
            ),
        }
    }

    pub(super) fn syscall(&self, name: &str) -> Verdict {
        let verdict =
            |yes, why: &str, remedy| Verdict { yes, layer: "seccomp", why: why.to_owned(), key: Key::Syscalls, remedy };
        let add = || self.set(Key::Syscalls, self.with(|keys| keys.syscalls.as_ref(), &[name.to_owned()]));
        if WATCH_CALLS.contains(&name) {
            return self.watch();
        }
        if name == "flock" {
            return verdict(true, "it can lock only files that the call may write to", None);
        }
        match (self.filter)(name) {
            Some((Standing::Allowed, _)) => verdict(true, "the default filter allows it", None),
            Some(_) if self.plan.syscalls.iter().any(|added| added == name) => {
                verdict(true, "`syscalls` adds it", None)
            }
            Some((Standing::Partly, reason)) => Verdict {
                remedy: Some(reason.map_or_else(add, |why| Remedy::Nothing(why.to_owned()))),
                ..verdict(true, "the default filter allows it with some arguments (seccomp/default.json)", None)
            },
            Some((Standing::Refused, Some(reason))) => {
                verdict(false, &format!("nothing can allow it: {reason}"), Some(Remedy::Nothing(reason.to_owned())))
            }
            Some((Standing::Refused, None)) => verdict(false, "the filter denies it", Some(add())),
            None => {
                let why = "this architecture has no such system call, or it is newer than the filter";
                verdict(false, why, Some(Remedy::Nothing(why.to_owned())))
            }
        }
    }

    /// Whether the call may use inotify. Adding its system calls by `syscalls` is not enough: they fail with `EMFILE`.
    fn watch(&self) -> Verdict {
        let verdict = |yes, why: &str, remedy| Verdict {
            yes,
            layer: "seccomp",
            why: why.to_owned(),
            key: Key::FileWatches,
            remedy,
        };
        if self.plan.limits.file_watches > 0 {
            verdict(true, "`file_watches` allows it", None)
        } else {
            verdict(false, "watching files is not allowed", Some(self.set(Key::FileWatches, WATCHES.into())))
        }
    }

    /// Whether the plan grants the paths in a plugin's exception and its cause. `learn` is the command that shows what else the
    /// call looks for.
    pub(crate) fn seek(&self, said: &mut Said, learn: &str) {
        said.cause_path = said.cause().and_then(|cause| self.sought(cause, learn));
        said.path = self.sought(said.exception(), learn);
    }

    fn sought(&self, exception: Exception<'_>, learn: &str) -> Option<Sought> {
        let name = exception.filename.filter(|name| !name.is_empty() && name.len() <= 4096 && !name.contains('\0'))?;
        // A plugin starts in `/`.
        let path = config::normalize(&Path::new("/").join(name));
        let (read, write) = (self.path(&path, false), self.path(&path, true));
        let writing = matches!(exception.errno, Some(Errno::EROFS | Errno::EACCES | Errno::EPERM));
        let denied = exception.errno == Some(Errno::EACCES);
        if let Some(why) = denied.then(|| no_exec(self.plan, &path)).flatten() {
            let refused = Some((self.rule(Key::Write), self.text(&Remedy::Nothing(why))));
            return Some(Sought { refused, read: read.yes, write: write.yes, learn: learn.to_owned() });
        }
        let refused = match (read.yes, write.yes) {
            (false, _) => Some((read.key, false)),
            (true, false) if writing => Some((write.key, true)),
            _ => None,
        };
        let refused = refused
            .map(|(key, write)| (self.rule(key), self.text(&self.grant_for(&path, &self.nearest(&path), write))));
        Some(Sought { refused, read: read.yes, write: write.yes, learn: learn.to_owned() })
    }
}

/// Why a program at `path`, which the call itself may have written there, does not run; `None` if its mount lets programs run.
#[must_use]
pub(crate) fn no_exec(plan: &Plan, path: impl AsRef<Path>) -> Option<String> {
    let path = path.as_ref();
    let mount = in_memory(plan, path).filter(|mount| mount.path != path)?;
    Some(format!(
        "{} is mounted noexec, so that no program in it runs; a program runs from a `write` path: set TMPDIR to a directory there, \
         such as by write = [\"{{cache_dir}}\"] and env = {{ TMPDIR = \"{{cache_dir}}\" }}",
        mount.path.display()
    ))
}

/// The grant key that decides about a path.
#[must_use]
pub(crate) fn path_key(path: &Path, write: bool) -> Key {
    // C libraries also look for those of BSD: /dev/ptyp0 and so on.
    let bsd = || path.to_str().is_some_and(|path| path.starts_with("/dev/pty") && path.len() == 10);
    match write {
        _ if path.starts_with("/dev/ptmx") || path.starts_with("/dev/pts") || bsd() => Key::Pty,
        true => Key::Write,
        false => Key::Read,
    }
}

/// Whether the plan's root contains `path`, for reading or for writing. The path may still not exist on the host.
#[must_use]
pub fn holds(plan: &Plan, path: &Path, write: bool) -> bool {
    match holder(plan, path) {
        Some(mount) => mount.write || !write,
        // A directory on the way to a mount.
        None => !write && plan.mounts.iter().any(|mount| mount.path.starts_with(path)),
    }
}

/// `path`, normalized by its text alone, as for comparing grants.
#[must_use]
pub fn normal(path: &Path) -> PathBuf {
    config::normalize(path)
}

/// The call's directory in memory that contains `path`.
pub(crate) fn in_memory<'p>(plan: &'p Plan, path: &Path) -> Option<&'p Mount> {
    holder(plan, path).filter(|mount| matches!(mount.source, Source::Tmpfs { .. }))
}

/// The deepest entry of the root that contains `path`.
fn holder<'p>(plan: &'p Plan, path: &Path) -> Option<&'p Mount> {
    let found = plan
        .mounts
        .iter()
        .filter(|mount| path.starts_with(&mount.path))
        .max_by_key(|mount| mount.path.components().count())?;
    // Nothing is below a file or a device.
    let leaf = matches!(found.source, Source::File(_) | Source::Device);
    (!leaf || found.path == path).then_some(found)
}
