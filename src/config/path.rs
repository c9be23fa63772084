//! Paths as the configuration writes them, and whether what rules a plugin lies where a plugin may write.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// What a configured path starts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base {
    /// The file system's root, or the configuration's directory: fixed when the file was read.
    Fixed,
    /// `{project_root}`, known with the call.
    ProjectRoot,
    /// `{cache_dir}`, known with the plugin.
    CacheDir,
}

/// A path of the configuration, checked for its form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathSpec {
    /// What `path` is relative to.
    pub base: Base,
    /// Absolute for [`Base::Fixed`], else what follows the variable.
    pub path: PathBuf,
    /// 1-based line and column in the configuration; `None` for built-in values.
    pub place: Option<(usize, usize)>,
}

impl PathSpec {
    /// Reads `text`; a relative path belongs to `dir`. `variables` says whether `{project_root}` and `{cache_dir}` are
    /// known where it stands.
    pub(crate) fn parse(text: &str, dir: &Path, variables: bool) -> Result<Self, String> {
        if text.is_empty() {
            return Err("an empty path; expected a path".to_owned());
        }
        if text.chars().any(char::is_control) {
            return Err("a path with control characters; expected one without".to_owned());
        }
        if text.len() > 4095 {
            return Err("a path longer than 4095 bytes, the kernel's limit".to_owned());
        }
        if text == "~" || text.starts_with("~/") {
            return Err("\"~\" is not expanded; write the directory out".to_owned());
        }
        let (base, rest) = if let Some(rest) = text.strip_prefix("{project_root}") {
            (Base::ProjectRoot, rest)
        } else if let Some(rest) = text.strip_prefix("{cache_dir}") {
            (Base::CacheDir, rest)
        } else {
            (Base::Fixed, text)
        };
        if rest.contains(['{', '}']) {
            return Err(
                "a variable that is not known here; expected {project_root} or {cache_dir}, at the start".to_owned()
            );
        }
        if base == Base::Fixed {
            return Ok(PathSpec { base, path: normalize(&dir.join(rest)), place: None });
        }
        if !variables {
            return Err("variables are not known here; expected a path relative to this file, or absolute".to_owned());
        }
        if !rest.is_empty() && !rest.starts_with('/') {
            return Err("text right after a variable; expected \"/\"".to_owned());
        }
        let rest = Path::new(rest.trim_start_matches('/'));
        if rest.components().any(|part| part == Component::ParentDir) {
            return Err("\"..\" after a variable; expected a path below it".to_owned());
        }
        Ok(PathSpec { base, path: normalize(rest), place: None })
    }

    /// The absolute path, with the variables' values.
    pub fn expand(&self, project_root: &Path, cache_dir: &Path) -> PathBuf {
        let base = match self.base {
            Base::Fixed => return self.path.clone(),
            Base::ProjectRoot => project_root,
            Base::CacheDir => cache_dir,
        };
        // joining an empty path would leave a slash at the end
        if self.path.as_os_str().is_empty() { base.to_owned() } else { base.join(&self.path) }
    }
}

/// As the configuration writes it.
impl fmt::Display for PathSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let base = match self.base {
            Base::Fixed => return write!(f, "{}", self.path.display()),
            Base::ProjectRoot => "{project_root}",
            Base::CacheDir => "{cache_dir}",
        };
        if self.path.as_os_str().is_empty() { f.write_str(base) } else { write!(f, "{base}/{}", self.path.display()) }
    }
}

/// `path` without `.`, `..` and doubled slashes, by its text alone: granted paths are opened without following
/// symbolic links, so that the text is what counts.
pub fn normalize(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                out.pop();
            }
            Component::CurDir => {}
            part => out.push(part),
        }
    }
    out
}

/// The kernel's own directories and the root, which no grant can name.
pub fn is_reserved(path: &Path) -> bool {
    path == Path::new("/") || ["/proc", "/sys", "/dev", "/run"].iter().any(|reserved| path.starts_with(reserved))
}

/// Follows symbolic links of absolute paths, as far as there is something; the rest is taken as it is written.
#[derive(Debug, Default)]
pub(crate) struct Resolver {
    /// Directories known to be no links, so that paths with a common beginning cost one `readlink` a component.
    plain: HashSet<PathBuf>,
}

impl Resolver {
    pub(crate) fn real(&mut self, path: &Path) -> PathBuf {
        self.walk(path, &mut |_| {})
    }

    /// `path` as it is written, each symbolic link that leads from it to where it ends, and that end.
    pub(crate) fn trail(&mut self, path: &Path) -> Vec<PathBuf> {
        let mut trail = vec![normalize(path)];
        let real = self.walk(path, &mut |link| trail.push(link.to_owned()));
        trail.push(real);
        trail.dedup();
        trail
    }

