//! `upm explain`: the plan that a call would be enforced by, and where each value of its grant was written.

use super::fits;
use super::options::{Config as ConfigFile, Json, Method, Project};
use super::print::show;
use super::values::value;
use crate::call;
use crate::config::{self, Config, Grant};
use crate::confine::filter;
use crate::confine::step::Step;
use crate::decide::grant::Decision;
use crate::decide::plan::{Plan, Source, UNIX_ABI};
use crate::decide::verdict::{Act, Remedy, Verdict, View, path_key};
use crate::host::facts;
use crate::keys::Key;
use crate::plugin::client::Patience;
use crate::sealed::{self, Barrier};
use crate::supervise::cgroup;
use crate::text::{escape, shorten};
use crate::types::{Change, Code, Failure};
use clap::builder::{PossibleValue, TypedValueParser};
use serde_json::{Value, json};
use std::ffi::OsStr;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

const AFTER: &str = "\
Exit status:
  0     The plan is printed; with --may: yes
  1     With --may: no
  125   The answer is not known
  126   The configuration does not allow the plugin or the method

Examples:
    upm explain PipPlugin install
    upm explain PipPlugin install --may 'write /etc/passwd' || echo no
";

/// Show what a call may do, and which line of the configuration says so
///
/// It prints paths, egress, limits, system calls, the environment, and where each value comes from. This is the
/// plan that a call is enforced by. No plugin is run.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
#[group(skip)]
#[command(verbatim_doc_comment, after_help = AFTER)]
pub(super) struct Args {
    #[command(flatten)]
    pub method: Method,
    #[command(flatten)]
    pub project: Project,
    /// Only print whether the call may do this:
    /// 'read /PATH', 'write /PATH', 'connect HOST:PORT', 'syscall NAME'
    #[arg(long, value_name = "ACT", value_parser = ActReader, hide_possible_values = true, verbatim_doc_comment)]
    pub may: Option<Act>,
    #[command(flatten)]
    pub config: ConfigFile,
    #[command(flatten)]
    pub json: Json,
}

/// Reads `--may`. Its possible values are what completions offer.
#[derive(Clone)]
struct ActReader;

impl TypedValueParser for ActReader {
    type Value = Act;

    fn parse_ref(
        &self,
        command: &clap::Command,
        argument: Option<&clap::Arg>,
        text: &OsStr,
    ) -> Result<Act, clap::Error> {
        value(act).parse_ref(command, argument, text)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(["read", "write", "connect", "syscall"].into_iter().map(PossibleValue::new)))
    }
}

fn act(text: &OsStr) -> Result<Act, String> {
    let parsed = text.to_str().and_then(|text| match text.split_once([' ', '='])? {
        ("read", path) if path.starts_with('/') => Some(Act::Read(path.into())),
        ("write", path) if path.starts_with('/') => Some(Act::Write(path.into())),
        ("connect", address) => {
            let (host, port) = address.rsplit_once(':')?;
            let port = port.parse().ok().filter(|port| *port > 0)?;
            (!host.is_empty()).then(|| Act::Connect { host: host.to_owned(), port })
        }
        ("syscall", name) if !name.is_empty() => Some(Act::Syscall(name.to_owned())),
        _ => None,
    });
    parsed.ok_or_else(|| {
        "unknown act; write 'read /PATH', 'write /PATH', 'connect HOST:PORT' or 'syscall NAME'".to_owned()
    })
}

/// Prints text or JSON, and gives the exit status.
pub(super) fn run(args: &Args) -> i32 {
    let shown = show(explained(args));
    // A question is answered yes, no, or not at all.
    if args.may.is_some() && shown > 1 { 125 } else { shown }
}

