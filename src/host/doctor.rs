//! Each layer tried in a child, never guessed from versions.

use crate::confine::{filter, landlock};
use crate::decide::plan::{Code as PluginCode, Environment, Facts, INSIDE_ID, Plan};
use crate::supervise::{self, Job, Unwatched, signals};
use crate::sys::clone::{Forked, fork, fork_into};
use crate::types::{Code, Entry, Failure, Grant};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::ForkResult;
use serde::Serialize;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// One layer's trial.
#[derive(Debug, Serialize)]
pub struct Trial {
    /// The layer.
    pub layer: &'static str,
    /// Whether it is to be had here.
    pub holds: bool,
    /// What was seen.
    pub found: String,
    /// What an administrator can do.
    pub remedy: Option<String>,
}

/// A program that every Debian and RHEL has and that does nothing: it takes the place of a plugin in the whole trial.
const TRUE: &str = "/usr/bin/true";

/// Tries everything. Each trial is a process of its own: what it does to itself ends with it.
#[must_use]
pub fn run() -> Vec<Trial> {
    vec![namespaces(), landlock_layer(), seccomp_layer(), id_mapped_mounts(), cgroup(), whole_call(), audit()]
}

/// `uname -sr`, as far as /proc tells it.
#[must_use]
pub fn kernel() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()
}

/// Runs `act` in a forked child; `Ok` when it returned 0, else the errno that it returned.
fn in_child(act: impl FnOnce() -> i32) -> Result<(), std::io::Error> {
    match fork()? {
        ForkResult::Child => crate::sys::process::exit_now(act()),
        ForkResult::Parent { child } => match waitpid(child, None)? {
            WaitStatus::Exited(_, 0) => Ok(()),
            WaitStatus::Exited(_, errno) => Err(std::io::Error::from_raw_os_error(errno)),
            other => Err(std::io::Error::other(format!("{other:?}"))),
        },
    }
}

fn errno(error: &std::io::Error) -> i32 {
    error.raw_os_error().unwrap_or(nix::Error::EIO as i32)
}

/// All seven at once, as a call makes them.
fn namespaces() -> Trial {
    let made = in_child(|| match fork_into(supervise::NAMESPACE_FLAGS, None) {
        Ok(Forked::Child) => crate::sys::process::exit_now(0),
        Ok(Forked::Parent { pid, .. }) => match crate::sys::process::wait_usage(pid) {
            Ok((0, _)) => 0,
            _ => nix::Error::EPERM as i32,
        },
        Err(error) => errno(&error),
    });
    match made {
        Ok(()) => Trial {
            layer: "namespaces",
            holds: true,
            found: "user mnt pid net ipc uts cgroup".to_owned(),
            remedy: None,
        },
        Err(error) => {
            let failure: Failure =
                crate::confine::step::StepError::new(crate::confine::step::Step::Clone, "clone3", error).into();
            missing("namespaces", failure)
        }
    }
}

fn missing(layer: &'static str, failure: Failure) -> Trial {
    let remedy = failure.details.get("remedy").and_then(|text| text.as_str()).map(str::to_owned);
    Trial { layer, holds: false, found: failure.message, remedy }
}

/// A file that could be opened before cannot be any more, and one that a rule names can.
fn landlock_layer() -> Trial {
    let abi = crate::sys::process::landlock_abi();
    let tried = in_child(|| {
        let attempt = || -> Result<(), i32> {
            use ::landlock::{AccessFs, PathBeneath, PathFd, RulesetCreatedAttr};
            let other = nix::Error::EINVAL as i32;
            fs::read_dir("/").map_err(|error| errno(&error))?;
            let rules = landlock::ruleset(abi)
                .map_err(|error| errno(&error.source))?
                .add_rule(PathBeneath::new(PathFd::new("/usr").map_err(|_| other)?, AccessFs::ReadDir))
                .map_err(|_| other)?;
            nix::sys::prctl::set_no_new_privs().map_err(|errno| errno as i32)?;
            landlock::restrict(rules).map_err(|error| errno(&error.source))?;
            fs::read_dir("/usr").map_err(|error| errno(&error))?;
            match fs::read_dir("/") {
                Err(error) if error.raw_os_error() == Some(nix::Error::EACCES as i32) => Ok(()),
                _ => Err(other),
            }
        };
        attempt().err().unwrap_or(0)
    });
    match tried {
        Ok(()) => Trial {
            layer: "landlock",
            holds: abi >= 2,
            found: format!("ABI {abi}: what a rule names opens, all else is EACCES"),
            remedy: (abi < 2).then(|| "use Linux 5.19 or newer: the built-in landlock_min_abi is 2".to_owned()),
        },
        Err(error) => missing(
            "landlock",
            crate::confine::step::StepError::new(crate::confine::step::Step::Landlock, "landlock", error).into(),
        ),
    }
}

