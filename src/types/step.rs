//! The stable names of the steps of confinement, in order.

use super::Layer;
use serde::{Deserialize, Serialize};

/// One step of confinement. The order of the variants is the order of enforcement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[repr(u8)]
pub enum Step {
    /// Before the clone: paths, trees, rules, filter, channels.
    Prepare,
    /// The clone itself, with all namespaces.
    Clone,
    /// Default signals, a new session and keyring, the parent-death signal.
    Session,
    /// User and group ids inside and on the host.
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
    /// The active restrictions are read back.
    Verify,
    /// Pid 1 forks the plugin's process.
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
    pub fn layer(self) -> Layer {
        match self {
            Step::Clone | Step::Session | Step::IdMap | Step::Verify | Step::Init => Layer::Namespaces,
            Step::Prepare | Step::Root | Step::Exec => Layer::Root,
            Step::Network => Layer::Egress,
            Step::Limits => Layer::Limits,
            Step::Capabilities | Step::NoNewPrivs => Layer::Capabilities,
            Step::Landlock => Layer::Landlock,
            Step::Seccomp => Layer::Seccomp,
        }
    }

    /// The step with this number, as a failed child sends it.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Step> {
        Step::ALL.get(usize::from(number)).copied()
    }
}
