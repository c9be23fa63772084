//! The configuration: where it is, who may write it, what it says.
//!
//! The file is found, checked for who could change it, and read through the descriptor that was checked
//! ([`trust`]); TOML and JSON become one tree with places ([`tree`]) and then typed values ([`model`]), those of grants by one
//! table of keys ([`crate::keys`]). What rules a plugin must not lie where a plugin may write; that is looked at once, when the
//! file is read.
#![forbid(unsafe_code)]

mod edit;
mod error;
pub mod keys;
mod model;
mod outline;
mod path;
mod planted;
mod protect;
mod reader;
mod schema;
mod tree;
mod trust;
mod value;

pub use error::{ConfigError, ConfigErrorKind};
pub use keys::{At, Grant, GrantKeys, Level, Limits, Origin};
pub use model::{Audit, AuditArguments, EntrySpec, Journald, Plugin};
pub use outline::Outline;
pub use path::{Base, PathSpec, ProjectPattern, is_reserved, normalize};
pub use planted::{granted, record_dirs, record_keys, state_dirs};
pub use schema::{Schema, load_schema};
pub(crate) use trust::error_of;
pub use trust::{Trusted, check_trusted, check_trusted_tree, read_trusted};
pub use value::{host as parse_host, is_plugin_name};

use crate::mounts::Table;
use crate::quote::shorten;
use crate::types::{Change, EgressGroup};
use crate::walk::{self, How, Id, Object, WalkError};
use protect::{Protected, Reach};
use rustix::io::Errno;
use sha2::{Digest, Sha256};
use std::cell::OnceCell;
use std::collections::{BTreeMap, HashSet};
use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

/// Bytes that a configuration may have.
const MAX_BYTES: u64 = 1 << 20;
/// Characters of a message about two paths: more than both can have.
const SHOWN: usize = 10_000;
/// The built-in `interpreter`.
pub const DEFAULT_INTERPRETER: &str = "/usr/bin/python3";

/// A configuration that can be gone by.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file, absolute, as it was named.
    pub path: PathBuf,
    /// Its directory without symbolic links; relative paths belong to it.
    pub dir: PathBuf,
    /// SHA-256 of its bytes, in hexadecimal.
    pub sha256: String,
    /// Absolute; may not exist yet.
    pub project_root: PathBuf,
    /// What `--project` may name besides.
    pub projects: Vec<ProjectPattern>,
    /// Absolute; may not exist yet. A plugin gets the directory of its name below it.
    pub cache_dir: PathBuf,
    /// Where modules are looked for, absolute, in order. Without the key: `plugins` beside the file, then the file's
    /// own directory. A directory may be missing.
    pub plugin_paths: Vec<PathBuf>,
    /// Where records go.
    pub audit: Audit,
    /// Grant keys for all plugins.
    pub defaults: GrantKeys,
    /// Egress groups by name.
    pub egress: BTreeMap<String, EgressGroup>,
    /// Plugins by class.
    pub plugins: BTreeMap<String, Plugin>,
    /// The lines of all of it.
    pub outline: Outline,
    /// The configuration file and every directory on the way to it.
    own: Vec<Id>,
    /// What rules plugins: its name in messages, its path, whether a writable path below it is as bad as one above it.
    ruling: Vec<(String, PathBuf, bool)>,
    /// The same on this host, from when it is first asked for: most configurations grant no path.
    rules: OnceCell<Rules>,
}

/// Where what rules plugins lies on this host.
#[derive(Debug, Clone)]
struct Rules {
    protected: Vec<Protected>,
    mounts: Table,
}

impl Config {
    /// What `write`, an absolute path, would let a plugin change of what rules plugins: a sentence's subject such as `the
    /// configuration /etc/upm/upm_config.toml`. Another name of such a thing is the same thing.
    pub(crate) fn ruled_by(&self, write: &Path) -> Option<String> {
        let ruled = || match self.reach(write)? {
            Some(reach) => Ok(reach.rules(&self.rules()?.protected).map(str::to_owned)),
            None => Ok(None),
        };
        ruled().unwrap_or_else(|error: std::io::Error| Some(format!("what it cannot be held against ({error})")))
    }

