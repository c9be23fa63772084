//! The configuration as typed values, read from the tree that both formats give.

use super::error::ConfigError;
use super::path::{PathSpec, ProjectPattern, is_reserved};
use super::tree::{Data, Node, Source};
use super::value;
use crate::quote::quote;
use crate::sys::syscalls::{fixed_reason, syscall_number};
use crate::types::{CallerSpec, Client, EgressGroup, EgressSource, OnViolation, Proxy};
use crate::units::{self, Cpus};
use serde_json::{Map, Number, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A value and the line of its key.
#[derive(Debug, Clone, PartialEq)]
pub struct At<T> {
    /// The value.
    pub value: T,
    /// 1-based.
    pub line: usize,
}

/// Grant keys as one table has them; what is `None` is left to the next level.
#[derive(Debug, Clone, Default, PartialEq)]
#[allow(missing_docs)] // each is the field of the same name in `types::Grant`
pub struct GrantKeys {
    pub interpreter: Option<At<PathSpec>>,
    pub site: Option<At<bool>>,
    pub read: Option<At<Vec<PathSpec>>>,
    pub write: Option<At<Vec<PathSpec>>>,
    pub egress: Option<At<Vec<String>>>,
    pub env: Option<At<BTreeMap<String, String>>>,
    pub env_pass: Option<At<Vec<String>>>,
    pub syscalls: Option<At<Vec<String>>>,
    pub on_violation: Option<At<OnViolation>>,
    pub policy: Option<At<Map<String, Value>>>,
    pub fernet: Option<At<bool>>,
    pub timeout: Option<At<Duration>>,
    pub cpu_time: Option<At<Duration>>,
    pub cpus: Option<At<Cpus>>,
    pub memory: Option<At<u64>>,
    pub require_cgroup: Option<At<bool>>,
    pub processes: Option<At<u64>>,
    pub open_files: Option<At<u64>>,
    pub file_watches: Option<At<u64>>,
    pub file_size: Option<At<u64>>,
    pub tmp: Option<At<u64>>,
    pub output: Option<At<u64>>,
    pub arguments: Option<At<u64>>,
    pub result: Option<At<u64>>,
    pub egress_bytes: Option<At<u64>>,
    pub landlock_min_abi: Option<At<u32>>,
    pub run_as: Option<At<String>>,
    pub as_root_owner: Option<At<bool>>,
    pub callers: Option<At<Vec<CallerSpec>>>,
}

const GRANT_KEYS: &[&str] = &[
    "interpreter",
    "site",
    "read",
    "write",
    "egress",
    "env",
    "env_pass",
    "syscalls",
    "on_violation",
    "policy",
    "fernet",
    "timeout",
    "cpu_time",
    "cpus",
    "memory",
    "require_cgroup",
    "processes",
    "open_files",
    "file_watches",
    "file_size",
    "tmp",
    "output",
    "arguments",
    "result",
    "egress_bytes",
    "landlock_min_abi",
    "run_as",
    "as_root_owner",
    "callers",
];

/// Plugins, and methods of all of them, that one configuration may have: `upm check` looks at each by itself.
const MAX_PLUGINS: usize = 500;
const MAX_METHODS: usize = 2000;
/// Items of one list, such as `read` or `hosts`: they are compared with one another.
const MAX_ITEMS: usize = 2000;

/// How the configuration says a plugin is started.
#[derive(Debug, Clone, PartialEq)]
pub enum EntrySpec {
    /// `module = "a.b"`.
    Module(String),
    /// `exec = "path"`.
    Exec(PathSpec),
}

/// One `[plugins.NAME]` table.
#[derive(Debug, Clone, PartialEq)]
pub struct Plugin {
    /// The class.
    pub name: String,
    /// 1-based line of the table's key.
    pub line: usize,
    /// How it is started.
    pub entry: EntrySpec,
    /// Methods that may be called, in the order written.
    pub allowed_methods: Vec<String>,
    /// The directory of `<method>.json`, absolute.
    pub schemas: Option<PathBuf>,
    /// Grant keys of the plugin.
    pub keys: GrantKeys,
    /// Grant keys of single methods.
    pub methods: BTreeMap<String, GrantKeys>,
}

/// `audit.journald`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Journald {
    /// When it is there.
    #[default]
    Auto,
    /// Or no call.
    Required,
    /// Never.
    Off,
}

