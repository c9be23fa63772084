//! Gathers what plan-making needs to know of the host.

use crate::confine::step::{Step, StepError};
use crate::decide::plan::{Code as PluginCode, Facts};
use crate::types::{Code, Entry, Failure, Grant};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What programs need of `/etc` to start: nothing here tells anything of the host's users or secrets.
const ETC: [&str; 11] = [
    "ld.so.cache",
    // Not whole: beside certificates there are private keys, which a user's supplementary group may be able to read.
    "ssl/certs",
    "ssl/cert.pem",
    "ssl/openssl.cnf",
    "pki/tls/certs",
    "pki/tls/cert.pem",
    "pki/tls/openssl.cnf",
    "pki/ca-trust",
    "ca-certificates",
    "localtime",
    "alternatives",
];
/// Names of the root that are `/usr` or links into it (file-hierarchy(7)); older systems have real directories.
const ROOT: [&str; 7] = ["usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32"];
/// The user that plugins run as when root calls and nothing else is said: upm's own, else the kernel's overflow user.
const OWN_USER: &str = "upm";
const OVERFLOW_ID: u32 = 65534;

/// Facts for one grant.
///
/// # Errors
/// `config_invalid` where `run_as` names nobody or root; `module_not_found` where the plugin's files are not there;
/// `sandbox_unavailable` without landlock, or with an older one than the grant wants.
pub fn gather(grant: &Grant, entry: &Entry, plugin_paths: &[PathBuf], protected: &[PathBuf]) -> Result<Facts, Failure> {
    let caller_uid = nix::unistd::getuid().as_raw();
    let caller_gid = nix::unistd::getgid().as_raw();
    let (outside_uid, outside_gid) =
        if caller_uid == 0 { run_as(grant.run_as.as_deref())? } else { (caller_uid, caller_gid) };
    Ok(Facts {
        caller_uid,
        caller_gid,
        outside_uid,
        outside_gid,
        landlock_abi: landlock_abi(grant.landlock_min_abi)?,
        root_entries: entries(Path::new("/"), &ROOT),
        etc_entries: entries(Path::new("/etc"), &ETC),
        interpreter_prefixes: match entry {
            Entry::Python { .. } => interpreter_prefixes(&grant.interpreter, protected)?,
            Entry::Exec { .. } => Vec::new(),
        },
        code: code(entry, plugin_paths)?,
    })
}

/// The running kernel's landlock ABI, at least `least`.
pub(super) fn landlock_abi(least: u32) -> Result<u32, Failure> {
    let abi =
        crate::sys::process::landlock_version().map_err(|error| StepError::new(Step::Landlock, "landlock", error))?;
    if abi < least {
        let remedy = "boot a newer kernel with landlock enabled (`lsm=landlock,…`), or lower `landlock_min_abi` knowing what is lost";
        return Err(Failure::new(
            Code::SandboxUnavailable,
            format!("landlock: this kernel has ABI {abi}, the grant wants {least}; {remedy}"),
        )
        .detail("layer", "landlock")
        .detail("remedy", remedy));
    }
    Ok(abi)
}

/// Those of `names` that are in `directory`, with what they point to where they are links.
fn entries(directory: &Path, names: &[&str]) -> BTreeMap<String, Option<PathBuf>> {
    names
        .iter()
        .filter_map(|name| {
            let path = directory.join(name);
            match fs::read_link(&path) {
                Ok(to) => Some(((*name).to_owned(), Some(to))),
                Err(_) => path.exists().then(|| ((*name).to_owned(), None)),
            }
        })
        .collect()
}

/// User and group that plugins are outside when root calls.
pub(super) fn run_as(named: Option<&str>) -> Result<(u32, u32), Failure> {
    let invalid = |why: String| Failure::new(Code::ConfigInvalid, format!("run_as: {why}")).detail("key", "run_as");
    let user = match named {
        None => match nix::unistd::User::from_name(OWN_USER) {
            Ok(Some(user)) => (user.uid.as_raw(), user.gid.as_raw()),
            _ => (OVERFLOW_ID, OVERFLOW_ID),
        },
        Some(text) => match text.parse::<u32>() {
            Ok(uid) => {
                let known = nix::unistd::User::from_uid(uid.into()).ok().flatten();
                (uid, known.map_or(uid, |user| user.gid.as_raw()))
            }
            Err(_) => {
                let user = nix::unistd::User::from_name(text)
                    .map_err(|errno| invalid(format!("{text}: {errno}")))?
                    .ok_or_else(|| invalid(format!("{text}: no such user; name one of `getent passwd`")))?;
                (user.uid.as_raw(), user.gid.as_raw())
            }
        },
    };
    if user.0 == 0 || user.1 == 0 || user.0 == u32::MAX {
        return Err(invalid("a plugin never runs as root; name an unprivileged user".to_owned()));
    }
    Ok(user)
}

