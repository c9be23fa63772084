//! How a failed step of confinement is reported.

use super::remedy::remedy;
pub use crate::types::Step;
use crate::types::{Code, Details, Failure};
use nix::errno::Errno;
use std::fmt;
use std::io;

/// What a step did not succeed on, as far as it makes a difference to the remedy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Subject {
    /// A system call, a limit, whatever else.
    #[default]
    Other,
    /// A file of `/proc` that the step opens or writes.
    ProcFile,
    /// The call's own `/proc`.
    OwnProc,
    /// A granted path.
    Granted,
}

/// A step that did not succeed.
#[derive(Debug)]
pub struct StepError {
    /// Which.
    pub step: Step,
    /// On what: a path, a limit, a system call.
    pub object: String,
    /// What that is.
    pub subject: Subject,
    /// Why.
    pub source: io::Error,
}

impl StepError {
    /// A failed act of `step` on `object`.
    pub fn new(step: Step, object: impl Into<String>, source: impl Into<io::Error>) -> Self {
        StepError { step, object: object.into(), subject: Subject::Other, source: source.into() }
    }

    /// The same of what makes a difference.
    #[must_use]
    pub fn of(self, subject: Subject) -> Self {
        StepError { subject, ..self }
    }

    /// As bytes for the failure pipe: step, subject, errno, length of the object, object. With its length, for the plugin's process
    /// and pid 1 may both have something to say.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let text = match self.source.raw_os_error() {
            Some(_) => self.object.clone(),
            None => format!("{}: {}", self.object, self.source),
        };
        let text = &text.as_bytes()[..text.len().min(2000)];
        let mut bytes = vec![self.step as u8, self.subject as u8];
        bytes.extend(self.source.raw_os_error().unwrap_or(0).to_le_bytes());
        bytes.extend((text.len() as u16).to_le_bytes());
        bytes.extend(text);
        bytes
    }

    /// The inverse of [`encode`](Self::encode), of the first that is there; `None` for anything else.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (head, rest) = bytes.split_at_checked(8)?;
        let step = Step::from_number(head[0])?;
        let known = [Subject::ProcFile, Subject::OwnProc, Subject::Granted];
        let subject = known.into_iter().find(|subject| *subject as u8 == head[1]).unwrap_or_default();
        let errno = i32::from_le_bytes(head[2..6].try_into().ok()?);
        let object = rest.get(..usize::from(u16::from_le_bytes(head[6..].try_into().ok()?)))?;
        let source = if errno == 0 { io::Error::other("see the message") } else { io::Error::from_raw_os_error(errno) };
        Some(StepError { step, object: String::from_utf8_lossy(object).into_owned(), subject, source })
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
        let remedy = errno.and_then(|errno| remedy(&error, Errno::from_raw(errno)));
        let code = if remedy.is_some() { Code::SandboxUnavailable } else { Code::SandboxFailed };
        let message = match &remedy {
            Some(remedy) => {
                format!(
                    "{}: the {} layer is not available here: {}; {remedy}",
                    error.object,
                    error.step.layer().name(),
                    error.source
                )
            }
            None => error.to_string(),
        };
        Failure::new(code, message).with(Details::Step { step: error.step, object: error.object, errno, remedy })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_two_errors_is_read() {
        let mut bytes = StepError::new(Step::Exec, "close_range", Errno::EPERM).of(Subject::Granted).encode();
        bytes.extend(StepError::new(Step::Init, "descriptors", io::Error::other("gone")).encode());
        let first = StepError::decode(&bytes).unwrap();
        assert_eq!((first.step, first.object.as_str(), first.subject), (Step::Exec, "close_range", Subject::Granted));
        assert_eq!(first.source.raw_os_error(), Some(Errno::EPERM as i32));
        let long = StepError::new(Step::Root, "x".repeat(9000), io::Error::other("gone")).encode();
        assert_eq!(StepError::decode(&long).unwrap().object.len(), 2000);
        assert!(StepError::decode(&bytes[..10]).is_none(), "cut short");
        assert!(StepError::decode(&[200, 0, 0, 0, 0, 0, 0, 0]).is_none(), "no such step");
    }

    /// One path or one number is not a missing layer.
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
            let subject = if step == Step::Prepare { Subject::Granted } else { Subject::Other };
            let failure = Failure::from(StepError::new(step, object, errno).of(subject));
            assert_eq!(failure.code, Code::SandboxFailed, "{step:?} {object} {errno}: {}", failure.message);
            assert_eq!(failure.details.remedy(), None, "{}", failure.message);
        }
    }
}
