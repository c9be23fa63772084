//! Tries each layer in a child: what must work and what must be denied. Nothing is guessed from versions.
//!
//! [`whole`] makes a real call with upm's own program as the plugin, which tries acts from inside.
//! [`alone`] tries single layers, to report on those after the first missing one too. [`around`] checks what is not a layer:
//! the configuration, id-mapped mounts, audit, cgroups.

mod alone;
mod around;
pub mod inside;
mod whole;

use crate::confine::step::{Step, StepError};
use crate::decide::plan::UNIX_ABI;
use crate::sys::clone::fork;
use crate::types::{Code, Failure, Layer};
use nix::errno::Errno;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::ForkResult;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

/// One line of the answer: a layer, or something around them.
#[derive(Debug, Serialize)]
pub struct Trial {
    /// The layer.
    pub layer: &'static str,
    /// Whether it works here; `None` if it could not be tried.
    pub holds: Option<bool>,
    /// The result.
    pub found: String,
    /// What an administrator can do.
    pub remedy: Option<String>,
    /// The acts that were tried.
    pub tried: Vec<Tried>,
}

/// One act.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tried {
    /// The act.
    pub act: String,
    /// The required result: success, or an error.
    pub expected: String,
    /// The actual result.
    pub got: String,
}

/// The result of one trial for one layer.
struct Finding {
    layer: Layer,
    tried: Vec<Tried>,
    state: State,
}

/// How a trial ended.
enum State {
    /// All acts were tried.
    Tried,
    /// The layer is not available.
    Missing { found: String, remedy: Option<String> },
    /// The trial failed.
    Untold(String),
}

/// The layers in the order of `README.md`, and the text for one that works.
const LAYERS: [(Layer, &str); 7] = [
    (Layer::Namespaces, "user mnt pid net ipc uts cgroup: 1000:1000 inside, only its own processes"),
    (Layer::Root, "granted paths open, others do not exist, /usr is read-only"),
    (Layer::Limits, "for descriptors, memory and /tmp: EMFILE, ENOMEM, ENOSPC"),
    (Layer::Capabilities, "none, and no new privileges"),
    (Layer::Landlock, "paths with a rule open, all others are EACCES"),
    (Layer::Seccomp, "filter: allows getcwd, denies mount and ptrace"),
    (Layer::Egress, "only its own loopback: no access to the host's 127.0.0.1, names are denied"),
];

/// What to do about a layer that is available but does not work.
const WRONG: &str = "the kernel accepts the layer but does not enforce it: report this with `uname -r` and `upm doctor --json`, and \
                     do not call plugins here";

/// Tries everything. Each trial is a separate process, whose changes to itself end with it. `config` is `--config`,
/// `before` an earlier failure.
#[must_use]
pub fn run(config: Option<&Path>, before: Option<Failure>) -> Vec<Trial> {
    let (configuration, config) = around::configuration(config);
    // In this order: if several trials find a layer missing, the message of the call is shown.
    let mut findings: Vec<Finding> =
        before.map(|failure| Finding::failed(Layer::Capabilities, failure)).into_iter().collect();
    findings.extend(whole::trial());
    findings.extend(alone::trials());
    findings.extend(config.iter().flat_map(around::landlock));
    let mut trials: Vec<Trial> = configuration.into_iter().collect();
    trials.extend(LAYERS.iter().map(|(layer, fine)| conclude(*layer, fine, &findings)));
    trials.extend([
        around::id_mapping(config.as_ref()),
        around::audit(config.as_ref()),
        around::record(),
        around::cgroup(config.as_ref()),
        around::locks(),
    ]);
    trials
}

/// `uname -r`, from /proc; empty if it is not available.
#[must_use]
pub fn kernel() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()
}

/// The result for a layer, from all its trials.
fn conclude(layer: Layer, fine: &str, findings: &[Finding]) -> Trial {
    let own = || findings.iter().filter(|finding| finding.layer == layer);
    let tried: Vec<Tried> = own().flat_map(|finding| finding.tried.clone()).collect();
    let missing = own().find_map(|finding| match &finding.state {
        State::Missing { found, remedy } => Some((found.clone(), remedy.clone())),
        _ => None,
    });
    let wrong = tried.iter().find(|tried| tried.got != tried.expected);
    let untold = own().find_map(|finding| match &finding.state {
        State::Untold(why) => Some(why.clone()),
        _ => None,
    });
    let (holds, found, remedy) = match (missing, wrong, untold) {
        (Some((found, remedy)), ..) => (Some(false), found, remedy),
        (None, Some(Tried { act, expected, got }), _) => {
            (Some(false), format!("{act}: {got} instead of {expected}"), Some(WRONG.to_owned()))
        }
        (None, None, Some(why)) => (None, why, None),
        (None, None, None) if tried.is_empty() => (None, before(findings), None),
        // After a missing layer there was no whole call: only the result of the layer's own trial is shown.
        (None, None, None) if findings.iter().any(|finding| !matches!(finding.state, State::Tried)) => {
            let acts: Vec<String> = tried.iter().map(|one| format!("{}: {}", one.act, one.got)).collect();
            (Some(true), format!("tried alone: {}", acts.join("; ")), None)
        }
        (None, None, None) if layer == Layer::Landlock => {
            let abi = crate::sys::process::landlock_abi();
            let sockets = if abi < UNIX_ABI { "; no rules for UNIX sockets (grant key `unix_sockets`)" } else { "" };
            (Some(true), format!("ABI {abi}: {fine}{sockets}"), None)
        }
        (None, None, None) => (Some(true), fine.to_owned(), None),
    };
    Trial { layer: layer.name(), holds, found, remedy, tried }
}

