//! Each layer tried in a child, with what must work and what must not, never guessed from versions.
//!
//! [`whole`] is a real call with upm's own program in the plugin's place: it tries from inside what a plugin might.
//! [`alone`] tries single layers, so that those behind the first missing one are told of too. [`around`] is what is no layer:
//! the configuration, id-mapped mounts, audit, cgroups.

mod alone;
mod around;
pub mod inside;
mod whole;

use crate::confine::step::{Step, StepError};
use crate::sys::clone::fork;
use crate::types::{Code, Failure, Layer};
use nix::errno::Errno;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::ForkResult;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

/// One line of the answer: a layer, or what is around them.
#[derive(Debug, Serialize)]
pub struct Trial {
    /// The layer.
    pub layer: &'static str,
    /// Whether it is to be had here; `None` where that could not be tried.
    pub holds: Option<bool>,
    /// What was seen.
    pub found: String,
    /// What an administrator can do.
    pub remedy: Option<String>,
    /// What was tried, one act each.
    pub tried: Vec<Tried>,
}

/// One act.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tried {
    /// What was done.
    pub act: String,
    /// What it must come to: that it works, or how it fails.
    pub expected: String,
    /// What it came to.
    pub got: String,
}

/// What one trial tells of one layer.
struct Finding {
    layer: Layer,
    tried: Vec<Tried>,
    state: State,
}

/// How a trial went.
enum State {
    /// To its end.
    Tried,
    /// The layer cannot be had.
    Missing { found: String, remedy: Option<String> },
    /// It could not be made.
    Untold(String),
}

/// The layers in the order of `README.md`, and what is told of one that does all it should.
const LAYERS: [(Layer, &str); 7] = [
    (Layer::Namespaces, "user mnt pid net ipc uts cgroup: 1000:1000 inside, no process but its own"),
    (Layer::Root, "what is granted opens, what is not is not there, /usr is read-only"),
    (Layer::Limits, "of descriptors, memory and /tmp: EMFILE, ENOMEM, ENOSPC"),
    (Layer::Capabilities, "none, and no new privileges"),
    (Layer::Landlock, "what a rule names opens, all else is EACCES"),
    (Layer::Seccomp, "filter: getcwd passes, mount and ptrace do not"),
    (Layer::Egress, "its own loopback alone: the host's 127.0.0.1 is out of reach, names are refused"),
];

/// What to do about a layer that is there and does not do what it should.
const WRONG: &str = "the kernel takes the layer and does not enforce it: report this with `uname -r` and `upm doctor --json`, and call \
                     no plugins here";

/// Tries everything. Each trial is a process of its own: what it does to itself ends with it. `config` is `--config`,
/// `before` what had failed before anything was tried.
#[must_use]
pub fn run(config: Option<&Path>, before: Option<Failure>) -> Vec<Trial> {
    let (configuration, config) = around::configuration(config);
    // In this order: of a layer that is missing in several ways, the words of a call are told.
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

/// `uname -r`, as far as /proc tells it.
#[must_use]
pub fn kernel() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()
}

/// A layer by all that was tried of it.
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
            (Some(false), format!("{act}: {got}, and not {expected}"), Some(WRONG.to_owned()))
        }
        (None, None, Some(why)) => (None, why, None),
        (None, None, None) if tried.is_empty() => (None, before(findings), None),
        // Behind a missing layer there was no whole call: then no more is told than what the layer's own trial saw.
        (None, None, None) if findings.iter().any(|finding| !matches!(finding.state, State::Tried)) => {
            let acts: Vec<String> = tried.iter().map(|one| format!("{}: {}", one.act, one.got)).collect();
            (Some(true), format!("tried alone: {}", acts.join("; ")), None)
        }
        (None, None, None) if layer == Layer::Landlock => {
            (Some(true), format!("ABI {}: {fine}", crate::sys::process::landlock_abi()), None)
        }
        (None, None, None) => (Some(true), fine.to_owned(), None),
    };
    Trial { layer: layer.name(), holds, found, remedy, tried }
}

