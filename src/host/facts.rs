//! Gathers what the plan needs to know about the host.

use crate::config::{self, ConfigErrorKind, Grant};
use crate::confine::step::{Step, StepError};
use crate::decide::grant::Decision;
use crate::decide::plan::{Facts, PROCESSORS, PluginCode};
use crate::keys::Key;
use crate::types::{Cause, Code, Details, Entry, Failure, Layer};
use crate::walk;
use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

/// The entries of `/etc` that programs read, often through links from `/usr`: files of the distribution that every user of the host
/// may read. They contain nothing about the host's users, and no secrets.
const ETC: [&str; 20] = [
    "ld.so.cache",
    // Not all of `ssl`: it also contains private keys, which a user's supplementary group may be able to read.
    "ssl/certs",
    "ssl/cert.pem",
    "ssl/openssl.cnf",
    "pki/tls/certs",
    "pki/tls/cert.pem",
    "pki/tls/openssl.cnf",
    "pki/ca-trust",
    "ca-certificates",
    // Debian's openssl.cnf is complete; Fedora's includes this.
    "crypto-policies",
    "localtime",
    "alternatives",
    // getservbyname(3), getprotobyname(3), Python's mimetypes.
    "services",
    "protocols",
    "mime.types",
    // Links to /usr and /proc.
    "os-release",
    "mtab",
    // fontconfig; a JVM's settings, on Fedora and (below) on Debian.
    "fonts",
    "java",
    "R",
];
/// Where JVMs are: Debian's `java-17-openjdk-amd64` there has its settings in `/etc/java-17-openjdk`.
const JVMS: &str = "/usr/lib/jvm";
/// Names of the root that are `/usr` or links into it (file-hierarchy(7)); older systems have real directories.
const ROOT: [&str; 7] = ["usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32"];
/// The default user for plugins when root calls. If it does not exist, the kernel's overflow user is used.
const OWN_USER: &str = "upm";
/// Where [`OWN_USER`] is looked up. Other sources of nsswitch.conf(5) are not used: if the user is missing, each call
/// would load their libraries and wait for their servers.
const PASSWD: &str = "/etc/passwd";
/// Limit for the bytes of [`PASSWD`].
const MAX_PASSWD: u64 = 4 << 20;
const OVERFLOW_ID: u32 = 65534;

/// A warning if other services also use the plugin's user on the host.
#[must_use]
pub fn shared_user(outside: u32) -> Option<&'static str> {
    (outside == OVERFLOW_ID).then_some(
        "user 65534 is \"nobody\", which other services use too: their processes may signal the plugin and write to its \
         files; create a user for plugins (`useradd --system --no-create-home --shell /usr/sbin/nologin upm`, as the packages \
         do), or set `run_as`",
    )
}

/// Facts for one method. The plugin's files and its interpreter are opened once, checked for who could change them, and
/// kept for the call ([`walk::hold`]).
///
/// # Errors
/// As [`around`]; `config_invalid` if somebody else could change the code; `module_not_found` if the plugin's files do not
/// exist.
pub fn gather(decision: &Decision) -> Result<Facts, Failure> {
    let mut links = BTreeMap::new();
    let nothing = PluginCode { path: PathBuf::new(), search: PathBuf::new(), embedded: None };
    let facts = around(&decision.grant, nothing)?;
    Ok(Facts {
        interpreter_prefixes: match decision.entry {
            Entry::Python { .. } => interpreter_prefixes(decision, &mut links)?,
            Entry::Exec { .. } => Vec::new(),
        },
        code: code(&decision.entry, &decision.plugin_paths, &mut links)?,
        links,
        ..facts
    })
}

/// Facts for a grant whose code needs no check.
///
/// # Errors
/// `config_invalid` if `run_as` is unknown or root; `sandbox_unavailable` without Landlock, or with an older ABI than
/// the grant requires.
pub fn around(grant: &Grant, code: PluginCode) -> Result<Facts, Failure> {
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
        etc_entries: etc_entries(),
        processors: Path::new(PROCESSORS).is_dir(),
        interpreter_prefixes: Vec::new(),
        code,
        links: BTreeMap::new(),
    })
}

