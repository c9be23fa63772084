//! Keys without an effect.

use super::{Report, Severity};
use crate::config::{Base, Level};
use crate::confine::filter;
use crate::decide::grant::{Decision, WATCH_CALLS};
use crate::decide::names;
use crate::decide::plan::UNIX_ABI;
use crate::keys::Key;
use crate::types::{EgressGroup, EgressSource, Entry, HostPattern, Proxy, Standing};
use std::collections::BTreeSet;

/// Keys that only Python has a use for.
const PYTHON_KEYS: [Key; 3] = [Key::Interpreter, Key::Site, Key::Fernet];

/// A table of grant keys.
#[derive(Clone, Copy)]
enum Table<'a> {
    Defaults,
    Plugin(&'a str),
    Method(&'a str, &'a str),
}

impl Table<'_> {
    fn path(&self) -> Vec<&str> {
        match self {
            Table::Defaults => vec!["defaults"],
            Table::Plugin(plugin) => vec!["plugins", plugin],
            Table::Method(plugin, method) => vec!["plugins", plugin, "methods", method],
        }
    }

    fn subject(&self) -> String {
        match self {
            Table::Defaults => "defaults".to_owned(),
            Table::Plugin(plugin) => (*plugin).to_owned(),
            Table::Method(plugin, method) => format!("{plugin}.{method}"),
        }
    }

    /// Whether it decides this key of the method.
    fn decides(&self, decision: &Decision, key: Key) -> bool {
        let level = decision.grant.origins[key].level;
        match self {
            Table::Defaults => level == Level::Defaults,
            Table::Plugin(plugin) => level == Level::Plugin && decision.plugin == *plugin,
            Table::Method(plugin, method) => {
                level == Level::Method && decision.plugin == *plugin && decision.method == *method
            }
        }
    }
}

/// Everything of this file.
pub(super) fn keys(report: &mut Report<'_>, decisions: &[Decision]) {
    let config = report.config;
    table(report, Table::Defaults, decisions);
    for (name, plugin) in &config.plugins {
        if plugin.allowed_methods.is_empty() {
            let line = report.line(&["plugins", name, "allowed_methods"]);
            report.add(
                Severity::Warning,
                name,
                line,
                "allowed_methods is empty, so no method can be called; name methods, or remove the plugin",
            );
            continue;
        }
        table(report, Table::Plugin(name), decisions);
        for (method, line) in config.outline.keys(&["plugins", name, "methods"]) {
            let one = Table::Method(name, method);
            if config.outline.keys(&one.path()).is_empty() {
                report.add(Severity::Warning, one.subject(), line, "the table is empty and has no effect; remove it");
            }
            table(report, one, decisions);
        }
    }
    projects(report, decisions);
    plugin_paths(report);
    groups(report, decisions);
}

fn table(report: &mut Report<'_>, table: Table<'_>, decisions: &[Decision]) {
    let path = table.path();
    let config = report.config;
    for (name, line) in config.outline.keys(&path) {
        // Of a plugin's table the rest says which plugin it is.
        let Some(key) = Key::named(name) else { continue };
        let users: Vec<&Decision> = decisions.iter().filter(|decision| table.decides(decision, key)).collect();
        let mut warn = |line: usize, what: String| report.add(Severity::Warning, table.subject(), line, what);
        if users.is_empty() {
            let why = match table {
                _ if decisions.is_empty() => "no plugin allows a method",
                Table::Defaults => "every allowed method, or its plugin, has its own",
                _ => "every allowed method has its own",
            };
            warn(line, format!("`{key}` has no effect: {why}; remove it"));
            continue;
        }
        if PYTHON_KEYS.contains(&key) && users.iter().all(|user| matches!(user.entry, Entry::Exec { .. })) {
            warn(line, format!("`{key}` has no effect: an executable has no use for it; remove it"));
            continue;
        }
        let items = || {
            let list = [path.as_slice(), &[name]].concat();
            config.outline.items(&list)
        };
        match key {
            Key::EgressBytes if users.iter().all(|user| user.grant.egress.is_empty()) => {
                warn(line, "`egress_bytes` has no effect: no egress is granted where it holds; remove it".to_owned());
            }
            Key::AsRootOwner if users.iter().any(|user| user.grant.as_root_owner) => {
                let what = if users.iter().all(|user| user.grant.write.is_empty()) {
                    "`as_root_owner` has no effect: nothing is granted to be written where it holds; remove it"
                } else {
                    "as_root_owner: what a plugin writes below a path that root owns is root's, when root calls, and root trusts \
                     what it owns; give such paths to an unprivileged user with `chown`, and remove it"
                };
                warn(line, what.to_owned());
            }
            Key::UnixSockets if users.iter().any(|user| user.grant.unix_sockets) => {
                let (severity, what) = unix_sockets(&users);
                report.add(severity, table.subject(), line, what);
            }
            Key::EnvPass => {
                for (name, line) in users[0].grant.env_pass.iter().zip(items()) {
                    if users.iter().all(|user| user.grant.env.contains_key(name)) {
                        warn(
                            line,
                            format!("env_pass: {name} has no effect: `env` sets it; remove it from one of them"),
                        );
                    }
                }
            }
            Key::Syscalls => {
                for (name, line) in users[0].grant.syscalls.iter().zip(items()) {
                    if filter::standing(name) == Some(Standing::Allowed) {
                        warn(line, format!("syscalls: {name} has no effect: the filter allows it anyway; remove it"));
                    }
                    if WATCH_CALLS.contains(&name.as_str()) {
                        warn(
                            line,
                            format!("syscalls: {name} has no effect: `file_watches` decides it; write that instead"),
                        );
                    }
                }
            }
            _ => {}
        }
    }
}