/// The plugin's own filter with a listener: an allowed call works, a forbidden one waits for the listener (which here
/// goes away at once, so that the kernel answers ENOSYS).
fn seccomp_layer() -> Trial {
    let tried = in_child(|| {
        let attempt = || -> Result<(), i32> {
            let filter = filter::plugin(&[], true).map_err(|_| nix::Error::EINVAL as i32)?;
            nix::sys::prctl::set_no_new_privs().map_err(|errno| errno as i32)?;
            let listener =
                crate::sys::seccomp::install_with_listener(&filter.program).map_err(|error| errno(&error))?;
            drop(listener);
            nix::unistd::getcwd().map_err(|errno| errno as i32)?;
            match nix::unistd::chroot("/") {
                Err(nix::Error::ENOSYS) => Ok(()),
                _ => Err(nix::Error::EINVAL as i32),
            }
        };
        attempt().err().unwrap_or(0)
    });
    match tried {
        Ok(()) => Trial {
            layer: "seccomp",
            holds: true,
            found: "filter with user notification: getcwd passes, chroot does not".to_owned(),
            remedy: None,
        },
        Err(error) => missing(
            "seccomp",
            crate::confine::step::StepError::new(crate::confine::step::Step::Seccomp, "filter", error).into(),
        ),
    }
}

/// As root a granted tree is id-mapped to its owner; as a user nothing needs to be.
fn id_mapped_mounts() -> Trial {
    if !nix::unistd::geteuid().is_root() {
        return Trial {
            layer: "id mapping",
            holds: true,
            found: "not needed: the plugin is the calling user".to_owned(),
            remedy: None,
        };
    }
    let here = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
    let tried = || -> Result<(), Failure> {
        use rustix::mount::{OpenTreeFlags, open_tree};
        use std::os::fd::AsFd;
        let namespace = crate::confine::id_map::mapping_namespace((0, 0), (65534, 65534))?;
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let fail =
            |error: std::io::Error| Failure::new(Code::SandboxUnavailable, format!("{}: {error}", here.display()));
        let tree = open_tree(rustix::fs::CWD, &here, flags).map_err(|error| fail(error.into()))?;
        crate::sys::mount::set_attributes(tree.as_fd(), crate::sys::mount::NOSUID, Some(namespace.as_fd()), false)
            .map_err(fail)
    };
    match tried() {
        Ok(()) => Trial {
            layer: "id mapping",
            holds: true,
            found: format!("works on the file system of {}", here.display()),
            remedy: None,
        },
        Err(failure) => Trial {
            layer: "id mapping",
            holds: false,
            found: failure.message,
            remedy: Some(
                "as root, paths granted for writing must lie on ext4, xfs, btrfs or (Linux 6.3) tmpfs".to_owned(),
            ),
        },
    }
}

/// Without one a call still runs, by the limits of each process and the sum of their memory.
fn cgroup() -> Trial {
    let (serves, found, remedy) = supervise::cgroup::describe();
    let found =
        if serves { found } else { format!("not used: {found}; the sum of a call's memory is watched instead") };
    Trial { layer: "cgroup", holds: true, found, remedy }
}

