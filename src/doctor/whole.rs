//! Makes a real call with upm's own program as the plugin: it tries from inside what must work and what must be denied.

use super::inside::{Ask, WORD};
use super::{Finding, LAYERS, State, Tried, in_child, tried};
use crate::config::Grant;
use crate::confine::step::Step;
use crate::decide::plan::{ClientNeeds, Environment, Facts, INSIDE_ID, Plan, PluginCode, STUB_ADDRESS, plan};
use crate::supervise::{self, Job, Unwatched, signals};
use crate::types::{Code, Denial, Denied, Details, Entry, Failure, Layer, Outcome};
use nix::libc;
use serde_json::{Value, json};
use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The grant of the call.
const TIMEOUT: Duration = Duration::from_secs(10);
const OPEN_FILES: u64 = 32;
const MEMORY: u64 = 256 << 20;
const TMP: u64 = 1 << 20;
/// Directories that exist on hosts but in no call.
const HIDDEN: [&str; 6] = ["/var", "/root", "/home", "/boot", "/srv", "/opt"];

/// One act in the sandbox.
struct Act {
    layer: Layer,
    act: String,
    expected: String,
    ask: Ask,
    /// The denial that must also be reported.
    denied: Option<Expected>,
}

/// The denial that must be reported for an act.
#[derive(Clone, Copy)]
enum Expected {
    /// The system call with this number.
    Syscall(libc::c_long),
    /// A name.
    Name,
}

impl Expected {
    fn is(self, denied: &Denied) -> bool {
        match (self, denied) {
            (Expected::Syscall(number), Denied::Syscall(call)) => libc::c_long::from(call.number) == number,
            (Expected::Name, Denied::Resolve { .. }) => true,
            _ => false,
        }
    }
}

/// Host sockets to which the plugin must not be able to connect.
struct Outside {
    tcp: Option<(TcpListener, SocketAddr)>,
    unix: Option<(UnixListener, String)>,
}

/// The child's report.
type Report = Result<Vec<(Layer, Tried)>, Failure>;

/// The trial.
pub(super) fn trial() -> Vec<Finding> {
    let outside = Outside::new();
    // Values and texts: always valid JSON.
    let report = in_child(|| serde_json::to_string(&attempt(&outside)).unwrap_or_default());
    let tried = match report.map(|text| serde_json::from_str::<Report>(&text)) {
        Ok(Ok(Ok(tried))) => tried,
        Ok(Ok(Err(failure))) if failure.details.layer().is_some() => {
            return vec![Finding::failed(Layer::Root, failure)];
        }
        // A failure without a layer prevented all of them from being tried.
        Ok(Ok(Err(failure))) => return untold(&failure.message),
        Ok(Err(error)) => return untold(&format!("the whole call: {error}")),
        Err(failure) => return vec![Finding::failed(Layer::Namespaces, failure)],
    };
    LAYERS
        .iter()
        .map(|(layer, _)| {
            let own = tried.iter().filter(|(of, _)| of == layer).map(|(_, tried)| tried.clone());
            Finding::tried(*layer, own.collect())
        })
        .collect()
}

/// No layer could be tried, because the call failed.
fn untold(why: &str) -> Vec<Finding> {
    let state = || State::Untold(format!("could not be tried: {why}"));
    LAYERS.iter().map(|(layer, _)| Finding { layer: *layer, tried: Vec::new(), state: state() }).collect()
}

