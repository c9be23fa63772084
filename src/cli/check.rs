//! `upm check`: the whole configuration and every plugin, without running a call.
//!
//! Each finding says where it stands, begins with `FILE:LINE:`, and is made by one of the parts below. What cannot be determined
//! is either no finding (a class that comes from elsewhere) or one of its own severity (a host that has no sandbox).

mod classes;
mod effect;
mod egress;
mod files;
mod host;
mod overlap;

pub(super) use files::can_be_shown;

use super::options::{Config as ConfigFile, Json};
use super::print::show_with;
use crate::call;
use crate::config::{Base, Config, GrantKeys, Level, PathSpec};
use crate::decide::grant::Decision;
use crate::host::callers;
use crate::keys::Key;
use crate::plugin::client::Patience;
use crate::text::escape;
use crate::types::{Code, Failure};
use serde::Serialize;
use serde_json::json;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// For all that is run or asked: readers, clients. Names have their own time.
const TIME: Duration = Duration::from_secs(120);

const AFTER: &str = "\
Findings:
  error     A call would be refused, or its plugin could not be started
  unknown   It is not known on this host whether a call would be refused
  warning   No call would be refused, but review it
  note      Valid, but easily misread

Exit status:
  0     No error
  1     An error
  125   The answer is not known
";

/// Check the configuration and every plugin
///
/// It checks that schemas compile; that modules, classes, methods and interpreters are there; that granted paths
/// can be used; that audit records can be stored; that egress groups resolve; and who could change the files. It
/// warns about keys that have no effect, grants that contain one another, plugins without schema, and hosts that no
/// method is granted. Each finding begins with FILE:LINE.
///
/// No plugin is run: its source is read, in a sandbox. Names are looked up, for 5 s at most.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
#[group(skip)]
#[command(verbatim_doc_comment, after_help = AFTER)]
pub(super) struct Args {
    #[command(flatten)]
    pub config: ConfigFile,
    #[command(flatten)]
    pub json: Json,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// A call would be refused, or its plugin could not be started.
    Error,
    /// It could not be determined whether a call would be refused.
    Unknown,
    /// No call would be refused, but look at it.
    Warning,
    /// Valid, but easily misread.
    Note,
}

impl Severity {
    fn name(self) -> &'static str {
        match self {
            Severity::Error => "error",
            Severity::Unknown => "unknown",
            Severity::Warning => "warning",
            Severity::Note => "note",
        }
    }
}

/// Something that was found.
#[derive(Debug, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// `Plugin.method`, `Plugin`, `defaults`, `egress.NAME` or `configuration`.
    pub subject: String,
    /// The file that it is about.
    pub file: PathBuf,
    /// 1-based.
    pub line: usize,
    /// `FILE:LINE:`, what, and what to do.
    pub message: String,
}

/// What was found so far.
struct Report<'c> {
    config: &'c Config,
    findings: Vec<Finding>,
    /// Messages that there are: what holds for many methods is said once.
    said: BTreeSet<String>,
}

impl<'c> Report<'c> {
    /// Something about a line of the configuration.
    fn add(&mut self, severity: Severity, subject: impl Into<String>, line: usize, what: impl AsRef<str>) {
        let file = self.config.path.clone();
        self.add_in(severity, subject, &file, line, what);
    }

    /// Something about a line of another file.
    fn add_in(
        &mut self,
        severity: Severity,
        subject: impl Into<String>,
        file: &Path,
        line: usize,
        what: impl AsRef<str>,
    ) {
        let message = format!("{}:{line}: {}", file.display(), what.as_ref());
        if self.said.insert(message.clone()) {
            self.findings.push(Finding { severity, subject: subject.into(), file: file.to_owned(), line, message });
        }
    }

    /// The line of a key that was written, else of the nearest table around it.
    fn line(&self, path: &[&str]) -> usize {
        (0..=path.len()).rev().find_map(|length| self.config.outline.line(&path[..length])).unwrap_or(1)
    }

    /// Where a grant's value comes from: the table that it is a matter of, and the line. Of a built-in value the plugin's.
    fn origin(&self, decision: &Decision, key: Key) -> (String, usize) {
        let origin = decision.grant.origins[key];
        let subject = match origin.level {
            Level::Method => format!("{}.{}", decision.plugin, decision.method),
            Level::Defaults => "defaults".to_owned(),
            Level::Plugin | Level::BuiltIn => decision.plugin.clone(),
        };
        (subject, origin.line.unwrap_or_else(|| self.line(&["plugins", &decision.plugin])))
    }