/// Every step of a real call, with a program that does nothing in the plugin's place.
fn whole_call() -> Trial {
    let program = match fs::canonicalize(TRUE) {
        Ok(program) => program,
        Err(error) => {
            return Trial {
                layer: "all steps",
                holds: false,
                found: format!("{TRUE}: {error}"),
                remedy: Some("install coreutils: its `true` stands in for a plugin here".to_owned()),
            };
        }
    };
    let tried = in_child_with_text(move || {
        let attempt = || -> Result<(), Failure> {
            let grant = Grant { timeout: Duration::from_secs(10), ..crate::decide::grant::built_in() };
            let entry = Entry::Exec { path: program.clone() };
            let facts = crate::host::facts::gather(&grant, &entry, &[], &[])?;
            let facts =
                Facts { code: PluginCode { path: program.clone(), search: PathBuf::new(), embedded: None }, ..facts };
            let plan = doctor_plan(&grant, &entry, &facts);
            let signals = signals::take().map_err(|error| Failure::new(Code::Internal, error.to_string()))?;
            let job = Job {
                plan: &plan,
                frame: b"{}\n".to_vec(),
                runner: crate::plugin::RUNNER,
                signals,
                deadline: Instant::now() + grant.timeout,
                observe: false,
            };
            match supervise::run(job, &mut Unwatched)?.result {
                // It ends with status 0 and without a frame: that it ran at all is what was to be seen.
                Err(failure) if failure.code == Code::PluginExited => Ok(()),
                Err(failure) => Err(failure),
                Ok(_) => Err(Failure::new(Code::Internal, "a program without frames gave a result")),
            }
        };
        match attempt() {
            Ok(()) => String::new(),
            Err(failure) => {
                let remedy =
                    failure.details.get("remedy").and_then(|text| text.as_str()).unwrap_or_default().to_owned();
                format!("{}\n{remedy}", failure.message)
            }
        }
    });
    match tried.as_deref() {
        Ok("") => Trial {
            layer: "all steps",
            holds: true,
            found: format!("a whole call, confined, as {INSIDE_ID} inside: every step succeeded and was read back"),
            remedy: None,
        },
        Ok(text) => {
            let (found, remedy) = text.split_once('\n').unwrap_or((text, ""));
            Trial {
                layer: "all steps",
                holds: false,
                found: found.to_owned(),
                remedy: (!remedy.is_empty()).then(|| remedy.to_owned()),
            }
        }
        Err(error) => Trial { layer: "all steps", holds: false, found: error.to_string(), remedy: None },
    }
}

fn doctor_plan(grant: &Grant, entry: &Entry, facts: &Facts) -> Plan {
    let environment = Environment { request_id: "", timeout: grant.timeout, pass: &|_| None };
    crate::decide::plan::plan(
        ("Doctor", "run"),
        entry,
        grant,
        facts,
        Vec::new(),
        &crate::decide::plan::ClientNeeds::default(),
        environment,
    )
}

/// Runs `act` in a forked child and returns the text that it returned.
fn in_child_with_text(act: impl FnOnce() -> String) -> std::io::Result<String> {
    use std::io::{Read, Write};
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    match fork_into(0, None)? {
        Forked::Child => {
            drop(read);
            let text = act();
            crate::sys::process::exit_now(i32::from(fs::File::from(write).write_all(text.as_bytes()).is_err()));
        }
        Forked::Parent { pid, .. } => {
            drop(write);
            let mut text = String::new();
            fs::File::from(read).take(65_536).read_to_string(&mut text)?;
            match crate::sys::process::wait_usage(pid)? {
                (0, _) => Ok(text),
                (status, _) => {
                    Err(std::io::Error::other(format!("the trial's process ended with wait status {status:#x}")))
                }
            }
        }
    }
}

/// Where records would go.
fn audit() -> Trial {
    use crate::report::audit::{JOURNALD_SOCKET, JournaldMode, Sinks, default_file};
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let default = default_file(nix::unistd::getuid().as_raw(), variable("XDG_STATE_HOME"), variable("HOME"));
    let check = |path: &Path| crate::config::check_trusted(path).map(drop).map_err(|error| error.to_string());
    match Sinks::open(JournaldMode::Auto, None, default, Path::new(JOURNALD_SOCKET), check) {
        Ok(sinks) => {
            let file = sinks.file_path().map(|path| path.display().to_string());
            let found = match (sinks.journald(), file) {
                (true, Some(file)) => format!("journald; {file} should it fail"),
                (true, None) => "journald".to_owned(),
                (false, Some(file)) => format!("no journald here: {file}"),
                (false, None) => "none".to_owned(),
            };
            Trial { layer: "audit", holds: true, found, remedy: None }
        }
        Err(error) => {
            let failure: Failure = error.into();
            missing("audit", failure)
        }
    }
}
