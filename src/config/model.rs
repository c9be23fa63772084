//! The configuration as typed values, read from the tree of either format.

use super::error::ConfigError;
use super::keys::GrantKeys;
use super::path::{PathSpec, ProjectPattern, is_reserved};
use super::reader::{Reader, reserved};
use super::tree::{Key, Node, SourceFile};
use super::value;
use crate::keys;
use crate::text::quote;
use crate::types::{EgressGroup, EgressSource, PackageManager, Proxy};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Limits for the plugins of one configuration, and for their methods together: `upm check` checks each one.
const MAX_PLUGINS: usize = 500;
const MAX_METHODS: usize = 2000;

/// How a plugin is started.
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
    /// The absolute path of the directory with `<method>.json`.
    pub schemas: Option<PathBuf>,
    /// Grant keys of the plugin.
    pub keys: GrantKeys,
    /// Grant keys of single methods.
    pub methods: BTreeMap<String, GrantKeys>,
}

/// `audit.journald`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum JournaldMode {
    /// journald while it takes records, else the file.
    #[default]
    Auto,
    /// Without it, no call is made.
    Required,
    /// The file only.
    Off,
}

/// `audit.arguments`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AuditArguments {
    /// Only their SHA-256.
    #[default]
    Digest,
    /// In full.
    Full,
}

/// The `[audit]` table.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Audit {
    /// Whether records go to journald.
    pub journald: JournaldMode,
    /// The absolute path of the file for JSON lines; `None` if the configuration does not have one.
    pub file: Option<PathBuf>,
    /// What a record contains of the arguments.
    pub arguments: AuditArguments,
}

/// The file's content, before anything is compared with the file system.
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

pub(super) fn read(source: &SourceFile, root: &Node, dir: &Path) -> Result<Model, ConfigError> {
    let mut reader = Reader { source, dir, groups: BTreeSet::new() };
    let top = reader.table(root, "the configuration")?;
    const KEYS: &[&str] =
        &["project_root", "projects", "cache_dir", "plugin_paths", "audit", "defaults", "egress", "plugins"];
    let mut model = Model {
        project_root: dir.join("project"),
        projects: Vec::new(),
        cache_dir: dir.join(".upm-cache"),
        // beside the file, as for `{"plugins": {"X": {"module": "upm.plugins.x", …}}}`, which has no `plugin_paths`
        plugin_paths: vec![dir.join("plugins"), dir.to_owned()],
        audit: Audit::default(),
        defaults: GrantKeys::default(),
        egress: BTreeMap::new(),
        plugins: BTreeMap::new(),
    };
    // grants refer to groups, so groups are read first
    if let Some((_, groups)) = top.iter().find(|(key, _)| key.name == "egress") {
        model.egress = reader.egress_groups(groups)?;
        reader.groups = model.egress.keys().cloned().collect();
    }
    for (key, node) in top {
        match key.name.as_str() {
            "project_root" => model.project_root = reader.granted_path(node, false)?.path,
            "projects" => model.projects = reader.projects(node)?,
            "cache_dir" => model.cache_dir = reader.granted_path(node, false)?.path,
            "plugin_paths" => {
                model.plugin_paths = reader
                    .list(node, "a list of directories")?
                    .iter()
                    .map(|item| Ok(reader.path(item, false)?.path))
                    .collect::<Result<_, ConfigError>>()?;
            }
            "audit" => model.audit = reader.audit(node)?,
            "defaults" => model.defaults = reader.grant_keys(node, "defaults")?,
            "egress" => {}
            "plugins" => model.plugins = reader.plugins(node)?,
            _ => return Err(reader.unknown(key, "the configuration", KEYS)),
        }
    }
    Ok(model)
}

