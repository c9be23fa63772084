//! Why a call did not return a result: a stable code, a message, and details for programs.

use super::{Explained, Layer, Step};
use crate::keys::Key;
use nix::errno::Errno;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::path::Path;

/// The stable name of a failure; `data.code` in the envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// The method raised.
    PluginRaised,
    /// The plugin ended without a frame.
    PluginExited,
    /// The plugin broke the frame protocol.
    ProtocolViolation,
    /// The method returned a value that JSON cannot represent.
    ResultNotSerializable,
    /// A frame was longer than `result`.
    ResultTooLarge,
    /// The command line is invalid.
    Usage,
    /// The arguments do not have the required form or do not match the method's schema.
    ArgumentsInvalid,
    /// The time limit was reached.
    Timeout,
    /// The configuration is missing or invalid.
    ConfigInvalid,
    /// A layer is not available on this host.
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
    /// The plugin's files differ from those that were signed or pinned.
    DigestMismatch,
    /// The caller is not in the plugin's `callers`.
    CallerNotAllowed,
    /// The plugin's module or executable does not exist.
    ModuleNotFound,
    /// The module has no such class.
    ClassNotFound,
    /// The class has no such method.
    MethodNotFound,
    /// A signal killed the plugin.
    PluginKilled,
    /// The call used more memory than its grant.
    MemoryExceeded,
    /// The call used more processor time than its grant.
    CpuTimeExceeded,
    /// The plugin made a denied system call with `on_violation = "kill"`.
    Violation,
    /// A signal from the caller cancelled the call.
    Cancelled,
}

/// Why a call did not return a result. Every stage's error becomes one of these, in `call.rs`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Failure {
    /// Stable name.
    pub code: Code,
    /// The message: names the path or value first, ends with what to do.
    pub message: String,
    /// Details for programs.
    pub(crate) details: Details,
    /// A further fact.
    pub(crate) note: Option<Note>,
    /// The plugin's traceback, without the runner's frames.
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

/// A further fact about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Note {
    /// The method has run.
    Started,
    /// A process of the call has not yet reacted to `SIGKILL`.
    Unreaped,
}

/// A failure's details for programs. `report::details` writes them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) enum Details {
    /// Nothing.
    #[default]
    None,
    /// The usage of the command line.
    Usage { usage: String, suggestion: Option<String> },
    /// The limit for the bytes of arguments or a request.
    MaxBytes(u64),
    /// Where JSON is invalid.
    Json { line: usize, column: usize },
    /// What does not match a schema.
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
    /// A project in which a plugin could change what controls it.
    ProjectRules { project: String, would_write: String },
    /// The caller.
    Caller { uid: u32, gid: u32 },
    /// The service's socket.
    Socket { socket: String, remedy: String },
    /// A sink that does not accept records.
    Audit { sink: String, reason: String, remedy: String },
    /// A step of confinement.
    Step { step: Step, object: String, errno: Option<i32>, remedy: Option<String> },
    /// A layer.
    Layer { layer: Layer, cause: Option<Cause>, remedy: Option<String> },
    /// The limit for the bytes of a frame or of a member.
    Frame { limit: u64 },
    /// `timeout`.
    Timeout { ms: u64 },
    /// `cpu_time`.
    CpuTime { s: u64 },
    /// `memory`, how much was used, and how much of that for how many sockets.
    Memory { limit: u64, used: Option<u64>, by: CountedBy, sockets: Option<(u64, u64)> },
    /// The signal that ended the plugin or the call; whether the host was out of memory.
    Signal { name: String, host_memory: bool },
    /// The exit status of a plugin that returned no result.
    Exit(i32),
    /// The system call for which `on_violation` ended the call; with its denial after the call.
    Violation {
        number: i32,
        operation: Cow<'static, str>,
        #[serde(skip)]
        denial: Option<Box<Explained>>,
    },
    /// What the plugin's process reported.
    Plugin(Box<Said>),
}

impl Details {
    /// The layer that failed.
    pub(crate) fn layer(&self) -> Option<Layer> {
        match self {
            Details::Step { step, .. } => Some(step.layer()),
            Details::Layer { layer, .. } => Some(*layer),
            _ => None,
        }
    }

    /// The grant key that caused it.
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

    /// What to do.
    pub(crate) fn remedy(&self) -> Option<&str> {
        match self {
            Details::Step { remedy, .. } | Details::Layer { remedy, .. } => remedy.as_deref(),
            Details::Granted { remedy, .. } | Details::Socket { remedy, .. } | Details::Audit { remedy, .. } => {
                Some(remedy)
            }
            _ => None,
        }
    }

    /// A path as text, for details.
    pub(crate) fn path(path: &Path) -> String {
        path.to_string_lossy().into_owned()
    }
}

/// What is not available of a layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Cause {
    /// What this grant key requires.
    Key(Key),
    /// These capabilities.
    Object(String),
    /// A reason as text.
    Reason(String),
    /// A directory.
    Path(String),
}

/// What counted a call's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum CountedBy {
    /// The kernel, in the call's cgroup.
    Cgroup,
    /// The supervisor, as the sum of the call's processes.
    Sum,
}

/// What a plugin's process reported about its failure, and what the plan grants of the paths in its exception and that one's cause.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Said {
    /// The report itself, which can contain anything.
    pub(crate) members: Map<String, Value>,
    /// For `filename`.
    pub(crate) path: Option<Sought>,
    /// For the cause's `filename`.
    pub(crate) cause_path: Option<Sought>,
}

/// Whether the plan grants a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sought {
    /// The rule and the remedy, if it was denied.
    pub(crate) refused: Option<(String, String)>,
    /// To read.
    pub(crate) read: bool,
    /// To write.
    pub(crate) write: bool,
    /// The command that shows what else the call looks for.
    pub(crate) learn: String,
}

/// The known parts of an exception.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exception<'a> {
    /// It is Python's `MemoryError`.
    pub(crate) out_of_memory: bool,
    /// An error that indicates a limit or a denial.
    pub(crate) errno: Option<Errno>,
    /// The path that it names.
    pub(crate) filename: Option<&'a str>,
}

impl Said {
    /// The exception.
    pub(crate) fn exception(&self) -> Exception<'_> {
        Exception::read(&self.members)
    }

    /// Its cause.
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