/// What `unix_sockets` gives on this host.
fn unix_sockets(users: &[&Decision]) -> (Severity, String) {
    if !users.iter().any(|user| user.grant.has_paths()) {
        let what = "`unix_sockets` has no effect: no path is granted where it holds; remove it";
        return (Severity::Warning, what.to_owned());
    }
    let abi = crate::sys::process::landlock_abi();
    let what = if abi < UNIX_ABI {
        "the plugin can also connect to the sockets of the host's servers in granted paths: landlock cannot deny it before ABI 9"
    } else {
        "no effect on this host, where landlock denies connecting to the host's sockets; before ABI 9 it does not"
    };
    (Severity::Note, format!("unix_sockets: {what} (this host has ABI {abi})"))
}

/// `projects`, where no grant is of the project.
fn projects(report: &mut Report<'_>, decisions: &[Decision]) {
    let config = report.config;
    if config.projects.is_empty() {
        return;
    }
    let of_project = |decision: &Decision| {
        let interpreter = report.deciding(decision, Key::Interpreter).and_then(|keys| keys.interpreter.as_ref());
        interpreter.is_some_and(|key| key.value.base == Base::ProjectRoot)
            || [false, true]
                .iter()
                .any(|write| report.paths(decision, *write).iter().any(|granted| granted.base == Base::ProjectRoot))
    };
    if !decisions.iter().any(of_project) {
        let line = report.line(&["projects"]);
        report.add(
            Severity::Warning,
            "configuration",
            line,
            "`projects` has no effect: no grant is of {project_root}, so that another project opens nothing; remove it, or \
             grant read = [\"{project_root}\"] or write = […] to the methods that work on it",
        );
    }
}

fn plugin_paths(report: &mut Report<'_>) {
    let config = report.config;
    let mut seen = BTreeSet::new();
    for (path, line) in config.plugin_paths.iter().zip(config.outline.items(&["plugin_paths"])) {
        if !path.is_dir() {
            let what = if path.exists() { "is not a directory" } else { "does not exist" };
            report.add(
                Severity::Warning,
                "configuration",
                line,
                format!("plugin_paths: {} {what} and has no effect; create it, or remove it", path.display()),
            );
        } else if !seen.insert(path) {
            report.add(
                Severity::Warning,
                "configuration",
                line,
                format!("plugin_paths: {} occurs twice; remove one", path.display()),
            );
        }
    }
}