/// In the child: the call.
fn attempt(outside: &Outside) -> Report {
    let internal = |what: String| Failure::new(Code::Internal, what);
    let program = std::env::current_exe()
        .and_then(fs::canonicalize)
        .map_err(|error| internal(format!("upm's own program, used as the plugin: {error}")))?;
    let grant = Grant { timeout: TIMEOUT, open_files: OPEN_FILES, memory: MEMORY, tmp: TMP, ..Grant::built_in() };
    let entry = Entry::Exec { path: program.clone() };
    let code = PluginCode { path: program.clone(), search: PathBuf::new(), embedded: None };
    let facts = crate::host::facts::around(&grant, code)?;
    let mut plan = make_plan(&grant, &entry, &facts);
    plan.argv.push(WORD.to_owned());
    let acts = acts(&program, &plan, outside);
    let asks: Vec<&Ask> = acts.iter().map(|act| &act.ask).collect();
    let frame = format!("{}\n", json!({ "type": "call", "args": asks }));
    let signals = signals::take().map_err(|error| internal(format!("signals: {error}")))?;
    let job = Job {
        caller: nix::unistd::getuid().as_raw(),
        plan: &plan,
        frame: frame.into_bytes(),
        runner: crate::plugin::RUNNER,
        signals: &signals,
        deadline: Instant::now() + TIMEOUT,
        observe: false,
    };
    let outcome = supervise::run(job, &mut Unwatched).map_err(|failure| readable(failure, &program))?;
    match &outcome.result {
        Ok(result) => Ok(compare(&acts, &result.value(), &outcome)),
        Err(failure) => {
            let said = String::from_utf8_lossy(&outcome.output.stderr);
            let said = said.trim().lines().last().map(|line| format!(" ({line})")).unwrap_or_default();
            Err(Failure {
                message: format!("the trial inside the sandbox: {}{said}", failure.message),
                ..failure.clone()
            })
        }
    }
}

/// As root: the plugin's user must be able to run upm's own file.
fn readable(failure: Failure, program: &Path) -> Failure {
    if matches!(failure.details, Details::Step { step: Step::Exec, errno: Some(_), remedy: None, .. }) {
        let why = format!(
            "{}; for this trial all users must be able to read and run it: chmod a+rx {}",
            failure.message,
            program.display()
        );
        return Failure::new(Code::Internal, why);
    }
    failure
}

fn make_plan(grant: &Grant, entry: &Entry, facts: &Facts) -> Plan {
    let environment = Environment { request_id: "", timeout: grant.timeout, pass: &|_| None };
    plan(("Doctor", "run"), entry, grant, facts, Vec::new(), &ClientNeeds::default(), environment)
}

/// What must work and what must be denied, for each layer.
fn acts(program: &Path, plan: &Plan, outside: &Outside) -> Vec<Act> {
    let act = |layer, act: &str, expected: &str, ask| Act {
        layer,
        act: act.to_owned(),
        expected: expected.to_owned(),
        ask,
        denied: None,
    };
    let denied = |layer, text: &str, expected: &str, ask, denied| Act {
        denied: Some(denied),
        ..act(layer, text, expected, ask)
    };
    let mut acts = vec![
        act(Layer::Namespaces, "user and group inside", &format!("{INSIDE_ID}:{INSIDE_ID}"), Ask::Ids),
        act(Layer::Namespaces, "processes in /proc", "only its own", Ask::Processes),
        denied(
            Layer::Namespaces,
            "unshare(CLONE_NEWUSER)",
            "EPERM",
            Ask::UserNamespace,
            Expected::Syscall(libc::SYS_unshare),
        ),
        act(Layer::Root, "open the plugin's own file", "opens", Ask::Open(program.to_owned())),
    ];
    // The caller's own limit applies if it is lower.
    let own = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE);
    let files = own.map_or(OPEN_FILES, |(_, most)| most.min(OPEN_FILES));
    for path in hidden(plan) {
        acts.push(act(
            Layer::Root,
            &format!("open {}, which is not granted", path.display()),
            "ENOENT",
            Ask::Open(path),
        ));
    }
    acts.extend([
        act(Layer::Root, "create a file in /tmp", "works", Ask::Create("/tmp".into())),
        act(Layer::Root, "create a file in /usr", "EROFS", Ask::Create("/usr".into())),
        act(Layer::Root, "descriptors inherited through exec", "0 1 2 3", Ask::Descriptors),
        act(Layer::Limits, &format!("open_files = {OPEN_FILES}"), &format!("{files} at most, then EMFILE"), Ask::Files),
        act(Layer::Limits, "1 MiB of memory", "works", Ask::Memory(1 << 20)),
        act(Layer::Limits, "twice what `memory` allows", "ENOMEM", Ask::Memory(MEMORY * 2)),
        act(Layer::Limits, "half of what `tmp` allows", "works", Ask::Fill(TMP / 2)),
        act(Layer::Limits, "twice what `tmp` allows", "ENOSPC", Ask::Fill(TMP * 2)),
        act(Layer::Capabilities, "capability sets that are not empty", "none", Ask::Capabilities),
        act(Layer::Capabilities, "NoNewPrivs", "set", Ask::NoNewPrivileges),
        act(Layer::Seccomp, "getcwd", "works", Ask::WorkingDirectory),
        denied(Layer::Seccomp, "mount", "EPERM", Ask::Mount, Expected::Syscall(libc::SYS_mount)),
        denied(Layer::Seccomp, "ptrace(PTRACE_TRACEME)", "EPERM", Ask::Trace, Expected::Syscall(libc::SYS_ptrace)),
        act(Layer::Egress, "network interfaces", "lo", Ask::Interfaces),
        act(Layer::Egress, "connect to its own loopback", "connects", Ask::Connect((STUB_ADDRESS, 53).into())),
    ]);
    if let Some((_, address)) = &outside.tcp {
        let text = format!("connect to {address}, where upm listens on the host");
        acts.push(act(Layer::Egress, &text, "ECONNREFUSED", Ask::Connect(*address)));
    }
    if let Some((_, name)) = &outside.unix {
        let text = "connect to an abstract socket, where upm listens on the host";
        acts.push(act(Layer::Egress, text, "ECONNREFUSED", Ask::Abstract(name.clone())));
    }
    let name = "doctor.upm.invalid";
    acts.push(denied(
        Layer::Egress,
        &format!("look up {name}"),
        "no address",
        Ask::Resolve(name.to_owned()),
        Expected::Name,
    ));
    acts
}

