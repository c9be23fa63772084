//! The start of a sandbox: from a job to a child that waits, and the supervision of it.

use super::capture::Streams;
use super::cgroup::{self, Bounds, Cgroup, Missing};
use super::child::Child;
use super::denials::Denials;
use super::egress::Egress;
use super::exchange::Exchange;
use super::notifications::Notifications;
use super::observe::{self, Observer};
use super::status::Status;
use super::turns::Supervision;
use super::watch::Watch;
use super::{Job, NAMESPACE_FLAGS, Watcher, own};
use crate::confine::channels::{self, ChildEnds, Tag};
use crate::confine::step::{Step, StepError};
use crate::confine::{self, id_map};
use crate::decide::plan::INSIDE_ID;
use crate::host::writable::{self, Writable};
use crate::sys::clone::{Forked, fork_into};
use crate::types::Failure;
use rustix::fs::{Gid, Uid, fchown};
use rustix::io::Errno;
use std::os::fd::AsFd;
use std::time::Instant;

/// Bytes read at once.
const CHUNK: usize = 64 << 10;

/// Makes the sandbox. What it fails on from the fork on, the supervision reports.
///
/// # Errors
/// What keeps the plugin from being started.
pub(super) fn start<'a>(job: Job<'a>, watcher: &'a mut dyn Watcher) -> Result<Supervision<'a>, Failure> {
    let as_root = nix::unistd::geteuid().is_root();
    // Descriptor 3 must be taken before the channels are made: in the child it becomes the frame socket.
    let reserve = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)
        .map_err(|error| StepError::new(Step::Prepare, "descriptor 3", error))?;
    confine::privileges::require()?;
    let mut bounds = Bounds::from(&job.plan.limits);
    if job.observe {
        // What a call looks for does not depend on its speed, and `upm learn` supervises it from a child, which is not alone
        // in the caller's cgroup.
        bounds.cpus = None;
    }
    let (mut prepared, cgroup) = prepare(&job, bounds, as_root)?;
    let observer = job.observe.then(Observer::start).transpose()?;
    if observer.is_some() {
        let (decides, reports) = prepared.filter.watching(&observe::watched());
        (prepared.decides, prepared.filter) = (Some(decides), reports);
    }
    let filter = prepared.filter.clone();
    let (parent, child) = channels::make().map_err(|error| StepError::new(Step::Session, "channels", error))?;
    if as_root {
        own_pipes(&child, job.plan.outside)?;
    }
    tracing::debug!(mounts = prepared.trees.len(), filter = prepared.filter.name, "prepared");
    let started = Instant::now();
    let (forked, cgroup) = clone(&mut prepared, bounds, cgroup)?;
    let Forked::Parent { pid, pidfd } = forked else {
        drop(parent);
        confine::enter(job.plan, prepared, child);
    };
    // First of all: the child waits for it.
    let begun = id_map::write_maps(pid, (INSIDE_ID, INSIDE_ID), job.plan.outside).and_then(|()| {
        channels::send(parent.status.as_fd(), Tag::Go, b"", &[])
            .map_err(|error| StepError::new(Step::IdMap, "status channel", error))
    });
    drop(child);
    drop(prepared);
    drop(reserve);
    let mut supervision = Supervision {
        watcher,
        signals: job.signals,
        deadline: job.deadline,
        plan: job.plan,
        as_root,
        child: Child::new(pid, pidfd, cgroup, started),
        status: Status::new(parent.status, parent.failure, job.plan.tcp_ports.len()),
        exchange: Exchange::new(parent.frames, job.frame, job.plan.limits.result),
        streams: Streams::new(parent.stdout, parent.stderr, job.plan.limits.output),
        notifications: Notifications::new(job.plan, filter, observer),
        egress: Egress::new(job.plan),
        watch: Watch::new(),
        denials: Denials::default(),
        buffer: vec![0; CHUNK],
    };
    // A child that failed first says more than the pipe that broke.
    if let Err(error) = begun {
        if error.source.raw_os_error() != Some(Errno::PIPE.raw_os_error()) {
            supervision.child.end(error.into());
        }
    }
    Ok(supervision)
}

/// All that is done before the clone, in the only order that works.
fn prepare(
    job: &Job<'_>,
    bounds: Bounds,
    as_root: bool,
) -> Result<(confine::Prepared, Result<Cgroup, Missing>), Failure> {
    // Before `own::prepare`, which enters a user namespace: there the owners of other directories have no number.
    let writable = if writable::is_needed(job.plan) { Some(Writable::open(job.caller)?) } else { None };
    let request_id = job.plan.env.get("UPM_REQUEST_ID").map_or("", String::as_str);
    let cgroup = cgroup::make(bounds, request_id);
    own::prepare(as_root)?;
    if !as_root {
        crate::walk::enter_namespace();
    }
    let prepared = confine::prepare(job.plan, job.runner, as_root, job.deadline)?;
    if let Some(writable) = writable {
        writable.record(job.plan, &prepared.trees)?;
    }
    // What was opened on the way is not kept beside the plugin.
    crate::walk::forget();
    Ok((prepared, cgroup))
}

/// `/dev/stdout` opens the pipe anew, by its owner and mode.
fn own_pipes(ends: &ChildEnds, (uid, gid): (u32, u32)) -> Result<(), StepError> {
    for pipe in [&ends.stdout, &ends.stderr] {
        fchown(pipe, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
            .map_err(|error| StepError::new(Step::Prepare, "output pipes", error))?;
    }
    Ok(())
}

/// The child, in its cgroup if there is one; the kernel may still refuse to put it there (a threaded part of the tree, a
/// directory that somebody has removed). Without one it has the limits of each process, if those serve.
fn clone(
    prepared: &mut confine::Prepared,
    bounds: Bounds,
    cgroup: Result<Cgroup, Missing>,
) -> Result<(Forked, Result<Cgroup, Missing>), Failure> {
    let cgroup = match cgroup {
        Ok(cgroup) => {
            prepared.cgroup = confine::limits::Cgroup { own: true, pids: cgroup.pids };
            match fork_into(NAMESPACE_FLAGS, Some(cgroup.directory())) {
                Ok(forked) => return Ok((forked, Ok(cgroup))),
                Err(error) => Err(cgroup.refused_clone(&error)),
            }
        }
        Err(missing) => Err(missing),
    };
    if let Err(missing) = &cgroup {
        missing.refuses(bounds)?;
    }
    prepared.cgroup = confine::limits::Cgroup::default();
    let forked = fork_into(NAMESPACE_FLAGS, None).map_err(|error| StepError::new(Step::Clone, "clone3", error))?;
    Ok((forked, cgroup))
}