    /// The table that decides a key of this method; `None` for a built-in value.
    fn deciding(&self, decision: &Decision, key: Key) -> Option<&'c GrantKeys> {
        let plugin = self.config.plugins.get(&decision.plugin)?;
        match decision.grant.origins[key].level {
            Level::Method => plugin.methods.get(&decision.method),
            Level::Plugin => Some(&plugin.keys),
            Level::Defaults => Some(&self.config.defaults),
            Level::BuiltIn => None,
        }
    }

    /// The granted paths of one list, each with what was written and its line.
    fn paths(&self, decision: &Decision, write: bool) -> Vec<Granted> {
        let (key, paths) = if write { (Key::Write, &decision.grant.write) } else { (Key::Read, &decision.grant.read) };
        let table = self.deciding(decision, key);
        let specs = table.and_then(|keys| if write { keys.write.as_ref() } else { keys.read.as_ref() });
        let Some(specs) = specs else { return Vec::new() };
        let granted = |(spec, path): (&'c PathSpec, &PathBuf)| Granted {
            path: path.clone(),
            base: spec.base,
            line: spec.place.map_or(specs.line, |place| place.0),
        };
        specs.value.iter().zip(paths).map(granted).collect()
    }
}

/// One path of `read` or `write`.
struct Granted {
    path: PathBuf,
    base: Base,
    line: usize,
}

/// Prints text or JSON, and gives the exit status.
pub(super) fn run(args: &Args) -> i32 {
    show_with(checked(args.config.file.as_deref(), args.json.json))
}

/// Text or JSON for stdout, and the exit status: 0 when there is no error, 1 with one, 125 if this cannot be determined.
///
/// # Errors
/// A configuration that cannot be read at all.
fn checked(config: Option<&Path>, as_json: bool) -> Result<(String, i32), Failure> {
    let config = crate::config::load(config)?;
    let mut report = Report { config: &config, findings: Vec::new(), said: BTreeSet::new() };
    unknown_callers(&mut report);
    let mut decisions = Vec::new();
    for (name, plugin) in &config.plugins {
        for method in &plugin.allowed_methods {
            decisions.push(call::decide(&config, name, method, None)?);
            // What a call holds open is not kept for every method that there is.
            crate::walk::forget();
        }
    }
    let patience = Patience { deadline: Instant::now() + TIME, signals: None };
    effect::keys(&mut report, &decisions);
    overlap::grants(&mut report, &decisions);
    files::projects(&mut report);
    files::audit(&mut report);
    files::record(&mut report, &decisions);
    host::cgroups(&mut report, &decisions);
    files::schemas(&mut report);
    let facts = files::plugins(&mut report, &decisions, &patience);
    // Last: it starts threads, and nothing may be forked after that.
    egress::groups(&mut report, &decisions, &facts, &patience);
    let mut findings = report.findings;
    findings.sort_by(|a, b| (a.file != config.path, &a.file, a.line).cmp(&(b.file != config.path, &b.file, b.line)));
    let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
    let (errors, unknown) = (count(Severity::Error), count(Severity::Unknown));
    let exit = match (errors, unknown) {
        (0, 0) => 0,
        (0, _) => 125,
        _ => 1,
    };
    if as_json {
        let document = json!({ "config": config.path, "ok": exit == 0, "findings": findings });
        return Ok((format!("{document}\n"), exit));
    }
    let mut text = String::new();
    for finding in &findings {
        let line = format!("{}: {}: {}", finding.severity.name(), finding.subject, finding.message);
        text.push_str(&escape(&line, false));
        text.push('\n');
    }
    text.push_str(&format!(
        "{}: {}, {}, {}\n",
        escape(&config.path.display().to_string(), false),
        counted(config.plugins.len(), "plugin"),
        counted(decisions.len(), "method"),
        match exit {
            0 if findings.is_empty() => "usable".to_owned(),
            0 => format!("usable, {}", counted(count(Severity::Warning), "warning")),
            1 => format!("not usable, {}", counted(errors, "error")),
            _ => "cannot determine whether it is usable".to_owned(),
        }
    ));
    Ok((text, exit))
}

fn counted(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// Whether a failure is about the host, which cannot tell, rather than about the configuration.
fn cannot_tell(failure: &Failure) -> bool {
    matches!(
        failure.code,
        Code::SandboxUnavailable
            | Code::Internal
            | Code::Timeout
            | Code::MemoryExceeded
            | Code::CpuTimeExceeded
            | Code::PluginKilled
            | Code::PluginRaised
    )
}

/// Names of `callers` that this host does not know: calls by those users would be refused.
fn unknown_callers(report: &mut Report<'_>) {
    let config = report.config;
    let mut tables = vec![("defaults".to_owned(), &config.defaults)];
    for (name, plugin) in &config.plugins {
        tables.push((name.clone(), &plugin.keys));
        tables.extend(plugin.methods.iter().map(|(method, keys)| (format!("{name}.{method}"), keys)));
    }
    for (subject, keys) in tables {
        for (line, spec) in keys.callers.iter().flat_map(|at| at.value.iter().map(move |spec| (at.line, spec))) {
            if callers::id(spec).is_none() {
                let what = format!(
                    "callers: {spec}: no such user or group on this host, so it allows nobody; create it, or correct the name"
                );
                report.add(Severity::Warning, subject.clone(), line, what);
            }
        }
    }
}
