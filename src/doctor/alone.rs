//! Tries single layers, each in a separate child, to report on those after the first missing one too.

use super::{Finding, in_child, tried, went};
use crate::confine::step::{Step, StepError};
use crate::confine::verify::namespaces as namespaces_of_this_process;
use crate::confine::{capabilities, filter, landlock};
use crate::supervise;
use crate::sys::clone::{Forked, fork_into};
use crate::types::{Failure, Layer};
use ::landlock::{AccessFs, PathBeneath, PathFd, RulesetCreatedAttr};
use nix::sched::CloneFlags;
use nix::sys::resource::{Resource, setrlimit};
use std::fs::{self, File};
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};

/// The limit for descriptors in the trial of limits.
const FILES: u64 = 32;

/// An act and its required result.
type Act = (String, &'static str);

/// All trials.
pub(super) fn trials() -> Vec<Finding> {
    vec![namespaces(), limits(), capabilities(), landlock(), seccomp()]
}

/// Runs `try_all` in a child: it returns the result of each act, or the step that failed.
fn attempt(layer: Layer, acts: Vec<Act>, try_all: impl FnOnce() -> Result<Vec<String>, StepError>) -> Finding {
    let failed = |failure: Failure| Finding::failed(layer, failure);
    let got = match in_child(|| pack(try_all())).map(|text| unpack(&text)) {
        Ok(Ok(got)) => got,
        Ok(Err(error)) => return failed(error.into()),
        Err(failure) => return failed(failure),
    };
    let got = got.into_iter().chain(std::iter::repeat("nothing".to_owned()));
    Finding::tried(layer, acts.into_iter().zip(got).map(|((act, expected), got)| tried(act, expected, got)).collect())
}

/// Encodes a child's report.
fn pack(report: Result<Vec<String>, StepError>) -> String {
    let report = report.map_err(|error| error.encode());
    // Texts and bytes: always valid JSON.
    serde_json::to_string(&report).unwrap_or_default()
}

fn unpack(text: &str) -> Result<Vec<String>, StepError> {
    let report: Result<Vec<String>, Vec<u8>> = serde_json::from_str(text).unwrap_or(Ok(Vec::new()));
    report.or_else(|bytes| StepError::decode(&bytes).map_or(Ok(Vec::new()), Err))
}

fn act(act: &str, expected: &'static str) -> Act {
    (act.to_owned(), expected)
}

/// All seven at once, like a call.
fn namespaces() -> Finding {
    let acts = vec![act("clone3 with seven new namespaces", "works"), act("namespaces shared with the caller", "none")];
    attempt(Layer::Namespaces, acts, || {
        let outside = namespaces_of_this_process().unwrap_or_default();
        let fail = |error| StepError::new(Step::Clone, "clone3", error);
        match fork_into(supervise::NAMESPACE_FLAGS, None).map_err(fail)? {
            Forked::Child => {
                let inside = namespaces_of_this_process().unwrap_or_else(|_| outside.clone());
                let same = outside.iter().filter(|(name, number)| inside.get(*name) == Some(number));
                crate::sys::process::exit_now(i32::try_from(same.count()).unwrap_or(7));
            }
            Forked::Parent { pid, .. } => {
                let (status, _) = crate::sys::process::wait_usage(pid).map_err(|errno| fail(errno.into()))?;
                let same = match crate::sys::process::Ended::from_raw(status) {
                    crate::sys::process::Ended::Exited(0) => "none".to_owned(),
                    other => format!("{other:?}"),
                };
                Ok(vec!["works".to_owned(), same])
            }
        }
    })
}

fn limits() -> Finding {
    let acts = vec![act("descriptors below a limit of 32", "opens"), act("one more", "EMFILE")];
    attempt(Layer::Limits, acts, || {
        let fail = |error: io::Error| StepError::new(Step::Limits, "open_files", error);
        setrlimit(Resource::RLIMIT_NOFILE, FILES, FILES).map_err(|errno| fail(errno.into()))?;
        let mut open = vec![File::open("/").map_err(fail)?];
        loop {
            match open[0].try_clone() {
                Ok(file) if (open.len() as u64) < FILES => open.push(file),
                more => return Ok(vec!["opens".to_owned(), went(more, "opens")]),
            }
        }
    })
}

/// In its own user namespace a process has every capability until the step removes them.
fn capabilities() -> Finding {
    let acts = vec![act("sethostname with capabilities", "works"), act("the same after the step", "EPERM")];
    let hostname = || went(nix::unistd::sethostname("sandbox").map_err(Into::into), "works");
    attempt(Layer::Capabilities, acts, || {
        let fail = |error: io::Error| StepError::new(Step::Clone, "clone3", error);
        let (read, write) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|error| fail(error.into()))?;
        let flags = CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWUTS;
        match fork_into(flags.bits() as u64, None).map_err(fail)? {
            Forked::Child => {
                let before = hostname();
                let text = pack(capabilities::step().map(|()| vec![before, hostname()]));
                let written = io::Write::write_all(&mut File::from(write), text.as_bytes());
                crate::sys::process::exit_now(i32::from(written.is_err()));
            }
            Forked::Parent { pid, .. } => {
                drop(write);
                let text = io::read_to_string(File::from(read)).map_err(fail)?;
                crate::sys::process::wait_usage(pid).map_err(|errno| fail(errno.into()))?;
                unpack(&text)
            }
        }
    })
}

