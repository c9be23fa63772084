//! What the configuration names on this host: audit sinks, schemas, modules, classes, executables, interpreters, granted
//! paths.

use super::classes::{class, method, not_looked};
use super::{Report, Severity};
use crate::audit::file::FileSink;
use crate::audit::journald::Journald;
use crate::audit::sinks;
use crate::call::{self, reading};
use crate::config::{self, ConfigError, JournaldMode as Mode};
use crate::decide::grant::Decision;
use crate::decide::plan::Facts;
use crate::host::{self, writable};
use crate::keys::Key;
use crate::plugin::classes::{self, Inspection};
use crate::plugin::client::Patience;
use crate::text::{quote, shorten};
use crate::types::{Code, Entry, Failure};
use crate::walk::{self, How};
use rustix::fs::{Access, FileType};
use rustix::io::Errno;
use std::collections::btree_map::Entry as Slot;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Entries of a schema folder that are looked at.
const MAX_SCHEMAS: usize = 10_000;

/// Whether a record can be stored.
pub(super) fn audit(report: &mut Report<'_>) {
    let config = report.config;
    let check = |path: &Path| config::check_trusted(path).map(drop).map_err(|error| error.to_string());
    let journald = match config.audit.journald {
        Mode::Off => None,
        Mode::Auto | Mode::Required => {
            Some(Journald::connect_checked(Path::new(sinks::JOURNALD_SOCKET), check).map(drop))
        }
    };
    if let (Mode::Required, Some(Err(error))) = (config.audit.journald, &journald) {
        let line = report.line(&["audit", "journald"]);
        report.add(Severity::Error, "configuration", line, error.to_string());
    }
    let stands_by = config.audit.journald != Mode::Required;
    let wanted = config.audit.file.clone().or_else(|| if stands_by { sinks::default_file() } else { None });
    let line = report.line(&["audit", "file"]);
    match wanted {
        Some(file) => {
            if let Err(error) = FileSink::look(&file, check) {
                // Without a key of its own the file only stands in for journald.
                let needed = config.audit.file.is_some() || !matches!(journald, Some(Ok(())));
                let severity = if needed { Severity::Error } else { Severity::Warning };
                report.add(severity, "configuration", line, error.to_string());
            }
        }
        None if stands_by && !matches!(journald, Some(Ok(()))) => report.add(
            Severity::Error,
            "configuration",
            line,
            "audit: journald is missing, and neither XDG_STATE_HOME nor HOME is set for a file; set audit.file",
        ),
        None => {}
    }
}

/// Whether the fixed part of each pattern of `projects` leads somewhere that its writer alone has chosen.
pub(super) fn projects(report: &mut Report<'_>) {
    let config = report.config;
    for (pattern, line) in config.projects.iter().zip(config.outline.items(&["projects"])) {
        if let Err(error) = config::fixed_part(pattern) {
            let what =
                format!("projects: {}: no --project can be one of these: {}", quote(&pattern.text), error.message);
            report.add(Severity::Error, "configuration", line, what);
        }
    }
}

/// Whether what calls may write can be put on record, where any may write something.
pub(super) fn record(report: &mut Report<'_>, decisions: &[Decision]) {
    let Some(writes) = decisions.iter().find(|decision| !decision.grant.write.is_empty()) else { return };
    if let Err(failure) = writable::look() {
        let (subject, line) = report.origin(writes, Key::Write);
        report.add(Severity::Error, subject, line, failure.message);
    }
}

/// Whether each allowed method has a schema that can be used, and each schema a method.
pub(super) fn schemas(report: &mut Report<'_>) {
    let config = report.config;
    // Two plugins may share a folder.
    let mut used: BTreeMap<&Path, (BTreeSet<String>, usize, bool)> = BTreeMap::new();
    for (name, plugin) in &config.plugins {
        let Some(directory) = &plugin.schemas else {
            report.add(
                Severity::Warning,
                name,
                plugin.line,
                "no `schemas`: only the outer shape of its arguments is checked; add schemas = \"DIR\" with METHOD.json in it",
            );
            continue;
        };
        if plugin.allowed_methods.is_empty() {
            continue; // which is a finding of its own
        }
        let line = report.line(&["plugins", name, "schemas"]);
        let (names, _, whole) = used.entry(directory).or_insert_with(|| (BTreeSet::new(), line, true));
        let lines = config.outline.items(&["plugins", name, "allowed_methods"]);
        for (method, method_line) in plugin.allowed_methods.iter().zip(lines) {
            let subject = format!("{name}.{method}");
            names.insert(format!("{method}.json"));
            match config::load_schema(directory, method) {
                Ok(None) => report.add(
                    Severity::Warning,
                    subject,
                    method_line,
                    format!(
                        "no {method}.json in {}: only the outer shape of its arguments is checked; add it",
                        directory.display()
                    ),
                ),
                Ok(Some(schema)) => {
                    names.extend(schema.files.keys().cloned());
                    if let Err(error) = reading::check_schema(&schema) {
                        report.add(Severity::Error, subject, line, error);
                    }
                }
                Err(ConfigError { place: Some((line, column)), path, message, .. }) => {
                    *whole = false;
                    report.add_in(Severity::Error, subject, &path, line, format!("column {column}: {message}"));
                }
                Err(error) => {
                    *whole = false;
                    report.add(Severity::Error, subject, line, error.to_string());
                }
            }
        }
    }
    for (directory, (names, line, whole)) in used {
        // A file that could not be read may name the others.
        if !whole {
            continue;
        }
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten().take(MAX_SCHEMAS);
        let mut idle: Vec<String> = entries
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| name.ends_with(".json") && !names.contains(name))
            .collect();
        idle.sort();
        for name in idle {
            report.add(
                Severity::Warning,
                subject_of(report, directory),
                line,
                format!(
                    "{}: has no effect: no allowed method has that name, and no schema refers to it; allow the method, or remove it",
                    directory.join(shorten(&name, 200)).display()
                ),
            );
        }
    }
}

