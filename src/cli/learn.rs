//! `upm learn`: makes a call and watches it; what it looked for and may not use becomes a change of the configuration, which
//! is printed and never made.

mod seen;

use super::fits;
use super::options::{Call, Json};
use super::print::{self, Screen};
use crate::call::{self, Answer, CallArgs};
use crate::config;
use crate::confine::filter;
use crate::decide::learn::{Found, Suggestion};
use crate::decide::plan::Facts;
use crate::decide::verdict::View;
use crate::json::raw::Raw;
use crate::plugin;
use crate::plugin::client::Patience;
use crate::report::envelope::Envelope;
use crate::supervise::signals::{self, Signals};
use crate::supervise::{self, Job, Unwatched, apart};
use crate::types::{Change, Code, Denial, Denied, Entry, Explained, Failure, Look, LookFor, Observed};
use seen::Seen;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Bytes of an observed call's answer: results and outputs are bounded by the grant, which this exceeds.
const ANSWER: u64 = 4 << 30;
/// Most paths to read, paths to write and hosts of a change, each: nobody reads more, and each is tried.
const PROPOSED: usize = 32;
/// Time for the empty plugin.
const START: Duration = Duration::from_secs(20);

const AFTER: &str = r#"Exit status:
  0   The call was observed, whatever its result; otherwise the exit status of the call, with its answer

Examples:
    upm learn PipPlugin install '{"args": ["requests"]}'
"#;

/// Make a call, and propose the configuration change that it needs
///
/// The call is made as always, with the same confinement and the same effects. upm notes what the plugin looks for
/// but may not use, and prints the configuration change that would allow it, as a diff. Nothing is changed.
/// With --json the call's answer is printed too.
///
/// The proposal is minimal: the nearest directory, reading rather than writing, hosts by name. It leaves out what
/// an empty plugin in the same interpreter looks for, what `upm check` would refuse, system directories, what root
/// owns (to write), what not everyone may read, and places of keys and settings.
///
/// A hostile plugin can look for more than it needs: read the change before you apply it.
/// While a call is watched, `cpus` does not slow it down. `require_cgroup` still applies.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
#[group(skip)]
#[command(verbatim_doc_comment, after_help = AFTER)]
pub(super) struct Args {
    #[command(flatten)]
    pub call: Call,
    #[command(flatten)]
    pub json: Json,
}

/// Makes the call, prints what was learned (or the answer of a call that could not be observed), and gives the exit status.
pub(super) fn run(args: Args) -> i32 {
    let call = CallArgs::from(args.call);
    match learned(&call, args.json.json, &mut Screen::new(call.verbose)) {
        Ok(text) => print::show(Ok((text, true))),
        Err(ended) => print::answer(&ended),
    }
}

/// Text or JSON for stdout; or the answer of a call that could not be observed.
///
/// # Errors
/// What kept the call from being made.
fn learned(args: &CallArgs, as_json: bool, screen: &mut Screen) -> Result<String, Answer> {
    let failed = |failure: Failure| call::refuse(&failure, args.request_id);
    let internal = |error: std::io::Error| failed(Failure::new(Code::Internal, format!("upm learn: {error}")));
    let signals = signals::take().map_err(internal)?;
    // A supervisor confines itself for good: afterwards this process could not look at the host.
    let apart::Returned { bytes, .. } = apart::run(ANSWER, Some(&signals), || {
        let answer = call::observed(args, screen);
        screen.progress.finish();
        let Answer { envelope: Envelope { document, result }, exit, observed, denials } = answer;
        let denied = Summary { names: refused_names(&denials), others: others(&denials) };
        // Values and texts: JSON can express them all.
        serde_json::to_vec(&Reported { document, result, exit, observed, denied }).unwrap_or_default()
    })
    .map_err(internal)?;
    let reported: Reported = serde_json::from_slice(&bytes).map_err(|error| internal(error.into()))?;
    drop(bytes);
    let Reported { document, result, exit, observed, denied } = reported;
    let envelope = Envelope { document, result };
    let Some(observed) = observed else {
        return Err(Answer { envelope, exit, observed: None, denials: Vec::new() });
    };
    report(args, as_json, &signals, (envelope, exit), observed, denied).map_err(failed)
}

/// What the child reports about its call.
#[derive(Serialize, Deserialize)]
struct Reported {
    document: Value,
    result: Option<Raw>,
    exit: i32,
    observed: Option<Observed>,
    denied: Summary,
}

/// What a call was denied, as far as it is reported here.
#[derive(Serialize, Deserialize)]
struct Summary {
    /// Names with a port, and how often.
    names: Vec<((String, u16), u64)>,
    /// All else, a line each.
    others: Vec<String>,
}

