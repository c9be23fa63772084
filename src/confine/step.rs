//! The stable names of the steps of confinement, in their order, and how a failed one is told.

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

    /// As bytes for the failure pipe: step, errno, object.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![self.step as u8];
        bytes.extend(self.source.raw_os_error().unwrap_or(0).to_le_bytes());
        let text = match self.source.raw_os_error() {
            Some(_) => self.object.clone(),
            None => format!("{}: {}", self.object, self.source),
        };
        bytes.extend(text.bytes().take(2000));
        bytes
    }

    /// The inverse of [`encode`](Self::encode); `None` for anything else.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (head, object) = bytes.split_at_checked(5)?;
        let step = Step::from_number(head[0])?;
        let errno = i32::from_le_bytes(head[1..].try_into().ok()?);
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

/// What an administrator can do when a layer cannot be had, by the step that found out and its errno.
fn remedy(step: Step, errno: Option<i32>) -> Option<&'static str> {
    match (step, Errno::from_raw(errno?)) {
        (Step::Clone, Errno::EPERM | Errno::EACCES) | (Step::Prepare | Step::IdMap, Errno::EPERM) => Some(
            "allow unprivileged user namespaces (`sysctl kernel.unprivileged_userns_clone=1` where it exists, \
             `sysctl kernel.apparmor_restrict_unprivileged_userns=0` or an AppArmor profile with `userns` for upm), \
             or in a container allow clone3, unshare and mount in its seccomp profile",
        ),
        (Step::Clone, Errno::ENOSPC | Errno::EUSERS) => Some(
            "raise `sysctl user.max_user_namespaces` (and user.max_{mnt,pid,net,ipc,uts,cgroup}_namespaces): the limit is reached or zero",
        ),
        (Step::Clone, Errno::ENOSYS) => {
            Some("allow clone3(2) in the seccomp profile that upm itself runs under, or use Linux 5.12 or newer")
        }
        (Step::Root, Errno::EPERM) => Some(
            "the host's /proc is partly covered by other mounts (as in containers), so the kernel refuses a fresh one: run upm \
             where /proc is whole (`--security-opt systempaths=unconfined`, systemd `ProcSubset=all`, `ProtectProc=default`)",
        ),
        (Step::Landlock, _) => {
            Some("enable landlock in the kernel: CONFIG_SECURITY_LANDLOCK=y and `lsm=landlock,…` on its command line")
        }
        (Step::Seccomp, Errno::EINVAL | Errno::ENOSYS) => {
            Some("use a kernel with CONFIG_SECCOMP_FILTER and user notification (Linux 5.0 or newer)")
        }
        (Step::Limits, Errno::EACCES | Errno::EPERM) => {
            Some("make /proc/sys writable where upm runs (systemd: `ProtectKernelTunables=no` for its unit)")
        }
        _ => None,
    }
}

impl From<StepError> for Failure {
    fn from(error: StepError) -> Failure {
        let errno = error.source.raw_os_error();
        let remedy = remedy(error.step, errno);
        let code = if remedy.is_some() { Code::SandboxUnavailable } else { Code::SandboxFailed };
        let message = match remedy {
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