/// Text or JSON for stdout, and whether the answer is yes (a plan is; `--may` may be no).
///
/// # Errors
/// Whatever would keep the call from being made.
fn explained(args: &Args) -> Result<(String, bool), Failure> {
    let config = config::load(args.config.file.as_deref())?;
    let as_json = args.json.json;
    let Method { plugin, method } = &args.method;
    let decision = call::decide(&config, plugin, method, args.project.project.as_deref())?;
    let patience = Patience { deadline: Instant::now() + decision.grant.timeout, signals: None };
    let plan = call::make_plan(&decision, "", decision.grant.timeout, &patience)?;
    if let Some(act) = &args.may {
        return may(&config, &decision, &plan, act, &patience, as_json);
    }
    let origins = origins(&decision.grant);
    if as_json {
        let mut shown = json!(plan);
        for name in secrets(&plan) {
            shown["env"][&name] = json!("(hidden)");
        }
        let document = json!({ "config": config.path, "plan_sha256": plan.sha256(), "plan": shown, "origins": origins, "memory": counts(&plan).json() });
        return Ok((format!("{document}\n"), true));
    }
    Ok((render(&config.path, &plan, &origins), true))
}

/// Whether the call may do this, as its sealed root would answer.
fn may(
    config: &Config,
    decision: &Decision,
    plan: &Plan,
    act: &Act,
    patience: &Patience<'_>,
    as_json: bool,
) -> Result<(String, bool), Failure> {
    if let Act::Syscall(name) = act {
        if filter::standing(name).is_none() {
            let why = format!("--may: {}: no system call of this architecture", shorten(name, 80));
            return Err(Failure::new(Code::Usage, why));
        }
    }
    let fits = |change: &Change| fits::made(config, decision, change).map(drop);
    let view = View { config, decision, plan, filter: &filter::standing_and_reason, fits: &fits };
    let verdict = match act {
        Act::Read(path) => of_path(&view, path, false, patience)?,
        Act::Write(path) => of_path(&view, path, true, patience)?,
        _ => view.verdict(act),
    };
    let place = view.place(verdict.key);
    let remedy = verdict.remedy.as_ref().filter(|_| !verdict.yes);
    let text = if as_json {
        let remedy = remedy.map(|remedy| view.text(remedy));
        let (yes, layer, why, key) = (verdict.yes, verdict.layer, verdict.why, verdict.key);
        json!({ "may": yes, "layer": layer, "why": why, "key": key.name(), "place": place, "remedy": remedy })
            .to_string()
    } else {
        let word = if verdict.yes { "yes" } else { "no" };
        let remedy = remedy.map_or_else(String::new, |remedy| match view.lines(remedy) {
            // It is in the sentence already.
            Err(why) if verdict.why.contains(&why) => String::new(),
            Err(why) => format!("\nno line of the configuration is proposed: {}", escape(&why, false)),
            Ok(lines) => format!(
                "\nto allow it, in {}:\n{}",
                escape(&config.path.display().to_string(), false),
                escape(&lines, true)
            ),
        });
        let place = escape(&place, false);
        format!("{word}: {}: {} ({}, {place}){remedy}", verdict.layer, escape(&verdict.why, false), verdict.key)
    };
    Ok((text + "\n", verdict.yes))
}

/// The answer for a path, and the change after which it would be yes: tried, in a copy of the configuration.
fn of_path(view: &View<'_>, path: &Path, write: bool, patience: &Patience<'_>) -> Result<Verdict, Failure> {
    let made = |decision: &Decision| [decision.project_root.clone(), decision.cache_dir.clone()];
    let look = |plan: &Plan, made: &[PathBuf; 2]| sealed::look(plan, path, write, &[&made[0], &made[1]]);
    let way = look(view.plan, &made(view.decision))?;
    let tried = |change: &Change| -> Result<(), String> {
        let (_, decided) = fits::made(view.config, view.decision, change)?;
        let plan = call::make_plan(&decided, "", decided.grant.timeout, patience).map_err(|failure| failure.message)?;
        let after = look(&plan, &made(&decided)).map_err(|failure| failure.message)?;
        if after.yes { Ok(()) } else { Err(format!("were it granted, it would still be refused: {}", after.why)) }
    };
    let remedy = || {
        // The thing itself, or the directory that it would be made in.
        let missing = write && way.at.symlink_metadata().is_err();
        let target = if missing { view.nearest(&way.at) } else { way.at.clone() };
        match view.grant_for(&way.at, &target, write) {
            Remedy::Change(change) => match tried(&change) {
                Ok(()) => Remedy::Change(change),
                Err(why) => Remedy::Nothing(why),
            },
            nothing => nothing,
        }
    };
    Ok(Verdict {
        yes: way.yes,
        layer: match way.layer {
            Barrier::Root => "root",
            Barrier::Permissions => "permissions",
        },
        key: path_key(&way.at, write),
        remedy: match (way.yes, way.grantable) {
            (true, _) => None,
            (false, true) => Some(remedy()),
            (false, false) => Some(Remedy::Nothing(way.why.clone())),
        },
        why: way.why,
    })
}

