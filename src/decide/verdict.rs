//! Whether a call may do something, which grant decides, and what change of the configuration would allow it. `upm explain
//! --may`, the denials of an answer and `upm learn` all ask here, of the plan that is enforced.

use super::grant::{Decision, levels};
use super::names;
use super::places;
use super::plan::{Mount, Plan, Source, WATCH_CALLS};
use crate::config::{self, At, Config, GrantKeys};
use crate::types::{Change, Denial, Setting, Standing};
use crate::units;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Watches that a remedy proposes.
const WATCHES: u64 = 64;

/// Something that a plugin may want to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// Read, list or look up this absolute path.
    Read(PathBuf),
    /// Create, change or remove this absolute path.
    Write(PathBuf),
    /// Connect by TCP.
    Connect {
        /// As the plugin names it.
        host: String,
        /// 1–65535.
        port: u16,
    },
    /// Make this system call.
    Syscall(String),
}

/// The answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// Whether the call may.
    pub yes: bool,
    /// The layer that decides.
    pub layer: &'static str,
    /// A sentence.
    pub why: String,
    /// The grant key that decides.
    pub key: &'static str,
    /// What would make it a yes; `None` where it is one.
    pub remedy: Option<Remedy>,
}

/// What would allow something.
#[derive(Debug, Clone, PartialEq)]
pub enum Remedy {
    /// This change of the configuration.
    Change(Change),
    /// Nothing, and why.
    Nothing(String),
}

/// How the plugin's filter stands to a name, and why no configuration can add it where that is so; `None` where there is
/// no such call.
pub type Filter<'a> = &'a dyn Fn(&str) -> Option<(Standing, Option<&'static str>)>;

/// Whether a change could be made on this host, and if not, why.
pub type Fits<'a> = &'a dyn Fn(&Change) -> Result<(), String>;

/// A decided call, to be asked about.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// What it says of the method.
    pub decision: &'a Decision,
    /// What is enforced.
    pub plan: &'a Plan,
    /// The plugin's filter.
    pub filter: Filter<'a>,
    /// What the host says to a remedy.
    pub fits: Fits<'a>,
}

