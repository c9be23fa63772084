//! No grant lets a plugin change what controls plugins: the configuration, plugins, schemas, interpreters and upm's own records.

use super::{Config, ConfigError, DEFAULT_INTERPRETER, EntrySpec, GrantKeys, is_reserved, planted, protect};
use crate::mounts::Table;
use crate::text::shorten;
use protect::{Protected, Reach};
use std::collections::HashSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Characters of a message about two paths: more than both can have.
const SHOWN: usize = 10_000;

/// What controls plugins, as objects of this host.
#[derive(Debug, Clone)]
pub(super) struct Rules {
    protected: Vec<Protected>,
    mounts: Table,
}

impl Config {
    /// What a plugin that may write to `write`, an absolute path, could change, such as `the configuration
    /// /etc/upm/upm_config.toml`; `None` if nothing that controls plugins. Objects are compared, not names.
    pub(crate) fn ruled_by(&self, write: &Path) -> Option<String> {
        let ruled = || match self.reach(write)? {
            Some(reach) => Ok(reach.rules(&self.rules()?.protected).map(str::to_owned)),
            None => Ok(None),
        };
        ruled().unwrap_or_else(|error: std::io::Error| Some(format!("files that could not be checked ({error})")))
    }

    /// Looks up what controls plugins on this host, on first use.
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

    /// Where a granted path contains a kernel file system or `/run`: at the path itself, or mounted below it.
    pub(crate) fn reserved(&self, granted: &Path) -> Option<PathBuf> {
        match self.reach(granted) {
            Ok(reach) => reach.and_then(|reach| reach.reserved().map(Path::to_owned)),
            // If that is unknown, the path is not granted.
            Err(_) => Some(granted.to_owned()),
        }
    }

    fn reach(&self, path: &Path) -> std::io::Result<Option<Reach>> {
        let Some(walked) = protect::reachable(path)? else { return Ok(None) };
        // The supervisor of a started user's call is in its own mount namespace: there, the mounts must be read again.
        Reach::of(&walked, &self.rules()?.mounts).or_else(|_| Reach::of(&walked, &Table::read()?)).map(Some)
    }
}

/// Everything that controls plugins.
pub(super) fn ruling(
    config: &Config,
    env: &dyn Fn(&str) -> Option<OsString>,
    is_root: bool,
) -> Vec<(String, PathBuf, bool)> {
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
    // the audit file's default path is protected too
    if let Some(file) = config.audit.file.clone().or_else(|| planted::default_audit_file(is_root, env)) {
        add("the audit file", &file, false);
    }
    for dir in planted::record_dirs(is_root, env) {
        add("the record of what plugins may write,", &dir, true);
    }
    // what upm keeps between calls; paths inside, such as the packages' default project, may be written
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

/// Refuses each `write`, even an overridden one, that would let a plugin change what controls plugins.
pub(super) fn check_writes(config: &Config) -> Result<(), ConfigError> {
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
                if let Some(what) = write.then(|| config.ruled_by(&path)).flatten() {
                    return Err(error(format!(
                        "write lets a plugin change {what}, because it grants {}; grant a directory apart from it",
                        path.display()
                    )));
                }
            }
        }
    }
    Ok(())
}

/// Whether a process that may write to `write` could change `other` or anything in it.
///
/// # Errors
/// The host's mounts cannot be read.
pub(crate) fn could_change(write: &Path, other: &Path) -> std::io::Result<bool> {
    let table = Table::read()?;
    let other = Protected::new(String::new(), other, true, &table)?;
    let Some(walked) = protect::reachable(write)? else { return Ok(false) };
    Ok(Reach::of(&walked, &table)?.rules(std::slice::from_ref(&other)).is_some())
}

/// The message that a granted path contains what is never granted.
pub(crate) fn shows_reserved(path: &Path, shown: &Path) -> String {
    format!(
        "{}: {} is a kernel file system or /run, which are never granted under any name; expected another path",
        path.display(),
        shown.display()
    )
}
