//! The grant: what the configuration allows one method of one plugin.

use crate::config::keys::{Scope, pick};
use crate::config::{Config, EntrySpec, Grant, GrantKeys, Level, Plugin, ProjectDir};
use crate::text::quote;
use crate::types::{CallerSpec, Code, Details, Entry, Failure};
use crate::walk::Id;
use std::fmt;
use std::path::PathBuf;

/// One allowed method with everything that the configuration specifies for it.
#[derive(Debug, Clone)]
pub struct Decision {
    /// The plugin's class.
    pub plugin: String,
    /// The method.
    pub method: String,
    /// How the plugin is started.
    pub entry: Entry,
    /// The directories that its module is searched in, in order.
    pub plugin_paths: Vec<PathBuf>,
    /// Its grant.
    pub grant: Grant,
    /// The call's project: `--project`, or the configuration's.
    pub project_root: PathBuf,
    /// The plugin's cache.
    pub cache_dir: PathBuf,
    /// The directory of `<method>.json`.
    pub schemas: Option<PathBuf>,
    /// The plugin's allowed methods.
    pub allowed: Vec<String>,
    /// The configuration.
    pub config: PathBuf,
    /// The configuration and every directory on the way to it: a plugin never sees the contents of one.
    pub config_ids: Vec<Id>,
}

/// Why a call is not allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DecideError {
    /// The configuration has no such plugin.
    PluginNotAllowed {
        /// The name from the caller.
        plugin: String,
        /// The configuration.
        config: PathBuf,
        /// The configured plugins.
        allowed: Vec<String>,
    },
    /// The plugin has no such allowed method.
    MethodNotAllowed {
        /// The plugin.
        plugin: String,
        /// The name from the caller.
        method: String,
        /// The configuration.
        config: PathBuf,
        /// The plugin's allowed methods.
        allowed: Vec<String>,
    },
    /// `--project` names a directory that the configuration does not allow.
    ProjectNotAllowed {
        /// The directory.
        project: PathBuf,
        /// `project_root` and the patterns of `projects`.
        allowed: Vec<String>,
    },
    /// With this `--project` the plugin could change what controls it.
    ProjectRules {
        /// The directory.
        project: PathBuf,
        /// What it could change.
        what: String,
    },
}

impl fmt::Display for DecideError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |allowed: &[String]| if allowed.is_empty() { "nothing".to_owned() } else { allowed.join(", ") };
        match self {
            DecideError::PluginNotAllowed { plugin, config, allowed } => write!(
                f,
                "{} is not a plugin of {}, which allows {}; to allow it, add a table [plugins.NAME] there",
                quote(plugin),
                config.display(),
                list(allowed)
            ),
            DecideError::MethodNotAllowed { plugin, method, .. }
                if method.starts_with('_') && method != "__introspect__" =>
            {
                write!(f, "{} of {plugin} can never be called: its name starts with \"_\"", quote(method))
            }
            DecideError::MethodNotAllowed { plugin, method, config, allowed } => write!(
                f,
                "{} is not an allowed method of {plugin}, which allows {}; to allow it, add it to `allowed_methods` in {}",
                quote(method),
                list(allowed),
                config.display()
            ),
            DecideError::ProjectNotAllowed { project, allowed } => {
                write!(f, "{} is not an allowed project; --project may be {}", quote(project), list(allowed))
            }
            DecideError::ProjectRules { project, what } => write!(
                f,
                "{} cannot be the project, because the plugin could change {what}; use a directory apart from it",
                quote(project)
            ),
        }
    }
}

impl std::error::Error for DecideError {}

impl From<DecideError> for Failure {
    fn from(error: DecideError) -> Self {
        let message = error.to_string();
        let (code, details) = match error {
            DecideError::PluginNotAllowed { plugin, allowed, .. } => {
                (Code::PluginNotAllowed, Details::NotAllowed { plugin: cut(&plugin), method: None, allowed })
            }
            DecideError::MethodNotAllowed { plugin, method, allowed, .. } => {
                (Code::MethodNotAllowed, Details::NotAllowed { plugin, method: Some(cut(&method)), allowed })
            }
            DecideError::ProjectNotAllowed { project, allowed } => {
                (Code::Usage, Details::Project { project: Details::path(&project), allowed })
            }
            DecideError::ProjectRules { project, what } => {
                (Code::Usage, Details::ProjectRules { project: Details::path(&project), would_write: what })
            }
        };
        Failure::new(code, message).with(details)
    }
}

/// A caller's name as a detail: JSON escapes it, so it is only cut.
fn cut(name: &str) -> String {
    name.chars().take(128).collect()
}

