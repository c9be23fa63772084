//! Finds the configuration and reads it.

use super::{Config, ConfigError, ConfigErrorKind, error_of, planted, read_trusted, understand};
use crate::walk::{self, How};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Bytes that a configuration may have.
const MAX_BYTES: u64 = 1 << 20;

/// Finds, checks and reads the configuration. `cli` is `--config`; without it the order is
/// `$UPM_CONFIG_PATH`, `./upm_config.toml`, `./upm_config.json`, `$XDG_CONFIG_HOME/upm/upm_config.toml` (not as root),
/// `/etc/upm/upm_config.toml`. A file named by `--config` or `UPM_CONFIG_PATH` must exist.
pub fn load(cli: Option<&Path>) -> Result<Config, ConfigError> {
    load_with(cli, &|name| std::env::var_os(name), nix::unistd::getuid().is_root())
}

pub(super) fn load_with(
    cli: Option<&Path>,
    env: &dyn Fn(&str) -> Option<OsString>,
    is_root: bool,
) -> Result<Config, ConfigError> {
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
        // a file that exists but cannot be used is an error; the search does not continue
        match std::fs::symlink_metadata(path) {
            Ok(_) => return load_file(path, true, env, is_root),
            Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {}
            Err(error) => {
                return Err(ConfigError::new(ConfigErrorKind::Io, path, format!("cannot be accessed: {error}")));
            }
        }
    }
    let list: Vec<String> = searched.iter().map(|path| path.display().to_string()).collect();
    Err(ConfigError::new(
        ConfigErrorKind::NotFound,
        &searched[0],
        format!(
            "no configuration found; searched: {}. Create one with a plugin ([plugins.NAME] with module and \
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
    // After the read: a call that is recorded later can no longer change what was read.
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