    /// Looks up where what rules plugins lies, when it is first asked for.
    ///
    /// # Errors
    /// A path cannot be followed, or the host's mounts cannot be read.
    fn rules(&self) -> std::io::Result<&Rules> {
        if let Some(rules) = self.rules.get() {
            return Ok(rules);
        }
        let mounts = Table::read()?;
        let protected =
            |(what, path, below_too): &(String, PathBuf, bool)| Protected::new(what.clone(), path, *below_too, &mounts);
        let protected = self.ruling.iter().map(protected).collect::<std::io::Result<_>>()?;
        Ok(self.rules.get_or_init(|| Rules { protected, mounts }))
    }

    /// Where a granted path shows a file system of the kernel, or `/run`: itself, or what is mounted below it.
    pub(crate) fn reserved(&self, granted: &Path) -> Option<PathBuf> {
        match self.reach(granted) {
            Ok(reach) => reach.and_then(|reach| reach.reserved().map(Path::to_owned)),
            // Without knowing, nothing is granted.
            Err(_) => Some(granted.to_owned()),
        }
    }

    fn reach(&self, path: &Path) -> std::io::Result<Option<Reach>> {
        let Some(walked) = protect::reachable(path)? else { return Ok(None) };
        // Once a user's call was started, its supervisor is in a mount namespace of its own.
        Reach::of(&walked, &self.rules()?.mounts).or_else(|_| Reach::of(&walked, &Table::read()?)).map(Some)
    }

    /// The configuration file and every directory on the way to it: no plugin is shown one of them with what it holds.
    pub(crate) fn own_ids(&self) -> Vec<Id> {
        self.own.clone()
    }

    /// Whether `dir` is `project_root`, or one of `projects`, and may be granted at all.
    pub(crate) fn is_project(&self, dir: &ProjectDir) -> bool {
        let is_root = || {
            let root = walk::find(&self.project_root, How::RootLinks);
            root.is_ok_and(|root| root.id() == dir.0.id())
        };
        let named = || is_root() || self.projects.iter().any(|pattern| pattern.matches(&dir.0));
        !is_reserved(dir.path()) && named()
    }

    /// Whether `path` could be `project_root` or one of `projects` by its names alone, with neither `..` nor a link of
    /// somebody else's in them. Nothing of it is looked up: how far a walk comes tells what is there.
    pub(crate) fn spells_project(&self, path: &Path) -> bool {
        !path.components().any(|part| part == Component::ParentDir)
            && (path::leads_to(&self.project_root, path)
                || self.projects.iter().any(|pattern| pattern.is_spelled(path)))
    }

    /// The lines that say `change`, in this file's format.
    pub fn lines(&self, change: &Change) -> String {
        edit::lines(change, self.is_json())
    }

    /// This file's text (as `upm` itself would write it, where it is JSON) and the text with `change` made in it, and that
    /// it would be a configuration to go by. Nothing is written.
    ///
    /// # Errors
    /// What the changed file would be refused for.
    pub fn changed(&self, change: &Change) -> Result<(String, Config), ConfigError> {
        let text = edit::apply(self.outline.text(), self.is_json(), change)
            .map_err(|error| ConfigError::new(ConfigErrorKind::Invalid, &self.path, error))?;
        let env = |name: &str| std::env::var_os(name);
        let is_root = rustix::process::getuid().is_root();
        let config = understand(&self.path, &self.dir, text.clone().into_bytes(), &env, is_root)?;
        Ok((text, config))
    }

    /// The text that [`Config::changed`] starts from.
    pub fn unchanged(&self) -> String {
        if self.is_json() {
            edit::pretty_json(self.outline.text()).unwrap_or_else(|_| self.outline.text().to_owned())
        } else {
            self.outline.text().to_owned()
        }
    }

