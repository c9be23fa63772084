//! Checks what is not a layer but can prevent calls: the configuration, id-mapped mounts, audit, cgroups, locks.

use super::{Finding, State, Trial, Tried, tried, went};
use crate::audit::sinks::{JOURNALD_SOCKET, Sinks};
use crate::config::{self, AuditArguments, Config, ConfigErrorKind, JournaldMode};
use crate::confine::step::{Step, StepError};
use crate::decide::grant;
use crate::sys::clone::{Forked, fork_into};
use crate::types::{Failure, Layer};
use rustix::fs::{AtFlags, CWD, statat};
use rustix::mount::{OpenTreeFlags, open_tree};
use rustix::process::PidfdGetfdFlags;
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

fn line(layer: &'static str, holds: bool, found: impl Into<String>, remedy: Option<String>) -> Trial {
    Trial { layer, holds: Some(holds), found: found.into(), remedy, tried: Vec::new() }
}

/// The configuration that calls would use. Without one there is no line.
pub(super) fn configuration(named: Option<&Path>) -> (Option<Trial>, Option<Config>) {
    let by_variable = std::env::var_os("UPM_CONFIG_PATH").is_some_and(|path| !path.is_empty());
    match config::load(named) {
        Ok(config) => (Some(line("configuration", true, config.path.display().to_string(), None)), Some(config)),
        Err(error) if error.kind == ConfigErrorKind::NotFound && named.is_none() && !by_variable => (None, None),
        Err(error) => {
            let remedy = Some("fix it, or name another with --config; `upm check` shows all errors".to_owned());
            (Some(line("configuration", false, error.to_string(), remedy)), None)
        }
    }
}

/// What grants require of Landlock beyond what every call does.
pub(super) fn landlock(config: &Config) -> Vec<Finding> {
    let wanted: BTreeSet<u32> = decisions(config).map(|decision| decision.grant.landlock_min_abi).collect();
    let lacking = wanted.into_iter().next_back().and_then(|most| crate::host::facts::landlock_abi(most).err());
    lacking.map(|failure| Finding::failed(Layer::Landlock, failure)).into_iter().collect()
}

/// Every method that may be called. `upm check` reports what cannot be granted.
fn decisions(config: &Config) -> impl Iterator<Item = grant::Decision> {
    let methods = config
        .plugins
        .iter()
        .flat_map(|(name, plugin)| plugin.allowed_methods.iter().map(move |method| (name.as_str(), method.as_str())));
    methods.filter_map(|(name, method)| grant::grant(config, name, method, None).ok())
}

/// As root, granted trees are id-mapped to their owner; as a user, this is not needed.
pub(super) fn id_mapping(config: Option<&Config>) -> Trial {
    const LAYER: &str = "id mapping";
    if !nix::unistd::geteuid().is_root() {
        return line(LAYER, true, "not needed: the plugin runs as the calling user", None);
    }
    let here = || BTreeSet::from([(std::env::current_dir().unwrap_or_else(|_| "/".into()), None)]);
    let paths = config.map_or_else(here, granted);
    let unnamed = |config: &Config| decisions(config).any(|decision| decision.grant.run_as.is_none());
    let shared = if config.is_none_or(unnamed) {
        crate::host::facts::run_as(None).ok().and_then(|(uid, _)| crate::host::facts::shared_user(uid))
    } else {
        None
    };
    let mut mapped = BTreeSet::new();
    let mut without = Vec::new();
    let mut all: Vec<Tried> = Vec::new();
    for (path, run_as) in paths {
        let kind = file_system(&path);
        match map(&path, run_as.as_deref()) {
            Ok(None) => {}
            Ok(Some(act)) => {
                if act.got == act.expected {
                    mapped.insert(kind);
                } else {
                    without.push(format!("{} ({kind}): {}", path.display(), act.got));
                }
                all.push(act);
            }
            Err(failure) => {
                // The namespace for the mapping could not be created: that layer's line says why.
                let Finding { state, .. } = Finding::failed(Layer::Root, failure);
                let (holds, found, remedy) = match state {
                    State::Missing { found, remedy } => (Some(false), found, remedy),
                    State::Untold(why) => (None, why, None),
                    State::Tried => (None, "not tried".to_owned(), None),
                };
                return Trial { layer: LAYER, holds, found, remedy, tried: all };
            }
        }
    }
    let trial = if without.is_empty() {
        let kinds: Vec<String> = mapped.into_iter().collect();
        let found = match (config, kinds.is_empty()) {
            (_, true) => "no granted path needs it".to_owned(),
            (Some(_), false) => format!("works on the file systems of all granted paths: {}", kinds.join(", ")),
            (None, false) => format!("works on the file system here: {}", kinds.join(", ")),
        };
        line(LAYER, true, found, shared.map(str::to_owned))
    } else {
        let remedy = "move these paths to ext4, xfs, btrfs or (Linux 6.3) tmpfs, or set `run_as` to their owner, or call upm as their owner";
        line(LAYER, false, without.join("; "), Some(remedy.to_owned()))
    };
    Trial { tried: all, ..trial }
}