/// The running kernel's Landlock ABI; an error if it is below `least`.
pub(crate) fn landlock_abi(least: u32) -> Result<u32, Failure> {
    let abi =
        crate::sys::process::landlock_version().map_err(|error| StepError::new(Step::Landlock, "landlock", error))?;
    if abi < least {
        let remedy = "boot a newer kernel with landlock enabled (`lsm=landlock,…`), or lower `landlock_min_abi` and accept less protection";
        return Err(Failure::new(
            Code::SandboxUnavailable,
            format!("landlock: this kernel has ABI {abi}, the grant requires {least}; {remedy}"),
        )
        .with(Details::Layer {
            layer: Layer::Landlock,
            cause: Some(Cause::Key(Key::LandlockMinAbi)),
            remedy: Some(remedy.to_owned()),
        }));
    }
    Ok(abi)
}

fn etc_entries() -> BTreeMap<String, Option<PathBuf>> {
    let etc = Path::new("/etc");
    let jvms = fs::read_dir(JVMS).into_iter().flatten().flatten().filter_map(|jvm| jvm.file_name().into_string().ok());
    let jvms = jvms.filter(|jvm| jvm.starts_with("java-"));
    let settings: Vec<String> = jvms.filter_map(|jvm| Some(jvm.rsplit_once('-')?.0.to_owned())).collect();
    let mut found = entries(etc, &ETC);
    found.extend(entries(etc, &settings.iter().map(String::as_str).collect::<Vec<_>>()));
    found
}

/// Those of `names` that exist in `directory`; links with their targets.
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

/// The host user and group of plugins when root calls.
pub(crate) fn run_as(named: Option<&str>) -> Result<(u32, u32), Failure> {
    let invalid =
        |why: String| Failure::new(Code::ConfigInvalid, format!("run_as: {why}")).with(Details::Key(Key::RunAs));
    let user = match named {
        None => own_user().unwrap_or((OVERFLOW_ID, OVERFLOW_ID)),
        Some(text) => match text.parse::<u32>() {
            Ok(uid) => {
                let known = nix::unistd::User::from_uid(uid.into()).ok().flatten();
                (uid, known.map_or(uid, |user| user.gid.as_raw()))
            }
            Err(_) => {
                let user = nix::unistd::User::from_name(text)
                    .map_err(|errno| invalid(format!("{text}: {errno}")))?
                    .ok_or_else(|| invalid(format!("{text}: no such user on this host; `getent passwd` lists them")))?;
                (user.uid.as_raw(), user.gid.as_raw())
            }
        },
    };
    if user.0 == 0 || user.1 == 0 || user.0 == u32::MAX {
        return Err(invalid("a plugin never runs as root; set it to an unprivileged user".to_owned()));
    }
    Ok(user)
}

/// User and group of [`OWN_USER`], from passwd(5).
fn own_user() -> Option<(u32, u32)> {
    let mut text = Vec::new();
    fs::File::open(PASSWD).ok()?.take(MAX_PASSWD).read_to_end(&mut text).ok()?;
    let number = |field: Option<&[u8]>| std::str::from_utf8(field?).ok()?.parse().ok();
    text.split(|byte| *byte == b'\n').find_map(|line| {
        let mut fields = line.split(|byte| *byte == b':');
        let is_own = fields.next() == Some(OWN_USER.as_bytes());
        let (uid, gid) = (number(fields.nth(1)), number(fields.next()));
        is_own.then_some((uid?, gid?))
    })
}

