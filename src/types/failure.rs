//! Why a call did not return a result: a stable code, a sentence, and what a program may want to read.

use super::{Explained, Layer, Step};
use crate::keys::Key;
use nix::errno::Errno;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::path::Path;

/// Stable name of what ended a call; `data.code` of the envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// The method raised.
    PluginRaised,
    /// The plugin ended without a frame.
    PluginExited,
    /// The plugin broke the frame protocol.
    ProtocolViolation,
    /// The method returned what JSON cannot hold.
    ResultNotSerializable,
    /// A frame was longer than `result`.
    ResultTooLarge,
    /// The command line was wrong.
    Usage,
    /// The arguments do not fit their outer shape or the method's schema.
    ArgumentsInvalid,
    /// The deadline passed.
    Timeout,
    /// The configuration cannot be used.
    ConfigInvalid,
    /// A layer cannot be had on this host.
    SandboxUnavailable,
    /// A step of confinement failed.
    SandboxFailed,
    /// The audit record could not be stored.
    AuditUnavailable,
    /// The engine itself failed.
    Internal,
    /// The configuration does not name this plugin.
    PluginNotAllowed,
    /// The configuration does not allow this method.
    MethodNotAllowed,
    /// The plugin's files are not those that were signed or pinned.
    DigestMismatch,
    /// The caller is not one of the plugin's callers.
    CallerNotAllowed,
    /// The plugin's module or executable is not there.
    ModuleNotFound,
    /// The module has no class of that name.
    ClassNotFound,
    /// The class has no such method.
    MethodNotFound,
    /// A signal killed the plugin.
    PluginKilled,
    /// The call used more memory than its grant.
    MemoryExceeded,
    /// The call used more processor time than its grant.
    CpuTimeExceeded,
    /// The plugin tried something denied and `on_violation = "kill"`.
    Violation,
    /// The caller cancelled the call by a signal.
    Cancelled,
}

/// Why a call did not return a result. Every stage's error ends as one of these, in `call.rs`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Failure {
    /// Stable name.
    pub code: Code,
    /// The sentence for people: names the path or value first, ends with what to do.
    pub message: String,
    /// What a program may want to read.
    pub(crate) details: Details,
    /// What else is to be known.
    pub(crate) note: Option<Note>,
    /// The plugin's traceback, without the runner's own frames.
    pub traceback: Option<String>,
    /// The signal, for `plugin_killed` and `cancelled`.
    pub signal: Option<i32>,
}

impl Failure {
    /// A failure without details.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Failure { code, message: message.into(), details: Details::None, note: None, traceback: None, signal: None }
    }

    /// The same with these details.
    #[must_use]
    pub(crate) fn with(self, details: Details) -> Self {
        Failure { details, ..self }
    }
}

/// What is to be known of a failure besides its details.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Note {
    /// The method has run.
    Started,
    /// A process of the call does not react to `SIGKILL` yet.
    Unreaped,
}

/// What a program may want to read of a failure. `report::details` writes it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) enum Details {
    /// Nothing.
    #[default]
    None,
    /// How a command line is written.
    Usage { usage: String, suggestion: Option<String> },
    /// How many bytes arguments or a request may have.
    MaxBytes(u64),
    /// Where JSON is wrong.
    Json { line: usize, column: usize },
    /// What a schema refused.
    Mismatch { instance_path: String, schema_path: String, value: String },
    /// A file, and the line and column in it.
    File { path: String, place: Option<(usize, usize)> },
    /// The grant key that cannot be used.
    Key(Key),
    /// A granted path that cannot be used.
    Granted { key: Key, path: String, line: Option<usize>, remedy: String },
    /// A plugin or a method that is not allowed, and those that are.
    NotAllowed { plugin: String, method: Option<String>, allowed: Vec<String> },
    /// A directory that is not one of the projects.
    Project { project: String, allowed: Vec<String> },
    /// A project in which a plugin could change what rules it.
    ProjectRules { project: String, would_write: String },
    /// Who called.
    Caller { uid: u32, gid: u32 },
    /// The service's socket.
    Socket { socket: String, remedy: String },
    /// A sink that takes no records.
    Audit { sink: String, reason: String, remedy: String },
    /// A step of confinement.
    Step { step: Step, object: String, errno: Option<i32>, remedy: Option<String> },
    /// A layer.
    Layer { layer: Layer, cause: Option<Cause>, remedy: Option<String> },
    /// How many bytes a frame, or a member of it, may have.
    Frame { limit: u64 },
    /// `timeout`.
    Timeout { ms: u64 },
    /// `cpu_time`.
    CpuTime { s: u64 },
    /// `memory`, what was used of it, and for how many sockets.
    Memory { limit: u64, used: Option<u64>, by: CountedBy, sockets: Option<(u64, u64)> },
    /// The signal that ended the plugin or the call; whether the host had no memory left.
    Signal { name: String, host_memory: bool },
    /// The exit status of a plugin that gave no result.
    Exit(i32),
    /// The system call that `on_violation` ended the call for; as a denial once the call is over.
    Violation {
        number: i32,
        operation: Cow<'static, str>,
        #[serde(skip)]
        denial: Option<Box<Explained>>,
    },
    /// What the plugin's process said.
    Plugin(Box<Said>),
}

