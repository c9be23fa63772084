//! What would allow a denied act: a host, a larger limit, a value of a group.

use super::names;
use super::verdict::{Remedy, View, no_exec};
use crate::config;
use crate::keys::Key;
use crate::text::shorten;
use crate::types::{Change, Class, Denial, Denied, EgressRule, EgressSource, Explained, NoLock, Refused, Setting};
use serde_json::{Value, json};
use std::time::Duration;

impl View<'_> {
    /// The grant that decided, and what would allow the act.
    pub(crate) fn explain(&self, denial: Denial) -> Explained {
        let (rule, remedy) = self.decided(&denial.denied);
        Explained { rule, remedy: self.text(&remedy), denial }
    }

    fn decided(&self, denied: &Denied) -> (String, Remedy) {
        let nothing = |why: &str| Remedy::Nothing(why.to_owned());
        let egress = |remedy| (self.rule(Key::Egress), remedy);
        let grant = |name: &str, port, otherwise: &str| match names::normalize(name) {
            Some(name) => self.grant_hosts(&[(name, port)]),
            None => nothing(otherwise),
        };
        let by_name = "hosts are granted by name: connect to a granted name, not to an address";
        match denied {
            Denied::Syscall(call) => match &call.refused {
                Refused::Count => {
                    let why = "a call may add only a limited number of descriptors to epoll sets, because they count for its user on the whole host";
                    (self.rule(Key::Syscalls), nothing(why))
                }
                Refused::Lock(why) => (self.rule(Key::Write), Remedy::Nothing(no_lock(why))),
                Refused::UnixSocket => (self.rule(Key::UnixSockets), self.set(Key::UnixSockets, true.into())),
                Refused::Terminal => {
                    let why = "no program may type into a terminal, redirect the console or load a line discipline; programs write \
                               to the side of /dev/ptmx";
                    (self.rule(Key::Pty), nothing(why))
                }
                Refused::Filter => {
                    let verdict = self.syscall(&call.name);
                    let kernel = || nothing("the plan allows it; the kernel denied it");
                    (self.rule(verdict.key), verdict.remedy.unwrap_or_else(kernel))
                }
            },
            Denied::Limit(met) => self.limit(met.key),
            Denied::NoExec { path } => {
                (self.rule(Key::Write), Remedy::Nothing(no_exec(self.plan, path).unwrap_or_default()))
            }
            Denied::EgressBytes { .. } => self.limit(Key::EgressBytes),
            Denied::Names { .. } => egress(nothing(
                "a call may look up only this many names; grant the names themselves instead of a wildcard",
            )),
            Denied::Resolve { name } => egress(grant(name, 443, "this is not a valid host name")),
            Denied::Connect { name, port } => egress(grant(name, *port, by_name)),
            // The gateway sees the first, the kernel counts the others.
            Denied::ConnectAddress { .. } | Denied::Unroutable => egress(nothing(by_name)),
            Denied::Address { class: Class::Public | Class::Never, .. } => {
                egress(nothing("connections to addresses of this kind are never allowed"))
            }
            Denied::Address { name, port, .. } => self.of_group(name, *port, "allow_private", true),
            Denied::TlsName { name, port, .. } | Denied::TlsMissing { name, port, .. } => {
                self.of_group(name, *port, "tls", false)
            }
        }
    }

    /// The change that grants these hosts: an existing group with only that host, otherwise a new one.
    #[must_use]
    pub fn grant_hosts(&self, hosts: &[(String, u16)]) -> Remedy {
        let mut change = Change::default();
        let mut groups: Vec<String> = Vec::new();
        for (name, port) in hosts {
            let text = format!("{name}:{port}");
            let pattern = match config::parse_host(&text) {
                Ok(pattern) => pattern,
                Err(why) => return Remedy::Nothing(format!("{}: {why}", shorten(&text, 400))),
            };
            let only_it = self
                .config
                .egress
                .values()
                .find(|group| matches!(&group.source, EgressSource::Hosts(hosts) if *hosts == [pattern.clone()]));
            if let Some(group) = only_it {
                groups.push(group.name.clone());
                continue;
            }
            // One group for all new hosts, with the first one's name.
            match change.0.first_mut().map(|setting: &mut Setting| &mut setting.value) {
                Some(Value::Array(hosts)) => hosts.push(text.into()),
                _ => {
                    let group = self.new_group(name);
                    let table = vec!["egress".to_owned(), group.clone()];
                    change.0.push(Setting { table, key: "hosts".into(), value: json!([text]) });
                    groups.push(group);
                }
            }
        }
        let egress = self.with(|keys| keys.egress.as_ref(), &groups);
        change.0.push(self.setting(Key::Egress, egress));
        Remedy::Change(change)
    }

    /// A name for a new group: the host's first label, valid as `[egress.NAME]`.
    fn new_group(&self, host: &str) -> String {
        let label: String = host.split('.').next().unwrap_or_default().chars().take(32).collect();
        let stem = if label.starts_with(|c: char| c.is_ascii_alphabetic()) { label } else { format!("host_{label}") };
        let taken = |name: &str| self.config.egress.contains_key(name);
        if !taken(&stem) {
            return stem;
        }
        (2..).map(|number| format!("{stem}-{number}")).find(|name| !taken(name)).unwrap_or(stem)
    }

    /// The key of the group that grants a name, and the change to its value.
    fn of_group(&self, name: &str, port: u16, key: &str, value: bool) -> (String, Remedy) {
        let rule = names::normalize(name).and_then(|name| names::rule_for(&self.plan.egress, &name, port));
        let Some(EgressRule { group, .. }) = rule else {
            return (self.rule(Key::Egress), Remedy::Nothing("its group is not in the plan".to_owned()));
        };
        let outline = &self.config.outline;
        let line = outline.line(&["egress", group, key]).or_else(|| outline.line(&["egress", group]));
        let table = vec!["egress".to_owned(), group.clone()];
        let setting = Setting { table, key: key.to_owned(), value: value.into() };
        (format!("egress.{group}.{key} ({})", self.at(line)), Remedy::Change(Change(vec![setting])))
    }

    /// The key of a limit, and the change that doubles it, up to the largest valid value.
    fn limit(&self, key: Key) -> (String, Remedy) {
        let grant = &self.decision.grant;
        let remedy = if key == Key::Timeout && Duration::from_millis(self.plan.limits.timeout_ms) < grant.timeout {
            Remedy::Nothing("the caller's --timeout was shorter than the grant's".to_owned())
        } else {
            match grant.raised(key) {
                Some(value) => self.set(key, value),
                None => Remedy::Nothing(format!("`{key}` already has its largest valid value")),
            }
        };
        (self.rule(key), remedy)
    }
}

/// Why a lock was denied. Its path is not known.
fn no_lock(why: &NoLock) -> String {
    match why {
        NoLock::ReadOnly => {
            "a lock affects programs of the host, so a call can lock only files that it may write to: `write`, /tmp and /dev/shm"
                .to_owned()
        }
        NoLock::Unseen(error) => format!(
            "the call's pid 1 cannot determine the file (pidfd_getfd, statx: {error}). The kernel must allow processes to access \
             their children (`sysctl kernel.yama.ptrace_scope` is 0 or 1, no security module or filter denies it), and the program \
             must not have hidden itself (PR_SET_DUMPABLE)"
        ),
        NoLock::FirstThread => "the first thread of the program has ended: then the file cannot be determined before Linux 6.9".to_owned(),
        NoLock::Distant(mount) => format!(
            "the call has access to {mount}, a file system whose server may not answer: without a cgroup it could not be ended then"
        ),
        NoLock::Engine(error) => format!("upm failed to request the lock: {error}"),
        NoLock::Ranges(most) => {
            format!("a call may change fcntl locks only {most} times, because no other limit counts their kernel memory")
        }
        NoLock::Waiting(most) => format!("only {most} locks of a call may wait at once"),
    }
}
