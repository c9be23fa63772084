//! Paths in the configuration.

use crate::walk::{self, How, Object};
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// What a configured path is relative to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base {
    /// `/` or the configuration's directory, known when the file is read.
    Fixed,
    /// `{project_root}`, known for a call.
    ProjectRoot,
    /// `{cache_dir}`, known for a plugin.
    CacheDir,
}

/// The variables, as written in the configuration.
const VARIABLES: [(&str, Base); 2] = [("{project_root}", Base::ProjectRoot), ("{cache_dir}", Base::CacheDir)];

/// Text with variables in any place. Other braces are text: values such as JSON contain them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(pub String);

impl Template {
    /// The text, with variables replaced. What replaces one is not searched again.
    pub(crate) fn expand(&self, project_root: &Path, cache_dir: &Path) -> String {
        let (mut out, mut rest) = (String::new(), self.0.as_str());
        let next = |rest: &str| {
            VARIABLES
                .iter()
                .filter_map(|(name, base)| Some((rest.find(name)?, *name, *base)))
                .min_by_key(|found| found.0)
        };
        while let Some((at, name, base)) = next(rest) {
            out.push_str(&rest[..at]);
            let value = if base == Base::ProjectRoot { project_root } else { cache_dir };
            out.push_str(&value.to_string_lossy());
            rest = &rest[at + name.len()..];
        }
        out + rest
    }
}

/// A path in the configuration, syntactically valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathSpec {
    /// What `path` is relative to.
    pub base: Base,
    /// Absolute for [`Base::Fixed`], otherwise what follows the variable.
    pub path: PathBuf,
    /// 1-based line and column in the configuration; `None` for built-in values.
    pub place: Option<(usize, usize)>,
}

impl PathSpec {
    /// Parses `text`; a relative path starts at `dir`. `variables`: whether `{project_root}` and `{cache_dir}` are allowed.
    pub(crate) fn parse(text: &str, dir: &Path, variables: bool) -> Result<Self, String> {
        if text.is_empty() {
            return Err("an empty path; expected a path".to_owned());
        }
        if text.chars().any(char::is_control) {
            return Err("a path with control characters; expected one without".to_owned());
        }
        if text.len() > 4095 {
            return Err("a path longer than 4095 bytes; expected a shorter one".to_owned());
        }
        if text == "~" || text.starts_with("~/") {
            return Err("\"~\" is not expanded; expected the full path".to_owned());
        }
        let variable = VARIABLES.iter().find_map(|(name, base)| Some((*base, text.strip_prefix(name)?)));
        let (base, rest) = variable.unwrap_or((Base::Fixed, text));
        if rest.contains(['{', '}']) {
            return Err("an unknown variable; expected {project_root} or {cache_dir}, at the start".to_owned());
        }
        if base == Base::Fixed {
            return Ok(PathSpec { base, path: normalize(&dir.join(rest)), place: None });
        }
        if !variables {
            return Err(
                "variables are not allowed here; expected an absolute path, or one relative to this file".to_owned()
            );
        }
        if !rest.is_empty() && !rest.starts_with('/') {
            return Err("text directly after a variable; expected \"/\"".to_owned());
        }
        let rest = Path::new(rest.trim_start_matches('/'));
        if rest.components().any(|part| part == Component::ParentDir) {
            return Err("\"..\" after a variable; expected a path inside it".to_owned());
        }
        Ok(PathSpec { base, path: normalize(rest), place: None })
    }

    /// The absolute path, with variables replaced.
    pub fn expand(&self, project_root: &Path, cache_dir: &Path) -> PathBuf {
        let base = match self.base {
            Base::Fixed => return self.path.clone(),
            Base::ProjectRoot => project_root,
            Base::CacheDir => cache_dir,
        };
        // joining an empty path would add a trailing slash
        if self.path.as_os_str().is_empty() { base.to_owned() } else { base.join(&self.path) }
    }
}

/// As written in the configuration.
impl fmt::Display for PathSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((base, _)) = VARIABLES.iter().find(|(_, base)| *base == self.base) else {
            return write!(f, "{}", self.path.display());
        };
        if self.path.as_os_str().is_empty() { f.write_str(base) } else { write!(f, "{base}/{}", self.path.display()) }
    }
}

/// `path` without `.`, `..` and doubled slashes. Only the text is processed: granted paths are opened without following
/// symbolic links.
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

/// `/` and the kernel's directories, which are never granted.
pub fn is_reserved(path: &Path) -> bool {
    path == Path::new("/") || ["/proc", "/sys", "/dev", "/run"].iter().any(|reserved| path.starts_with(reserved))
}

/// A pattern of `projects`: an absolute path whose components may contain `*`. As in a shell, `*` does not match `/`, nor a
/// leading dot at the start of a component.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProjectPattern {
    /// As written in the configuration.
    pub text: String,
    /// Absolute and normalized.
    pub(crate) path: PathBuf,
}

impl ProjectPattern {
    pub(crate) fn parse(text: &str, dir: &Path) -> Result<Self, String> {
        if text.contains("**") || text.contains(['?', '[', ']']) {
            return Err(
                "\"**\", \"?\" and \"[]\" are not supported; expected \"*\" for any name at one level".to_owned()
            );
        }
        let path = PathSpec::parse(text, dir, false)?.path;
        Ok(ProjectPattern { text: text.to_owned(), path })
    }

