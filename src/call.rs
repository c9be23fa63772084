//! The pipeline of one call.

mod learn;
pub(crate) mod packed;
pub(crate) mod reading;

use crate::audit::log::Log;
use crate::config::{self, Config, ProjectDir};
use crate::confine::{filter, privileges};
use crate::decide::arguments::Checked;
use crate::decide::grant::{self, Decision};
use crate::decide::plan::{self, Environment, Facts, Plan};
use crate::decide::verdict::View;
use crate::host::{callers, directories, facts, grantable, owners};
use crate::keys::Key;
use crate::plugin;
use crate::plugin::client::{self, Patience};
use crate::report::code::exit_code;
use crate::report::complain;
use crate::report::envelope::{self, Envelope, Metadata};
use crate::supervise::client::Client;
use crate::supervise::signals::{self, Signals};
use crate::supervise::{self, Job, Watcher};
use crate::text::shorten;
use crate::types::{Caller, Change, Code, Denial, Denied, Details, Explained, Failure, Note, Observed, Outcome};
use crate::walk::{self, How};
use serde_json::Map;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// A call as the command line gives it; nothing of it has been looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallArgs {
    /// `--config`.
    pub config: Option<PathBuf>,
    /// Matches [`config::is_plugin_name`].
    pub plugin: String,
    /// Not empty, at most 256 bytes, without control characters.
    pub method: String,
    /// Where the arguments are.
    pub json: JsonSource,
    /// `--project`.
    pub project: Option<PathBuf>,
    /// `--timeout`; it may only shorten the grant's.
    pub timeout: Option<Duration>,
    /// `--request-id`.
    pub request_id: Option<Uuid>,
    /// `-v`: the plugin's stderr goes to stderr as it comes.
    pub verbose: bool,
}

/// Where a call's JSON arguments are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JsonSource {
    /// None were given: `{}`.
    Default,
    /// On the command line.
    Text(String),
    /// `-`: on stdin.
    Stdin,
}

/// The caller.
pub struct Peer {
    /// Who it is.
    pub caller: Caller,
    /// Its connection, when it calls over the service's socket.
    pub connection: Option<Client>,
}

impl Peer {
    /// The user who started `upm`: without a socket the call has that user's own rights.
    #[must_use]
    pub fn local() -> Self {
        Peer { caller: callers::own(), connection: None }
    }
}

/// What a call answers with.
pub struct Answer {
    /// The envelope.
    pub envelope: Envelope,
    /// The exit status.
    pub exit: i32,
    /// What the plugin looked for, of an observed call that was started.
    pub observed: Option<Observed>,
    /// What was denied.
    pub denials: Vec<Explained>,
}

/// One call, from its words to its answer.
#[must_use]
pub fn call(args: &CallArgs, peer: Peer, watcher: &mut dyn Watcher) -> Answer {
    run(args, peer, false, watcher)
}

/// The same call, of the caller here, under the same confinement, with what the plugin looks for noted.
#[must_use]
pub fn observed(args: &CallArgs, watcher: &mut dyn Watcher) -> Answer {
    run(args, Peer::local(), true, watcher)
}

fn run(args: &CallArgs, peer: Peer, observe: bool, watcher: &mut dyn Watcher) -> Answer {
    let request_id = args.request_id.unwrap_or_else(Uuid::now_v7).to_string();
    let mut log = Log::new(&request_id, &args.plugin, &args.method, &peer.caller);
    log.by_socket = peer.connection.is_some();
    let ended = go(args, &request_id, peer, observe, &mut log, watcher);
    let meta = Metadata::now(&request_id);
    match ended {
        Ok(mut outcome) => {
            let observed = outcome.observed.take();
            let (envelope, exit) = match &outcome.result {
                Ok(_) => (envelope::success(&outcome, &meta), 0),
                Err(failure) => (envelope::error(failure, Some(&outcome), &meta), exit_code(failure)),
            };
            Answer { envelope, exit, observed, denials: outcome.denials }
        }
        Err(failure) => {
            log.refused(&failure);
            answer_of(&failure, &meta)
        }
    }
}

/// The answer of a call whose plugin was not started.
fn answer_of(failure: &Failure, meta: &Metadata) -> Answer {
    let envelope = envelope::error(failure, None, meta);
    Answer { envelope, exit: exit_code(failure), observed: None, denials: Vec::new() }
}

