//! Every step of a real call, with upm's own program as the plugin: it tries from inside what must work and what must not.

use super::inside::{Ask, WORD};
use super::{Finding, LAYERS, State, in_child, tried};
use crate::confine::step::Step;
use crate::decide::plan::{ClientNeeds, Code as PluginCode, Environment, Facts, INSIDE_ID, Plan, STUB_ADDRESS, plan};
use crate::supervise::{self, Job, Unwatched, signals};
use crate::types::{Code, Entry, Failure, Grant, Outcome};
use serde_json::{Value, json};
use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What the call gets.
const TIMEOUT: Duration = Duration::from_secs(10);
const OPEN_FILES: u64 = 32;
const MEMORY: u64 = 256 << 20;
const TMP: u64 = 1 << 20;
/// Directories that hosts have and no call is shown.
const HIDDEN: [&str; 6] = ["/var", "/root", "/home", "/boot", "/srv", "/opt"];

/// One act inside.
struct Act {
    layer: &'static str,
    act: String,
    expected: String,
    ask: Ask,
    /// The operation of the denial that must be told besides.
    told: Option<&'static str>,
}

/// What the plugin must not reach outside.
struct Outside {
    tcp: Option<(TcpListener, SocketAddr)>,
    unix: Option<(UnixListener, String)>,
}

/// The trial.
pub(super) fn trial() -> Vec<Finding> {
    let outside = Outside::new();
    let told = in_child(|| attempt(&outside).unwrap_or_else(|failure| failed(&failure)).to_string());
    let told: Value = match told.map(|text| serde_json::from_str(&text)) {
        Ok(Ok(told)) => told,
        Ok(Err(error)) => return untold(&format!("the whole call: {error}")),
        Err(failure) => return vec![Finding::failed("namespaces", failure)],
    };
    if let Some(failure) = told.get("failure") {
        let failure = Failure {
            details: failure["details"].as_object().cloned().unwrap_or_default(),
            ..Failure::new(code(&failure["code"]), failure["message"].as_str().unwrap_or_default())
        };
        // What names no layer kept all of them from being tried.
        return if failure.details.contains_key("layer") {
            vec![Finding::failed("root", failure)]
        } else {
            untold(&failure.message)
        };
    }
    let tried: Vec<(&str, super::Tried)> = told["tried"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|one| {
            let text = |key: &str| one[key].as_str().unwrap_or_default();
            let (layer, _) = LAYERS.iter().find(|(layer, _)| *layer == text("layer"))?;
            Some((*layer, tried(text("act"), text("expected"), text("got"))))
        })
        .collect();
    LAYERS
        .iter()
        .map(|(layer, _)| {
            let own = tried.iter().filter(|(of, _)| of == layer).map(|(_, tried)| tried.clone());
            Finding::tried(layer, own.collect())
        })
        .collect()
}

/// No layer could be tried by a call.
fn untold(why: &str) -> Vec<Finding> {
    let state = || State::Untold(format!("could not be tried: {why}"));
    LAYERS.iter().map(|(layer, _)| Finding { layer, tried: Vec::new(), state: state() }).collect()
}

fn failed(failure: &Failure) -> Value {
    json!({ "failure": { "code": failure.code, "message": failure.message, "details": failure.details } })
}

/// Of the codes only those of the sandbox itself are told apart.
fn code(name: &Value) -> Code {
    let known = [Code::SandboxUnavailable, Code::SandboxFailed];
    known.into_iter().find(|code| json!(code) == *name).unwrap_or(Code::Internal)
}