    fn walk(&mut self, path: &Path, on_link: &mut dyn FnMut(&Path)) -> PathBuf {
        let mut todo: Vec<OsString> = Vec::new();
        let push = |todo: &mut Vec<OsString>, path: &Path| {
            for part in path.components().rev() {
                match part {
                    Component::Normal(name) => todo.push(name.to_owned()),
                    Component::ParentDir => todo.push("..".into()),
                    _ => {}
                }
            }
        };
        push(&mut todo, path);
        let mut real = PathBuf::from("/");
        let mut links = 0;
        while let Some(name) = todo.pop() {
            if name.as_bytes() == b".." {
                real.pop();
                continue;
            }
            real.push(name);
            if self.plain.contains(&real) {
                continue;
            }
            match std::fs::read_link(&real) {
                // a loop resolves to nothing; the kernel refuses it when it is opened
                Ok(target) if links < 40 => {
                    links += 1;
                    on_link(&real);
                    if target.is_absolute() {
                        real = PathBuf::from("/");
                    } else {
                        real.pop();
                    }
                    push(&mut todo, &target);
                }
                _ => {
                    self.plain.insert(real.clone());
                }
            }
        }
        real
    }
}

/// Whether normal absolute `path` is `dir` or below it. By bytes: `Path::starts_with` takes components apart, and every
/// `write` is held against everything protected.
fn is_within(path: &Path, dir: &Path) -> bool {
    let (path, dir) = (path.as_os_str().as_bytes(), dir.as_os_str().as_bytes());
    path.strip_prefix(dir).is_some_and(|rest| rest.is_empty() || rest[0] == b'/' || dir == b"/")
}

/// Something that decides what a plugin may do or is, and that no plugin may therefore write.
#[derive(Debug, Clone)]
pub(crate) struct Protected {
    /// What it is, for the message.
    pub what: String,
    /// Its path as configured, the symbolic links that lead from there to it, and its real path; all normal.
    pub paths: Vec<PathBuf>,
    /// Whether a writable path below it is as bad as one above it.
    pub below_too: bool,
}

impl Protected {
    /// Whether whoever may write `write` could change this.
    pub(crate) fn is_touched_by(&self, write: &Path) -> bool {
        self.paths.iter().any(|path| is_within(path, write) || (self.below_too && is_within(write, path)))
    }
}

/// A pattern of `projects`: an absolute path whose components may hold `*`, which matches no `/` and, at the start of
/// a component, no leading dot, as in a shell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProjectPattern {
    /// As the configuration has it.
    pub text: String,
    /// Absolute, the part before the first `*` without symbolic links.
    pub(crate) path: PathBuf,
}

impl ProjectPattern {
    pub(crate) fn parse(text: &str, dir: &Path, resolver: &mut Resolver) -> Result<Self, String> {
        if text.contains("**") || text.contains(['?', '[', ']']) {
            return Err("a pattern beyond \"*\"; expected a path with \"*\" for any name at one level".to_owned());
        }
        let path = PathSpec::parse(text, dir, false)?.path;
        let is_pattern = |part: &Component<'_>| part.as_os_str().as_bytes().contains(&b'*');
        let fixed: PathBuf = path.components().take_while(|part| !is_pattern(part)).collect();
        let open: PathBuf = path.components().skip_while(|part| !is_pattern(part)).collect();
        let fixed = resolver.real(&fixed);
        let path = if open.as_os_str().is_empty() { fixed } else { fixed.join(open) };
        Ok(ProjectPattern { text: text.to_owned(), path })
    }

    /// Whether `real`, a path without symbolic links, is one of those meant.
    pub fn matches(&self, real: &Path) -> bool {
        let (mut pattern, mut names) = (self.path.components(), real.components());
        loop {
            match (pattern.next(), names.next()) {
                (None, None) => return true,
                (Some(p), Some(n)) if component_matches(p.as_os_str().as_bytes(), n.as_os_str().as_bytes()) => {}
                _ => return false,
            }
        }
    }
}