fn subject_of(report: &Report<'_>, schemas: &Path) -> String {
    let plugins = &report.config.plugins;
    let owner = plugins.values().find(|plugin| plugin.schemas.as_deref() == Some(schemas));
    owner.map_or_else(|| "configuration".to_owned(), |plugin| plugin.name.clone())
}

/// Whether each plugin could be started. Returns the facts of each method, in the order of `decisions`.
pub(super) fn plugins(report: &mut Report<'_>, decisions: &[Decision], patience: &Patience<'_>) -> Vec<Option<Facts>> {
    let mut gathered = Vec::new();
    let mut shared = false;
    let mut looked: BTreeMap<(&str, &Path, Option<&str>), Option<Inspection>> = BTreeMap::new();
    for decision in decisions {
        paths(report, decision);
        let facts = match call::trusted_facts(decision) {
            Ok(facts) => facts,
            Err(failure) => {
                let (subject, line) = blamed(report, decision, &failure);
                report.add(Severity::Error, subject, line, failure.message);
                gathered.push(None);
                continue;
            }
        };
        let grant = &decision.grant;
        if let Some(why) = host::facts::shared_user(facts.outside_uid) {
            if !std::mem::replace(&mut shared, true) {
                let (subject, line) = match &grant.run_as {
                    Some(_) => report.origin(decision, Key::RunAs),
                    None => ("run_as".to_owned(), 1),
                };
                report.add(Severity::Warning, subject, line, why);
            }
        }
        match &decision.entry {
            Entry::Exec { path } => executable(report, decision, path, &facts),
            Entry::Python { module } => {
                let key = (decision.plugin.as_str(), grant.interpreter.as_path(), grant.run_as.as_deref());
                let look = match looked.entry(key) {
                    Slot::Occupied(look) => look.into_mut(),
                    Slot::Vacant(slot) => {
                        let allowed: Vec<&str> = decision.allowed.iter().map(String::as_str).collect();
                        let look = classes::look(grant, &facts, module, &decision.plugin, &allowed, patience);
                        match &look {
                            Ok(look) => class(report, decision, module, look),
                            Err(failure) => not_looked(report, decision, failure),
                        }
                        slot.insert(look.ok())
                    }
                };
                if let Some(look) = look {
                    method(report, decision, look);
                }
            }
        }
        gathered.push(Some(facts));
    }
    gathered
}

/// Whose line a failure of `trusted_facts` belongs to.
fn blamed(report: &Report<'_>, decision: &Decision, failure: &Failure) -> (String, usize) {
    let entry = || {
        let path = ["plugins", decision.plugin.as_str()];
        let key = if matches!(decision.entry, Entry::Exec { .. }) { "exec" } else { "module" };
        (decision.plugin.clone(), report.line(&[path[0], path[1], key]))
    };
    match failure.details.key() {
        Some(key @ (Key::Interpreter | Key::RunAs | Key::Write | Key::LandlockMinAbi)) => report.origin(decision, key),
        _ if failure.code == Code::ModuleNotFound => entry(),
        // The ownership check names a file on the way, which both may have in common.
        _ if config::check_trusted(&decision.grant.interpreter).is_err() => report.origin(decision, Key::Interpreter),
        _ => entry(),
    }
}

/// Whether the granted paths can be shown to the plugin.
fn paths(report: &mut Report<'_>, decision: &Decision) {
    for write in [false, true] {
        let key = if write { Key::Write } else { Key::Read };
        let (subject, _) = report.origin(decision, key);
        for granted in report.paths(decision, write) {
            // As a call makes the project and the cache, with what is above them.
            let made = [&decision.project_root, &decision.cache_dir].iter().any(|dir| dir.starts_with(&granted.path));
            if let Err(why) = can_be_shown(&granted.path, made) {
                report.add(
                    Severity::Error,
                    subject.as_str(),
                    granted.line,
                    format!("{key}: {}: {why}", granted.path.display()),
                );
            }
        }
    }
}