/// Who counts the call's memory when upm is started as it is now: a cgroup (and where), or the watch (and why).
struct Counts {
    cgroup: bool,
    required: bool,
    found: String,
    remedy: Option<String>,
}

fn counts(plan: &Plan) -> Counts {
    let required = plan.limits.require_cgroup;
    let (cgroup, found, remedy) = cgroup::describe(None, true);
    Counts { cgroup, required, found, remedy }
}

impl Counts {
    fn text(&self) -> String {
        let found = escape(&self.found, false);
        match (self.cgroup, self.required) {
            (true, _) => format!("counted by a cgroup, started as now: {found}"),
            (false, false) => {
                format!("watched every 100 ms, started as now: {found}; not counted: {}", cgroup::NOT_COUNTED)
            }
            (false, true) => format!("refused, started as now, since require_cgroup = true: {found}"),
        }
    }

    fn json(&self) -> Value {
        let (by, not_counted) = match (self.cgroup, self.required) {
            (true, _) => ("cgroup", None),
            (false, false) => ("watch", Some(cgroup::NOT_COUNTED)),
            (false, true) => ("refused", None),
        };
        json!({ "by": by, "found": self.found, "remedy": self.remedy, "not_counted": not_counted })
    }
}

/// Variables whose values may hold credentials: those that the caller or a client gives.
fn secrets(plan: &Plan) -> Vec<String> {
    let plain = ["PATH", "HOME", "TMPDIR", "LANG", "UPM_REQUEST_ID"];
    plan.env.keys().filter(|name| !plain.contains(&name.as_str())).cloned().collect()
}

/// Every key of the grant with its value and place.
fn origins(grant: &Grant) -> Value {
    let values = json!(grant);
    let mut keys = Key::ALL.to_vec();
    keys.sort_unstable_by_key(|key| key.name());
    let listed = keys.into_iter().map(|key| {
        let origin = grant.origins[key];
        let value = json!({ "value": values[key.name()], "level": origin.level, "line": origin.line });
        (key.name().to_owned(), value)
    });
    Value::Object(listed.collect())
}