/// The answer to a command line that is not a call.
#[must_use]
pub fn refuse(failure: &Failure, request_id: Option<Uuid>) -> Answer {
    refusal(&callers::own(), None, failure, request_id, false)
}

/// The answer to a request over the socket that is not a call. It is recorded where `config`, the service's `--config`, says.
#[must_use]
pub fn refuse_to(caller: &Caller, config: Option<&Path>, failure: &Failure, request_id: Option<Uuid>) -> Answer {
    refusal(caller, config::load(config).ok().as_ref(), failure, request_id, true)
}

fn refusal(
    caller: &Caller,
    config: Option<&Config>,
    failure: &Failure,
    request_id: Option<Uuid>,
    by_socket: bool,
) -> Answer {
    let request_id = request_id.unwrap_or_else(Uuid::now_v7).to_string();
    let mut log = Log::new(&request_id, "", "", caller);
    log.by_socket = by_socket;
    log.may_call = by_socket && config.is_some_and(|config| may_call(config, caller));
    if config.is_some() {
        if let Err(error) = log.open(config) {
            complain(format_args!("{}", error.message));
        }
    }
    log.refused(failure);
    answer_of(failure, &Metadata::now(&request_id))
}

/// config → decide → audit → supervise → audit. Nothing of the plugin runs before decide and audit have said yes.
fn go(
    args: &CallArgs,
    request_id: &str,
    peer: Peer,
    observe: bool,
    log: &mut Log,
    watcher: &mut dyn Watcher,
) -> Result<Outcome, Failure> {
    let started = Instant::now();
    let by_socket = peer.connection.is_some();
    // What this process sees of the host is not reported to other users.
    let caller_uid = peer.caller.uid;
    let local = caller_uid == nix::unistd::geteuid().as_raw();
    let signals = signals::take()
        .map_err(|error| Failure::new(Code::Internal, format!("signals: {error}")))?
        .with_client(peer.connection);
    let config = config::load(args.config.as_deref())?;
    log.open(Some(&config))?;
    log.counted();
    privileges::require()?;
    tracing::debug!(path = %config.path.display(), sha256 = config.sha256, "configuration");
    if by_socket {
        log.may_call = may_call(&config, &peer.caller);
        check_caller(&config, args, &peer.caller)?;
    }
    if by_socket && args.project.as_ref().is_some_and(|project| !config.spells_project(project)) {
        return Err(unseen(Failure::new(Code::Usage, ""), args));
    }
    let decision = decide(&config, &args.plugin, &args.method, args.project.as_deref())
        .map_err(|failure| if by_socket { unseen(failure, args) } else { failure })?;
    let timeout = args.timeout.map_or(decision.grant.timeout, |shorter| shorter.min(decision.grant.timeout));
    let (arguments, learn) = read_arguments(args, &decision, started + timeout, &signals, log)?;
    let patience = Patience { deadline: started + timeout, signals: Some(&signals) };
    let plan = make_plan(&decision, request_id, timeout, &patience)?;
    log.planned(&plan)?;
    log.started(&arguments, config.audit.arguments)?;
    make_directories(&decision, plan.outside)?;
    let init = plugin::Init {
        project_root: &decision.project_root,
        cache_dir: &decision.cache_dir,
        policy: &decision.grant.policy,
        fernet: decision.grant.fernet,
    };
    let member = |name: &str| arguments.get(name);
    let frame = match (member("args"), member("kwargs")) {
        (None, None) => plugin::call_frame(&plan, request_id, &[(); 0], &Map::new(), &init),
        (Some(args), None) => plugin::call_frame(&plan, request_id, args, &Map::new(), &init),
        (None, Some(kwargs)) => plugin::call_frame(&plan, request_id, &[(); 0], &kwargs, &init),
        (Some(args), Some(kwargs)) => plugin::call_frame(&plan, request_id, args, &kwargs, &init),
    };
    let job = Job {
        caller: caller_uid,
        plan: &plan,
        frame,
        runner: plugin::RUNNER,
        signals: &signals,
        deadline: started + timeout,
        observe,
    };
    tracing::debug!(plan = %plan.sha256(), "decided");
    let outcome = supervise::run(job, watcher)?;
    let fits = |change: &Change| match local {
        true => grantable::paths(&decision, change),
        false => grantable::untold(change),
    };
    let view =
        View { config: &config, decision: &decision, plan: &plan, filter: &filter::standing_and_reason, fits: &fits };
    let outcome = explain(&view, learn, outcome);
    log.finished(&outcome).map_err(unrecorded)?;
    Ok(outcome)
}