/// Why a layer was not tried.
fn before(findings: &[Finding]) -> String {
    match findings.iter().find(|finding| matches!(finding.state, State::Missing { .. })) {
        Some(missing) => {
            format!("not tried: a call ends before it, because the {} layer is missing", missing.layer.name())
        }
        None => "not tried".to_owned(),
    }
}

impl Finding {
    /// A trial whose acts were tried.
    fn tried(layer: Layer, tried: Vec<Tried>) -> Self {
        Finding { layer, tried, state: State::Tried }
    }

    /// A trial that failed: for the layer that the failure names, otherwise for `layer`.
    fn failed(layer: Layer, failure: Failure) -> Self {
        use Errno::{EAGAIN, EINTR, EMFILE, ENFILE, ENOMEM};
        let layer = failure.details.layer().unwrap_or(layer);
        // A resource shortage says nothing about the layer.
        let passing = matches!(failure.details.errno(), Some(EAGAIN | ENOMEM | EMFILE | ENFILE | EINTR));
        let state = match failure.code {
            Code::SandboxUnavailable | Code::SandboxFailed | Code::AuditUnavailable if !passing => {
                let remedy = failure.details.remedy().map(str::to_owned);
                // The remedy has its own line.
                let end = remedy.as_ref().map(|remedy| format!("; {remedy}")).unwrap_or_default();
                let found = failure.message.strip_suffix(&end).unwrap_or(&failure.message).to_owned();
                State::Missing { found, remedy }
            }
            _ => State::Untold(format!("could not be tried: {}", failure.message)),
        };
        Finding { layer, tried: Vec::new(), state }
    }
}

/// An act with its required and actual result.
fn tried(act: impl Into<String>, expected: impl Into<String>, got: impl Into<String>) -> Tried {
    Tried { act: act.into(), expected: expected.into(), got: got.into() }
}

/// The result as text: `word`, or the errno's name.
fn went<T>(result: io::Result<T>, word: &str) -> String {
    match result {
        Ok(_) => word.to_owned(),
        Err(error) => match error.raw_os_error() {
            Some(errno) => format!("{:?}", Errno::from_raw(errno)),
            None => error.to_string(),
        },
    }
}

/// Runs `act` in a forked child and returns its text.
fn in_child(act: impl FnOnce() -> String) -> Result<String, Failure> {
    let fail = |error: io::Error| Failure::new(Code::Internal, format!("a trial's process: {error}"));
    let (read, write) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|error| fail(error.into()))?;
    // Like pid 1 forks the plugin: if the host denies this, it denies the call.
    match fork().map_err(|errno| StepError::new(Step::Init, "fork", errno))? {
        ForkResult::Child => {
            drop(read);
            let text = act();
            crate::sys::process::exit_now(i32::from(File::from(write).write_all(text.as_bytes()).is_err()));
        }
        ForkResult::Parent { child } => {
            drop(write);
            let mut text = String::new();
            let got = File::from(read).take(1 << 20).read_to_string(&mut text);
            match waitpid(child, None).map_err(|errno| fail(errno.into()))? {
                WaitStatus::Exited(_, 0) => got.map(|_| text).map_err(fail),
                other => Err(fail(io::Error::other(format!("ended as {other:?}")))),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(failure: Failure) -> Finding {
        Finding::failed(Layer::Root, failure)
    }

    #[test]
    fn a_layer_holds_only_when_every_act_came_out_right() {
        let right = || vec![tried("open", "works", "works"), tried("mount", "EPERM", "EPERM")];
        let holds = |findings: &[Finding]| conclude(Layer::Root, "fine", findings);
        assert_eq!(holds(&[Finding::tried(Layer::Root, right())]).holds, Some(true));
        let mut wrong = right();
        wrong[1].got = "works".to_owned();
        let trial = holds(&[Finding::tried(Layer::Root, right()), Finding::tried(Layer::Root, wrong)]);
        assert_eq!((trial.holds, trial.found.as_str()), (Some(false), "mount: works instead of EPERM"));
        assert_eq!(trial.remedy.as_deref(), Some(WRONG));
        assert_eq!(holds(&[Finding::tried(Layer::Limits, right())]).holds, None, "it was not tried");
    }

    #[test]
    fn a_failure_is_reported_for_the_layer_that_it_names() {
        let missing = StepError::new(Step::Landlock, "landlock", Errno::EOPNOTSUPP);
        let findings = [finding(missing.into())];
        let trial = conclude(Layer::Landlock, "fine", &findings);
        assert_eq!(trial.holds, Some(false));
        let remedy = trial.remedy.unwrap();
        assert!(remedy.starts_with("enable landlock") && !trial.found.contains(&remedy), "{}", trial.found);
        let root = conclude(Layer::Root, "fine", &findings);
        assert_eq!(root.holds, None);
        assert!(root.found.ends_with("because the landlock layer is missing"), "{}", root.found);
        let mut findings = Vec::from(findings);
        findings.push(Finding::tried(Layer::Limits, vec![tried("one more", "EMFILE", "EMFILE")]));
        let limits = conclude(Layer::Limits, "all that a call tries", &findings);
        assert_eq!((limits.holds, limits.found.as_str()), (Some(true), "tried alone: one more: EMFILE"));
    }

    #[test]
    fn a_full_table_says_nothing() {
        let full = StepError::new(Step::Clone, "clone3", Errno::EAGAIN);
        assert_eq!(conclude(Layer::Namespaces, "fine", &[finding(full.into())]).holds, None);
        let late = Failure::new(Code::Timeout, "late");
        assert_eq!(conclude(Layer::Root, "fine", &[finding(late)]).holds, None);
    }
}