/// In the child: the call.
fn attempt(outside: &Outside) -> Result<Value, Failure> {
    let internal = |what: String| Failure::new(Code::Internal, what);
    let program = std::env::current_exe()
        .and_then(fs::canonicalize)
        .map_err(|error| internal(format!("upm's own program, which stands in for a plugin: {error}")))?;
    let grant = Grant {
        timeout: TIMEOUT,
        open_files: OPEN_FILES,
        memory: MEMORY,
        tmp: TMP,
        ..crate::decide::grant::built_in()
    };
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
        plan: &plan,
        frame: frame.into_bytes(),
        runner: crate::plugin::RUNNER,
        signals,
        deadline: Instant::now() + TIMEOUT,
        observe: false,
    };
    let outcome = supervise::run(job, &mut Unwatched).map_err(|failure| readable(failure, &program))?;
    match &outcome.result {
        Ok(result) => Ok(json!({ "tried": compare(&acts, &result.value(), &outcome) })),
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

/// As root the plugin's user must be able to run upm's own file.
fn readable(failure: Failure, program: &Path) -> Failure {
    let step = failure.details.get("step").and_then(Value::as_str);
    if step == Some(Step::Exec.name())
        && failure.details.get("errno").is_some()
        && !failure.details.contains_key("remedy")
    {
        let why = format!(
            "{}; let everyone read and run it for this trial: chmod a+rx {}",
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

/// What must work and what must not, layer by layer.
fn acts(program: &Path, plan: &Plan, outside: &Outside) -> Vec<Act> {
    let act = |layer, act: &str, expected: &str, ask| Act {
        layer,
        act: act.to_owned(),
        expected: expected.to_owned(),
        ask,
        told: None,
    };
    let denied =
        |layer, text: &str, expected: &str, ask, told| Act { told: Some(told), ..act(layer, text, expected, ask) };
    let mut acts = vec![
        act("namespaces", "user and group inside", &format!("{INSIDE_ID}:{INSIDE_ID}"), Ask::Ids),
        act("namespaces", "processes that /proc shows", "only its own", Ask::Processes),
        denied("namespaces", "unshare(CLONE_NEWUSER)", "EPERM", Ask::UserNamespace, "unshare"),
        act("root", "open the plugin's own file", "opens", Ask::Open(program.to_owned())),
    ];
    // A caller with a lower limit of its own gives that.
    let own = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE);
    let files = own.map_or(OPEN_FILES, |(_, most)| most.min(OPEN_FILES));
    for path in hidden(plan) {
        acts.push(act("root", &format!("open {}, which is not granted", path.display()), "ENOENT", Ask::Open(path)));
    }
    acts.extend([
        act("root", "make a file in /tmp", "works", Ask::Create("/tmp".into())),
        act("root", "make a file in /usr", "EROFS", Ask::Create("/usr".into())),
        act("root", "descriptors that came through exec", "0 1 2 3", Ask::Descriptors),
        act("limits", &format!("open_files = {OPEN_FILES}"), &format!("{files} at most, then EMFILE"), Ask::Files),
        act("limits", "1 MiB of memory", "works", Ask::Memory(1 << 20)),
        act("limits", "twice what `memory` allows", "ENOMEM", Ask::Memory(MEMORY * 2)),
        act("limits", "half of what `tmp` allows", "works", Ask::Fill(TMP / 2)),
        act("limits", "twice what `tmp` allows", "ENOSPC", Ask::Fill(TMP * 2)),
        act("capabilities", "capability sets that are not empty", "none", Ask::Capabilities),
        act("capabilities", "NoNewPrivs", "set", Ask::NoNewPrivileges),
        act("seccomp", "getcwd", "works", Ask::WorkingDirectory),
        denied("seccomp", "mount", "EPERM", Ask::Mount, "mount"),
        denied("seccomp", "ptrace(PTRACE_TRACEME)", "EPERM", Ask::Trace, "ptrace"),
        act("egress", "network interfaces", "lo", Ask::Interfaces),
        act("egress", "connect to the own loopback", "connects", Ask::Connect((STUB_ADDRESS, 53).into())),
    ]);
    if let Some((_, address)) = &outside.tcp {
        // With ports landlock refuses before there is anything to be reached.
        let (layer, expected) =
            if plan.landlock_abi >= 4 { ("landlock", "EACCES") } else { ("egress", "ECONNREFUSED") };
        acts.push(act(
            layer,
            &format!("connect to {address}, where upm listens outside"),
            expected,
            Ask::Connect(*address),
        ));
    }
    if let Some((_, name)) = &outside.unix {
        let text = "connect to an abstract socket, where upm listens outside";
        acts.push(act("egress", text, "ECONNREFUSED", Ask::Abstract(name.clone())));
    }
    let name = "doctor.upm.invalid";
    acts.push(denied("egress", &format!("look up {name}"), "no address", Ask::Resolve(name.to_owned()), "resolve"));
    acts
}

/// What the host has and the call must not see; none of it may lie on the way to what the call is shown.
fn hidden(plan: &Plan) -> Vec<PathBuf> {
    let shown =
        |path: &Path| plan.mounts.iter().any(|mount| mount.path.starts_with(path) || path.starts_with(&mount.path));
    let there = |path: &&Path| path.symlink_metadata().is_ok() && !shown(path);
    let shadow = Path::new("/etc/shadow");
    let directory = HIDDEN.iter().map(Path::new).find(there);
    Some(shadow).filter(there).into_iter().chain(directory).map(Path::to_owned).collect()
}

/// What each act came to, with whether its denial was told where the filter has a listener.
fn compare(acts: &[Act], result: &Value, outcome: &Outcome) -> Vec<Value> {
    let mut all = Vec::new();
    for (at, Act { layer, act, expected, told, .. }) in acts.iter().enumerate() {
        let mut expected = expected.clone();
        let mut got = result[at].as_str().unwrap_or("nothing").to_owned();
        if let Some(operation) = told
            && (outcome.denials_complete.seccomp || *operation == "resolve")
        {
            let known = outcome.denials.iter().any(|denial| denial.operation == *operation);
            got.push_str(if known { ", told as a denial" } else { ", not told" });
            expected.push_str(", told as a denial");
        }
        all.push(json!({ "layer": layer, "act": act, "expected": expected, "got": got }));
    }
    all
}

impl Outside {
    /// Sockets that anyone on the host can connect to, as doctor does first: a listener that is out of reach for everyone would
    /// prove nothing.
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
