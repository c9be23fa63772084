//! `upm explain`: the plan that a call would be enforced by, and where each value of its grant was written.

use super::May;
use super::terminal::escape;
use crate::call;
use crate::config;
use crate::confine::filter::{self, Standing};
use crate::confine::step::Step;
use crate::decide::plan::{Plan, Source};
use crate::gateway::names;
use crate::plugin::client::Patience;
use crate::types::{Failure, Grant};
use serde_json::{Value, json};
use std::fmt::Write;
use std::path::Path;
use std::time::Instant;

/// Text or JSON for stdout, and whether the answer is yes (a plan is; `--may` may be no).
///
/// # Errors
/// Whatever would keep the call from being made.
pub fn run(
    config: Option<&Path>,
    plugin: &str,
    method: &str,
    project: Option<&Path>,
    as_json: bool,
    act: Option<&May>,
) -> Result<(String, bool), Failure> {
    let config = config::load(config)?;
    let decision = call::decide(&config, plugin, method, project)?;
    let patience = Patience { deadline: Instant::now() + decision.grant.timeout, signals: None };
    let plan = call::make_plan(&decision, "", decision.grant.timeout, &patience)?;
    if let Some(act) = act {
        let verdict = may(&plan, act)?;
        let origin = decision.grant.origins.get(verdict.key);
        let place = match origin.and_then(|origin| origin.line) {
            Some(line) => format!("{}:{line}", config.path.display()),
            None => "built-in".to_owned(),
        };
        let text = if as_json {
            json!({ "may": verdict.yes, "layer": verdict.layer, "why": verdict.why, "key": verdict.key, "place": place }).to_string()
        } else {
            let word = if verdict.yes { "yes" } else { "no" };
            format!("{word}: {}: {} ({}, {place})", verdict.layer, escape(&verdict.why, false), verdict.key)
        };
        return Ok((text + "\n", verdict.yes));
    }
    let origins = origins(&decision.grant);
    if as_json {
        let mut shown = json!(plan);
        for name in secrets(&plan) {
            shown["env"][&name] = json!("(hidden)");
        }
        let document =
            json!({ "config": config.path, "plan_sha256": plan.sha256(), "plan": shown, "origins": origins });
        return Ok((format!("{document}\n"), true));
    }
    Ok((render(&config.path, &plan, &origins), true))
}

/// The answer to `--may`.
struct Verdict {
    yes: bool,
    layer: &'static str,
    why: String,
    /// The grant key that decides.
    key: &'static str,
}

/// Answers from the plan that would be enforced.
fn may(plan: &Plan, act: &May) -> Result<Verdict, Failure> {
    Ok(match act {
        May::Read(path) => path_verdict(plan, path, false),
        May::Write(path) => path_verdict(plan, path, true),
        May::Connect { host, port } => {
            let rule = names::normalize(host).and_then(|name| names::rule_for(&plan.egress, &name, *port));
            match rule {
                Some(rule) => Verdict {
                    yes: true,
                    layer: "egress",
                    why: format!("[egress.{}] grants it", rule.group),
                    key: "egress",
                },
                None => Verdict {
                    yes: false,
                    layer: "egress",
                    why: format!("no granted group has {host}:{port}; addresses are never dialled directly"),
                    key: "egress",
                },
            }
        }
        May::Syscall(name) => {
            let standing = filter::standing(name).ok_or_else(|| {
                Failure::new(
                    crate::types::Code::Usage,
                    format!("--may: {}: no system call of this architecture", name.escape_default()),
                )
            })?;
            let added = plan.syscalls.contains(name);
            let (yes, why) = match standing {
                Standing::Allowed => (true, "the default filter allows it".to_owned()),
                _ if added => (true, "`syscalls` adds it".to_owned()),
                Standing::Partly => {
                    (true, "the default filter allows it with some arguments (seccomp/default.json)".to_owned())
                }
                Standing::Refused => (
                    false,
                    filter::fixed_reason(name).map_or_else(
                        || "the filter refuses it".to_owned(),
                        |reason| format!("nothing can allow it: {reason}"),
                    ),
                ),
            };
            Verdict { yes, layer: "seccomp", why, key: "syscalls" }
        }
    })
}

/// The deepest mount that holds the path decides; below a host directory the file's own permissions decide as well.
fn path_verdict(plan: &Plan, path: &Path, write: bool) -> Verdict {
    let holder = plan
        .mounts
        .iter()
        .filter(|mount| path.starts_with(&mount.path))
        .max_by_key(|mount| mount.path.components().count());
    let key = if write { "write" } else { "read" };
    let (yes, why) = match holder {
        None => (false, "nothing of it is in the call's root (ENOENT)".to_owned()),
        Some(mount) if write && !mount.write => (false, format!("{} is read-only there (EROFS)", mount.path.display())),
        Some(mount) => (
            true,
            format!(
                "{} is in the call's root ({}), as far as the file's own permissions go",
                mount.path.display(),
                mount.why
            ),
        ),
    };
    Verdict { yes, layer: "root", why, key }
}

/// Variables whose values may hold credentials: those that the caller or a client gives.
fn secrets(plan: &Plan) -> Vec<String> {
    let plain = ["PATH", "HOME", "TMPDIR", "LANG", "UPM_REQUEST_ID"];
    plan.env.keys().filter(|name| !plain.contains(&name.as_str())).cloned().collect()
}

/// Every key of the grant with its value and place.
fn origins(grant: &Grant) -> Value {
    let values = json!(grant);
    let listed = grant.origins.iter().map(|(key, origin)| {
        (
            (*key).to_owned(),
            json!({ "value": values.get(*key).cloned().unwrap_or(Value::Null), "level": origin.level, "line": origin.line }),
        )
    });
    Value::Object(listed.collect())
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
    line(format_args!("\nroot"));
    for mount in &plan.mounts {
        let what = match &mount.source {
            Source::Host { mapped: true } => "host, owner's ids mapped when root calls".to_owned(),
            Source::Host { mapped: false } => "host".to_owned(),
            Source::Device => "device".to_owned(),
            Source::Tmpfs { bytes, inodes } => format!("memory, {bytes} bytes, {inodes} inodes"),
            Source::Proc => "proc of the call".to_owned(),
            Source::File(_) => "made up".to_owned(),
            Source::Link(to) => format!("link to {}", to.display()),
        };
        let access = match (mount.write, mount.exec) {
            (true, true) => "rwx",
            (true, false) => "rw-",
            (false, true) => "r-x",
            (false, false) => "r--",
        };
        line(format_args!("  {access}  {}  ({}: {what})", escape(&mount.path.display().to_string(), false), mount.why));
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
    line(format_args!(
        "  landlock ABI {}, every right of it handled; TCP ports {:?} and 53",
        plan.landlock_abi, plan.tcp_ports
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