/// Directories besides `/usr` that the interpreter needs: its own prefix, and for a virtual environment the one of the
/// interpreter that it links to.
fn interpreter_prefixes(interpreter: &Path, protected: &[PathBuf]) -> Result<Vec<PathBuf>, Failure> {
    let missing = |error: std::io::Error| {
        Failure::new(Code::ConfigInvalid, format!("{}: interpreter: {error}", interpreter.display()))
            .detail("key", "interpreter")
    };
    let real = fs::canonicalize(interpreter).map_err(missing)?;
    // Links on the way to the interpreter's directory are resolved, the name itself is kept: pyvenv.cfg is looked up
    // beside the link.
    let name = interpreter.file_name().unwrap_or_default();
    let parent = fs::canonicalize(interpreter.parent().unwrap_or(Path::new("/"))).map_err(missing)?;
    let mut prefixes = Vec::new();
    for program in [parent.join(name), real] {
        if program.starts_with("/usr") {
            continue;
        }
        let prefix = program
            .parent()
            .filter(|bin| bin.ends_with("bin"))
            .and_then(Path::parent)
            .ok_or_else(|| refuse_prefix(interpreter, &program, "it does not lie in a `bin` directory"))?
            .to_path_buf();
        let home = fs::metadata(&prefix).map_err(missing)?;
        let is_home =
            nix::unistd::User::from_uid(home.uid().into()).ok().flatten().is_some_and(|user| user.dir == prefix);
        if prefix.parent().is_none() || prefix == Path::new("/root") || is_home {
            return Err(refuse_prefix(interpreter, &prefix, "that is `/` or a home directory"));
        }
        if let Some(path) = protected.iter().find(|path| path.starts_with(&prefix)) {
            return Err(refuse_prefix(interpreter, &prefix, &format!("it holds {}", path.display())));
        }
        if !prefixes.contains(&prefix) {
            prefixes.push(prefix);
        }
    }
    Ok(prefixes)
}

fn refuse_prefix(interpreter: &Path, prefix: &Path, why: &str) -> Failure {
    Failure::new(
        Code::ConfigInvalid,
        format!(
            "{}: interpreter: its prefix {} cannot be shown to a plugin, {why}; use one under /usr or in a directory of its own",
            interpreter.display(),
            prefix.display()
        ),
    )
    .detail("key", "interpreter")
}

/// The files of a plugin: its executable, or the top-level package or module under the first search path that has it.
fn code(entry: &Entry, plugin_paths: &[PathBuf]) -> Result<PluginCode, Failure> {
    let not_found = |what: String| Failure::new(Code::ModuleNotFound, what);
    match entry {
        Entry::Exec { path } => {
            let real = fs::canonicalize(path).map_err(|error| not_found(format!("{}: {error}", path.display())))?;
            Ok(PluginCode { path: real, search: PathBuf::new(), embedded: None })
        }
        Entry::Python { module } => {
            let top = module.split('.').next().unwrap_or(module);
            for search in plugin_paths {
                let Ok(search) = fs::canonicalize(search) else { continue };
                for path in [search.join(top), search.join(format!("{top}.py"))] {
                    let Ok(real) = fs::canonicalize(&path) else { continue };
                    // A link would be looked up under its own name inside, where only what it points to is mounted.
                    if real != path {
                        return Err(not_found(format!(
                            "{}: is a symbolic link to {}; add that directory's parent to plugin_paths",
                            path.display(),
                            real.display()
                        )));
                    }
                    return Ok(PluginCode { path: real, search, embedded: None });
                }
            }
            let searched: Vec<String> = plugin_paths.iter().map(|path| path.display().to_string()).collect();
            Err(not_found(format!(
                "module {module}: neither {top}/ nor {top}.py in plugin_paths ({})",
                searched.join(", ")
            )))
        }
    }
}