impl Details {
    /// The layer that the failure is of.
    pub(crate) fn layer(&self) -> Option<Layer> {
        match self {
            Details::Step { step, .. } => Some(step.layer()),
            Details::Layer { layer, .. } => Some(*layer),
            _ => None,
        }
    }

    /// The grant key that is to blame.
    pub(crate) fn key(&self) -> Option<Key> {
        match self {
            Details::Key(key) | Details::Granted { key, .. } | Details::Layer { cause: Some(Cause::Key(key)), .. } => {
                Some(*key)
            }
            _ => None,
        }
    }

    /// The kernel's error.
    pub(crate) fn errno(&self) -> Option<Errno> {
        match self {
            Details::Step { errno, .. } => errno.map(Errno::from_raw),
            _ => None,
        }
    }

    /// What somebody can do.
    pub(crate) fn remedy(&self) -> Option<&str> {
        match self {
            Details::Step { remedy, .. } | Details::Layer { remedy, .. } => remedy.as_deref(),
            Details::Granted { remedy, .. } | Details::Socket { remedy, .. } | Details::Audit { remedy, .. } => {
                Some(remedy)
            }
            _ => None,
        }
    }

    /// A path as details have it: a text.
    pub(crate) fn path(path: &Path) -> String {
        path.to_string_lossy().into_owned()
    }
}

/// What of a layer cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Cause {
    /// What this grant key asks for.
    Key(Key),
    /// These capabilities.
    Object(String),
    /// What a program has been given.
    Reason(String),
    /// A directory.
    Path(String),
}

/// Who counted a call's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum CountedBy {
    /// The kernel, in the call's cgroup.
    Cgroup,
    /// The supervisor, as the sum of the call's processes.
    Sum,
}

/// What a plugin's process said of its failure, and what is known of the paths that its exception and the cause of that name.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Said {
    /// Its own words, which may be anything.
    pub(crate) members: Map<String, Value>,
    /// Of `filename`.
    pub(crate) path: Option<Sought>,
    /// Of the cause's `filename`.
    pub(crate) cause_path: Option<Sought>,
}

/// Whether the plan grants a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sought {
    /// The rule and the remedy, where it was refused.
    pub(crate) refused: Option<(String, String)>,
    /// To read.
    pub(crate) read: bool,
    /// To write.
    pub(crate) write: bool,
    /// The command that tells what else the call looks for.
    pub(crate) learn: String,
}

/// What is recognised of an exception.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exception<'a> {
    /// It is Python's `MemoryError`.
    pub(crate) out_of_memory: bool,
    /// One of those that tell of a limit or a refusal.
    pub(crate) errno: Option<Errno>,
    /// The path that it names.
    pub(crate) filename: Option<&'a str>,
}

impl Said {
    /// The exception.
    pub(crate) fn exception(&self) -> Exception<'_> {
        Exception::read(&self.members)
    }

    /// What it came of.
    pub(crate) fn cause(&self) -> Option<Exception<'_>> {
        self.members.get("cause")?.as_object().map(Exception::read)
    }
}

impl Exception<'_> {
    fn read(members: &Map<String, Value>) -> Exception<'_> {
        use Errno::{EACCES, EFBIG, EMFILE, ENOMEM, ENOSPC, EPERM, EROFS};
        let text = |name: &str| members.get(name).and_then(Value::as_str);
        let known = [EACCES, EFBIG, EMFILE, ENOMEM, ENOSPC, EPERM, EROFS];
        let named = text("errno_name").unwrap_or_default();
        Exception {
            out_of_memory: text("type") == Some("MemoryError"),
            errno: known.into_iter().find(|errno| format!("{errno:?}") == named),
            filename: text("filename"),
        }
    }
}
