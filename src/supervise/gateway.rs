//! Starts the gateway: a process of its own in the host's network, confined before it reads a byte of the plugin's.

use crate::confine::channels::{self, Tag};
use crate::confine::step::{Step, StepError};
use crate::confine::{capabilities, filter, id_map, landlock, session};
use crate::decide::plan::Plan;
use crate::gateway::{self, ProxyEnv, Sockets};
use crate::report::complain;
use crate::sys;
use ::landlock::{AccessFs, PathBeneath, RulesetCreatedAttr};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// See [`start`].
const NAMESPACE: u64 = nix::sched::CloneFlags::CLONE_NEWUSER.bits() as u64;

/// The running gateway.
pub struct Gateway {
    /// Packets with refusals and connection records.
    pub events: OwnedFd,
    /// The process.
    pub pidfd: OwnedFd,
    /// Its id.
    pub pid: i32,
}

impl Drop for Gateway {
    /// However the call ends, the gateway does not outlive it.
    fn drop(&mut self) {
        // ESRCH: it has ended.
        rustix::process::pidfd_send_signal(&self.pidfd, rustix::process::Signal::KILL).ok();
        // ECHILD cannot happen: nothing else waits for it.
        sys::process::wait_usage(self.pid).ok();
    }
}

/// Forks and confines it. `supervisor` is the pidfd by which it dies with the supervisor; `cgroup` is where it is counted.
///
/// # Errors
/// Sockets or processes at their limit. What fails after the fork ends the gateway, and with it the call.
pub fn start(
    plan: &Plan,
    sockets: Sockets,
    as_root: bool,
    supervisor: BorrowedFd<'_>,
    cgroup: Option<BorrowedFd<'_>>,
) -> Result<Gateway, StepError> {
    let fail = |what: &str, error: std::io::Error| StepError::new(Step::Network, what, error);
    let (events, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(|error| fail("gateway events", error.into()))?;
    rustix::fs::fcntl_setfl(&events, OFlags::NONBLOCK).map_err(|error| fail("gateway events", error.into()))?;
    // As root it gets a user namespace of its own, in which its user alone is mapped. The supervisor, as the namespace's
    // owner, can then end it without CAP_KILL, and the kernel delivers the parent-death signal, which has to pass the same check.
    let flags = if as_root { NAMESPACE } else { 0 };
    match sys::clone::fork_into(flags, cgroup).map_err(|error| fail("gateway", error))? {
        sys::clone::Forked::Parent { pid, pidfd } => {
            let started = Gateway { events, pidfd, pid };
            if as_root {
                id_map::write_maps(pid, plan.outside, plan.outside)?;
                channels::send(started.events.as_fd(), Tag::Go, b"", &[])
                    .map_err(|error| fail("gateway events", error))?;
            }
            Ok(started)
        }
        sys::clone::Forked::Child => {
            drop(events);
            if let Err(error) = confine(plan, &sockets, &theirs, as_root, supervisor) {
                complain(format_args!("gateway: {error}"));
                sys::process::exit_now(1);
            }
            gateway::run(sockets, plan.egress.clone(), plan.limits.egress_bytes, theirs)
        }
    }
}

fn confine(
    plan: &Plan,
    sockets: &Sockets,
    events: &OwnedFd,
    as_root: bool,
    supervisor: BorrowedFd<'_>,
) -> Result<(), StepError> {
    let fail = |step, what: &str, error: std::io::Error| StepError::new(step, what, error);
    session::default_signals_and_mask()?;
    let pipe = nix::sys::signal::Signal::SIGPIPE;
    sys::process::set_disposition(pipe, sys::process::Disposition::Ignored)
        .map_err(|error| fail(Step::Session, "gateway: SIGPIPE", error))?;
    sys::process::resolve_names_as_written().map_err(|error| fail(Step::Session, "gateway: resolver", error))?;
    if as_root {
        let (uid, gid) = plan.outside;
        let word = channels::receive(events.as_fd(), &mut [0u8; 1])
            .map_err(|error| fail(Step::IdMap, "gateway events", error))?;
        if word.is_none() {
            return Err(fail(Step::IdMap, "supervisor", nix::Error::EPIPE.into()));
        }
        nix::unistd::setresgid(gid.into(), gid.into(), gid.into())
            .map_err(|errno| fail(Step::IdMap, "gateway: setresgid", errno.into()))?;
        nix::unistd::setresuid(uid.into(), uid.into(), uid.into())
            .map_err(|errno| fail(Step::IdMap, "gateway: setresuid", errno.into()))?;
    }
    session::die_with(supervisor, Step::Session)?;
    let mut keep: Vec<i32> = vec![2, events.as_raw_fd(), sockets.dns_udp.as_raw_fd(), sockets.dns_tcp.as_raw_fd()];
    keep.extend(sockets.listeners.iter().map(|(_, fd)| fd.as_raw_fd()));
    sys::process::close_all_but(keep).map_err(|error| fail(Step::Session, "gateway: descriptors", error))?;
    sys::process::set_dumpable(false).map_err(|error| fail(Step::Session, "gateway: PR_SET_DUMPABLE", error))?;
    let files = gateway::DESCRIPTORS + plan.tcp_ports.len() as u64;
    let (_, most) =
        getrlimit(Resource::RLIMIT_NOFILE).map_err(|errno| fail(Step::Limits, "gateway: open files", errno.into()))?;
    setrlimit(Resource::RLIMIT_NOFILE, files.min(most), files.min(most))
        .map_err(|errno| fail(Step::Limits, "gateway: open files", errno.into()))?;
    capabilities::clear()?;
    nix::sys::prctl::set_no_new_privs().map_err(|errno| fail(Step::NoNewPrivs, "gateway", errno.into()))?;
    restrict(plan)?;
    sys::seccomp::install(&filter::gateway().program).map_err(|error| fail(Step::Seccomp, "gateway", error))
}

/// What resolving a name needs to read, and the granted ports (the site's proxy instead, where there is one).
fn restrict(plan: &Plan) -> Result<(), StepError> {
    let fail = |what: &str, error: &dyn std::fmt::Display| {
        StepError::new(Step::Landlock, format!("gateway: {what}"), std::io::Error::other(error.to_string()))
    };
    let abi = landlock::abi(plan.landlock_abi);
    let mut rules = landlock::gateway(plan.landlock_abi)?;
    for path in gateway::readable_paths() {
        // Not every host has every one of them.
        let Ok(object) = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) else { continue };
        let directory = rustix::fs::fstat(&object)
            .is_ok_and(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Directory);
        let listing = AccessFs::ReadDir | AccessFs::Execute;
        let rights = if directory { listing | AccessFs::ReadFile } else { AccessFs::ReadFile.into() };
        rules = rules.add_rule(PathBeneath::new(object.as_fd(), rights)).map_err(|error| fail(path, &error))?;
    }
    let proxies = ProxyEnv::from_vars(|name| std::env::var(name).ok());
    let rules = landlock::dialling(rules, abi, gateway::connect_ports(&plan.egress, &proxies))?;
    landlock::restrict(rules).map(drop)
}