/// `audit.arguments`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AuditArguments {
    /// Their SHA-256 alone.
    #[default]
    Digest,
    /// In full.
    Full,
}

/// The `[audit]` table.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Audit {
    /// Whether records go to journald.
    pub journald: Journald,
    /// Where JSON lines go, absolute; `None` when the configuration names no file.
    pub file: Option<PathBuf>,
    /// What a record holds of the arguments.
    pub arguments: AuditArguments,
}

/// What the file says, before anything is compared with the file system.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Model {
    pub project_root: PathBuf,
    pub projects: Vec<ProjectPattern>,
    pub cache_dir: PathBuf,
    pub plugin_paths: Vec<PathBuf>,
    pub audit: Audit,
    pub defaults: GrantKeys,
    pub egress: BTreeMap<String, EgressGroup>,
    pub plugins: BTreeMap<String, Plugin>,
}

pub(super) fn read(source: &Source, root: &Node, dir: &Path) -> Result<Model, ConfigError> {
    let reader = Reader { source, dir };
    let top = reader.table(root, "the configuration")?;
    const KEYS: &[&str] =
        &["project_root", "projects", "cache_dir", "plugin_paths", "audit", "defaults", "egress", "plugins"];
    let mut model = Model {
        project_root: dir.join("project"),
        projects: Vec::new(),
        cache_dir: dir.join(".upm-cache"),
        // beside the file, as in `{"plugins": {"X": {"module": "upm.plugins.x", …}}}`, which names no directory
        plugin_paths: vec![dir.join("plugins"), dir.to_owned()],
        audit: Audit::default(),
        defaults: GrantKeys::default(),
        egress: BTreeMap::new(),
        plugins: BTreeMap::new(),
    };
    // grants name groups, so groups come first wherever they stand
    if let Some((_, groups)) = top.iter().find(|(key, _)| key.name == "egress") {
        for (key, group) in reader.table(groups, "egress")? {
            if !value::is_group_name(&key.name) {
                let what = quote(&key.name);
                return Err(reader.error(
                    key.at,
                    format!("{what} is no name for an egress group; expected letters, digits, \"_\" and \"-\""),
                ));
            }
            model.egress.insert(key.name.clone(), reader.egress_group(&key.name, group)?);
        }
    }
    let groups: BTreeSet<&str> = model.egress.keys().map(String::as_str).collect();
    for (key, node) in top {
        match key.name.as_str() {
            "project_root" => model.project_root = reader.granted_path(node, false)?.path,
            "projects" => {
                for item in reader.list(node, "a list of patterns")? {
                    let text = reader.string(item, "a pattern such as \"/srv/*\"")?;
                    let pattern = ProjectPattern::parse(text, dir)
                        .map_err(|expected| reader.error(item.at, format!("{}: {expected}", quote(text))))?;
                    if is_reserved(&pattern.path) {
                        return Err(reader.error(item.at, reserved(text)));
                    }
                    model.projects.push(pattern);
                }
            }
            "cache_dir" => model.cache_dir = reader.granted_path(node, false)?.path,
            "plugin_paths" => {
                model.plugin_paths = reader
                    .list(node, "a list of directories")?
                    .iter()
                    .map(|item| Ok(reader.path(item, false)?.path))
                    .collect::<Result<_, ConfigError>>()?;
            }
            "audit" => model.audit = reader.audit(node)?,
            "defaults" => {
                for (key, node) in reader.table(node, "defaults")? {
                    if !reader.grant_key(&mut model.defaults, key, node, &groups)? {
                        return Err(reader.unknown(key, "defaults", GRANT_KEYS));
                    }
                }
            }
            "egress" => {}
            "plugins" => {
                let mut methods = 0;
                for (number, (key, node)) in reader.table(node, "plugins")?.iter().enumerate() {
                    let plugin = reader.plugin(key, node, &groups)?;
                    methods += plugin.allowed_methods.len();
                    if number >= MAX_PLUGINS || methods > MAX_METHODS {
                        let most =
                            format!("at most {MAX_PLUGINS} plugins and {MAX_METHODS} methods in one configuration");
                        return Err(reader.error(key.at, format!("too many; expected {most}")));
                    }
                    model.plugins.insert(key.name.clone(), plugin);
                }
            }
            _ => return Err(reader.unknown(key, "the configuration", KEYS)),
        }
    }
    Ok(model)
}

