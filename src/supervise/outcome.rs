//! The outcome of a call, from what the supervisor did and what the kernel and the plugin reported.

use super::cgroup::{self, Cgroup, Counts};
use super::child::{Child, Ending, Gone};
use super::denials::{Denials, met};
use super::frames::Frame;
use super::memory::Seen;
use super::notifications::Notifications;
use super::observe::Observer;
use super::turns::Supervision;
use crate::confine::landlock::rights_of;
use crate::confine::step::{Step, StepError};
use crate::confine::verify::{NAMESPACES, Report};
use crate::decide::plan::{Limits, Plan};
use crate::json::raw::Raw;
use crate::keys::Key;
use crate::sys::process::Ended;
use crate::types::{
    Code, Completeness, CountedBy, Denial, Details, Failure, Note, Outcome, Said, Sandbox, Syscall, Usage,
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::time::Duration;

/// The outcome; or, if the plugin was never started, the failure alone.
pub(super) fn conclude(left: Supervision<'_>, gone: Gone) -> Result<Outcome<Denial>, Failure> {
    let Supervision { plan, child, status, exchange, notifications, egress, mut denials, .. } = left;
    let Child { ending, cgroup, .. } = child;
    let (answer, wait_status) = (exchange.answer, status.wait_status);
    let (started, step_error) = status.finish();
    let counts = cgroup.as_ref().map(Cgroup::counts).unwrap_or_default();
    let Some((report, seen)) = started else {
        return Err(not_started(plan, ending, step_error, &counts, gone.status));
    };
    let version = match &answer {
        Some(Frame::Result { version, .. } | Frame::Error { version, .. }) => version.clone(),
        _ => None,
    };
    let cpu = Duration::from_micros(gone.usage.user_us + gone.usage.system_us);
    let end = forced(plan, ending, step_error, &counts);
    let end = end.or_else(|| own_end(wait_status, cpu, &plan.limits, &counts)).map(|failure| match gone.status {
        Some(_) => failure,
        None => Failure { note: Some(Note::Unreaped), ..failure },
    });
    let (result, afterwards) = answered(answer, end, wait_status);
    let failure = afterwards.as_ref().or(result.as_ref().err());
    let (mut peaks, in_memory) = left.watch.finish(&mut denials);
    limits_met(&plan.limits, failure, gone.wall, cpu, &mut denials);
    if cgroup.as_ref().is_ok_and(|cgroup| cgroup.pids) {
        // The cgroup counts each process that was refused.
        peaks.processes = 0;
    }
    super::limits::met(plan, &peaks, &in_memory, failure, &mut denials);
    if let Some((denied, count)) = cgroup::refused(plan, &counts) {
        denials.add(denied, count);
    }
    let output = left.streams.finish(&mut denials);
    let (denials, denials_dropped) = denials.finish(failure.is_none());
    let sandbox = sandbox(plan, report, &seen, &notifications, cgroup::serving(cgroup.as_ref()));
    Ok(Outcome {
        result,
        afterwards,
        plugin_version: version,
        output,
        usage: usage(&gone, &counts, egress.bytes),
        denials,
        denials_dropped,
        denials_complete: Completeness {
            seccomp: notifications.heard,
            egress: true,
            // The kernel reports what an rlimit, Landlock or a missing mount denies to the process alone.
            limits: false,
            landlock: false,
            paths: false,
            learn: String::new(),
        },
        egress: egress.records,
        observed: notifications.observer.map(Observer::finish),
        sandbox,
    })
}

/// What ended a sandbox before exec.
fn not_started(
    plan: &Plan,
    ending: Option<Ending>,
    step: Option<StepError>,
    counts: &Counts,
    status: Option<i32>,
) -> Failure {
    match (ending, step) {
        (Some(Ending::Timeout), _) => Failure::new(Code::Timeout, "the time ran out before the plugin could start"),
        (Some(Ending::Cancelled(signal)), _) => cancelled(signal),
        // `memory` is less than the steps themselves need.
        (None | Some(Ending::Engine(_)), _) if counts.memory_exceeded() => {
            memory_exceeded(plan.limits.memory, counts.memory_peak, CountedBy::Cgroup, None)
        }
        (_, Some(error)) => error.into(),
        (Some(Ending::Engine(failure)), None) => failure,
        _ => StepError::new(
            Step::Init,
            format!("the sandbox's first process (wait status {:#x})", status.unwrap_or_default()),
            std::io::Error::other("ended before the plugin was started"),
        )
        .into(),
    }
}

fn usage(gone: &Gone, counts: &Counts, (egress_bytes_sent, egress_bytes_received): (u64, u64)) -> Usage {
    Usage {
        wall_us: u64::try_from(gone.wall.as_micros()).unwrap_or(u64::MAX),
        // A cgroup has also counted the processes that nothing waited for.
        cpu_user_us: counts.cpu.map_or(gone.usage.user_us, |(user, _)| user),
        cpu_system_us: counts.cpu.map_or(gone.usage.system_us, |(_, system)| system),
        max_rss_bytes: gone.usage.max_rss_bytes,
        memory_peak_bytes: counts.memory_peak,
        pids_peak: counts.pids_peak,
        cpu_throttled_us: counts.cpu_throttled,
        egress_bytes_sent,
        egress_bytes_received,
    }
}

/// The limits that ended the call, as denials.
fn limits_met(limits: &Limits, failure: Option<&Failure>, wall: Duration, cpu: Duration, denials: &mut Denials) {
    let Some(failure) = failure else { return };
    let millis = |time: Duration| u64::try_from(time.as_millis()).ok();
    let met = match (failure.code, &failure.details) {
        // The time began with the call, before the sandbox.
        (Code::Timeout, _) => {
            met(Key::Timeout, limits.timeout_ms, millis(wall).map(|used| used.max(limits.timeout_ms)))
        }
        (Code::CpuTimeExceeded, _) => met(Key::CpuTime, limits.cpu_time_s, Some(cpu.as_secs())),
        (Code::MemoryExceeded, Details::Memory { used, .. }) => met(Key::Memory, limits.memory, *used),
        (Code::ResultTooLarge, _) => met(Key::Result, limits.result, None),
        _ => return,
    };
    denials.add(met, 1);
}

/// The failure by which the supervisor, a step or the kernel (for the call's own `memory`) ended the call.
fn forced(plan: &Plan, ending: Option<Ending>, step: Option<StepError>, counts: &Counts) -> Option<Failure> {
    let limits = &plan.limits;
    Some(match (ending, step) {
        (Some(Ending::Timeout), _) => Failure::new(
            Code::Timeout,
            format!(
                "{}.{}: not done after {}; raise `timeout` for this method if it needs longer",
                plan.plugin,
                plan.method,
                seconds(limits.timeout_ms)
            ),
        )
        .with(Details::Timeout { ms: limits.timeout_ms }),
        (Some(Ending::Cancelled(signal)), _) => cancelled(signal),
        (Some(Ending::Memory(used, sockets)), _) => {
            memory_exceeded(limits.memory, Some(used), CountedBy::Sum, Some((sockets.sockets, sockets.bytes)))
        }
        // The kernel's kill may have cut a frame or a packet short.
        (None | Some(Ending::Frames(_) | Ending::Engine(_)), _) if counts.memory_exceeded() => {
            memory_exceeded(limits.memory, counts.memory_peak, CountedBy::Cgroup, None)
        }
        (Some(Ending::Violation(Syscall { number, name, .. })), _) => Failure::new(
            Code::Violation,
            format!("{name}: denied by seccomp, and on_violation = \"kill\" ends the call"),
        )
        .with(Details::Violation { number, operation: name, denial: None }),
        (Some(Ending::Frames(failure) | Ending::Engine(failure)), _) => failure,
        (None, Some(error)) => error.into(),
        (None, None) => return None,
    })
}

/// The failure of a plugin that a signal ended.
fn own_end(wait_status: Option<i32>, cpu: Duration, limits: &Limits, counts: &Counts) -> Option<Failure> {
    let killed = |signal| killed(signal, counts.oom_kills > 0);
    let Some(status) = wait_status else {
        return Some(killed(Signal::SIGKILL as i32));
    };
    let Ended::Killed(signal) = Ended::from_raw(status) else { return None };
    // A process that ignores SIGXCPU gets SIGKILL a second later.
    let spent = cpu >= Duration::from_secs(limits.cpu_time_s);
    if signal == Signal::SIGXCPU as i32 || (signal == Signal::SIGKILL as i32 && spent) {
        return Some(
            Failure::new(
                Code::CpuTimeExceeded,
                format!(
                    "processor time: the plugin used more than {} s; raise `cpu_time` for this method if it needs more",
                    limits.cpu_time_s
                ),
            )
            .with(Details::CpuTime { s: limits.cpu_time_s }),
        );
    }
    Some(killed(signal))
}

/// The answer of the call, and how its process ended if that does not change the answer. A complete frame remains valid if its
/// process then reaches a limit or is ended by a signal. It does not if the caller cancelled, `on_violation` ended the call, the
/// plugin broke the protocol, or the engine failed.
fn answered(
    answer: Option<Frame>,
    end: Option<Failure>,
    wait_status: Option<i32>,
) -> (Result<Raw, Failure>, Option<Failure>) {
    let result = match answer {
        Some(Frame::Result { value, .. }) => Ok(value),
        Some(Frame::Error { code, message, traceback, details, .. }) => {
            // Every failure has a sentence for people.
            let message = if message.is_empty() { "the plugin failed without a message".to_owned() } else { message };
            let said = Details::Plugin(Box::new(Said { members: details, ..Said::default() }));
            Err(Failure { traceback, ..Failure::new(code, message).with(said) })
        }
        Some(Frame::Progress { .. }) | None => {
            let exit = match wait_status.map(Ended::from_raw) {
                Some(Ended::Exited(exit)) => exit,
                _ => 0,
            };
            let none = || {
                Failure::new(Code::PluginExited, format!("the plugin ended with exit status {exit} and no result"))
                    .with(Details::Exit(exit))
            };
            return (Err(end.unwrap_or_else(none)), None);
        }
    };
    match end {
        Some(end) if !leaves_the_answer(end.code) => (Err(end), None),
        end => (result, end),
    }
}

fn leaves_the_answer(code: Code) -> bool {
    matches!(code, Code::Timeout | Code::CpuTimeExceeded | Code::MemoryExceeded | Code::PluginKilled)
}

fn killed(signal: i32, host_memory: bool) -> Failure {
    let name = Signal::try_from(signal).map_or_else(|_| format!("signal {signal}"), |signal| signal.to_string());
    let failure = Failure::new(Code::PluginKilled, format!("the plugin was killed by {name}"));
    Failure { signal: Some(signal), ..failure.with(Details::Signal { name, host_memory }) }
}

/// The failure of a call that the caller cancelled by this signal.
pub fn cancelled(signal: i32) -> Failure {
    let name = Signal::try_from(signal).map_or("signal", Signal::as_str);
    let details = Details::Signal { name: name.to_owned(), host_memory: false };
    Failure { signal: Some(signal), ..Failure::new(Code::Cancelled, format!("cancelled by {name}")).with(details) }
}

/// `memory_exceeded`, with the use when it was seen, and what counted it.
fn memory_exceeded(limit: u64, used: Option<u64>, by: CountedBy, sockets: Option<(u64, u64)>) -> Failure {
    Failure::new(
        Code::MemoryExceeded,
        format!("memory: the call used more than {limit} bytes; raise `memory` for this method if it needs more"),
    )
    .with(Details::Memory { limit, used, by, sockets })
}

fn seconds(ms: u64) -> String {
    if ms % 1000 == 0 { format!("{} s", ms / 1000) } else { format!("{ms} ms") }
}

/// Each layer as requested and as read back.
fn sandbox(
    plan: &Plan,
    report: Report,
    seen: &Seen,
    Notifications { filter, heard, .. }: &Notifications<'_>,
    limits_active: Value,
) -> Sandbox {
    let inode = |name: &'static str| (name, report.namespaces.get(name).copied().unwrap_or_default());
    Sandbox {
        plan_sha256: plan.sha256().to_owned(),
        config_sha256: None,
        namespaces: NAMESPACES.map(inode).to_vec(),
        mounts_planned: plan.mounts.iter().filter(|mount| mount.is_mount()).count() + 1,
        mounts: report.mounts,
        landlock_abi: plan.landlock_abi,
        landlock_rights: rights_of(plan.landlock_abi),
        read_only_by_mount: plan.read_only_by_mount().map(|mount| mount.path.clone()).collect(),
        filter: (filter.name, filter.len(), filter.sha256()),
        listener: *heard,
        seccomp_mode: seen.seccomp,
        seccomp_filters: seen.seccomp_filters,
        capabilities: report.capabilities,
        no_new_privs: report.no_new_privs,
        limits: json!(plan.limits),
        limits_active,
        egress: plan.egress.clone(),
        inside: (report.uid[0], report.gid[0]),
        outside: plan.outside,
        uid_map: report.uid_map,
        groups: report.groups,
    }
}