/// Only a path with a rule can be opened; since ABI 4 the same for ports, which the gateway's rules name.
fn landlock() -> Finding {
    let abi = crate::sys::process::landlock_abi();
    let mut acts =
        vec![(format!("list /usr, which has a rule (ABI {abi})"), "opens"), act("list /, which has no rule", "EACCES")];
    // Without a loopback on the host, ports cannot be tried.
    let listen = || TcpListener::bind("127.0.0.1:0").and_then(|socket| Ok((socket.local_addr()?, socket)));
    let listeners = (abi >= 4).then(|| Some((listen().ok()?, listen().ok()?))).flatten();
    if listeners.is_some() {
        acts.push(act("connect to a TCP port with a rule", "connects"));
        acts.push(act("connect to one without a rule", "EACCES"));
    }
    attempt(Layer::Landlock, acts, || {
        let fail = |error: &dyn std::fmt::Display| {
            StepError::new(Step::Landlock, "a rule of the trial", io::Error::other(error.to_string()))
        };
        crate::sys::process::landlock_version().map_err(|error| StepError::new(Step::Landlock, "landlock", error))?;
        let list = |path: &str| went(fs::read_dir(path), "opens");
        let usr = PathFd::new("/usr").map_err(|error| fail(&error))?;
        let mut rules = landlock::unscoped(abi)?
            .add_rule(PathBeneath::new(usr, AccessFs::ReadDir))
            .map_err(|error| landlock::fail("a rule of the trial", error))?;
        let connect = |address: &SocketAddr| went(TcpStream::connect(address), "connects");
        if let Some(((named, _), _)) = &listeners {
            rules = landlock::dialling(rules, landlock::abi(abi), [named.port()])?;
        }
        nix::sys::prctl::set_no_new_privs().map_err(|errno| StepError::new(Step::NoNewPrivs, "no_new_privs", errno))?;
        landlock::restrict(rules)?;
        let mut got = vec![list("/usr"), list("/")];
        if let Some(((named, _), (other, _))) = &listeners {
            got.extend([connect(named), connect(other)]);
        }
        Ok(got)
    })
}

/// The plugin's filter with a listener that nobody reads: calls for the supervisor are then `ENOSYS`; or `EPERM`
/// if a filter above already has the one listener that a process can have.
fn seccomp() -> Finding {
    let acts = vec![act("getcwd, which the filter allows", "works"), act("chroot, which it denies", "denied")];
    attempt(Layer::Seccomp, acts, || {
        let fail = |error: io::Error| StepError::new(Step::Seccomp, "system call filter", error);
        let filter = filter::plugin(&[], true, false).map_err(|error| fail(io::Error::other(error.to_string())))?;
        crate::sys::seccomp::user_notification().map_err(fail)?;
        nix::sys::prctl::set_no_new_privs().map_err(|errno| StepError::new(Step::NoNewPrivs, "no_new_privs", errno))?;
        let silent = match crate::sys::seccomp::install_with_listener(&filter.program) {
            Ok(listener) => {
                drop(listener);
                "ENOSYS"
            }
            Err(error) if error.raw_os_error() == Some(nix::Error::EBUSY as i32) => {
                let deaf = filter.deaf(crate::types::OnViolation::Deny);
                crate::sys::seccomp::install(&deaf.program).map_err(fail)?;
                "EPERM"
            }
            Err(error) => return Err(fail(error)),
        };
        let chroot = went(nix::unistd::chroot("/").map_err(Into::into), "works");
        let chroot = if chroot == silent { "denied".to_owned() } else { chroot };
        Ok(vec![went(std::env::current_dir(), "works"), chroot])
    })
}