/// Directories outside `/usr` that the interpreter needs: its prefix and, for a virtual environment, that of the
/// interpreter that it links to.
fn interpreter_prefixes(decision: &Decision, links: &mut BTreeMap<PathBuf, PathBuf>) -> Result<Vec<PathBuf>, Failure> {
    let interpreter = &decision.grant.interpreter;
    let found = |path: &Path| {
        config::check_trusted(path).map_err(|error| match error.kind {
            ConfigErrorKind::NotFound => Failure::new(
                Code::ConfigInvalid,
                format!("{}: interpreter: {}; install it, or name another", interpreter.display(), missing()),
            )
            .with(Details::Key(Key::Interpreter)),
            _ => error.into(),
        })
    };
    let real = found(interpreter)?;
    // Links on the way to the interpreter's directory are resolved, but its own name is kept: Python looks for pyvenv.cfg
    // beside the link.
    let name = interpreter.file_name().unwrap_or_default();
    let bin = found(interpreter.parent().unwrap_or(Path::new("/")))?.object;
    links.extend(real.links);
    let mut prefixes = Vec::new();
    for (program, bin) in [(bin.path().join(name), Some(&bin)), (real.real.clone(), real.object.parent())] {
        if program.starts_with("/usr") {
            continue;
        }
        let prefix = bin.filter(|bin| bin.path().ends_with("bin")).and_then(|bin| bin.parent()).ok_or_else(|| {
            refuse_prefix(interpreter, &program, "because the interpreter is not in a `bin` directory")
        })?;
        let path = prefix.path().to_owned();
        let owner = nix::unistd::User::from_uid(prefix.stat().st_uid.into()).ok().flatten();
        let is_home = owner.is_some_and(|user| user.dir == path);
        if path.parent().is_none() || path == Path::new("/root") || is_home {
            return Err(refuse_prefix(interpreter, &path, "because it is `/` or a home directory"));
        }
        if decision.config_ids.contains(&prefix.id()) {
            let why = format!("because it contains {}", decision.config.display());
            return Err(refuse_prefix(interpreter, &path, &why));
        }
        walk::hold(prefix);
        if !prefixes.contains(&path) {
            prefixes.push(path);
        }
    }
    Ok(prefixes)
}

fn missing() -> std::io::Error {
    rustix::io::Errno::NOENT.into()
}

fn refuse_prefix(interpreter: &Path, prefix: &Path, why: &str) -> Failure {
    Failure::new(
        Code::ConfigInvalid,
        format!(
            "{}: interpreter: its prefix {} cannot be mounted for a plugin, {why}; use one in /usr or in a separate directory",
            interpreter.display(),
            prefix.display()
        ),
    )
    .with(Details::Key(Key::Interpreter))
}

/// A plugin's files: its executable, or the top-level package or module in the first search path that has it.
fn code(
    entry: &Entry,
    plugin_paths: &[PathBuf],
    links: &mut BTreeMap<PathBuf, PathBuf>,
) -> Result<PluginCode, Failure> {
    let not_found = |what: String| Failure::new(Code::ModuleNotFound, what);
    match entry {
        Entry::Exec { path } => {
            let found = config::check_trusted_tree(path).map_err(|error| match error.kind {
                ConfigErrorKind::NotFound => not_found(format!("{}: {}", path.display(), missing())),
                _ => error.into(),
            })?;
            walk::hold(&found.object);
            links.extend(found.links);
            Ok(PluginCode { path: found.real, search: PathBuf::new(), embedded: None })
        }
        Entry::Python { module } => {
            let top = module.split('.').next().unwrap_or(module);
            for search in plugin_paths {
                let search = match config::check_trusted(search) {
                    Ok(search) => search,
                    Err(error) if error.kind == ConfigErrorKind::NotFound => continue,
                    Err(error) => return Err(error.into()),
                };
                for path in [search.real.join(top), search.real.join(format!("{top}.py"))] {
                    let found = match config::check_trusted_tree(&path) {
                        Ok(found) => found,
                        Err(error) if error.kind == ConfigErrorKind::NotFound => continue,
                        Err(error) => return Err(error.into()),
                    };
                    // The sandbox would look up the link's name, but only its target is mounted.
                    if found.real != path {
                        return Err(not_found(format!(
                            "{}: is a symbolic link to {}; add that directory's parent to plugin_paths",
                            path.display(),
                            found.real.display()
                        )));
                    }
                    walk::hold(&found.object);
                    links.extend(search.links);
                    return Ok(PluginCode { path: found.real, search: search.real, embedded: None });
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