/// Every path that the configuration grants, or its nearest existing parent, with the `run_as` of its grant.
fn granted(config: &Config) -> BTreeSet<(PathBuf, Option<String>)> {
    let mut paths = BTreeSet::new();
    for grant::Decision { grant, .. } in decisions(config) {
        for path in grant.read.iter().chain(&grant.write) {
            let there = path.ancestors().find(|path| path.exists()).unwrap_or(path);
            paths.insert((there.to_owned(), grant.run_as.clone()));
        }
    }
    paths
}

/// Maps the owner's files to the plugin's user; `None` if they are the same user.
fn map(path: &Path, run_as: Option<&str>) -> Result<Option<Tried>, Failure> {
    let outside = crate::host::facts::run_as(run_as)?;
    let Ok(data) = fs::metadata(path) else { return Ok(None) };
    let owner = (data.uid(), data.gid());
    if owner == outside {
        return Ok(None);
    }
    let namespace = crate::confine::id_map::mapping_namespace(owner, outside)?;
    let seen = || -> io::Result<u32> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let tree = open_tree(CWD, path, flags)?;
        let flags = crate::sys::mount::NOSUID;
        crate::sys::mount::set_attributes(tree.as_fd(), flags, Some(namespace.as_fd()), false)?;
        Ok(statat(&tree, "", AtFlags::EMPTY_PATH)?.st_uid)
    };
    let got = match seen() {
        Ok(uid) => format!("owned by {uid}"),
        Err(error) => match error.raw_os_error().map(nix::Error::from_raw) {
            Some(nix::Error::EINVAL | nix::Error::EOPNOTSUPP) => "no id-mapped mounts".to_owned(),
            _ => went::<()>(Err(error), ""),
        },
    };
    let act = format!("mount {}, owned by {}, id-mapped", path.display(), owner.0);
    Ok(Some(tried(act, format!("owned by {}", outside.0), got)))
}

/// The type of the file system that a path is on.
fn file_system(path: &Path) -> String {
    let mounts = procfs::process::Process::myself().and_then(|myself| myself.mountinfo());
    let real = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let holder = mounts.ok().and_then(|mounts| {
        mounts
            .into_iter()
            .filter(|mount| real.starts_with(&mount.mount_point))
            // Of several mounts at one mount point, the last one is on top.
            .max_by_key(|mount| mount.mount_point.components().count())
    });
    holder.map_or_else(|| "unknown".to_owned(), |mount| mount.fs_type)
}

/// As root: the setting that prevents users from linking other users' files into granted directories.
fn hard_links() -> Option<&'static str> {
    let open = fs::read_to_string("/proc/sys/fs/protected_hardlinks").is_ok_and(|text| text.trim() == "0");
    (open && nix::unistd::geteuid().is_root()).then_some(
        "set fs.protected_hardlinks = 1 with sysctl(8): other users can link files of a granted directory's owner into it",
    )
}

/// Where the paths that calls may write to are recorded. Creates nothing.
pub(super) fn record() -> Trial {
    const LAYER: &str = "record";
    match crate::host::writable::look() {
        Ok(path) => {
            let found = format!("{}: paths that a call may write to are recorded here first", path.display());
            line(LAYER, true, found, hard_links().map(str::to_owned))
        }
        Err(failure) => {
            let remedy = failure.details.remedy().map(str::to_owned);
            line(LAYER, false, failure.message, remedy)
        }
    }
}