/// Why a layer was not tried.
fn before(findings: &[Finding]) -> String {
    match findings.iter().find(|finding| matches!(finding.state, State::Missing { .. })) {
        Some(missing) => format!("not tried: a call ends before it, for want of the {} layer", missing.layer.name()),
        None => "not tried".to_owned(),
    }
}

impl Finding {
    /// What went as far as its acts.
    fn tried(layer: Layer, tried: Vec<Tried>) -> Self {
        Finding { layer, tried, state: State::Tried }
    }

    /// What a failure says: of its own layer when it names one, else of `layer`.
    fn failed(layer: Layer, failure: Failure) -> Self {
        use Errno::{EAGAIN, EINTR, EMFILE, ENFILE, ENOMEM};
        let layer = failure.details.layer().unwrap_or(layer);
        // A full table says nothing of the layer.
        let passing = matches!(failure.details.errno(), Some(EAGAIN | ENOMEM | EMFILE | ENFILE | EINTR));
        let state = match failure.code {
            Code::SandboxUnavailable | Code::SandboxFailed | Code::AuditUnavailable if !passing => {
                let remedy = failure.details.remedy().map(str::to_owned);
                // The remedy has a line of its own.
                let end = remedy.as_ref().map(|remedy| format!("; {remedy}")).unwrap_or_default();
                let found = failure.message.strip_suffix(&end).unwrap_or(&failure.message).to_owned();
                State::Missing { found, remedy }
            }
            _ => State::Untold(format!("could not be tried: {}", failure.message)),
        };
        Finding { layer, tried: Vec::new(), state }
    }
}

/// An act and what it must come to.
fn tried(act: impl Into<String>, expected: impl Into<String>, got: impl Into<String>) -> Tried {
    Tried { act: act.into(), expected: expected.into(), got: got.into() }
}

/// How something went: `word`, or the errno's name.
fn went<T>(result: io::Result<T>, word: &str) -> String {
    match result {
        Ok(_) => word.to_owned(),
        Err(error) => match error.raw_os_error() {
            Some(errno) => format!("{:?}", Errno::from_raw(errno)),
            None => error.to_string(),
        },
    }
}

/// Runs `act` in a forked child and returns the text that it returned.
fn in_child(act: impl FnOnce() -> String) -> Result<String, Failure> {
    let fail = |error: io::Error| Failure::new(Code::Internal, format!("a trial's process: {error}"));
    let (read, write) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|error| fail(error.into()))?;
    // As pid 1 forks the plugin: a host that refuses this refuses the call.
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
        assert_eq!((trial.holds, trial.found.as_str()), (Some(false), "mount: works, and not EPERM"));
        assert_eq!(trial.remedy.as_deref(), Some(WRONG));
        assert_eq!(holds(&[Finding::tried(Layer::Limits, right())]).holds, None, "nothing of it was tried");
    }

    #[test]
    fn a_failure_is_told_of_the_layer_that_it_names() {
        let missing = StepError::new(Step::Landlock, "landlock", Errno::EOPNOTSUPP);
        let findings = [finding(missing.into())];
        let trial = conclude(Layer::Landlock, "fine", &findings);
        assert_eq!(trial.holds, Some(false));
        let remedy = trial.remedy.unwrap();
        assert!(remedy.starts_with("enable landlock") && !trial.found.contains(&remedy), "{}", trial.found);
        let root = conclude(Layer::Root, "fine", &findings);
        assert_eq!(root.holds, None);
        assert!(root.found.ends_with("for want of the landlock layer"), "{}", root.found);
        let mut findings = Vec::from(findings);
        findings.push(Finding::tried(Layer::Limits, vec![tried("one more", "EMFILE", "EMFILE")]));
        let limits = conclude(Layer::Limits, "all that a call tries", &findings);
        assert_eq!((limits.holds, limits.found.as_str()), (Some(true), "tried alone: one more: EMFILE"));
    }

    #[test]
    fn a_full_table_tells_nothing() {
        let full = StepError::new(Step::Clone, "clone3", Errno::EAGAIN);
        assert_eq!(conclude(Layer::Namespaces, "fine", &[finding(full.into())]).holds, None);
        let late = Failure::new(Code::Timeout, "late");
        assert_eq!(conclude(Layer::Root, "fine", &[finding(late)]).holds, None);
    }
}
