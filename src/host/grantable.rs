//! Whether this host would accept a remedy's paths as grants. It uses only names and their file status, because a confined
//! supervisor cannot do more. The result is advice: each call checks granted paths again, by descriptor.

use crate::decide::grant::Decision;
use crate::keys::Key;
use crate::text::escape;
use crate::types::Change;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

/// Checks that the paths of `change` that are not granted yet can be granted.
///
/// # Errors
/// A message: which path cannot be granted, why, and what to do.
pub fn paths(decision: &Decision, change: &Change) -> Result<(), String> {
    for setting in &change.0 {
        let (write, granted) = match Key::named(&setting.key) {
            Some(Key::Read) => (false, &decision.grant.read),
            Some(Key::Write) => (true, &decision.grant.write),
            _ => continue,
        };
        for text in setting.value.as_array().into_iter().flatten().filter_map(|item| item.as_str()) {
            let path = Path::new(text);
            // Paths that start with a variable are from the configuration and already granted.
            if path.is_absolute() && !granted.iter().any(|one| one == path) {
                one(decision, path, write)?;
            }
        }
    }
    Ok(())
}

/// The same for a caller who may see less of the host than this process: nothing is disclosed about paths.
///
/// # Errors
/// A message, for each change that would grant a path.
pub fn untold(change: &Change) -> Result<(), String> {
    match change.0.iter().find(|setting| matches!(Key::named(&setting.key), Some(Key::Read | Key::Write))) {
        None => Ok(()),
        Some(setting) => Err(format!(
            "paths are not proposed to this caller; the configuration's owner can run `upm explain --may` to get the change of `{}`",
            setting.key
        )),
    }
}

fn one(decision: &Decision, path: &Path, write: bool) -> Result<(), String> {
    let shown = path.display();
    let text =
        path.to_str().ok_or_else(|| format!("{shown}: its name is not UTF-8, which a configuration cannot say"))?;
    if escape(text, false) != text || text.contains(['{', '}']) {
        return Err(format!(
            "{}: its name has characters that are not shown as they are, or that a configuration cannot say; rename it",
            escape(text, false)
        ));
    }
    let mut at = PathBuf::from("/");
    for part in path.components() {
        let Component::Normal(name) = part else { continue };
        at.push(name);
        match std::fs::symlink_metadata(&at) {
            Ok(data) if data.is_symlink() => {
                return Err(format!(
                    "{} is a symbolic link, which grants do not follow; let the plugin use its target",
                    at.display()
                ));
            }
            Ok(data) if at == *path => {
                if !data.is_dir() && !data.is_file() {
                    return Err(format!(
                        "{shown}: only directories and regular files can be granted, never a socket, pipe or device"
                    ));
                }
                if write && data.uid() == 0 {
                    return Err(format!(
                        "{shown} belongs to root, and root's files are never proposed for writing: give it to another user \
                         (chown), or grant another directory"
                    ));
                }
            }
            Ok(_) => {}
            // A call creates these if they are granted.
            Err(error)
                if error.kind() == ErrorKind::NotFound
                    && [&decision.project_root, &decision.cache_dir].iter().any(|made| made.starts_with(path)) =>
            {
                return Ok(());
            }
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return Err(format!("{} does not exist; create it first", at.display()));
            }
            Err(error) => {
                return Err(format!(
                    "{}: {error}; cannot determine here whether {shown} can be granted; run `upm explain {} {} --may`",
                    at.display(),
                    decision.plugin,
                    decision.method
                ));
            }
        }
    }
    Ok(())
}
