//! The stable names of the steps of confinement, in their order, and how a failed one is told.

use super::remedy::remedy;
use crate::types::{Code, Failure};
use nix::errno::Errno;
use std::fmt;
use std::io;

/// One act of confinement. The order of the variants is the order of enforcement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Step {
    /// Before the clone: paths, trees, rules, filter, channels.
    Prepare,
    /// The clone itself, with all namespaces.
    Clone,
    /// Default signals, own session and keyring, parent-death signal.
    Session,
    /// Ids inside and outside.
    IdMap,
    /// Loopback, host name, the gateway's sockets.
    Network,
    /// The root that the plugin sees.
    Root,
    /// Resource limits.
    Limits,
    /// Every capability set emptied.
    Capabilities,
    /// `PR_SET_NO_NEW_PRIVS`.
    NoNewPrivs,
    /// The landlock ruleset.
    Landlock,
    /// What is active is read back.
    Verify,
    /// Pid 1 stays behind, the plugin goes on.
    Init,
    /// The system call filter.
    Seccomp,
    /// The plugin's program.
    Exec,
}

impl Step {
    /// Every step, in order.
    pub const ALL: [Step; 14] = [
        Step::Prepare,
        Step::Clone,
        Step::Session,
        Step::IdMap,
        Step::Network,
        Step::Root,
        Step::Limits,
        Step::Capabilities,
        Step::NoNewPrivs,
        Step::Landlock,
        Step::Verify,
        Step::Init,
        Step::Seccomp,
        Step::Exec,
    ];

    /// The step's stable name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Step::Prepare => "prepare",
            Step::Clone => "clone",
            Step::Session => "session",
            Step::IdMap => "id_map",
            Step::Network => "network",
            Step::Root => "root",
            Step::Limits => "limits",
            Step::Capabilities => "capabilities",
            Step::NoNewPrivs => "no_new_privs",
            Step::Landlock => "landlock",
            Step::Verify => "verify",
            Step::Init => "init",
            Step::Seccomp => "seccomp",
            Step::Exec => "exec",
        }
    }

    /// The layer that the step is part of.
    #[must_use]
    pub fn layer(self) -> &'static str {
        match self {
            Step::Clone | Step::Session | Step::IdMap | Step::Verify | Step::Init => "namespaces",
            Step::Prepare | Step::Root | Step::Exec => "root",
            Step::Network => "egress",
            Step::Limits => "limits",
            Step::Capabilities | Step::NoNewPrivs => "capabilities",
            Step::Landlock => "landlock",
            Step::Seccomp => "seccomp",
        }
    }

    /// The step with this number, as a failed child sends it.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Step> {
        Step::ALL.get(usize::from(number)).copied()
    }
}

/// A step that did not succeed.
#[derive(Debug)]
pub struct StepError {
    /// Which.
    pub step: Step,
    /// On what: a path, a limit, a system call.
    pub object: String,
    /// Why.
    pub source: io::Error,
}

impl StepError {
    /// A failed act of `step` on `object`.
    pub fn new(step: Step, object: impl Into<String>, source: impl Into<io::Error>) -> Self {
        StepError { step, object: object.into(), source: source.into() }
    }

    /// As bytes for the failure pipe: step, errno, length of the object, object. With its length, for the plugin's process
    /// and pid 1 may both have something to say.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let text = match self.source.raw_os_error() {
            Some(_) => self.object.clone(),
            None => format!("{}: {}", self.object, self.source),
        };
        let text = &text.as_bytes()[..text.len().min(2000)];
        let mut bytes = vec![self.step as u8];
        bytes.extend(self.source.raw_os_error().unwrap_or(0).to_le_bytes());
        bytes.extend((text.len() as u16).to_le_bytes());
        bytes.extend(text);
        bytes
    }

    /// The inverse of [`encode`](Self::encode), of the first that is there; `None` for anything else.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (head, rest) = bytes.split_at_checked(7)?;
        let step = Step::from_number(head[0])?;
        let errno = i32::from_le_bytes(head[1..5].try_into().ok()?);
        let object = rest.get(..usize::from(u16::from_le_bytes(head[5..].try_into().ok()?)))?;
        let source = if errno == 0 { io::Error::other("see the message") } else { io::Error::from_raw_os_error(errno) };
        Some(StepError { step, object: String::from_utf8_lossy(object).into_owned(), source })
    }
}

impl fmt::Display for StepError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: step {}: {}", self.object, self.step.name(), self.source)
    }
}

impl std::error::Error for StepError {}

impl From<StepError> for Failure {
    fn from(error: StepError) -> Failure {
        let errno = error.source.raw_os_error();
        let remedy = errno.and_then(|errno| remedy(error.step, &error.object, Errno::from_raw(errno)));
        let code = if remedy.is_some() { Code::SandboxUnavailable } else { Code::SandboxFailed };
        let message = match &remedy {
            Some(remedy) => {
                format!(
                    "{}: the {} layer cannot be had here: {}; {remedy}",
                    error.object,
                    error.step.layer(),
                    error.source
                )
            }
            None => error.to_string(),
        };
        let failure = Failure::new(code, message)
            .detail("step", error.step.name())
            .detail("layer", error.step.layer())
            .detail("object", error.object);
        let failure = match errno {
            Some(errno) => failure.detail("errno", Errno::from_raw(errno).to_string()),
            None => failure,
        };
        match remedy {
            Some(remedy) => failure.detail("remedy", remedy),
            None => failure,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_two_errors_is_read() {
        let mut bytes = StepError::new(Step::Exec, "close_range", Errno::EPERM).encode();
        bytes.extend(StepError::new(Step::Init, "descriptors", io::Error::other("gone")).encode());
        let first = StepError::decode(&bytes).unwrap();
        assert_eq!((first.step, first.object.as_str()), (Step::Exec, "close_range"));
        assert_eq!(first.source.raw_os_error(), Some(Errno::EPERM as i32));
        let long = StepError::new(Step::Root, "x".repeat(9000), io::Error::other("gone")).encode();
        assert_eq!(StepError::decode(&long).unwrap().object.len(), 2000);
        assert!(StepError::decode(&bytes[..10]).is_none(), "cut short");
        assert!(StepError::decode(&[200, 0, 0, 0, 0, 0, 0]).is_none(), "no such step");
    }

    /// One path or one number is no missing layer.
    #[test]
    fn a_failure_of_one_path_stays_one() {
        for (step, object, errno) in [
            (Step::Prepare, "/srv/x (read)", Errno::EACCES),
            (Step::Prepare, "/srv/x (write)", Errno::EPERM),
            (Step::Prepare, "/srv/x (read)", Errno::ENOENT),
            (Step::Root, "/srv/x", Errno::ENOENT),
            (Step::Root, "root tmpfs", Errno::ENOMEM),
            (Step::Clone, "clone3", Errno::EAGAIN),
            (Step::Init, "fork", Errno::EAGAIN),
            (Step::Network, "name stub, UDP", Errno::EADDRINUSE),
            (Step::Limits, "open_files", Errno::EINVAL),
            (Step::Landlock, "/srv/x: failed to add a rule", Errno::EINVAL),
            (Step::Exec, "/srv/plugin", Errno::ENOENT),
            (Step::Exec, "/srv/plugin", Errno::EACCES),
            (Step::Exec, "/srv/plugin", Errno::EPERM),
        ] {
            let failure = Failure::from(StepError::new(step, object, errno));
            assert_eq!(failure.code, Code::SandboxFailed, "{step:?} {object} {errno}: {}", failure.message);
            assert!(!failure.details.contains_key("remedy"), "{}", failure.message);
        }
    }
}
