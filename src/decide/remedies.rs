//! What would have allowed what was denied: a host, a larger limit, a value of a group.

use super::names;
use super::verdict::{Remedy, View};
use crate::config;
use crate::types::{Change, Class, Denial, Denied, EgressRule, EgressSource, Explained, Limit, Setting};
use crate::units;
use serde_json::{Value, json};
use std::time::Duration;

impl View<'_> {
    /// Which grant decided, and what would have allowed it.
    pub(crate) fn explain(&self, denial: Denial) -> Explained {
        let (rule, remedy) = self.decided(&denial.denied);
        Explained { rule, remedy: self.text(&remedy), denial }
    }

    fn decided(&self, denied: &Denied) -> (String, Remedy) {
        let nothing = |why: &str| Remedy::Nothing(why.to_owned());
        let egress = |remedy| (self.rule("egress"), remedy);
        let grant = |name: &str, port, otherwise: &str| match names::normalize(name) {
            Some(name) => self.grant_hosts(&[(name, port)]),
            None => nothing(otherwise),
        };
        let by_name = "hosts are granted by name: connect to a granted name, not to an address";
        match denied {
            Denied::Syscall(call) if call.counted => {
                let why = "a call may add so many descriptors to epoll sets, which are counted for its user on the whole host";
                (self.rule("syscalls"), nothing(why))
            }
            Denied::Syscall(call) => {
                let verdict = self.syscall(&call.name);
                let kernel = || nothing("the plan allows it: the kernel itself refused");
                (self.rule(verdict.key), verdict.remedy.unwrap_or_else(kernel))
            }
            Denied::Limit(met) => self.limit(met.limit),
            Denied::EgressBytes { .. } => self.limit(Limit::EgressBytes),
            Denied::Names { .. } => {
                egress(nothing("a call may ask for so many names; grant the names themselves in place of a wildcard"))
            }
            Denied::Resolve { name } => egress(grant(name, 443, "this is no host name")),
            Denied::Connect { name, port } => egress(grant(name, *port, by_name)),
            // The first is seen, the others are counted.
            Denied::ConnectAddress { .. } | Denied::Unroutable => egress(nothing(by_name)),
            Denied::Address { class: Class::Public | Class::Never, .. } => {
                egress(nothing("addresses of this kind are never dialled"))
            }
            Denied::Address { name, port, .. } => self.of_group(name, *port, "allow_private", true),
            Denied::TlsName { name, port, .. } | Denied::TlsMissing { name, port, .. } => {
                self.of_group(name, *port, "tls", false)
            }
        }
    }

    /// The change that grants these hosts: for one the group of that name alone where there is one, else a new one.
    #[must_use]
    pub fn grant_hosts(&self, hosts: &[(String, u16)]) -> Remedy {
        let mut change = Change::default();
        let mut groups: Vec<String> = Vec::new();
        for (name, port) in hosts {
            let text = format!("{name}:{port}");
            let pattern = match config::parse_host(&text) {
                Ok(pattern) => pattern,
                Err(why) => return Remedy::Nothing(format!("{}: {why}", text.escape_default())),
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
            // One group for all new hosts, named after the first.
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
        change.0.push(self.setting("egress", egress));
        Remedy::Change(change)
    }

    /// A name for a group that there is not yet: the host's first label, as `[egress.NAME]` takes it.
    fn new_group(&self, host: &str) -> String {
        let label: String = host.split('.').next().unwrap_or_default().chars().take(32).collect();
        let stem = if label.starts_with(|c: char| c.is_ascii_alphabetic()) { label } else { format!("host_{label}") };
        let taken = |name: &str| self.config.egress.contains_key(name);
        if !taken(&stem) {
            return stem;
        }
        (2..).map(|number| format!("{stem}-{number}")).find(|name| !taken(name)).unwrap_or(stem)
    }

    /// The key of the group that grants a name, and the change of its value.
    fn of_group(&self, name: &str, port: u16, key: &str, value: bool) -> (String, Remedy) {
        let rule = names::normalize(name).and_then(|name| names::rule_for(&self.plan.egress, &name, port));
        let Some(EgressRule { group, .. }) = rule else {
            return (self.rule("egress"), Remedy::Nothing("its group is not in the plan".to_owned()));
        };
        let outline = &self.config.outline;
        let line = outline.line(&["egress", group, key]).or_else(|| outline.line(&["egress", group]));
        let table = vec!["egress".to_owned(), group.clone()];
        let setting = Setting { table, key: key.to_owned(), value: value.into() };
        (format!("egress.{group}.{key} ({})", self.at(line)), Remedy::Change(Change(vec![setting])))
    }

    /// The key of a limit, and the change that doubles it, as far as the configuration takes it.
    fn limit(&self, limit: Limit) -> (String, Remedy) {
        let rule = self.rule(limit.name());
        let grant = &self.decision.grant;
        let bytes = |now: u64, most: u64| twice(now, most).map(size);
        let count = |now: u64, most: u64| twice(now, most).map(Value::from);
        let period = |now: Duration| (now < units::MAX_TIME).then(|| time((now * 2).min(units::MAX_TIME)));
        let value = match limit {
            Limit::Timeout if Duration::from_millis(self.plan.limits.timeout_ms) < grant.timeout => {
                return (rule, Remedy::Nothing("the caller's own --timeout was shorter than the grant's".to_owned()));
            }
            Limit::Timeout => period(grant.timeout),
            Limit::CpuTime => period(grant.cpu_time),
            Limit::Memory => bytes(grant.memory, units::MAX_SIZE),
            Limit::Processes => count(grant.processes, units::MAX_PROCESSES),
            Limit::OpenFiles => count(grant.open_files, units::MAX_OPEN_FILES),
            Limit::FileSize => bytes(grant.file_size, units::MAX_SIZE),
            Limit::Tmp => bytes(grant.tmp, units::MAX_SIZE),
            Limit::Output => bytes(grant.output, units::MAX_HELD),
            Limit::Result => bytes(grant.result, units::MAX_HELD),
            Limit::EgressBytes => bytes(grant.egress_bytes, units::MAX_SIZE),
        };
        let remedy = match value {
            Some(value) => self.set(limit.name(), value),
            None => Remedy::Nothing(format!("`{}` is as large as a configuration takes it", limit.name())),
        };
        (rule, remedy)
    }
}

/// Twice a limit, at most what a configuration takes; `None` where it is that already.
fn twice(now: u64, most: u64) -> Option<u64> {
    (now < most).then(|| now.saturating_mul(2).min(most))
}

/// A size in the largest unit that it is whole in.
fn size(bytes: u64) -> Value {
    let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let unit = units.iter().find(|(_, bits)| bytes > 0 && bytes.trailing_zeros() >= *bits);
    match unit {
        Some((unit, bits)) => format!("{}{unit}", bytes >> bits).into(),
        None => format!("{bytes}B").into(),
    }
}

/// A time as the configuration writes it.
fn time(time: Duration) -> Value {
    let ms = time.as_millis();
    let units = [("h", 3_600_000), ("m", 60_000), ("s", 1000)];
    match units.iter().find(|(_, length)| ms.is_multiple_of(*length)) {
        Some((unit, length)) => format!("{}{unit}", ms / length).into(),
        None => format!("{ms}ms").into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn a_limit_at_its_most_is_not_doubled() {
        for (now, twofold) in [(1, Some(2)), (600, Some(1000)), (999, Some(1000)), (1000, None), (u64::MAX, None)] {
            assert_eq!(twice(now, 1000), twofold);
        }
        // what the file's reader takes, and not one more
        let reads = |line: &str| {
            let text = format!("[plugins.P]\nmodule = \"p\"\nallowed_methods = []\n{line}\n");
            crate::config::read_unchecked(Path::new("/nowhere/c.toml"), text.into_bytes()).is_ok()
        };
        for (key, most) in [("processes", units::MAX_PROCESSES), ("open_files", units::MAX_OPEN_FILES)] {
            assert!(reads(&format!("{key} = {most}")) && !reads(&format!("{key} = {}", most + 1)), "{key}");
        }
        for (key, most) in [("memory", units::MAX_SIZE), ("result", units::MAX_HELD), ("output", units::MAX_HELD)] {
            assert!(
                reads(&format!("{key} = {}", size(most))) && !reads(&format!("{key} = \"{}B\"", most + 1)),
                "{key}"
            );
        }
        assert!(reads(&format!("timeout = {}", time(units::MAX_TIME))));
    }

    #[test]
    fn limits_are_written_in_their_largest_unit() {
        for (bytes, text) in [(2 << 30, "2GiB"), (1 << 20, "1MiB"), (6 << 20, "6MiB"), (2000, "2000B"), (1024, "1KiB")]
        {
            assert_eq!(size(bytes), text);
            assert_eq!(units::size(text, u64::MAX).unwrap(), bytes);
        }
        for (ms, text) in [(500, "500ms"), (2000, "2s"), (120_000, "2m"), (7_200_000, "2h"), (90_000, "90s")] {
            assert_eq!(time(Duration::from_millis(ms)), text);
            assert_eq!(units::time(text).unwrap(), Duration::from_millis(ms));
        }
    }
}