    /// The part before the first `*`.
    pub(crate) fn fixed(&self) -> PathBuf {
        self.path.components().take_while(|part| !is_open(part)).collect()
    }

    /// Whether `directory` matches: it is below the directory that the part before the first `*` leads to, and its names match
    /// the rest. A symbolic link in that part is followed only if nobody but root could have placed it.
    pub fn matches(&self, directory: &Object) -> bool {
        let mut at = directory;
        let open: Vec<Component<'_>> = self.path.components().skip_while(|part| !is_open(part)).collect();
        for pattern in open.iter().rev() {
            let (Some(name), Some(parent)) = (at.path().file_name(), at.parent()) else { return false };
            if !component_matches(pattern.as_os_str().as_bytes(), name.as_bytes()) {
                return false;
            }
            at = parent;
        }
        walk::find(&self.fixed(), How::RootLinks).is_ok_and(|fixed| fixed.id() == at.id())
    }

    /// Whether the names in `path` match. `path` is not looked up.
    pub(crate) fn is_spelled(&self, path: &Path) -> bool {
        let open: Vec<Component<'_>> = self.path.components().skip_while(|part| !is_open(part)).collect();
        let Some(length) = path.components().count().checked_sub(open.len()) else { return false };
        let mut names = path.components();
        let above: PathBuf = names.by_ref().take(length).collect();
        let matches = |(pattern, name): (&Component<'_>, Component<'_>)| {
            component_matches(pattern.as_os_str().as_bytes(), name.as_os_str().as_bytes())
        };
        open.iter().zip(names).all(matches) && leads_to(&self.fixed(), &above)
    }
}

/// Whether `path` is `named`, a path in the configuration, or the same without symbolic links. Only `named` is looked up.
pub(crate) fn leads_to(named: &Path, path: &Path) -> bool {
    path == named || walk::find(named, How::RootLinks).is_ok_and(|found| found.path() == path)
}

fn is_open(part: &Component<'_>) -> bool {
    part.as_os_str().as_bytes().contains(&b'*')
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
    fn text_has_its_variables_replaced_once() {
        let expand = |text: &str| Template(text.to_owned()).expand(Path::new("/p/{cache_dir}"), Path::new("/c"));
        for (text, expected) in [
            ("{cache_dir}{project_root}", "/c/p/{cache_dir}"),
            ("-I{project_root}/a:{cache_dir}", "-I/p/{cache_dir}/a:/c"),
            ("{{cache_dir}}", "{/c}"),
            ("{cache_dir {} {other} {PROJECT_ROOT}", "{cache_dir {} {other} {PROJECT_ROOT}"),
            ("", ""),
        ] {
            assert_eq!(expand(text), expected, "{text}");
        }
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
            PathSpec::parse("{cache_dir}", Path::new("/"), false).unwrap_err().starts_with("variables are not allowed")
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
    fn project_patterns() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        for path in ["srv/a/x", "srv/a1b2b3c", "srv/.a", "srv/ab", "srv/aay", "p/q"] {
            std::fs::create_dir_all(root.join(path)).unwrap();
        }
        let matches = |pattern: &str, path: &str| {
            let found = walk::find(&root.join(path), How::NoLinks).unwrap();
            let pattern = ProjectPattern::parse(pattern, &root).unwrap();
            let matches = pattern.matches(&found);
            assert_eq!(
                pattern.is_spelled(&root.join(path)),
                matches,
                "its names alone give the same result: {pattern:?} {path}"
            );
            matches
        };
        for (pattern, path) in [
            ("srv/*", "srv/a"),
            ("srv/*/x", "srv/a/x"),
            ("srv/a*b*c", "srv/a1b2b3c"),
            ("srv/.*", "srv/.a"),
            ("p/*", "p/q"),
            ("srv/a", "srv/a"),
            ("*/a", "srv/a"),
        ] {
            assert!(matches(pattern, path), "{pattern} {path}");
        }
        for (pattern, path) in [
            ("srv/*", "srv"),
            ("srv/*", "srv/a/x"),
            ("srv/*", "srv/.a"),
            ("srv/a*b", "srv/a"),
            ("srv/ab*b", "srv/ab"),
            ("srv/a", "srv/ab"),
            ("srv/*x*", "srv/aay"),
            ("none/*", "srv/a"),
        ] {
            assert!(!matches(pattern, path), "{pattern} {path}");
        }
        let pattern = ProjectPattern::parse("srv/*/x", &root).unwrap();
        for (path, spelled) in [
            ("srv/none/x", true),
            ("srv//none/./x/", true),
            ("srv/a/../a/x", false),
            ("srv/../srv/none/x", false),
            ("srv/.a/x", false),
            ("srv", false),
        ] {
            assert_eq!(pattern.is_spelled(&root.join(path)), spelled, "whether or not it exists: {path}");
        }
        assert!(!pattern.is_spelled(Path::new("/")) && !pattern.is_spelled(Path::new("srv/a/x")));
        for pattern in ["/a/**", "/a/?", "/a/[b]", "~/x", ""] {
            assert!(ProjectPattern::parse(pattern, Path::new("/")).is_err(), "{pattern}");
        }
    }
}