    fn is_json(&self) -> bool {
        self.path.extension().is_some_and(|extension| extension == "json")
    }

    /// The cache of one plugin.
    pub fn plugin_cache_dir(&self, plugin: &str) -> PathBuf {
        self.cache_dir.join(plugin)
    }
}

/// An existing directory that `--project` named.
#[derive(Debug, Clone)]
pub struct ProjectDir(Rc<Object>);

impl ProjectDir {
    /// Walks `path` from `/`, or from the working directory. A symbolic link is followed where root or the calling user
    /// alone could have placed it.
    pub fn resolve(path: &Path) -> Result<Self, ConfigError> {
        let found = walk::find(path, How::SafeLinks).map_err(|error| {
            let why = match error.errno() {
                errno @ (Errno::NOENT | Errno::NOTDIR) => std::io::Error::from(errno).to_string(),
                _ => error_of(path, error.clone()).message,
            };
            ConfigError::new(error_of(path, error).kind, path, format!("cannot be a project: {why}"))
        })?;
        if !found.is_dir() {
            return Err(ConfigError::new(ConfigErrorKind::Invalid, path, "cannot be a project: it is not a directory"));
        }
        walk::hold(&found);
        Ok(ProjectDir(found))
    }

    /// The directory's path, absolute and without symbolic links.
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

/// Finds, checks, reads and understands the configuration. `cli` is `--config`; without it the order is
/// `$UPM_CONFIG_PATH`, `./upm_config.toml`, `./upm_config.json`, `$XDG_CONFIG_HOME/upm/upm_config.toml` (not as root),
/// `/etc/upm/upm_config.toml`. A file that was named must be there.
pub fn load(cli: Option<&Path>) -> Result<Config, ConfigError> {
    load_with(cli, &|name| std::env::var_os(name), rustix::process::getuid().is_root())
}

fn load_with(cli: Option<&Path>, env: &dyn Fn(&str) -> Option<OsString>, is_root: bool) -> Result<Config, ConfigError> {
    let env_path = |name: &str| env(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let named = match cli {
        Some(path) => Some((path.to_owned(), "--config")),
        None => env_path("UPM_CONFIG_PATH").map(|path| (path, "UPM_CONFIG_PATH")),
    };
    if let Some((path, by)) = named {
        return load_file(&path, false, env, is_root).map_err(|mut error| {
            if error.kind == ConfigErrorKind::NotFound {
                error.message = format!("{}, but {by} names the configuration {}", error.message, path.display());
            }
            error
        });
    }
    let mut searched = vec![PathBuf::from("upm_config.toml"), PathBuf::from("upm_config.json")];
    if !is_root {
        // the XDG base directory specification: relative values are ignored
        let home = || env_path("HOME").map(|home| home.join(".config"));
        let base = env_path("XDG_CONFIG_HOME").filter(|base| base.is_absolute()).or_else(home);
        searched.extend(base.map(|base| base.join("upm/upm_config.toml")));
    }
    searched.push(PathBuf::from("/etc/upm/upm_config.toml"));
    for path in &searched {
        // a file that is there but cannot be used is an error, not a reason to look further
        match std::fs::symlink_metadata(path) {
            Ok(_) => return load_file(path, true, env, is_root),
            Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {}
            Err(error) => {
                return Err(ConfigError::new(ConfigErrorKind::Io, path, format!("cannot be looked at: {error}")));
            }
        }
    }
    let list: Vec<String> = searched.iter().map(|path| path.display().to_string()).collect();
    Err(ConfigError::new(
        ConfigErrorKind::NotFound,
        &searched[0],
        format!(
            "there is no configuration; searched: {}. Make one that names a plugin ([plugins.NAME] with module and \
             allowed_methods), or name one with --config or UPM_CONFIG_PATH",
            list.join(", ")
        ),
    ))
}

fn load_file(
    path: &Path,
    searched: bool,
    env: &dyn Fn(&str) -> Option<OsString>,
    is_root: bool,
) -> Result<Config, ConfigError> {
    let read = read_trusted(path, MAX_BYTES);
    // After the reading: a call that is recorded later writes too late.
    if searched {
        planted::refuse(path, env, is_root)?;
    }
    let (_, bytes) = read?;
    let path = std::path::absolute(path)
        .map_err(|error| ConfigError::new(ConfigErrorKind::Io, path, format!("cannot be resolved: {error}")))?;
    let parent = path.parent().unwrap_or(Path::new("/"));
    let dir = walk::walk(parent, How::SafeLinks).map_err(|error| error_of(parent, error))?.path();
    understand(&path, &dir, bytes, env, is_root)
}

/// What `bytes` say as the configuration `path`, whose ending tells JSON from TOML, to root with an empty environment.
/// Nothing looks at who could have written them: a call goes by [`load`], this is for fuzzing.
#[doc(hidden)]
pub fn read_unchecked(path: &Path, bytes: Vec<u8>) -> Result<Config, ConfigError> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    understand(path, dir, bytes, &|_| None, true)
}

fn understand(
    path: &Path,
    dir: &Path,
    bytes: Vec<u8>,
    env: &dyn Fn(&str) -> Option<OsString>,
    is_root: bool,
) -> Result<Config, ConfigError> {
    let sha256 = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    let source = tree::Source::new(path, bytes)?;
    let is_json = path.extension().is_some_and(|extension| extension == "json");
    let root = if is_json { source.parse_json()? } else { source.parse_toml()? };
    let model = model::read(&source, &root, dir)?;
    let unknown =
        |error: std::io::Error| ConfigError::new(ConfigErrorKind::Io, path, format!("cannot be followed: {error}"));
    let mut config = Config {
        path: path.to_owned(),
        dir: dir.to_owned(),
        sha256,
        project_root: model.project_root,
        projects: model.projects,
        cache_dir: model.cache_dir,
        plugin_paths: model.plugin_paths,
        audit: model.audit,
        defaults: model.defaults,
        egress: model.egress,
        plugins: model.plugins,
        outline: Outline::new(source, root),
        own: protect::on_the_way(path).map_err(unknown)?,
        ruling: Vec::new(),
        rules: OnceCell::new(),
    };
    config.ruling = ruling(&config, env, is_root);
    check_writes(&config)?;
    Ok(config)
}

/// Everything that rules plugins.
fn ruling(config: &Config, env: &dyn Fn(&str) -> Option<OsString>, is_root: bool) -> Vec<(String, PathBuf, bool)> {
    let what = format!("the configuration {}", config.path.display());
    let mut wanted = vec![(what, config.path.clone(), false)];
    let mut known = HashSet::new();
    let mut add = |kind: &str, path: &Path, below_too: bool| {
        let what = format!("{kind} {}", path.display());
        if known.insert(what.clone()) {
            wanted.push((what, path.to_owned(), below_too));
        }
    };
    for dir in &config.plugin_paths {
        add("the plugin folder", dir, false);
    }
    // the default of the audit sink: protected although no key names it
    let state =
        |name: &str, below: &str| env(name).map(|base| PathBuf::from(base).join(below)).filter(|p| p.is_absolute());
    match &config.audit.file {
        Some(file) => add("the audit file", file, false),
        None if is_root => add("the audit file", Path::new("/var/log/upm/audit.jsonl"), false),
        None => {
            let file =
                state("XDG_STATE_HOME", "upm/audit.jsonl").or_else(|| state("HOME", ".local/state/upm/audit.jsonl"));
            if let Some(file) = file {
                add("the audit file", &file, false);
            }
        }
    }
    for dir in planted::record_dirs(is_root, env) {
        add("the record of what plugins may write,", &dir, true);
    }
    // what upm itself keeps from call to call; what lies below, as the packages' default project, may be written
    for dir in planted::state_dirs(is_root, env) {
        add("upm's state directory", &dir, false);
    }
    add("the interpreter", Path::new(DEFAULT_INTERPRETER), false);
    let interpreter = |keys: &GrantKeys, cache: &Path| {
        keys.interpreter.as_ref().map(|key| key.value.expand(&config.project_root, cache))
    };
    for plugin in config.plugins.values() {
        match &plugin.entry {
            EntrySpec::Exec(path) => add("the executable", &path.path, false),
            EntrySpec::Module(module) => {
                let top = module.split('.').next().unwrap_or(module);
                for dir in &config.plugin_paths {
                    add("the plugin", &dir.join(top), true);
                }
            }
        }
        if let Some(schemas) = &plugin.schemas {
            add("the schema folder", schemas, true);
        }
        let cache = config.plugin_cache_dir(&plugin.name);
        for keys in [&config.defaults, &plugin.keys].into_iter().chain(plugin.methods.values()) {
            if let Some(path) = interpreter(keys, &cache) {
                add("the interpreter", &path, false);
            }
        }
    }
    wanted
}

/// Refuses a `write` anywhere, in use or overridden, by which some plugin could change what rules it.
fn check_writes(config: &Config) -> Result<(), ConfigError> {
    for plugin in config.plugins.values() {
        let cache = config.plugin_cache_dir(&plugin.name);
        for keys in [&config.defaults, &plugin.keys].into_iter().chain(plugin.methods.values()) {
            let reads = keys.read.iter().flat_map(|key| &key.value).map(|spec| (spec, false));
            let writes = keys.write.iter().flat_map(|key| &key.value).map(|spec| (spec, true));
            for (spec, write) in reads.chain(writes) {
                let path = spec.expand(&config.project_root, &cache);
                let place = spec.place.unwrap_or((1, 1));
                let error = |message: String| ConfigError::at(&config.path, place, shorten(&message, SHOWN));
                if is_reserved(&path) {
                    return Err(error(format!(
                        "{}: \"/\", /proc, /sys, /dev and /run are never granted; expected another path",
                        path.display()
                    )));
                }
                if let Some(shown) = config.reserved(&path) {
                    return Err(error(shows_reserved(&path, &shown)));
                }
                if write && let Some(what) = config.ruled_by(&path) {
                    return Err(error(format!(
                        "write lets a plugin change {what}, for {} is granted; grant a directory apart from it",
                        path.display()
                    )));
                }
            }
        }
    }
    Ok(())
}

/// Whether the part of a pattern before the first `*` can be followed. It may be missing.
///
/// # Errors
/// A symbolic link on the way that somebody other than root could have placed.
pub(crate) fn fixed_part(pattern: &ProjectPattern) -> Result<(), ConfigError> {
    let fixed = pattern.fixed();
    match walk::walk(&fixed, How::RootLinks) {
        Err(error @ WalkError::UnsafeLink { .. }) => Err(error_of(&fixed, error)),
        _ => Ok(()),
    }
}

/// Whether whoever may write `write` could change `other` or what lies in it.
///
/// # Errors
/// The mounts of the host cannot be told.
pub(crate) fn could_change(write: &Path, other: &Path) -> std::io::Result<bool> {
    let table = Table::read()?;
    let other = Protected::new(String::new(), other, true, &table)?;
    let Some(walked) = protect::reachable(write)? else { return Ok(false) };
    Ok(Reach::of(&walked, &table)?.rules(std::slice::from_ref(&other)).is_some())
}

/// That a granted path shows what is never granted.
pub(crate) fn shows_reserved(path: &Path, shown: &Path) -> String {
    format!(
        "{}: {} is a file system of the kernel, or /run, which are never granted under any name; expected another path",
        path.display(),
        shown.display()
    )
}

#[cfg(test)]
mod tests;
