//! The configuration: where it is, who may write it, what it contains.
//!
//! The file is found ([`search`]), its owner and mode are checked, and it is read through the checked descriptor
//! ([`trust`]). TOML and JSON become one tree with places ([`tree`]) and then typed values ([`model`]); [`crate::keys`] is the
//! table of grant keys. When the file is read, [`writes`] checks that no grant lets a plugin change what controls plugins.
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
mod search;
mod tree;
mod trust;
mod value;
mod writes;

pub use error::{ConfigError, ConfigErrorKind};
pub use keys::{At, Grant, GrantKeys, Level, Limits, Origin};
pub use model::{Audit, AuditArguments, EntrySpec, JournaldMode, Plugin};
pub use outline::Outline;
pub use path::{Base, PathSpec, ProjectPattern, is_reserved, normalize};
pub use planted::{default_audit_file, granted, record_dirs, record_keys, state_dirs};
pub use schema::{Schema, load_schema};
pub use search::load;
pub(crate) use trust::error_of;
pub use trust::{Trusted, check_trusted, check_trusted_tree, read_trusted};
pub use value::{host as parse_host, is_plugin_name};
pub(crate) use writes::{could_change, shows_reserved};

use crate::types::{Change, EgressGroup};
use crate::walk::{self, How, Id, Object, WalkError};
use rustix::io::Errno;
use sha2::{Digest, Sha256};
use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

/// The built-in `interpreter`.
pub const DEFAULT_INTERPRETER: &str = "/usr/bin/python3";

/// A valid configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file's absolute path, with its links.
    pub path: PathBuf,
    /// Its directory without symbolic links; relative paths start here.
    pub dir: PathBuf,
    /// SHA-256 of its bytes, in hexadecimal.
    pub sha256: String,
    /// Absolute; may not exist yet.
    pub project_root: PathBuf,
    /// What else `--project` may name.
    pub projects: Vec<ProjectPattern>,
    /// Absolute; may not exist yet. Each plugin gets a directory of its name in it.
    pub cache_dir: PathBuf,
    /// Directories that modules are searched in, absolute, in order. Default: `plugins` beside the file, then the file's
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
    /// The line of each key.
    pub outline: Outline,
    /// The configuration file and every directory on the way to it.
    own: Vec<Id>,
    /// What controls plugins: its name in messages, its path, and whether writable paths inside it are denied too.
    ruling: Vec<(String, PathBuf, bool)>,
    /// The same on this host, looked up on first use: most configurations grant no path.
    rules: OnceCell<writes::Rules>,
}

impl Config {
    /// The configuration file and every directory on the way to it: a plugin never sees the contents of one.
    pub(crate) fn own_ids(&self) -> Vec<Id> {
        self.own.clone()
    }

    /// Whether `dir` is `project_root` or one of `projects`, and not reserved.
    pub(crate) fn is_project(&self, dir: &ProjectDir) -> bool {
        let is_root = || {
            let root = walk::find(&self.project_root, How::RootLinks);
            root.is_ok_and(|root| root.id() == dir.0.id())
        };
        let named = || is_root() || self.projects.iter().any(|pattern| pattern.matches(&dir.0));
        !is_reserved(dir.path()) && named()
    }

    /// Whether the names in `path` alone match `project_root` or one of `projects`; `..` never does. `path` is not
    /// looked up: the result of a walk would reveal what exists.
    pub(crate) fn spells_project(&self, path: &Path) -> bool {
        !path.components().any(|part| part == Component::ParentDir)
            && (path::leads_to(&self.project_root, path)
                || self.projects.iter().any(|pattern| pattern.is_spelled(path)))
    }

    /// `change` as lines in this file's format.
    pub fn lines(&self, change: &Change) -> String {
        edit::lines(change, self.is_json())
    }

    /// The file's text with `change` applied, and the configuration that it gives. Nothing is written.
    ///
    /// # Errors
    /// The changed file would be invalid.
    pub fn changed(&self, change: &Change) -> Result<(String, Config), ConfigError> {
        let text = edit::apply(self.outline.text(), self.is_json(), change)
            .map_err(|error| ConfigError::new(ConfigErrorKind::Invalid, &self.path, error))?;
        let env = |name: &str| std::env::var_os(name);
        let is_root = nix::unistd::getuid().is_root();
        let config = understand(&self.path, &self.dir, text.clone().into_bytes(), &env, is_root)?;
        Ok((text, config))
    }

    /// The text to compare [`Config::changed`] with: the file's own, or its JSON as `upm` writes it.
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

    /// The cache directory of one plugin.
    pub fn plugin_cache_dir(&self, plugin: &str) -> PathBuf {
        self.cache_dir.join(plugin)
    }
}

/// An existing directory, named by `--project`.
#[derive(Debug, Clone)]
pub struct ProjectDir(Rc<Object>);

impl ProjectDir {
    /// Walks `path` from `/`, or from the working directory. It follows only symbolic links that nobody but root and the
    /// calling user could have placed.
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

/// Reads `bytes` as the configuration `path` (JSON if it ends in `.json`, else TOML), as root and with an empty environment.
/// It does not check who could have written them: calls use [`load`], this is for fuzzing.
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
    let source = tree::SourceFile::new(path, bytes)?;
    let is_json = path.extension().is_some_and(|extension| extension == "json");
    let root = if is_json { source.parse_json()? } else { source.parse_toml()? };
    let model = model::read(&source, &root, dir)?;
    let unknown =
        |error: std::io::Error| ConfigError::new(ConfigErrorKind::Io, path, format!("cannot be resolved: {error}"));
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
    config.ruling = writes::ruling(&config, env, is_root);
    writes::check_writes(&config)?;
    Ok(config)
}

/// Checks that the part of a pattern before the first `*` can be followed. It may be missing.
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

#[cfg(test)]
mod tests;
