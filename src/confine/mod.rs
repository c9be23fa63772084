//! The child's side: the ordered steps from a fresh clone to the plugin's first instruction. One file a step.

pub mod buffers;
pub mod capabilities;
pub mod channels;
pub mod counters;
pub mod enforced;
pub mod filter;
pub mod handed;
pub mod id_map;
pub mod init;
pub mod landlock;
pub mod limits;
pub mod locks;
pub mod network;
pub mod privileges;
pub mod proc;
pub mod reader;
pub mod remedy;
pub mod root;
pub mod session;
pub mod step;
pub mod trees;
pub mod verify;

use crate::decide::plan::Plan;
use crate::sys;
use crate::text::shorten;
use ::landlock::RulesetCreated;
use channels::{ChildEnds, Tag};
use std::ffi::CString;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;
use step::{Step, StepError};
use trees::Tree;

/// Everything that is made ready before the clone, so that the child only applies it.
pub struct Prepared {
    /// Host paths as detached trees, in the plan's order.
    pub trees: Vec<Tree>,
    /// Ruleset with the rules of host paths and ports.
    pub ruleset: RulesetCreated,
    /// A filter under which the other one comes, for a call that is observed.
    pub decides: Option<filter::Filter>,
    /// The plugin's system call filter.
    pub filter: filter::Filter,
    /// Source of the runner, written into the sealed root.
    pub runner: &'static [u8],
    /// Program, arguments and environment for exec.
    pub exec: (CString, Vec<CString>, Vec<CString>),
    /// Whether the engine itself runs as root.
    pub as_root: bool,
    /// What the cgroup does that the child is cloned into.
    pub cgroup: limits::Cgroup,
    /// When the call must be over.
    pub deadline: Instant,
}

/// Parent side: resolves the plan to descriptors.
///
/// # Errors
/// Each names the path, rule or string that could not be had.
pub fn prepare(plan: &Plan, runner: &'static [u8], as_root: bool, deadline: Instant) -> Result<Prepared, StepError> {
    let string = |text: String| {
        CString::new(text.clone()).map_err(|_| StepError::new(Step::Prepare, shorten(&text, 400), nix::Error::EINVAL))
    };
    let argv = plan.argv.iter().cloned().map(string).collect::<Result<Vec<_>, _>>()?;
    let env = plan.env.iter().map(|(name, value)| string(format!("{name}={value}"))).collect::<Result<Vec<_>, _>>()?;
    let trees = trees::open(plan, as_root)?;
    let ruleset = landlock::prepare(plan, &trees)?;
    let filter = filter::plugin(&plan.syscalls, plan.named_unix, plan.has_terminals())
        .map_err(|error| StepError::new(Step::Prepare, "syscalls", std::io::Error::other(error.to_string())))?;
    // Checked here, where it can be reported: in the child, pid 1 and the plugin would both fail, each ending the other.
    sys::seccomp::user_notification().map_err(|error| StepError::new(Step::Seccomp, "system call filter", error))?;
    Ok(Prepared {
        trees,
        ruleset,
        decides: None,
        filter,
        runner,
        exec: (argv[0].clone(), argv, env),
        as_root,
        cgroup: limits::Cgroup::default(),
        deadline,
    })
}

/// The new process from its first line to exec. A failed step is written to the failure pipe; nothing returns.
pub fn enter(plan: &Plan, prepared: Prepared, ends: ChildEnds) -> ! {
    let failure = ends.failure.try_clone();
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| steps(plan, prepared, ends)));
    let error = match outcome {
        Ok(Err(error)) => error,
        Err(_) => StepError::new(Step::Exec, "confinement", std::io::Error::other("panicked")),
    };
    if let Ok(pipe) = failure {
        // Should this fail too, the supervisor sees a process that ended before it ran, which refuses as well.
        if std::fs::File::from(pipe).write_all(&error.encode()).is_err() {
            sys::process::exit_now(2);
        }
    }
    sys::process::exit_now(1)
}