/// Groups that no method is granted, and parts of the others without an effect.
fn groups(report: &mut Report<'_>, decisions: &[Decision]) {
    let config = report.config;
    let granted: BTreeSet<&str> =
        decisions.iter().flat_map(|decision| &decision.grant.egress).map(|group| group.name.as_str()).collect();
    for (name, group) in &config.egress {
        let subject = format!("egress.{name}");
        let path = ["egress", name.as_str()];
        let line = report.line(&path);
        let EgressSource::Hosts(hosts) = &group.source else {
            if !granted.contains(name.as_str()) {
                report.add(
                    Severity::Warning,
                    subject,
                    line,
                    format!("no method is granted what the client is configured to use; add egress = [\"{name}\"] to one, or remove the group"),
                );
            }
            continue;
        };
        if hosts.is_empty() {
            let line = report.line(&["egress", name, "hosts"]);
            report.add(
                Severity::Warning,
                subject.as_str(),
                line,
                "names no host, so granting it allows no network access; name hosts, or remove it",
            );
        }
        let lines = config.outline.items(&["egress", name, "hosts"]);
        let shown = |at: usize| {
            let host = &hosts[at];
            format!("{}{}:{}", if host.wildcard { "*." } else { "" }, host.name, host.port)
        };
        for (at, line) in lines.iter().enumerate() {
            if names::is_own(&hosts[at].name) {
                own_name(report, &subject, *line, &shown(at));
                continue;
            }
            if !granted.contains(name.as_str()) {
                report.add(
                    Severity::Warning,
                    subject.as_str(),
                    *line,
                    format!("{} is granted to no method; add egress = [\"{name}\"] to one, or remove it", shown(at)),
                );
                continue;
            }
            let covered = |other: usize| {
                let (one, other_host) = (&hosts[at], &hosts[other]);
                let same = one == other_host && other < at;
                let below = other_host.wildcard
                    && one.port == other_host.port
                    && one.name.strip_suffix(other_host.name.as_str()).is_some_and(|left| left.ends_with('.'));
                same || below
            };
            if let Some(other) = (0..hosts.len()).find(|other| *other != at && covered(*other)) {
                report.add(
                    Severity::Warning,
                    subject.as_str(),
                    *line,
                    format!(
                        "{} has no effect: {} (line {}) covers it; remove it",
                        shown(at),
                        shown(other),
                        lines[other]
                    ),
                );
            }
        }
        without_effect(report, name, group, hosts);
    }
    twice(report, decisions);
}

/// A host that is the sandbox itself.
fn own_name(report: &mut Report<'_>, subject: &str, line: usize, host: &str) {
    let message = format!(
        "{host} is the sandbox itself: a plugin reaches its own loopback by this name, never the host's; remove it, or give the host \
         another name"
    );
    report.add(Severity::Warning, subject, line, message);
}

/// Keys of a group without an effect.
fn without_effect(report: &mut Report<'_>, name: &str, group: &EgressGroup, hosts: &[HostPattern]) {
    let subject = format!("egress.{name}");
    if !group.tls && !hosts.is_empty() && hosts.iter().all(|host| host.port == 80) {
        let line = report.line(&["egress", name, "tls"]);
        report.add(
            Severity::Warning,
            subject.as_str(),
            line,
            "`tls` has no effect: all its hosts are on port 80, where TLS is never demanded; remove it",
        );
    }
    if group.allow_private && matches!(group.proxy, Proxy::Url(_)) {
        let line = report.line(&["egress", name, "allow_private"]);
        report.add(
            Severity::Warning,
            subject.as_str(),
            line,
            "`allow_private` has no effect: behind a proxy the proxy resolves and checks addresses; remove it",
        );
    }
}

/// The same host in two groups of one grant: the first one's keys hold.
fn twice(report: &mut Report<'_>, decisions: &[Decision]) {
    for decision in decisions {
        let groups = &decision.grant.egress;
        for (at, group) in groups.iter().enumerate() {
            let EgressSource::Hosts(hosts) = &group.source else { continue };
            let lines = report.config.outline.items(&["egress", &group.name, "hosts"]);
            for (host, line) in hosts.iter().zip(lines) {
                let first = groups[..at].iter().find(|other| match &other.source {
                    EgressSource::Hosts(others) => others.contains(host),
                    EgressSource::Client(_) => false,
                });
                let Some(first) = first else { continue };
                report.add(
                    Severity::Warning,
                    format!("{}.{}", decision.plugin, decision.method),
                    line,
                    format!(
                        "{}{}:{} is in [egress.{}] too, and where both are granted that one, which is named first, decides; grant \
                         one of them",
                        if host.wildcard { "*." } else { "" },
                        host.name,
                        host.port,
                        first.name
                    ),
                );
            }
        }
    }
}