/// Whether a granted path is there and can be mounted; `made` says that a call makes it where it is missing.
pub(in crate::cli) fn can_be_shown(path: &Path, made: bool) -> Result<(), String> {
    let walked = walk::walk(path, How::NoLinks).map_err(|error| match error.errno() {
        Errno::LOOP => "the path contains a symbolic link; grant the path that it points to".to_owned(),
        errno if error.path() == path => errno.to_string(),
        errno => format!("{}: {errno}", error.path().display()),
    })?;
    match (walked.whole(), walked.object.kind()) {
        (Some(_), FileType::Directory | FileType::RegularFile) => Ok(()),
        (Some(_), _) => {
            Err("only directories and regular files can be shown to a plugin, never a socket, pipe or device"
                .to_owned())
        }
        (None, _) if made => {
            let home = walked.object.path();
            rustix::fs::access(home, Access::WRITE_OK | Access::EXEC_OK)
                .map_err(|errno| format!("cannot be created in {}: {errno}", home.display()))
        }
        (None, _) => Err("does not exist; create it, or grant another path".to_owned()),
    }
}

/// Whether the executable can be started.
fn executable(report: &mut Report<'_>, decision: &Decision, path: &Path, facts: &Facts) {
    let line = report.line(&["plugins", &decision.plugin, "exec"]);
    let mut fail = |why: String| {
        report.add(Severity::Error, decision.plugin.as_str(), line, format!("exec: {}: {why}", path.display()));
    };
    let real = &facts.code.path;
    if real != path && !shown_by_system(path, facts) {
        return fail(format!(
            "the path contains a symbolic link, which is missing inside the sandbox; name {}",
            real.display()
        ));
    }
    let data = match std::fs::metadata(real) {
        Ok(data) => data,
        Err(error) => return fail(error.to_string()),
    };
    if !data.is_file() {
        return fail("is not a regular file; name a program".to_owned());
    }
    if data.mode() & 0o111 == 0 {
        return fail(format!("is not executable; fix it with: chmod +x {}", crate::text::shell(real)));
    }
    let acl = |name| rustix::fs::getxattr(real, name, &mut [0u8; 4096]).is_ok();
    // As root no supplementary group is left, so that the mode alone decides, but for an ACL.
    if facts.caller_uid == 0 && !acl("system.posix_acl_access") {
        let bit = match (data.uid() == facts.outside_uid, data.gid() == facts.outside_gid) {
            (true, _) => 0o100,
            (false, true) => 0o010,
            (false, false) => 0o001,
        };
        if data.mode() & bit == 0 {
            return fail(format!(
                "may not be run by the plugin's user, uid {} outside (mode {:04o}); fix it with: chmod go+rx {}",
                facts.outside_uid,
                data.mode() & 0o7777,
                crate::text::shell(real)
            ));
        }
    }
    match script_of(real) {
        Ok(Some(interpreter)) => {
            let shown = shown_by_system(&interpreter, facts)
                || decision.grant.read.iter().chain(&decision.grant.write).any(|path| interpreter.starts_with(path));
            if !interpreter.is_file() {
                fail(format!(
                    "its interpreter (#!) {} does not exist; install it, or name another",
                    quote(&interpreter)
                ));
            } else if !shown {
                fail(format!(
                    "its interpreter (#!) {} is not in the call's root; use one under /usr, or grant read = [{}]",
                    quote(&interpreter),
                    quote(interpreter.parent().unwrap_or(&interpreter))
                ));
            }
        }
        Ok(None) => {}
        Err(error) => fail(error.to_string()),
    }
}

/// Whether a path of the host is in every call's root: `/usr`, or a name of the root that is it or links into it.
fn shown_by_system(path: &Path, facts: &Facts) -> bool {
    let mut parts = path.components().skip(1);
    let top = parts.next().map(|part| part.as_os_str().to_string_lossy().into_owned()).unwrap_or_default();
    facts.root_entries.contains_key(&top)
        && std::fs::canonicalize(path).map_or(true, |real| {
            let top = real.components().nth(1).map(|part| part.as_os_str().to_string_lossy().into_owned());
            // `/etc/alternatives` is shown as well, so that links through it hold.
            top.is_some_and(|top| facts.root_entries.contains_key(&top))
        })
}

/// The interpreter of a `#!` line, as the kernel reads it (256 bytes at most).
fn script_of(program: &Path) -> std::io::Result<Option<PathBuf>> {
    let mut head = Vec::new();
    match std::fs::File::open(program) {
        // It may be run all the same.
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => return Ok(None),
        file => file?.take(256).read_to_end(&mut head)?,
    };
    let Some(line) = head.strip_prefix(b"#!") else { return Ok(None) };
    let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let word = line.split(|byte| matches!(byte, b' ' | b'\t' | b'\0')).find(|word| !word.is_empty());
    Ok(word.map(|word| PathBuf::from(String::from_utf8_lossy(word).into_owned())))
}