impl Reader<'_> {
    fn projects(&self, node: &Node) -> Result<Vec<ProjectPattern>, ConfigError> {
        let mut projects = Vec::new();
        for item in self.list(node, "a list of patterns")? {
            let text = self.string(item, "a pattern such as \"/srv/*\"")?;
            let pattern = ProjectPattern::parse(text, self.dir)
                .map_err(|expected| self.error(item.at, format!("{}: {expected}", quote(text))))?;
            if is_reserved(&pattern.path) {
                return Err(self.error(item.at, reserved(text)));
            }
            projects.push(pattern);
        }
        Ok(projects)
    }

    fn egress_groups(&self, node: &Node) -> Result<BTreeMap<String, EgressGroup>, ConfigError> {
        let mut groups = BTreeMap::new();
        for (key, group) in self.table(node, "egress")? {
            if !value::is_group_name(&key.name) {
                let what = quote(&key.name);
                return Err(self.error(
                    key.at,
                    format!(
                        "{what} is not a valid name for an egress group; expected letters, digits, \"_\" and \"-\""
                    ),
                ));
            }
            groups.insert(key.name.clone(), self.egress_group(&key.name, group)?);
        }
        Ok(groups)
    }

    fn plugins(&self, node: &Node) -> Result<BTreeMap<String, Plugin>, ConfigError> {
        let mut plugins = BTreeMap::new();
        let mut methods = 0;
        for (number, (key, node)) in self.table(node, "plugins")?.iter().enumerate() {
            let plugin = self.plugin(key, node)?;
            methods += plugin.allowed_methods.len();
            if number >= MAX_PLUGINS || methods > MAX_METHODS {
                let most = format!("at most {MAX_PLUGINS} plugins and {MAX_METHODS} methods in one configuration");
                return Err(self.error(key.at, format!("too many; expected {most}")));
            }
            plugins.insert(key.name.clone(), plugin);
        }
        Ok(plugins)
    }

    fn audit(&self, node: &Node) -> Result<Audit, ConfigError> {
        let mut audit = Audit::default();
        for (key, node) in self.table(node, "audit")? {
            match key.name.as_str() {
                "journald" => {
                    let words = [
                        ("auto", JournaldMode::Auto),
                        ("required", JournaldMode::Required),
                        ("off", JournaldMode::Off),
                    ];
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
                "client" => {
                    client =
                        Some((key.at, self.word(node, &[("pip", PackageManager::Pip), ("npm", PackageManager::Npm)])?))
                }
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
                    .error(at, "\"client\" and \"hosts\" together; expected one of them, the other in its own group"));
            }
            (None, None) => {
                return Err(self.error(group.at, format!("the egress group {} needs `hosts` or `client`", quote(name))));
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
                let wrong = || self.error(node.at, format!("not a valid proxy; expected {EXPECTED}"));
                let authority = url.strip_prefix("http://").ok_or_else(wrong)?;
                let authority = authority.strip_suffix('/').unwrap_or(authority);
                let (credentials, place) = authority.rsplit_once('@').unwrap_or(("", authority));
                let (host, port) = place.rsplit_once(':').ok_or_else(wrong)?;
                // the same rules as in the gateway, which would report the error only at the first connection
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

    fn plugin(&self, key: &Key, node: &Node) -> Result<Plugin, ConfigError> {
        let name = &key.name;
        if !value::is_plugin_name(name) {
            return Err(self.error(
                key.at,
                format!("{} is not a valid plugin name; expected a class name, [A-Z][A-Za-z0-9_]{{0,63}}", quote(name)),
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
                    let expected = "method names, [A-Za-z][A-Za-z0-9_]{0,63}, or \"__introspect__\"";
                    allowed_methods = Some(self.names(node, expected, value::is_method_name)?);
                }
                "schemas" => schemas = Some(self.path(node, false)?.path),
                "methods" => methods_node = Some(node),
                _ if self.grant_key(&mut keys, key, node)? => {}
                _ => {
                    let own = ["module", "exec", "allowed_methods", "schemas", "methods"];
                    let known: Vec<&str> = own.into_iter().chain(keys::Key::names()).collect();
                    return Err(self.unknown(key, "a plugin", &known));
                }
            }
        }
        let entry = match (module, exec) {
            (Some(module), None) => EntrySpec::Module(module),
            (None, Some((_, path))) => EntrySpec::Exec(path),
            (Some(_), Some((at, _))) => {
                return Err(self.error(at, "\"exec\" and \"module\" together; expected one of them"));
            }
            (None, None) => {
                return Err(self.error(key.at, format!("{name} needs `module` or `exec`")));
            }
        };
        let allowed_methods =
            allowed_methods.ok_or_else(|| self.error(key.at, format!("{name} is missing `allowed_methods`")))?;
        let methods =
            methods_node.map(|node| self.methods(name, node, &allowed_methods)).transpose()?.unwrap_or_default();
        Ok(Plugin { name: name.clone(), line: self.line(key.at), entry, allowed_methods, schemas, keys, methods })
    }

    fn methods(
        &self,
        plugin: &str,
        node: &Node,
        allowed: &[String],
    ) -> Result<BTreeMap<String, GrantKeys>, ConfigError> {
        let mut methods = BTreeMap::new();
        for (key, node) in self.table(node, "methods")? {
            if !allowed.contains(&key.name) {
                return Err(self.error(
                    key.at,
                    format!(
                        "{} is not in `allowed_methods` of {plugin}; add it there or remove this table",
                        quote(&key.name)
                    ),
                ));
            }
            methods.insert(key.name.clone(), self.grant_keys(node, "a method")?);
        }
        Ok(methods)
    }

    /// A table of grant keys only.
    fn grant_keys(&self, node: &Node, what: &str) -> Result<GrantKeys, ConfigError> {
        let mut keys = GrantKeys::default();
        for (key, node) in self.table(node, what)? {
            if !self.grant_key(&mut keys, key, node)? {
                return Err(self.unknown(key, what, &keys::Key::names().collect::<Vec<_>>()));
            }
        }
        Ok(keys)
    }

    /// Reads a grant key into `keys`; false if it is not a grant key. Error messages begin with the key.
    fn grant_key(&self, keys: &mut GrantKeys, key: &Key, node: &Node) -> Result<bool, ConfigError> {
        let Some(grant_key) = keys::Key::named(&key.name) else { return Ok(false) };
        keys.set(grant_key, self.line(key.at), self, node).map_err(|mut error| {
            error.message = format!("{}: {}", key.name, error.message);
            error
        })?;
        Ok(true)
    }
}