/// Paths that exist on the host but must not exist in the call: not those on the way to a mount.
fn hidden(plan: &Plan) -> Vec<PathBuf> {
    let shown =
        |path: &Path| plan.mounts.iter().any(|mount| mount.path.starts_with(path) || path.starts_with(&mount.path));
    let there = |path: &&Path| path.symlink_metadata().is_ok() && !shown(path);
    let shadow = Path::new("/etc/shadow");
    let directory = HIDDEN.iter().map(Path::new).find(there);
    Some(shadow).filter(there).into_iter().chain(directory).map(Path::to_owned).collect()
}

/// The result of each act, and whether its denial was reported, if the filter has a listener.
fn compare(acts: &[Act], result: &Value, outcome: &Outcome<Denial>) -> Vec<(Layer, Tried)> {
    let mut all = Vec::new();
    for (at, Act { layer, act, expected, denied, .. }) in acts.iter().enumerate() {
        let mut expected = expected.clone();
        let mut got = result[at].as_str().unwrap_or("nothing").to_owned();
        if let Some(denied) = denied {
            if outcome.denials_complete.seccomp || matches!(denied, Expected::Name) {
                let known = outcome.denials.iter().any(|denial| denied.is(&denial.denied));
                got.push_str(if known { ", reported as a denial" } else { ", not reported" });
                expected.push_str(", reported as a denial");
            }
        }
        all.push((*layer, tried(act, expected, got)));
    }
    all
}

impl Outside {
    /// Sockets that all users of the host can connect to. Doctor does this first: a socket that nobody can connect to would prove
    /// nothing.
    fn new() -> Self {
        let tcp = || {
            let listener = TcpListener::bind("127.0.0.1:0")?;
            let address = listener.local_addr()?;
            TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
            listener.accept()?;
            Ok::<_, std::io::Error>((listener, address))
        };
        let unix = || {
            let name = format!("upm-doctor-{}", uuid::Uuid::now_v7());
            let address = UnixAddress::from_abstract_name(&name)?;
            let listener = UnixListener::bind_addr(&address)?;
            UnixStream::connect_addr(&address)?;
            listener.accept()?;
            Ok::<_, std::io::Error>((listener, name))
        };
        Outside { tcp: tcp().ok(), unix: unix().ok() }
    }
}