/// THE ordered list. What each step does and why it stands where it does is in its own file.
fn steps(plan: &Plan, prepared: Prepared, ends: ChildEnds) -> Result<std::convert::Infallible, StepError> {
    let Prepared { trees, ruleset, decides, filter, runner, exec, as_root, cgroup, deadline } = prepared;
    session::step(ends.supervisor.as_fd())?;
    id_map::step(ends.status.as_fd())?;
    let mut counters = counters::Counters::open()?;
    network::step(plan, ends.status.as_fd())?;
    let covered = root::step(plan, runner, trees)?;
    limits::step(&plan.limits, cgroup, &mut counters)?;
    capabilities::step()?;
    // Changed credentials clear it (prctl(2), PR_SET_PDEATHSIG).
    session::die_with(ends.supervisor.as_fd(), Step::Capabilities)?;
    no_new_privs()?;
    let layer = landlock::step(plan, ruleset)?;
    let report = verify::step(plan, as_root, cgroup, &counters, covered)?;
    drop(counters);
    let lockable = report.lockable.clone();
    let report = serde_json::to_vec(&report).map_err(|error| unsent(error.into()))?;
    let (in_memory, packets) = (root::in_memory()?, network::counters()?);
    let shown: Vec<_> = in_memory.iter().chain(&packets).map(AsFd::as_fd).collect();
    tell(&ends.status, Tag::Verified, &report, &shown)?;
    drop((in_memory, packets));
    let status = init::step(ends.status, ends.failure.as_fd(), deadline, &lockable)?;
    // One more layer than pid 1 has: landlock then denies ptrace of it, and signals where the ABI scopes them.
    landlock::restrict(layer)?;
    let descriptors = Descriptors { frames: ends.frames, stdin: ends.stdin, stdout: ends.stdout, stderr: ends.stderr };
    descriptors.place()?;
    seccomp(plan, decides.as_ref(), &filter, &status)?;
    run(&exec)
}

fn no_new_privs() -> Result<(), StepError> {
    nix::sys::prctl::set_no_new_privs().map_err(|errno| StepError::new(Step::NoNewPrivs, "no_new_privs", errno))
}

fn unsent(error: std::io::Error) -> StepError {
    StepError::new(Step::Verify, "status channel", error)
}

fn tell(status: &OwnedFd, tag: Tag, payload: &[u8], fds: &[std::os::fd::BorrowedFd<'_>]) -> Result<(), StepError> {
    channels::send(status.as_fd(), tag, payload, fds).map_err(unsent)
}

/// What becomes 0–3.
struct Descriptors {
    frames: OwnedFd,
    stdin: OwnedFd,
    stdout: OwnedFd,
    stderr: OwnedFd,
}

impl Descriptors {
    /// Puts them in place; everything above is close-on-exec: the plugin's half of what pid 1 does with its own in step `init`. None of them is below 4 already: the supervisor's own 0–2 are
    /// open since its start, and 3 was taken before the channels were made.
    fn place(self) -> Result<(), StepError> {
        let fail = |error: rustix::io::Errno| StepError::new(Step::Init, "descriptors", error);
        rustix::stdio::dup2_stdin(&self.stdin).map_err(fail)?;
        rustix::stdio::dup2_stdout(&self.stdout).map_err(fail)?;
        rustix::stdio::dup2_stderr(&self.stderr).map_err(fail)?;
        sys::process::place_descriptor(self.frames, 3)
            .map_err(|error| StepError::new(Step::Init, "descriptor 3", error))?;
        sys::process::cloexec_from(4).map_err(|error| StepError::new(Step::Init, "close_range", error))?;
        enforced::descriptors()
    }
}

/// Step `seccomp`: the last, since every step before needs what it forbids. Of all filters of a process one can have a
/// listener (`EBUSY`, seccomp(2)): where upm itself runs under such a one, what would be reported is refused all the same.
fn seccomp(
    plan: &Plan,
    decides: Option<&filter::Filter>,
    filter: &filter::Filter,
    status: &OwnedFd,
) -> Result<(), StepError> {
    let fail = |error| StepError::new(Step::Seccomp, "system call filter", error);
    if let Some(decides) = decides {
        // Observed: without a listener there is nothing to observe, and `EBUSY` is an error.
        sys::seccomp::install(&decides.program).map_err(fail)?;
        let listener = sys::seccomp::install_with_listener(&filter.program).map_err(fail)?;
        return tell(status, Tag::Listener, b"", &[listener.as_fd()]);
    }
    match sys::seccomp::install_with_listener(&filter.program) {
        Ok(listener) => tell(status, Tag::Listener, b"", &[listener.as_fd()]),
        Err(error) if error.raw_os_error() == Some(nix::Error::EBUSY as i32) => {
            sys::seccomp::install(&filter.deaf(plan.on_violation).program).map_err(fail)?;
            tell(status, Tag::Deaf, b"", &[])
        }
        Err(error) => Err(fail(error)),
    }
}

/// Step `exec`.
fn run(exec: &(CString, Vec<CString>, Vec<CString>)) -> Result<std::convert::Infallible, StepError> {
    nix::unistd::execve(&exec.0, &exec.1, &exec.2)
        .map_err(|errno| StepError::new(Step::Exec, exec.0.to_string_lossy().into_owned(), errno))
}