/// What the call's root has.
fn mounts(line: &mut dyn FnMut(std::fmt::Arguments<'_>), plan: &Plan) {
    line(format_args!("\nroot"));
    let by_mount: Vec<&Path> = plan.read_only_by_mount().map(|mount| mount.path.as_path()).collect();
    for mount in &plan.mounts {
        let what = match &mount.source {
            Source::Host { mapped: true } => "host, owner's ids mapped when root calls".to_owned(),
            Source::Host { mapped: false } => "host".to_owned(),
            Source::Device => "device".to_owned(),
            Source::Tmpfs { bytes, inodes } => {
                format!(
                    "memory, {bytes} bytes, {inodes} inodes; noexec: programs run from a write path, with TMPDIR there"
                )
            }
            Source::Proc => "proc of the call".to_owned(),
            Source::Terminals(most) => format!("terminals of the call, at most {most}"),
            Source::File(_) => "made up".to_owned(),
            Source::Link(to) => format!("link to {}", to.display()),
        };
        let access = match (mount.write, mount.exec) {
            (true, true) => "rwx",
            (true, false) => "rw-",
            (false, true) => "r-x",
            (false, false) => "r--",
        };
        let alone = match by_mount.contains(&mount.path.as_path()) {
            true => "; read-only by its mount alone, since landlock cannot take back what the directory above gives",
            false => "",
        };
        let path = escape(&mount.path.display().to_string(), false);
        line(format_args!("  {access}  {path}  ({}: {what}{alone})", mount.why));
    }
}

fn render(config: &Path, plan: &Plan, origins: &Value) -> String {
    let mut text = String::new();
    let mut line = |parts: std::fmt::Arguments<'_>| {
        // Writing to a String cannot fail.
        text.write_fmt(parts).expect("a string grows");
        text.push('\n');
    };
    line(format_args!("{}.{}  plan {}", plan.plugin, plan.method, plan.sha256()));
    line(format_args!("\nprogram   {}", escape(&plan.argv.join(" "), false)));
    line(format_args!("ids       1000:1000 inside, {}:{} outside", plan.outside.0, plan.outside.1));
    if let Some(why) = facts::shared_user(plan.outside.0) {
        line(format_args!("          {why}"));
    }
    mounts(&mut line, plan);
    for (number, (link, target)) in plan.links.iter().enumerate() {
        let head = if number == 0 { "\nlinks that led to the code and the interpreter\n" } else { "" };
        let shown = |path: &Path| escape(&path.display().to_string(), false);
        line(format_args!("{head}  {} -> {}", shown(link), shown(target)));
    }
    line(format_args!("\negress"));
    if plan.egress.is_empty() {
        line(format_args!("  none: an empty network namespace; every name is refused"));
    }
    for rule in &plan.egress {
        let star = if rule.pattern.wildcard { "*." } else { "" };
        line(format_args!(
            "  {star}{}:{}  [egress.{}]{}{}",
            rule.pattern.name,
            rule.pattern.port,
            rule.group,
            if rule.tls && rule.pattern.port != 80 { ", TLS to that name" } else { "" },
            if rule.allow_private { ", private addresses allowed" } else { "" }
        ));
    }
    line(format_args!("\nlayers"));
    line(format_args!("  landlock ABI {}, every right of it for paths and scopes", plan.landlock_abi));
    line(format_args!(
        "  UNIX sockets with a path {}",
        match plan.named_unix {
            false => "denied, because landlock before ABI 9 cannot keep them from those of the host (`unix_sockets`)",
            true if plan.landlock_abi >= UNIX_ABI => "allowed, but landlock denies connecting to those of the host",
            true => "allowed, also those of the host in granted paths",
        }
    ));
    line(format_args!(
        "  seccomp default{}, a refused call {}",
        match plan.syscalls.as_slice() {
            [] => String::new(),
            more => format!(" and {}", more.join(", ")),
        },
        match plan.on_violation {
            crate::types::OnViolation::Deny => "gets EPERM",
            crate::types::OnViolation::Kill => "ends the call",
        }
    ));
    line(format_args!("  locks of files: of those that the call may write"));
    line(format_args!("  limits memory {}", counts(plan).text()));
    let steps: Vec<&str> = Step::ALL.iter().map(|step| step.name()).collect();
    line(format_args!("  steps {}", steps.join(" ")));
    line(format_args!("\nenvironment"));
    let hidden = secrets(plan);
    for (name, value) in &plan.env {
        let shown = if hidden.contains(name) { "(hidden)" } else { value };
        line(format_args!("  {name}={}", escape(shown, false)));
    }
    line(format_args!("\ngrant (where each value comes from; {})", config.display()));
    for (key, origin) in origins.as_object().into_iter().flatten() {
        let place = match origin["line"].as_u64() {
            Some(number) => format!("{}, line {number}", origin["level"].as_str().unwrap_or_default()),
            None => "built-in".to_owned(),
        };
        line(format_args!("  {key} = {}  ({place})", escape(&origin["value"].to_string(), false)));
    }
    text
}