/// The method has run, but its result could not be recorded: the answer reports that it has run, and not the result.
fn unrecorded(failure: Failure) -> Failure {
    let message = format!("the method has run, but its end could not be recorded: {}", failure.message);
    Failure { message, note: Some(Note::Started), ..failure }
}

/// Over the socket root may call, and whom `callers` names; without that key the service's own user. Looked at before
/// anything is looked up, so that other users do not learn what exists.
fn check_caller(config: &Config, args: &CallArgs, caller: &Caller) -> Result<(), Failure> {
    let named = match grant::callers(config, &args.plugin, &args.method) {
        Some(named) => callers::names(named, caller),
        None => caller.uid == nix::unistd::getuid().as_raw(),
    };
    if named || caller.uid == 0 {
        return Ok(());
    }
    Err(Failure::new(
        Code::CallerNotAllowed,
        format!(
            "{}.{}: user {} is not allowed to call it; the owner of the service's configuration can add the user, or one of \
             its groups, to `callers`",
            args.plugin,
            shorten(&args.method, 80),
            callers::shown(caller.uid)
        ),
    )
    .with(Details::Caller { uid: caller.uid, gid: caller.gid }))
}

/// Whether any table's `callers` names this one.
pub(crate) fn may_call(config: &Config, caller: &Caller) -> bool {
    grant::tables(config).filter_map(|keys| keys.callers.as_ref()).any(|at| callers::names(&at.value, caller))
}

/// The service may see directories that its caller cannot: the answer is the same for a directory that is not a project of the
/// configuration and for one that does not exist.
fn unseen(failure: Failure, args: &CallArgs) -> Failure {
    match &args.project {
        Some(project) if failure.code == Code::Usage && !matches!(failure.details, Details::ProjectRules { .. }) => {
            let project = shorten(project, 400);
            Failure::new(
                Code::Usage,
                format!("--project {project}: no directory that the service's configuration names as a project"),
            )
        }
        _ => failure,
    }
}

/// What the configuration says of this method.
///
/// # Errors
/// `plugin_not_allowed`, `method_not_allowed`, `usage` for a project that is not one.
pub fn decide(config: &Config, plugin: &str, method: &str, project: Option<&Path>) -> Result<Decision, Failure> {
    let project = project
        .map(ProjectDir::resolve)
        .transpose()
        .map_err(|error| Failure::new(Code::Usage, format!("--project {error}")))?;
    let decision = grant::grant(config, plugin, method, project.as_ref())?;
    hold_grants(config, &decision)?;
    Ok(decision)
}

/// Opens the granted paths that exist, for the whole call, and checks again what was opened: since the configuration was read, a
/// name may have changed its meaning. A path that is missing or behind a link is reported when it is used.
fn hold_grants(config: &Config, decision: &Decision) -> Result<(), Failure> {
    let grant = &decision.grant;
    for (path, write) in grant.read.iter().map(|path| (path, false)).chain(grant.write.iter().map(|path| (path, true)))
    {
        let Ok(found) = walk::find(path, How::NoLinks) else { continue };
        walk::hold(&found);
        let refuse = |message: String| Err(Failure::new(Code::ConfigInvalid, message).with(Details::Key(Key::Write)));
        if let Some(shown) = config.reserved(path) {
            return refuse(config::shows_reserved(path, &shown));
        }
        if let Some(what) = write.then(|| config.ruled_by(path)).flatten() {
            return refuse(format!(
                "{}: write lets a plugin change {what}; grant a directory apart from it",
                path.display()
            ));
        }
    }
    Ok(())
}