fn reserved(text: &str) -> String {
    format!("{}: \"/\", /proc, /sys, /dev and /run are never granted; expected another path", quote(text))
}

use super::tree::Key;

struct Reader<'a> {
    source: &'a Source,
    dir: &'a Path,
}

impl Reader<'_> {
    fn error(&self, at: usize, message: impl Into<String>) -> ConfigError {
        self.source.error(at, message)
    }

    fn line(&self, at: usize) -> usize {
        self.source.place(at).0
    }

    fn unknown(&self, key: &Key, table: &str, known: &[&str]) -> ConfigError {
        self.error(
            key.at,
            format!("{} is not a key of {table}; expected one of: {}", quote(&key.name), known.join(", ")),
        )
    }

    fn wrong(&self, node: &Node, expected: &str) -> ConfigError {
        self.error(node.at, format!("{}; expected {expected}", node.value.describe()))
    }

    fn table<'n>(&self, node: &'n Node, what: &str) -> Result<&'n [(Key, Node)], ConfigError> {
        match &node.value {
            Data::Table(entries) => Ok(entries),
            _ => Err(self.wrong(node, &format!("a table for {what}"))),
        }
    }

    fn list<'n>(&self, node: &'n Node, expected: &str) -> Result<&'n [Node], ConfigError> {
        match &node.value {
            Data::Array(items) if items.len() > MAX_ITEMS => {
                Err(self.error(node.at, format!("a list of {} items; expected at most {MAX_ITEMS}", items.len())))
            }
            Data::Array(items) => Ok(items),
            _ => Err(self.wrong(node, expected)),
        }
    }

    fn string<'n>(&self, node: &'n Node, expected: &str) -> Result<&'n str, ConfigError> {
        match &node.value {
            Data::String(text) => Ok(text),
            _ => Err(self.wrong(node, expected)),
        }
    }

    fn bool(&self, node: &Node) -> Result<bool, ConfigError> {
        match node.value {
            Data::Bool(value) => Ok(value),
            _ => Err(self.wrong(node, "true or false")),
        }
    }

    fn integer(&self, node: &Node, min: u64, max: u64) -> Result<u64, ConfigError> {
        match node.value {
            Data::Integer(value) => match u64::try_from(value) {
                Ok(value) if (min..=max).contains(&value) => Some(value),
                _ => None,
            },
            _ => None,
        }
        .ok_or_else(|| self.wrong(node, &format!("a whole number from {min} to {max}")))
    }

    fn cpus(&self, node: &Node) -> Result<Cpus, ConfigError> {
        let number = match node.value {
            Data::Integer(value) => value as f64,
            Data::Float(value) => value,
            _ => f64::NAN,
        };
        Cpus::new(number).ok_or_else(|| {
            let (least, most) = (Cpus::RANGE.start(), Cpus::RANGE.end());
            self.wrong(node, &format!("a number of processors from {least} to {most}, as 1 or 1.5"))
        })
    }

    fn word<T>(&self, node: &Node, words: &[(&str, T)]) -> Result<T, ConfigError>
    where
        T: Clone,
    {
        if let Data::String(text) = &node.value
            && let Some((_, value)) = words.iter().find(|(word, _)| word == text)
        {
            return Ok(value.clone());
        }
        let words: Vec<String> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
        Err(self.wrong(node, &words.join(" or ")))
    }

    fn path(&self, node: &Node, variables: bool) -> Result<PathSpec, ConfigError> {
        let text = self.string(node, "a path in quotes")?;
        let mut spec = PathSpec::parse(text, self.dir, variables)
            .map_err(|expected| self.error(node.at, format!("{}: {expected}", quote(text))))?;
        spec.place = Some(self.source.place(node.at));
        Ok(spec)
    }

    fn granted_path(&self, node: &Node, variables: bool) -> Result<PathSpec, ConfigError> {
        let spec = self.path(node, variables)?;
        if spec.path.is_absolute() && is_reserved(&spec.path) {
            return Err(self.error(node.at, reserved(&spec.path.to_string_lossy())));
        }
        Ok(spec)
    }

    fn time(&self, node: &Node) -> Result<Duration, ConfigError> {
        let text = self.string(node, "a time in quotes, as in \"90s\"")?;
        units::time(text).map_err(|expected| self.error(node.at, format!("{}: {expected}", quote(text))))
    }

    fn size(&self, node: &Node, max: u64) -> Result<u64, ConfigError> {
        let text = self.string(node, "a size with its unit in quotes, as in \"512MiB\"")?;
        units::size(text, max).map_err(|expected| self.error(node.at, format!("{}: {expected}", quote(text))))
    }

    /// Strings that occur once each and pass `check`.
    fn names(&self, node: &Node, expected: &str, check: impl Fn(&str) -> bool) -> Result<Vec<String>, ConfigError> {
        let mut names: Vec<String> = Vec::new();
        let mut seen = BTreeSet::new();
        for item in self.list(node, &format!("a list: {expected}"))? {
            let name = self.string(item, expected)?;
            if !check(name) {
                return Err(self.wrong(item, expected));
            }
            if !seen.insert(name) {
                return Err(self.error(item.at, format!("{} occurs twice; expected it once", quote(name))));
            }
            names.push(name.to_owned());
        }
        Ok(names)
    }

    fn audit(&self, node: &Node) -> Result<Audit, ConfigError> {
        let mut audit = Audit::default();
        for (key, node) in self.table(node, "audit")? {
            match key.name.as_str() {
                "journald" => {
                    let words = [("auto", Journald::Auto), ("required", Journald::Required), ("off", Journald::Off)];
                    audit.journald = self.word(node, &words)?;
                }
                "file" => audit.file = Some(self.path(node, false)?.path),
                "arguments" => {
                    let words = [("digest", AuditArguments::Digest), ("full", AuditArguments::Full)];
                    audit.arguments = self.word(node, &words)?;
                }
                _ => return Err(self.unknown(key, "audit", &["journald", "file", "arguments"])),
            }
        }
        Ok(audit)
    }

    fn egress_group(&self, name: &str, group: &Node) -> Result<EgressGroup, ConfigError> {
        let (mut hosts, mut client) = (None, None);
        let (mut allow_private, mut proxy, mut tls) = (false, Proxy::None, true);
        for (key, node) in self.table(group, "an egress group")? {
            match key.name.as_str() {
                "hosts" => {
                    let mut patterns = Vec::new();
                    for item in self.list(node, "a list of \"name:port\"")? {
                        let text = self.string(item, "\"name:port\" or \"*.name:port\"")?;
                        let pattern = value::host(text)
                            .map_err(|expected| self.error(item.at, format!("{}: {expected}", quote(text))))?;
                        patterns.push(pattern);
                    }
                    hosts = Some(patterns);
                }
                "client" => client = Some((key.at, self.word(node, &[("pip", Client::Pip), ("npm", Client::Npm)])?)),
                "allow_private" => allow_private = self.bool(node)?,
                "proxy" => proxy = self.proxy(node)?,
                "tls" => tls = self.bool(node)?,
                _ => {
                    let known = ["client", "hosts", "allow_private", "proxy", "tls"];
                    return Err(self.unknown(key, "an egress group", &known));
                }
            }
        }
        let source = match (hosts, client) {
            (Some(hosts), None) => EgressSource::Hosts(hosts),
            (None, Some((_, client))) => EgressSource::Client(client),
            (Some(_), Some((at, _))) => {
                return Err(self
                    .error(at, "\"client\" beside \"hosts\"; expected one of them, the other in a group of its own"));
            }
            (None, None) => {
                return Err(self.error(
                    group.at,
                    format!("the egress group {} names nothing; expected \"hosts\" or \"client\"", quote(name)),
                ));
            }
        };
        Ok(EgressGroup { name: name.to_owned(), source, allow_private, proxy, tls })
    }

    fn proxy(&self, node: &Node) -> Result<Proxy, ConfigError> {
        const EXPECTED: &str = "\"none\", \"env\" or \"http://[user:password@]host:port\"";
        match self.string(node, EXPECTED)? {
            "none" => Ok(Proxy::None),
            "env" => Ok(Proxy::Env),
            url => {
                // not shown: it may hold a password
                let wrong = || self.error(node.at, format!("a proxy that is not understood; expected {EXPECTED}"));
                let authority = url.strip_prefix("http://").ok_or_else(wrong)?;
                let authority = authority.strip_suffix('/').unwrap_or(authority);
                let (credentials, place) = authority.rsplit_once('@').unwrap_or(("", authority));
                let (host, port) = place.rsplit_once(':').ok_or_else(wrong)?;
                // as the gateway reads it, which would otherwise find out at the first connection
                let escape = |text: &str| text.bytes().take(2).filter(u8::is_ascii_hexdigit).count() == 2;
                let credentials_ok = credentials.split('%').skip(1).all(escape);
                let port_ok =
                    port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0);
                if !value::is_proxy_host(host)
                    || !port_ok
                    || !credentials_ok
                    || url.bytes().any(|b| !b.is_ascii_graphic())
                    || authority.contains(['/', '?', '#'])
                {
                    return Err(wrong());
                }
                Ok(Proxy::Url(url.to_owned()))
            }
        }
    }

    fn plugin(&self, key: &Key, node: &Node, groups: &BTreeSet<&str>) -> Result<Plugin, ConfigError> {
        let name = &key.name;
        if !value::is_plugin_name(name) {
            return Err(self.error(
                key.at,
                format!("{} is no plugin name; expected a class name, [A-Z][A-Za-z0-9_]{{0,63}}", quote(name)),
            ));
        }
        let (mut module, mut exec, mut allowed_methods, mut schemas, mut methods_node) = (None, None, None, None, None);
        let mut keys = GrantKeys::default();
        for (key, node) in self.table(node, "a plugin")? {
            match key.name.as_str() {
                "module" => {
                    let text = self.string(node, "a module such as \"pip_plugin.plugin\"")?;
                    if !value::is_module_name(text) {
                        return Err(self.wrong(node, "a dotted module name such as \"pip_plugin.plugin\""));
                    }
                    module = Some(text.to_owned());
                }
                "exec" => exec = Some((key.at, self.path(node, false)?)),
                "allowed_methods" => {
                    let expected =
                        "method names, [A-Za-z_][A-Za-z0-9_]{0,63}, of which only __introspect__ may start with \"_\"";
                    allowed_methods = Some(self.names(node, expected, value::is_method_name)?);
                }
                "schemas" => schemas = Some(self.path(node, false)?.path),
                "methods" => methods_node = Some(node),
                _ if self.grant_key(&mut keys, key, node, groups)? => {}
                _ => {
                    let known: Vec<&str> = ["module", "exec", "allowed_methods", "schemas", "methods"]
                        .into_iter()
                        .chain(GRANT_KEYS.iter().copied())
                        .collect();
                    return Err(self.unknown(key, "a plugin", &known));
                }
            }
        }
        let entry = match (module, exec) {
            (Some(module), None) => EntrySpec::Module(module),
            (None, Some((_, path))) => EntrySpec::Exec(path),
            (Some(_), Some((at, _))) => return Err(self.error(at, "\"exec\" beside \"module\"; expected one of them")),
            (None, None) => {
                return Err(
                    self.error(key.at, format!("{name} says not how it is started; expected \"module\" or \"exec\""))
                );
            }
        };
        let allowed_methods = allowed_methods.ok_or_else(|| {
            self.error(key.at, format!("{name} allows no list of methods; expected \"allowed_methods\""))
        })?;
        let mut methods = BTreeMap::new();
        if let Some(node) = methods_node {
            for (key, node) in self.table(node, "methods")? {
                if !allowed_methods.contains(&key.name) {
                    return Err(self.error(
                        key.at,
                        format!(
                            "{} is not in allowed_methods of {name}; add it there or remove this table",
                            quote(&key.name)
                        ),
                    ));
                }
                let mut keys = GrantKeys::default();
                for (key, node) in self.table(node, "a method")? {
                    if !self.grant_key(&mut keys, key, node, groups)? {
                        return Err(self.unknown(key, "a method", GRANT_KEYS));
                    }
                }
                methods.insert(key.name.clone(), keys);
            }
        }
        Ok(Plugin { name: name.clone(), line: self.line(key.at), entry, allowed_methods, schemas, keys, methods })
    }

    /// Reads a grant key into `keys`; false when it is none. An error names the key before its value.
    fn grant_key(
        &self,
        keys: &mut GrantKeys,
        key: &Key,
        node: &Node,
        groups: &BTreeSet<&str>,
    ) -> Result<bool, ConfigError> {
        self.set_grant_key(keys, key, node, groups).map_err(|mut error| {
            error.message = format!("{}: {}", key.name, error.message);
            error
        })
    }

    fn set_grant_key(
        &self,
        keys: &mut GrantKeys,
        key: &Key,
        node: &Node,
        groups: &BTreeSet<&str>,
    ) -> Result<bool, ConfigError> {
        let line = self.line(key.at);
        macro_rules! set {
            ($field:ident, $value:expr) => {
                keys.$field = Some(At { value: $value, line })
            };
        }
        match key.name.as_str() {
            "interpreter" => set!(interpreter, self.path(node, true)?),
            "site" => set!(site, self.bool(node)?),
            "read" => set!(read, self.granted_paths(node)?),
            "write" => set!(write, self.granted_paths(node)?),
            "egress" => {
                let names = self.names(node, "names of [egress.…] tables", |_| true)?;
                if let Some((index, name)) = names.iter().enumerate().find(|(_, name)| !groups.contains(name.as_str()))
                {
                    let at = self.list(node, "")?[index].at;
                    return Err(self.error(
                        at,
                        format!(
                            "there is no egress group {}; expected a table [egress.NAME] of that name",
                            quote(name)
                        ),
                    ));
                }
                set!(egress, names);
            }
            "env" => {
                let mut env = BTreeMap::new();
                for (key, node) in self.table(node, "env")? {
                    if !value::is_variable_name(&key.name) || key.name.starts_with("UPM_") {
                        return Err(self.error(
                            key.at,
                            format!(
                                "{} cannot be set; expected letters, digits and \"_\", not starting with UPM_",
                                quote(&key.name)
                            ),
                        ));
                    }
                    let text = self.string(node, "text in quotes")?;
                    if text.contains('\0') || text.len() > 65_536 {
                        return Err(
                            self.error(node.at, "not fit for an environment; expected at most 64 KiB without NUL")
                        );
                    }
                    env.insert(key.name.clone(), text.to_owned());
                }
                set!(env, env);
            }
            "env_pass" => {
                let expected = "names of environment variables, none of which starts with UPM_";
                let check = |name: &str| value::is_variable_name(name) && !name.starts_with("UPM_");
                set!(env_pass, self.names(node, expected, check)?);
            }
            "syscalls" => {
                let check = |name: &str| {
                    !name.is_empty() && name.len() <= 64 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
                };
                let names = self.names(node, "names of system calls", check)?;
                for (item, name) in self.list(node, "")?.iter().zip(&names) {
                    if syscall_number(name).is_none() {
                        let arch = std::env::consts::ARCH;
                        return Err(self.error(
                            item.at,
                            format!(
                                "{}: no system call of {arch}; expected names as in seccomp/syscalls.tbl",
                                quote(name)
                            ),
                        ));
                    }
                    if let Some(reason) = fixed_reason(name) {
                        return Err(
                            self.error(item.at, format!("{}: no configuration can add it: {reason}", quote(name)))
                        );
                    }
                }
                set!(syscalls, names);
            }
            "on_violation" => {
                set!(on_violation, self.word(node, &[("deny", OnViolation::Deny), ("kill", OnViolation::Kill)])?);
            }
            "policy" => {
                let mut policy = Map::new();
                for (key, node) in self.table(node, "policy")? {
                    policy.insert(key.name.clone(), self.json(node)?);
                }
                set!(policy, policy);
            }
            "fernet" => set!(fernet, self.bool(node)?),
            "timeout" => set!(timeout, self.time(node)?),
            "cpu_time" => set!(cpu_time, self.time(node)?),
            "cpus" => set!(cpus, self.cpus(node)?),
            "memory" => set!(memory, self.size(node, units::MAX_SIZE)?),
            "require_cgroup" => set!(require_cgroup, self.bool(node)?),
            "processes" => set!(processes, self.integer(node, 1, units::MAX_PROCESSES)?),
            // below four there is no room for 0-3
            "open_files" => set!(open_files, self.integer(node, 4, units::MAX_OPEN_FILES)?),
            // above, the kernel's own most of a user's watches (inotify(7))
            "file_watches" => set!(file_watches, self.integer(node, 0, 1 << 20)?),
            "file_size" => set!(file_size, self.size(node, units::MAX_SIZE)?),
            "tmp" => set!(tmp, self.size(node, units::MAX_SIZE)?),
            "output" => set!(output, self.size(node, units::MAX_HELD)?),
            "arguments" => set!(arguments, self.size(node, units::MAX_HELD)?),
            "result" => set!(result, self.size(node, units::MAX_HELD)?),
            "egress_bytes" => set!(egress_bytes, self.size(node, units::MAX_SIZE)?),
            "landlock_min_abi" => set!(landlock_min_abi, u32::try_from(self.integer(node, 1, 99)?).unwrap_or(99)),
            "run_as" => set!(run_as, self.run_as(node)?),
            "as_root_owner" => set!(as_root_owner, self.bool(node)?),
            "callers" => set!(callers, self.callers(node)?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn granted_paths(&self, node: &Node) -> Result<Vec<PathSpec>, ConfigError> {
        self.list(node, "a list of paths")?.iter().map(|item| self.granted_path(item, true)).collect()
    }

    fn run_as(&self, node: &Node) -> Result<String, ConfigError> {
        const EXPECTED: &str = "a user's name, or a user id from 1 to 4294967294";
        let text = match &node.value {
            Data::Integer(uid) => uid.to_string(),
            Data::String(text) => text.clone(),
            _ => return Err(self.wrong(node, EXPECTED)),
        };
        let fits = if text.bytes().all(|b| b.is_ascii_digit()) {
            // 2^32-1 means "leave it" to setresuid(2)
            text.parse::<u32>().is_ok_and(|uid| uid != 0 && uid != u32::MAX)
        } else {
            text != "root" && value::is_account_name(&text)
        };
        if fits { Ok(text) } else { Err(self.wrong(node, EXPECTED)) }
    }

    fn callers(&self, node: &Node) -> Result<Vec<CallerSpec>, ConfigError> {
        const EXPECTED: &str = "\"user:NAME\" or \"group:NAME\", or with numbers as in \"user:1000\"";
        let names = self.names(node, EXPECTED, |name| value::caller(name).is_some())?;
        Ok(names.iter().filter_map(|name| value::caller(name)).collect())
    }

    fn json(&self, node: &Node) -> Result<Value, ConfigError> {
        Ok(match &node.value {
            Data::Null => Value::Null,
            Data::Bool(value) => Value::Bool(*value),
            Data::Integer(value) => match (i64::try_from(*value), u64::try_from(*value)) {
                (Ok(value), _) => value.into(),
                (_, Ok(value)) => value.into(),
                _ => return Err(self.wrong(node, "a number that fits 64 bits")),
            },
            Data::Float(value) => match Number::from_f64(*value) {
                Some(number) => Value::Number(number),
                None => return Err(self.wrong(node, "a number that JSON can hold")),
            },
            Data::String(text) | Data::Datetime(text) => Value::String(text.clone()),
            Data::Array(items) => Value::Array(items.iter().map(|item| self.json(item)).collect::<Result<_, _>>()?),
            Data::Table(entries) => {
                let mut map = Map::new();
                for (key, node) in entries {
                    map.insert(key.name.clone(), self.json(node)?);
                }
                Value::Object(map)
            }
        })
    }
}