/// Where audit records would go. The sinks are opened; no record is written.
pub(super) fn audit(config: Option<&Config>) -> Trial {
    let mode = config.map_or(JournaldMode::Auto, |config| config.audit.journald);
    let full = config.is_some_and(|config| config.audit.arguments == AuditArguments::Full);
    match Sinks::of(config.map(|config| &config.audit)) {
        Ok(sinks) => {
            let file = sinks.file_path().map(|path| path.display().to_string());
            let found = match (sinks.journald(), &file) {
                (true, Some(file)) => format!("journald, and {file}"),
                (true, None) => "journald".to_owned(),
                (false, Some(file)) if mode == JournaldMode::Off => file.clone(),
                (false, Some(file)) => format!("{file}, because journald is not available"),
                (false, None) => "none".to_owned(),
            };
            let arguments = if full { "; with the arguments" } else { "" };
            let mut all = Vec::new();
            if mode != JournaldMode::Off {
                let got = sinks.journald_failed().map_or_else(|| "connects".to_owned(), ToString::to_string);
                let needed = if mode == JournaldMode::Required { "connects".to_owned() } else { got.clone() };
                all.push(tried(format!("connect to {JOURNALD_SOCKET}"), needed, got));
            }
            all.extend(file.map(|file| tried(format!("open {file} to append"), "opens", "opens")));
            Trial { tried: all, ..line("audit", true, format!("{found}{arguments}"), None) }
        }
        Err(error) => {
            let found = format!("audit: {}: {}", error.sink, error.reason);
            let all = vec![tried(format!("open the sink {}", error.sink), "opens", error.reason)];
            Trial { tried: all, ..line("audit", false, found, Some(error.remedy)) }
        }
    }
}

/// Whether a process may access its child's descriptors, as pid 1 does for a lock. Otherwise calls still run, but cannot lock
/// files.
pub(super) fn locks() -> Trial {
    const LAYER: &str = "locks";
    let fail = |error: std::io::Error| StepError::new(Step::Init, "fork", error);
    let look = || -> Result<std::io::Result<()>, StepError> {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|e| fail(e.into()))?;
        match fork_into(0, None).map_err(fail)? {
            Forked::Child => {
                drop(write);
                // Until the parent has tried, or has ended.
                let waited = rustix::io::read(&read, &mut [0u8; 1]);
                crate::sys::process::exit_now(i32::from(waited.is_err()));
            }
            Forked::Parent { pid, pidfd } => {
                let seen = rustix::process::pidfd_getfd(&pidfd, read.as_raw_fd(), PidfdGetfdFlags::empty());
                drop(write);
                crate::sys::process::wait_usage(pid).map_err(|errno| fail(errno.into()))?;
                Ok(seen.map(drop).map_err(Into::into))
            }
        }
    };
    match look() {
        Ok(seen) => {
            let got = went(seen, "works");
            let all = vec![tried("pidfd_getfd of a child", got.clone(), got.clone())];
            let (found, remedy) = if got == "works" {
                ("a call can lock files that it may write to".to_owned(), None)
            } else {
                let remedy = "allow processes to access their children: `sysctl kernel.yama.ptrace_scope=1` or 0, and no filter or \
                              security module that denies pidfd_getfd";
                (format!("calls cannot lock files here: pidfd_getfd of a child: {got}"), Some(remedy.to_owned()))
            };
            Trial { tried: all, ..line(LAYER, true, found, remedy) }
        }
        Err(error) => Trial { holds: None, ..line(LAYER, false, Failure::from(error).message, None) },
    }
}

/// Whether a call gets a cgroup: one is created and removed again. Without one, calls still run with limits for each process and
/// for the sum of their memory, unless `cpus` or `require_cgroup` is granted.
pub(super) fn cgroup(config: Option<&Config>) -> Trial {
    use crate::supervise::cgroup;
    let cpus = config.and_then(|config| decisions(config).find_map(|decision| decision.grant.cpus));
    let required = config.is_some_and(|config| decisions(config).any(|decision| decision.grant.require_cgroup));
    let (serves, seen, remedy) = cgroup::describe(cpus, required);
    let all = vec![tried("create a cgroup for a call", seen.clone(), seen.clone())];
    let found = match cpus {
        _ if serves => seen,
        _ if required => format!("{seen}; started like this, upm refuses calls with `require_cgroup`"),
        None => {
            format!("not used: {seen}; upm watches the sum of a call's memory instead, without {}", cgroup::NOT_COUNTED)
        }
        Some(_) => format!("{seen}; started like this, upm refuses calls with `cpus`"),
    };
    Trial { tried: all, ..line("cgroup", serves || (cpus.is_none() && !required), found, remedy) }
}