fn report(
    args: &CallArgs,
    as_json: bool,
    signals: &Signals,
    (envelope, exit): (Envelope, i32),
    observed: Observed,
    denied: Summary,
) -> Result<String, Failure> {
    let config = config::load(args.config.as_deref())?;
    let decision = call::decide(&config, &args.plugin, &args.method, args.project.as_deref())?;
    let timeout = decision.grant.timeout;
    let patience = Patience { deadline: Instant::now() + timeout, signals: Some(signals) };
    let plan = call::make_plan(&decision, "", timeout, &patience)?;
    let fits = |change: &Change| fits::made(&config, &decision, change).map(drop);
    let view =
        View { config: &config, decision: &decision, plan: &plan, filter: &filter::standing_and_reason, fits: &fits };

    let (start, unmeasured) = match call::trusted_facts(&decision).map(|facts| start_alone(&view, &facts, signals)) {
        Ok(Ok(looks)) => (looks, None),
        Ok(Err(error)) => (BTreeSet::new(), Some(error.to_string())),
        Err(failure) => (BTreeSet::new(), Some(failure.message)),
    };
    let (ordinary, looks): (Vec<Look>, Vec<Look>) =
        observed.looks.into_iter().partition(|look| start.contains(&(look.act, look.object.clone())));
    let names = denied.names.into_iter().collect();
    let suggestion = suggest(&view, &looks, &names);
    let (change, refused) = allowed(&view, suggestion);
    let diff = match &change {
        Some(change) => {
            let (text, _) = config.changed(change)?;
            let name = config.path.display().to_string();
            let before = config.unchanged();
            Some(similar::TextDiff::from_lines(&before, &text).unified_diff().header(&name, &name).to_string())
        }
        None => None,
    };
    let seen = Seen {
        looks,
        names,
        others: denied.others,
        left_out: ordinary.len(),
        unmeasured,
        dropped: observed.dropped,
        refused,
    };
    Ok(if as_json {
        seen.json(&config, &envelope, exit, change, diff)
    } else {
        seen.text(&config, &envelope.document, exit, diff)
    })
}

/// What an empty plugin looks for that is started in the same way, measured on this host.
fn start_alone(view: &View<'_>, facts: &Facts, signals: &Signals) -> std::io::Result<BTreeSet<(LookFor, String)>> {
    let (plan, frame) = plugin::empty::like(&view.decision.entry, &view.decision.grant, facts);
    let apart::Returned { bytes, .. } = apart::run(ANSWER, Some(signals), || {
        let run = || -> Result<Observed, Failure> {
            let signals = signals::take().map_err(|error| Failure::new(Code::Internal, error.to_string()))?;
            let deadline = Instant::now() + START;
            let job = Job {
                caller: nix::unistd::getuid().as_raw(),
                plan: &plan,
                frame,
                runner: plugin::RUNNER,
                signals: &signals,
                deadline,
                observe: true,
            };
            Ok(supervise::run(job, &mut Unwatched)?.observed.unwrap_or_default())
        };
        match run() {
            Ok(observed) => serde_json::to_vec(&observed).unwrap_or_default(),
            Err(failure) => json!(failure.message).to_string().into_bytes(),
        }
    })?;
    match serde_json::from_slice::<Value>(&bytes)? {
        Value::String(why) => Err(std::io::Error::other(why)),
        value => {
            let observed: Observed = serde_json::from_value(value)?;
            let place = |object: String| match &view.decision.entry {
                Entry::Python { module } => plugin::empty::as_if(&object, module, &view.plan.search),
                Entry::Exec { .. } => object,
            };
            Ok(observed.looks.into_iter().map(|look| (look.act, place(look.object))).collect())
        }
    }
}

/// Names that the stub or the gateway refused, with the port where it is known, and how often.
fn refused_names(denials: &[Explained]) -> Vec<((String, u16), u64)> {
    let mut names = BTreeMap::new();
    for Explained { denial, .. } in denials {
        let named = match &denial.denied {
            // A look-up says no port; nearly all that is fetched by name is on this one.
            Denied::Resolve { name } | Denied::Names { name, .. } => (name.clone(), 443),
            Denied::Connect { name, port } => (name.clone(), *port),
            _ => continue,
        };
        *names.entry(named).or_default() += denial.count;
    }
    names.into_iter().collect()
}

/// What else was denied, a line each.
fn others(denials: &[Explained]) -> Vec<String> {
    let line = |Explained { denial: Denial { denied, .. }, remedy, .. }: &Explained| match denied {
        Denied::Resolve { .. } | Denied::Names { .. } => None,
        _ => Some(format!("{} {}: {}", denied.layer().name(), denied.operation(), remedy.replace('\n', " "))),
    };
    denials.iter().filter_map(line).collect()
}