/// The facts of the host for a method, with the plugin's files and interpreter checked for who could change them.
///
/// # Errors
/// `config_invalid`, `module_not_found`.
pub fn trusted_facts(decision: &Decision) -> Result<Facts, Failure> {
    let facts = facts::gather(decision)?;
    owners::refuse_roots(decision, &facts)?;
    for prefix in &facts.interpreter_prefixes {
        for write in &decision.grant.write {
            let could = config::could_change(write, prefix)
                .map_err(|error| Failure::new(Code::ConfigInvalid, format!("{}: {error}", write.display())))?;
            if !could {
                continue;
            }
            return Err(Failure::new(
                Code::ConfigInvalid,
                format!(
                    "{}: write: what the interpreter {} imports lies there, so a plugin could change the code of others; grant another \
                     directory, or use another interpreter",
                    write.display(),
                    decision.grant.interpreter.display()
                ),
            )
            .with(Details::Key(Key::Write)));
        }
    }
    Ok(facts)
}

/// The plan of a decided method: clients asked, everything resolved for this host.
///
/// # Errors
/// `config_invalid`, `module_not_found`, `sandbox_unavailable`.
pub fn make_plan(
    decision: &Decision,
    request_id: &str,
    timeout: Duration,
    patience: &Patience<'_>,
) -> Result<Plan, Failure> {
    let facts = trusted_facts(decision)?;
    let pass = |name: &str| std::env::var(name).ok();
    let (rules, needs) = client::resolve(&decision.grant, &facts, &pass, patience)?;
    let environment = Environment { request_id, timeout, pass: &pass };
    Ok(plan::plan(
        (&decision.plugin, &decision.method),
        &decision.entry,
        &decision.grant,
        &facts,
        rules,
        &needs,
        environment,
    ))
}

/// Reads, bounds and validates the arguments.
fn read_arguments(
    args: &CallArgs,
    decision: &Decision,
    until: Instant,
    signals: &Signals,
    log: &mut Log,
) -> Result<(Checked, String), Failure> {
    let limit = decision.grant.arguments;
    let from = if log.by_socket { reading::From::Socket } else { reading::From::Here };
    let text = match &args.json {
        JsonSource::Default => b"{}".to_vec(),
        JsonSource::Text(text) => text.clone().into_bytes(),
        JsonSource::Stdin => reading::read_stdin(limit, signals)?,
    };
    log.arguments(&text);
    // Errors in the arguments are reported before errors in the schema.
    let loaded = match &decision.schemas {
        Some(directory) => config::load_schema(directory, &decision.method),
        None => Ok(None),
    };
    let schema = loaded.as_ref().ok().and_then(Option::as_ref);
    let checked = reading::check(from, &text, limit, schema, Some(until), signals)?;
    loaded?;
    Ok((checked, learn::command(args, &text)))
}

/// The grant that decided each denial, and what would have allowed it; whether a path that the plugin failed on is granted.
fn explain(view: &View<'_>, learn: String, outcome: Outcome<Denial>) -> Outcome {
    let mut outcome = outcome.explained(|denial| view.explain(denial));
    if let Err(failure) = &mut outcome.result {
        match &mut failure.details {
            Details::Plugin(said) if failure.code == Code::PluginRaised => view.seek(said, &learn),
            Details::Violation { number, denial, .. } => {
                // The one that ended the call is the last of its number.
                let ended = |known: &&Explained| matches!(&known.denial.denied, Denied::Syscall(call) if call.number == *number);
                *denial = outcome.denials.iter().rfind(ended).cloned().map(Box::new);
            }
            _ => {}
        }
    }
    outcome.denials_complete.learn = learn;
    outcome.sandbox.config_sha256 = Some(view.config.sha256.clone());
    outcome
}

/// The project and the plugin's cache are made when they are granted and missing. When root calls they are the user's that
/// the plugin is `outside`.
fn make_directories(decision: &Decision, outside: (u32, u32)) -> Result<(), Failure> {
    let owner = nix::unistd::geteuid().is_root().then_some(outside);
    for (path, mode) in [(&decision.project_root, 0o755), (&decision.cache_dir, 0o700)] {
        let granted = decision.grant.write.iter().chain(&decision.grant.read).any(|granted| path.starts_with(granted));
        if granted {
            directories::make(path, mode, owner).map_err(|error| {
                Failure::new(
                    Code::ConfigInvalid,
                    format!("{error}; make {} yourself, or name another in the configuration", path.display()),
                )
            })?;
        }
    }
    Ok(())
}