fn component_matches(pattern: &[u8], name: &[u8]) -> bool {
    let mut pieces = pattern.split(|b| *b == b'*');
    let first = pieces.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let pieces: Vec<&[u8]> = pieces.collect();
    let Some((last, middle)) = pieces.split_last() else { return rest.is_empty() };
    if first.is_empty() && rest.starts_with(b".") {
        return false;
    }
    for piece in middle.iter().filter(|piece| !piece.is_empty()) {
        match rest.windows(piece.len()).position(|window| window == *piece) {
            Some(at) => rest = &rest[at + piece.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(text: &str) -> Result<PathSpec, String> {
        PathSpec::parse(text, Path::new("/etc/upm"), true)
    }

    #[test]
    fn paths_expand() {
        let expand = |text: &str| spec(text).unwrap().expand(Path::new("/srv/p"), Path::new("/var/c/P"));
        for (text, path) in [
            ("a/./b//c", "/etc/upm/a/b/c"),
            ("../x", "/etc/x"),
            ("/a/../../b", "/b"),
            (".", "/etc/upm"),
            ("{project_root}", "/srv/p"),
            ("{project_root}/", "/srv/p"),
            ("{project_root}//a/./b", "/srv/p/a/b"),
            ("{project_root}/./a", "/srv/p/a"),
            ("{cache_dir}//./", "/var/c/P"),
            ("{cache_dir}/x", "/var/c/P/x"),
            ("~user", "/etc/upm/~user"),
        ] {
            assert_eq!(expand(text).as_os_str(), path, "{text}");
        }
        for text in [
            "",
            "~",
            "~/x",
            "a\0b",
            "a\nb",
            "{home}",
            "a/{project_root}",
            "{project_root}x",
            "{cache_dir}/../x",
            "{project_root",
            "x}",
        ] {
            assert!(spec(text).is_err(), "{text:?}");
        }
        assert!(
            PathSpec::parse("{cache_dir}", Path::new("/"), false).unwrap_err().starts_with("variables are not known")
        );
    }

    #[test]
    fn reserved_directories() {
        for path in ["/", "/proc", "/proc/1", "/sys", "/dev/shm", "/run/user/0"] {
            assert!(is_reserved(Path::new(path)), "{path}");
        }
        for path in ["/process", "/srv", "/home/x/dev", "/device"] {
            assert!(!is_reserved(Path::new(path)), "{path}");
        }
    }

    #[test]
    fn links_are_resolved_as_far_as_there_is_something() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        std::os::unix::fs::symlink("a", root.join("rel")).unwrap();
        std::os::unix::fs::symlink(root.join("a/b"), root.join("abs")).unwrap();
        std::os::unix::fs::symlink("../rel/b/..", root.join("a/up")).unwrap();
        std::os::unix::fs::symlink("loop", root.join("loop")).unwrap();
        let mut resolver = Resolver::default();
        for (path, real) in [
            ("rel/b", "a/b"),
            ("abs/new/file", "a/b/new/file"),
            ("a/up/x", "a/x"),
            ("none/x", "none/x"),
            ("loop/x", "loop/x"),
        ] {
            assert_eq!(resolver.real(&root.join(path)), root.join(real), "{path}");
        }
        let trail: Vec<_> = ["rel/b", "rel", "a/b"].iter().map(|path| root.join(path)).collect();
        assert_eq!(resolver.trail(&root.join("rel/b")), trail);
    }

    #[test]
    fn project_patterns() {
        let matches = |pattern: &str, path: &str| {
            ProjectPattern::parse(pattern, Path::new("/etc/upm"), &mut Resolver::default())
                .unwrap()
                .matches(Path::new(path))
        };
        for (pattern, path) in [
            ("/nosrv/*", "/nosrv/a"),
            ("/nosrv/*/x", "/nosrv/a/x"),
            ("/nosrv/a*b*c", "/nosrv/a1b2b3c"),
            ("/nosrv/.*", "/nosrv/.a"),
            ("p/*", "/etc/upm/p/q"),
            ("/nosrv/a", "/nosrv/a"),
        ] {
            assert!(matches(pattern, path), "{pattern} {path}");
        }
        for (pattern, path) in [
            ("/nosrv/*", "/nosrv"),
            ("/nosrv/*", "/nosrv/a/b"),
            ("/nosrv/*", "/nosrv/.a"),
            ("/nosrv/a*b", "/nosrv/a"),
            ("/nosrv/ab*b", "/nosrv/ab"),
            ("/nosrv/a", "/nosrv/ab"),
            ("/nosrv/*x*", "/nosrv/aay"),
        ] {
            assert!(!matches(pattern, path), "{pattern} {path}");
        }
        for pattern in ["/a/**", "/a/?", "/a/[b]", "~/x", ""] {
            assert!(ProjectPattern::parse(pattern, Path::new("/"), &mut Resolver::default()).is_err(), "{pattern}");
        }
    }

    #[test]
    fn protection_looks_up_and_down() {
        let protected =
            |below_too| Protected { what: String::new(), paths: vec!["/a/b".into(), "/real/b".into()], below_too };
        for write in ["/", "/a", "/a/b", "/real"] {
            assert!(protected(false).is_touched_by(Path::new(write)), "{write}");
        }
        for write in ["/a/bc", "/a/b/c", "/r"] {
            assert!(!protected(false).is_touched_by(Path::new(write)), "{write}");
        }
        assert!(protected(true).is_touched_by(Path::new("/a/b/c")));
    }
}
