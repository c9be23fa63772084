//! Converts what a call looked for and did not get into the configuration change that would grant it.

use super::verdict::{Remedy, View, no_exec, path_key};
use crate::keys::Key;
use crate::types::{Change, LookFor};
use std::collections::BTreeSet;
use std::ops::Bound;
use std::path::{Path, PathBuf};

/// A path that was looked for, and what exists of it on this host.
#[derive(Debug, Clone)]
pub struct Found {
    /// The purpose.
    pub act: LookFor,
    /// The path.
    pub path: PathBuf,
    /// Whether it is a directory; `None` if it does not exist.
    pub directory: Option<bool>,
    /// The nearest existing directory above it, for a path that is to be created.
    pub above: PathBuf,
}

/// What to grant, and what cannot be granted.
#[derive(Debug, Default)]
pub struct Suggestion {
    /// The paths to read.
    pub read: Vec<PathBuf>,
    /// The paths to write.
    pub write: Vec<PathBuf>,
    /// The hosts to connect to.
    pub hosts: Vec<(String, u16)>,
    /// Whether terminals are needed.
    pub pty: bool,
    /// What is not suggested, and why.
    pub refused: Vec<(String, String)>,
}

impl Suggestion {
    /// The minimum for each object: its directory if [`View::nearest`] says so, reading rather than writing,
    /// hosts by name. Paths inside a suggested directory are not listed again.
    #[must_use]
    pub fn new(view: &View<'_>, found: &[Found], hosts: &[(String, u16)]) -> Self {
        let mut suggestion = Suggestion { hosts: hosts.to_vec(), ..Suggestion::default() };
        // Sorted by components, so that a directory's contents follow it directly.
        let sought: BTreeSet<&Path> = found.iter().map(|one| one.path.as_path()).collect();
        for write in [true, false] {
            for one in found.iter().filter(|one| (one.act == LookFor::Write) == write) {
                let refused = || no_exec(view.plan, &one.path);
                if let Some(why) = (one.act == LookFor::Execute).then(refused).flatten() {
                    suggestion.refused.push((one.path.display().to_string(), why));
                    continue;
                }
                // A directory on the way to another path that was looked for.
                let behind = || sought.range::<Path, _>((Bound::Excluded(one.path.as_path()), Bound::Unbounded)).next();
                let passage = one.directory == Some(true) && behind().is_some_and(|next| next.starts_with(&one.path));
                if passage {
                    continue;
                }
                let target = match one.directory {
                    Some(true) => one.path.clone(),
                    Some(false) => view.nearest(&one.path),
                    None if write => one.above.clone(),
                    // Nothing to grant.
                    None => continue,
                };
                suggestion.take(view, one, target, write);
            }
        }
        suggestion.write = outermost(suggestion.write, &[]);
        suggestion.read = outermost(suggestion.read, &suggestion.write);
        suggestion
    }

    fn take(&mut self, view: &View<'_>, one: &Found, target: PathBuf, write: bool) {
        if path_key(&one.path, write) == Key::Pty {
            self.pty = true;
            return;
        }
        let narrow = |path: &Path| path.components().count() < 3;
        let remedy = if one.directory.is_none() && narrow(&target) {
            Remedy::Nothing(format!("only {} exists of it; create its directory first", target.display()))
        } else {
            view.grant_for(&one.path, &target, write)
        };
        match remedy {
            Remedy::Change(_) if write => self.write.push(target),
            Remedy::Change(_) => self.read.push(target),
            Remedy::Nothing(why) => self.refused.push((one.path.display().to_string(), why)),
        }
    }

    /// Limits each kind to `most` entries: nobody would read a longer change. The rest is not suggested.
    pub fn cut(&mut self, most: usize) {
        let why = || {
            format!(
                "a change of more than {most} such lines is never proposed; grant a directory with them, or add them by hand"
            )
        };
        for paths in [&mut self.read, &mut self.write] {
            let over = paths.split_off(paths.len().min(most));
            self.refused.extend(over.iter().map(|path| (path.display().to_string(), why())));
        }
        let over = self.hosts.split_off(self.hosts.len().min(most));
        self.refused.extend(over.iter().map(|(name, port)| (format!("{name}:{port}"), why())));
    }

    /// The change, reading before writing; `None` if there is nothing to change.
    #[must_use]
    pub fn change(&self, view: &View<'_>) -> Option<Change> {
        let mut change = Change::default();
        let mut add = |remedy: Remedy| {
            if let Remedy::Change(more) = remedy {
                change.0.extend(more.0);
            }
        };
        if !self.hosts.is_empty() {
            add(view.grant_hosts(&self.hosts));
        }
        for (paths, write) in [(&self.read, false), (&self.write, true)] {
            if !paths.is_empty() {
                add(view.grant_path(paths, write));
            }
        }
        if self.pty {
            add(view.set(Key::Pty, true.into()));
        }
        // Tables first, then the method's own keys together.
        (!change.0.is_empty()).then_some(change)
    }
}

/// The paths that are not inside another one or inside one of `wider`.
fn outermost(mut paths: Vec<PathBuf>, wider: &[PathBuf]) -> Vec<PathBuf> {
    let wider: BTreeSet<&Path> = wider.iter().map(PathBuf::as_path).collect();
    paths.retain(|path| !path.ancestors().any(|above| wider.contains(above)));
    // Sorted by components, as above.
    paths.sort();
    let mut kept: Vec<PathBuf> = Vec::new();
    for path in paths {
        if !kept.last().is_some_and(|last| path.starts_with(last)) {
            kept.push(path);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_outermost_stays() {
        let paths = |list: &[&str]| list.iter().map(PathBuf::from).collect::<Vec<_>>();
        assert_eq!(outermost(paths(&["/a/b", "/a", "/c", "/a", "/ab"]), &[]), paths(&["/a", "/ab", "/c"]));
        assert_eq!(outermost(paths(&["/a/b", "/c"]), &paths(&["/a"])), paths(&["/c"]));
    }
}