impl View<'_> {
    /// Whether the call may do `act`.
    #[must_use]
    pub fn verdict(&self, act: &Act) -> Verdict {
        match act {
            Act::Read(path) => self.path(path, false),
            Act::Write(path) => self.path(path, true),
            Act::Connect { host, port } => self.connect(host, *port),
            Act::Syscall(name) => self.syscall(name),
        }
    }

    /// Fills in which grant decided and what would have allowed it.
    pub fn explain(&self, denial: &mut Denial) {
        let (key, remedy) = match denial.layer.as_str() {
            "seccomp" if denial.operation == "epoll_ctl" => {
                let why = "a call may add so many descriptors to epoll sets, which are counted for its user on the whole host";
                ("syscalls".to_owned(), Some(Remedy::Nothing(why.to_owned())))
            }
            "seccomp" => {
                let verdict = self.syscall(&denial.operation);
                (verdict.key.to_owned(), verdict.remedy)
            }
            "limits" => (denial.operation.clone(), Some(self.limit(&denial.operation))),
            "egress" => self.egress(denial),
            _ => return,
        };
        denial.rule = self.rule(&key);
        let remedy = remedy.unwrap_or_else(|| Remedy::Nothing("the plan allows it: the kernel itself refused".into()));
        denial.remedy = self.text(&remedy);
    }

    /// The key and the place of its value.
    #[must_use]
    pub fn rule(&self, key: &str) -> String {
        format!("{key} ({})", self.place(key))
    }

    /// Where the value of a grant key, or of a group's (`egress.pip.tls`), was written: `FILE:LINE`, or `built-in`.
    #[must_use]
    pub fn place(&self, key: &str) -> String {
        let path: Vec<&str> = key.split('.').collect();
        let line = match path.as_slice() {
            [_, group, _] => {
                let outline = &self.config.outline;
                outline.line(&path).or_else(|| outline.line(&["egress", group]))
            }
            _ => self.decision.grant.origins.get(key).and_then(|origin| origin.line),
        };
        match line {
            Some(line) => format!("{}:{line}", self.config.path.display()),
            None => "built-in".to_owned(),
        }
    }

    /// A remedy as denials write it: no change that this host would refuse.
    #[must_use]
    pub fn text(&self, remedy: &Remedy) -> String {
        match remedy {
            Remedy::Change(change) => match (self.fits)(change) {
                Ok(()) => self.config.lines(change),
                Err(why) => format!("nothing: {why}"),
            },
            Remedy::Nothing(why) => format!("nothing: {why}"),
        }
    }

    /// The grant key's value in the method's own table: the narrowest place.
    fn set(&self, key: &str, value: Value) -> Remedy {
        Remedy::Change(Change(vec![self.setting(key, value)]))
    }

    fn setting(&self, key: &str, value: Value) -> Setting {
        let table = ["plugins", &self.decision.plugin, "methods", &self.decision.method];
        Setting { table: table.map(str::to_owned).to_vec(), key: key.to_owned(), value }
    }

    /// A list as the configuration writes it, with one more item: in the method's own table it replaces what it inherits.
    fn with<T>(&self, get: impl Fn(&GrantKeys) -> Option<&At<Vec<T>>>, more: &[String]) -> Value
    where
        T: ToString,
    {
        let found = levels(self.config, self.decision).into_iter().find_map(|(_, keys)| get(keys));
        let mut items: Vec<String> =
            found.map_or_else(Vec::new, |at| at.value.iter().map(ToString::to_string).collect());
        for item in more {
            if !items.contains(item) {
                items.push(item.clone());
            }
        }
        json!(items)
    }

    /// The deepest mount that holds the path decides; below a host directory the file's own permissions decide as well.
    fn path(&self, path: &Path, write: bool) -> Verdict {
        let plan = self.plan;
        let (yes, why) = match holder(plan, path) {
            None if holds(plan, path, write) => (true, format!("{} is a directory of the sealed root", path.display())),
            None => (false, "nothing of it is in the call's root (ENOENT)".to_owned()),
            Some(mount) if write && !mount.write => {
                (false, format!("{} is read-only there (EROFS)", mount.path.display()))
            }
            Some(mount) => (
                true,
                format!(
                    "{} is in the call's root ({}), as far as the file's own permissions go",
                    mount.path.display(),
                    mount.why
                ),
            ),
        };
        let remedy = (!yes).then(|| self.grant_for(path, path, write));
        Verdict { yes, layer: "root", why, key: if write { "write" } else { "read" }, remedy }
    }

    /// The change that grants `target`, for the sake of `asked` in it; none where either is a place that holds policy or
    /// secrets.
    #[must_use]
    pub fn grant_for(&self, asked: &Path, target: &Path, write: bool) -> Remedy {
        match places::unproposed(asked, write) {
            Some(why) if !config::is_reserved(asked) => Remedy::Nothing(why),
            _ => self.grant_path(&[target.to_owned()], write),
        }
    }

    /// The change that grants these paths, or why the configuration would refuse it.
    #[must_use]
    pub fn grant_path(&self, paths: &[PathBuf], write: bool) -> Remedy {
        for path in paths {
            if config::is_reserved(path) {
                return Remedy::Nothing("/, /proc, /sys, /dev and /run are never granted".to_owned());
            }
            let system = |mount: &&Mount| !matches!(mount.why, "read" | "write");
            if let Some(mount) = self.plan.mounts.iter().filter(system).find(|mount| mount.path.starts_with(path)) {
                return Remedy::Nothing(format!(
                    "{} would cover {}, which each call has of its own; grant something below it",
                    path.display(),
                    mount.path.display()
                ));
            }
            if let Some(why) = places::unproposed(path, write) {
                return Remedy::Nothing(why);
            }
            let runs = |mount: &&Mount| matches!(mount.why, "interpreter" | "plugin" | "egress client");
            if write
                && let Some(mount) = self.plan.mounts.iter().filter(runs).find(|mount| path.starts_with(&mount.path))
            {
                return Remedy::Nothing(format!(
                    "{} lies in {}, which calls run or go by ({})",
                    path.display(),
                    mount.path.display(),
                    mount.why
                ));
            }
            if write && let Some(what) = self.config.ruled_by(path) {
                return Remedy::Nothing(format!("whoever may write {} could change {what}", path.display()));
            }
        }
        let paths: Vec<String> = paths.iter().map(|path| path.to_string_lossy().into_owned()).collect();
        if write {
            self.set("write", self.with(|keys| keys.write.as_ref(), &paths))
        } else {
            self.set("read", self.with(|keys| keys.read.as_ref(), &paths))
        }
    }

    /// What to grant for a file that was looked for: its directory, since files in one are replaced by new ones. The file
    /// alone where its directory would show more than that: a directory that calls have of their own, one above the
    /// directory in which something is granted already, a home, a top-level directory, or one that holds the configuration.
    #[must_use]
    pub fn nearest(&self, path: &Path) -> PathBuf {
        let Some(dir) = path.parent() else { return path.to_owned() };
        let short = dir.components().count() < 3;
        let home = dir.parent() == Some(Path::new("/home")) || dir == Path::new("/root");
        let above = |mount: &Mount| {
            mount.path.starts_with(dir)
                && mount.path != dir
                && !(matches!(mount.why, "read" | "write") && mount.path.parent() == Some(dir))
        };
        let wide = self.config.path.starts_with(dir) || self.config.dir.starts_with(dir);
        if short || home || wide || self.plan.mounts.iter().any(above) { path.to_owned() } else { dir.to_owned() }
    }

    fn connect(&self, host: &str, port: u16) -> Verdict {
        let name = names::normalize(host);
        let rule = name.as_deref().and_then(|name| names::rule_for(&self.plan.egress, name, port));
        let verdict = |yes, why, remedy| Verdict { yes, layer: "egress", why, key: "egress", remedy };
        match rule {
            Some(rule) => verdict(true, format!("[egress.{}] grants it", rule.group), None),
            None => verdict(
                false,
                format!("no granted group has {host}:{port}; addresses are never dialled directly"),
                Some(self.host(name.as_deref().unwrap_or(host), port)),
            ),
        }
    }

    /// The change that grants a host: the group of that name alone where there is one, else a new one.
    fn host(&self, name: &str, port: u16) -> Remedy {
        self.grant_hosts(&[(name.to_owned(), port)])
    }

    /// The change that grants these hosts.
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
            let only_it = self.config.egress.values().find(|group| {
                matches!(&group.source, crate::types::EgressSource::Hosts(hosts) if *hosts == [pattern.clone()])
            });
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

    /// The key and remedy of what the stub or the gateway refused.
    fn egress(&self, denial: &Denial) -> (String, Option<Remedy>) {
        let text = |member: &str| denial.object[member].as_str().unwrap_or_default();
        let port = denial.object["port"].as_u64().and_then(|port| u16::try_from(port).ok());
        let name = names::normalize(text("name"));
        let group = match (&name, port) {
            (Some(name), Some(port)) => names::rule_for(&self.plan.egress, name, port).map(|rule| rule.group.as_str()),
            _ => None,
        };
        let of_group = |key: &str, remedy: &dyn Fn(&str) -> Remedy| match group {
            Some(group) => (format!("egress.{group}.{key}"), Some(remedy(group))),
            None => ("egress".to_owned(), Some(Remedy::Nothing("its group is not in the plan".to_owned()))),
        };
        let set = |group: &str, key: &str, value: bool| {
            let table = vec!["egress".to_owned(), group.to_owned()];
            Remedy::Change(Change(vec![Setting { table, key: key.to_owned(), value: value.into() }]))
        };
        let nothing = |why: &str| ("egress".to_owned(), Some(Remedy::Nothing(why.to_owned())));
        match denial.operation.as_str() {
            "resolve" if !denial.object["names"].is_null() => {
                nothing("a call may ask for so many names; grant the names themselves in place of a wildcard")
            }
            "resolve" | "connect" => match name {
                Some(name) => ("egress".to_owned(), Some(self.host(&name, port.unwrap_or(443)))),
                None if denial.operation == "resolve" => nothing("this is no host name"),
                // Counted, not seen.
                None => nothing("hosts are granted by name: connect to a granted name, not to an address"),
            },
            "address" if matches!(text("kind"), "public" | "unspecified, multicast or reserved") => {
                nothing("addresses of this kind are never dialled")
            }
            "address" => of_group("allow_private", &|group| set(group, "allow_private", true)),
            "tls_name" | "tls_missing" => of_group("tls", &|group| set(group, "tls", false)),
            _ => nothing("no key of the configuration decides this"),
        }
    }

    fn syscall(&self, name: &str) -> Verdict {
        let verdict =
            |yes, why: &str, remedy| Verdict { yes, layer: "seccomp", why: why.to_owned(), key: "syscalls", remedy };
        let add = || self.set("syscalls", self.with(|keys| keys.syscalls.as_ref(), &[name.to_owned()]));
        if WATCH_CALLS.contains(&name) {
            return self.watch();
        }
        match (self.filter)(name) {
            Some((Standing::Allowed, _)) => verdict(true, "the default filter allows it", None),
            Some(_) if self.plan.syscalls.iter().any(|added| added == name) => {
                verdict(true, "`syscalls` adds it", None)
            }
            Some((Standing::Partly, reason)) => Verdict {
                remedy: Some(reason.map_or_else(add, |why| Remedy::Nothing(why.to_owned()))),
                ..verdict(true, "the default filter allows it with some arguments (seccomp/default.json)", None)
            },
            Some((Standing::Refused, Some(reason))) => {
                verdict(false, &format!("nothing can allow it: {reason}"), Some(Remedy::Nothing(reason.to_owned())))
            }
            Some((Standing::Refused, None)) => verdict(false, "the filter refuses it", Some(add())),
            None => {
                let why = "this architecture has no such call, or it is newer than the filter";
                verdict(false, why, Some(Remedy::Nothing(why.to_owned())))
            }
        }
    }

    /// Whether the call may use inotify: what `syscalls` adds of it gets none of the kernel (`EMFILE`).
    fn watch(&self) -> Verdict {
        let verdict = |yes, why: &str, remedy| Verdict {
            yes,
            layer: "seccomp",
            why: why.to_owned(),
            key: "file_watches",
            remedy,
        };
        if self.plan.limits.file_watches > 0 {
            verdict(true, "`file_watches` allows it", None)
        } else {
            verdict(false, "no file may be watched", Some(self.set("file_watches", WATCHES.into())))
        }
    }

    /// The change that doubles a limit, as far as the configuration takes it.
    fn limit(&self, key: &str) -> Remedy {
        let grant = &self.decision.grant;
        let bytes = |now: u64, most: u64| twice(now, most).map(size);
        let count = |now: u64, most: u64| twice(now, most).map(Value::from);
        let period = |now: Duration| (now < units::MAX_TIME).then(|| time((now * 2).min(units::MAX_TIME)));
        let value = match key {
            "timeout" if Duration::from_millis(self.plan.limits.timeout_ms) < grant.timeout => {
                return Remedy::Nothing("the caller's own --timeout was shorter than the grant's".to_owned());
            }
            "timeout" => period(grant.timeout),
            "cpu_time" => period(grant.cpu_time),
            "memory" => bytes(grant.memory, units::MAX_SIZE),
            "processes" => count(grant.processes, units::MAX_PROCESSES),
            "open_files" => count(grant.open_files, units::MAX_OPEN_FILES),
            "file_size" => bytes(grant.file_size, units::MAX_SIZE),
            "tmp" => bytes(grant.tmp, units::MAX_SIZE),
            "output" => bytes(grant.output, units::MAX_HELD),
            "result" => bytes(grant.result, units::MAX_HELD),
            "egress_bytes" => bytes(grant.egress_bytes, units::MAX_SIZE),
            _ => return Remedy::Nothing("no key of the configuration decides this".to_owned()),
        };
        match value {
            Some(value) => self.set(key, value),
            None => Remedy::Nothing(format!("`{key}` is as large as a configuration takes it")),
        }
    }

    /// What the failure of a plugin says more when its exception named a path: whether the plan grants it. `learn` is the
    /// command that tells what else the call looks for.
    pub fn path_details(&self, details: &mut Map<String, Value>, learn: &str) {
        if let Some(Value::Object(cause)) = details.get_mut("cause") {
            self.path_of(cause, learn);
        }
        self.path_of(details, learn);
    }

    fn path_of(&self, details: &mut Map<String, Value>, learn: &str) {
        let Some(name) = details.get("filename").and_then(Value::as_str) else { return };
        if name.is_empty() || name.len() > 4096 || name.contains('\0') {
            return;
        }
        // A plugin starts in `/`.
        let path = config::normalize(&Path::new("/").join(name));
        let (read, write) = (self.path(&path, false), self.path(&path, true));
        let refused = match details.get("errno_name").and_then(Value::as_str) {
            _ if !read.yes => Some(&read),
            Some("EROFS" | "EACCES" | "EPERM") if !write.yes => Some(&write),
            _ => None,
        };
        if let Some(verdict) = refused {
            let remedy = self.grant_for(&path, &self.nearest(&path), verdict.key == "write");
            details.insert("rule".into(), self.rule(verdict.key).into());
            details.insert("remedy".into(), self.text(&remedy).into());
        }
        details.insert("granted".into(), json!({ "read": read.yes, "write": write.yes }));
        details.insert("learn".into(), learn.into());
    }
}

/// Whether the root has `path`, for reading or for writing, as far as the plan goes: it may be missing in what is there.
#[must_use]
pub fn holds(plan: &Plan, path: &Path, write: bool) -> bool {
    match holder(plan, path) {
        Some(mount) => mount.write || !write,
        // A directory on the way to something.
        None => !write && plan.mounts.iter().any(|mount| mount.path.starts_with(path)),
    }
}

/// `path` by its text alone, as grants are compared.
#[must_use]
pub fn normal(path: &Path) -> PathBuf {
    config::normalize(path)
}

/// The deepest entry of the root that holds `path`.
fn holder<'p>(plan: &'p Plan, path: &Path) -> Option<&'p Mount> {
    let found = plan
        .mounts
        .iter()
        .filter(|mount| path.starts_with(&mount.path))
        .max_by_key(|mount| mount.path.components().count())?;
    // Nothing lies below a file or a device.
    let leaf = matches!(found.source, Source::File(_) | Source::Device);
    (!leaf || found.path == path).then_some(found)
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