fn suggest(view: &View<'_>, looks: &[Look], names: &BTreeMap<(String, u16), u64>) -> Suggestion {
    let found: Vec<Found> = looks
        .iter()
        .filter(|look| look.act != LookFor::Connect)
        .map(|look| {
            let path = PathBuf::from(&look.object);
            let directory = fs::metadata(&path).ok().map(|data| data.is_dir());
            let is_dir = |path: &&Path| fs::metadata(path).is_ok_and(|data| data.is_dir());
            let above = path.ancestors().skip(1).find(is_dir).unwrap_or(Path::new("/")).to_owned();
            Found { act: look.act, path, directory, above }
        })
        .collect();
    let mut hosts: Vec<(String, u16)> = names.keys().cloned().collect();
    let mut refused = Vec::new();
    for look in looks.iter().filter(|look| look.act == LookFor::Connect) {
        match Destination::of(&look.object) {
            Destination::Name(name, port) => hosts.push((name, port)),
            Destination::Address => refused
                .push((look.object.clone(), "hosts are granted by name: have the plugin connect to a name".to_owned())),
            Destination::Socket => {
                refused.push((look.object.clone(), "sockets of the host are never granted".to_owned()));
            }
        }
    }
    hosts.sort();
    hosts.dedup();
    let mut suggestion = Suggestion::new(view, &found, &hosts);
    suggestion.refused.append(&mut refused);
    for paths in [&mut suggestion.read, &mut suggestion.write] {
        paths.retain(|path| match unfit(path, view.plan.outside.0) {
            None => true,
            Some(why) => {
                suggestion.refused.push((path.display().to_string(), why));
                false
            }
        });
    }
    suggestion.cut(PROPOSED);
    suggestion
}

/// Why a path is not suggested though it is there. `outside` is the user that the plugin is on the host.
fn unfit(path: &Path, outside: u32) -> Option<String> {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    const READABLE_BY_ALL: u32 = 0o004;
    // What is granted is opened without following links.
    match fs::canonicalize(path) {
        Err(error) => return Some(error.to_string()),
        Ok(real) if real != path => {
            return Some(format!("a symbolic link leads there from {}; have the plugin use that path", real.display()));
        }
        Ok(_) => {}
    }
    let data = fs::metadata(path).ok()?;
    let kind = data.file_type();
    if kind.is_socket() || kind.is_block_device() || kind.is_char_device() {
        return Some("sockets and devices are never granted".to_owned());
    }
    // As root a granted path is shown as its owner sees it: a plugin could ask for anybody's secrets.
    (data.uid() != outside && data.mode() & READABLE_BY_ALL == 0)
        .then(|| "not everyone may read it: should the plugin, then grant it by hand".to_owned())
}

/// What was connected to.
enum Destination {
    Name(String, u16),
    Address,
    Socket,
}

impl Destination {
    fn of(object: &str) -> Self {
        if object.starts_with("unix:") {
            return Destination::Socket;
        }
        let name_and_port = object.rsplit_once(':').and_then(|(host, port)| {
            let is_name = !host.starts_with('[') && host.parse::<std::net::IpAddr>().is_err();
            Some((host.to_owned(), port.parse().ok()?)).filter(|_| is_name)
        });
        name_and_port.map_or(Destination::Address, |(host, port)| Destination::Name(host, port))
    }
}

/// The change without what the configuration would refuse, and what was left out.
fn allowed(view: &View<'_>, suggestion: Suggestion) -> (Option<Change>, Vec<(String, String)>) {
    let mut refused = suggestion.refused.clone();
    // Mostly all of it is fine.
    if let Some(change) = suggestion.change(view) {
        if (view.fits)(&change).is_ok() {
            return (Some(change), refused);
        }
    }
    let mut rest = Suggestion { refused: Vec::new(), ..Suggestion::default() };
    let mut try_one = |rest: Suggestion, what: String| -> Option<Suggestion> {
        let change = rest.change(view)?;
        match (view.fits)(&change) {
            Ok(()) => Some(rest),
            Err(why) => {
                refused.push((what, why));
                None
            }
        }
    };
    if suggestion.pty {
        rest = try_one(Suggestion { pty: true, ..copy(&rest) }, "/dev/ptmx".to_owned()).unwrap_or(rest);
    }
    for host in suggestion.hosts {
        let more = Suggestion { hosts: [&rest.hosts[..], std::slice::from_ref(&host)].concat(), ..copy(&rest) };
        rest = try_one(more, format!("{}:{}", host.0, host.1)).unwrap_or(rest);
    }
    for path in suggestion.read {
        let more = Suggestion { read: [&rest.read[..], std::slice::from_ref(&path)].concat(), ..copy(&rest) };
        rest = try_one(more, path.display().to_string()).unwrap_or(rest);
    }
    for path in suggestion.write {
        let more = Suggestion { write: [&rest.write[..], std::slice::from_ref(&path)].concat(), ..copy(&rest) };
        rest = try_one(more, path.display().to_string()).unwrap_or(rest);
    }
    (rest.change(view), refused)
}

fn copy(of: &Suggestion) -> Suggestion {
    let Suggestion { read, write, hosts, pty, .. } = of;
    Suggestion { read: read.clone(), write: write.clone(), hosts: hosts.clone(), pty: *pty, refused: Vec::new() }
}