/// Looks up `plugin` and `method` and resolves every grant key: the method's value, or the plugin's, or that of
/// `defaults`, or the built-in one. Values are not merged. `project` is `--project`; it must be `project_root` or match one
/// of `projects`.
pub fn grant(
    config: &Config,
    plugin: &str,
    method: &str,
    project: Option<&ProjectDir>,
) -> Result<Decision, DecideError> {
    let found = config.plugins.get(plugin).ok_or_else(|| DecideError::PluginNotAllowed {
        plugin: plugin.to_owned(),
        config: config.path.clone(),
        allowed: config.plugins.keys().cloned().collect(),
    })?;
    let callable = !method.starts_with('_') || method == "__introspect__";
    if !callable || !found.allowed_methods.iter().any(|allowed| allowed == method) {
        return Err(DecideError::MethodNotAllowed {
            plugin: plugin.to_owned(),
            method: method.to_owned(),
            config: config.path.clone(),
            allowed: found.allowed_methods.clone(),
        });
    }
    let project_root = match project {
        None => config.project_root.clone(),
        Some(dir) => named_project(config, dir)?,
    };
    let cache_dir = config.plugin_cache_dir(plugin);
    let scope = Scope { groups: &config.egress, project_root: &project_root, cache_dir: &cache_dir };
    let grant = Grant::resolve(&levels_of(config, Some(found), method), &scope);
    if project.is_some() {
        // for the configured project, this was checked when the file was read
        if let Some(what) = grant.write.iter().find_map(|path| config.ruled_by(path)) {
            return Err(DecideError::ProjectRules { project: project_root, what });
        }
    }
    let entry = match &found.entry {
        EntrySpec::Module(module) => Entry::Python { module: module.clone() },
        EntrySpec::Exec(path) => Entry::Exec { path: path.path.clone() },
    };
    Ok(Decision {
        plugin: plugin.to_owned(),
        method: method.to_owned(),
        entry,
        plugin_paths: config.plugin_paths.clone(),
        grant,
        project_root,
        cache_dir,
        schemas: found.schemas.clone(),
        allowed: found.allowed_methods.clone(),
        config: config.path.clone(),
        config_ids: config.own_ids(),
    })
}

/// The tables that a method's keys are looked up in, the most specific first.
fn levels_of<'c>(config: &'c Config, plugin: Option<&'c Plugin>, method: &str) -> Vec<(Level, &'c GrantKeys)> {
    let levels = [
        (Level::Method, plugin.and_then(|plugin| plugin.methods.get(method))),
        (Level::Plugin, plugin.map(|plugin| &plugin.keys)),
        (Level::Defaults, Some(&config.defaults)),
    ];
    levels.into_iter().filter_map(|(level, keys)| Some((level, keys?))).collect()
}

/// The same for a decided method.
pub(super) fn levels<'c>(config: &'c Config, decision: &Decision) -> Vec<(Level, &'c GrantKeys)> {
    levels_of(config, config.plugins.get(&decision.plugin), &decision.method)
}

/// `callers` of a method that may not exist: callers that are not allowed get this error before anything is looked up. The
/// most specific table decides, as in [`grant`].
pub fn callers<'c>(config: &'c Config, plugin: &str, method: &str) -> Option<&'c [CallerSpec]> {
    let levels = levels_of(config, config.plugins.get(plugin), method);
    pick(&levels, |keys| keys.callers.as_ref()).map(|(_, at)| at.value.as_slice())
}

/// Every table with grant keys in the configuration.
pub fn tables(config: &Config) -> impl Iterator<Item = &GrantKeys> {
    let plugins =
        config.plugins.values().flat_map(|plugin| std::iter::once(&plugin.keys).chain(plugin.methods.values()));
    std::iter::once(&config.defaults).chain(plugins)
}

fn named_project(config: &Config, dir: &ProjectDir) -> Result<PathBuf, DecideError> {
    if config.is_project(dir) {
        return Ok(dir.path().to_owned());
    }
    let root = config.project_root.display().to_string();
    let allowed = std::iter::once(root).chain(config.projects.iter().map(|pattern| pattern.text.clone())).collect();
    Err(DecideError::ProjectNotAllowed { project: dir.path().to_owned(), allowed })
}

/// The system calls of inotify(7), which `file_watches` adds to the filter.
pub const WATCH_CALLS: &[&str] = if cfg!(target_arch = "x86_64") {
    &["inotify_init", "inotify_init1", "inotify_add_watch", "inotify_rm_watch"]
} else {
    &["inotify_init1", "inotify_add_watch", "inotify_rm_watch"]
};

/// The system calls that the grant adds to the filter.
pub(super) fn syscalls(grant: &Grant) -> Vec<String> {
    let mut all = grant.syscalls.clone();
    if grant.file_watches > 0 {
        let missing = WATCH_CALLS.iter().filter(|name| !grant.syscalls.iter().any(|added| added == *name));
        all.extend(missing.map(|name| (*name).to_owned()));
    }
    all
}
