//! Step `landlock`: one ruleset a call, the same paths as the mounts, every right of the running ABI handled.

use super::step::{Step, StepError};
use super::trees::Tree;
use crate::decide::plan::{Mount, Plan, Source};
use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, NetPort, PathBeneath, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, RulesetStatus, Scope,
};
use rustix::fs::{Mode, OFlags};
use std::io;
use std::path::Path;

/// An error of the crate, with the errno of the system call. Where the crate finds out without one, the kernel lacks a right that its ABI has.
pub fn fail(what: &str, error: impl std::error::Error + 'static) -> StepError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    let mut errno = None;
    while let Some(error) = cause {
        errno = errno.or_else(|| error.downcast_ref::<io::Error>()?.raw_os_error());
        cause = error.source();
    }
    match errno {
        Some(errno) => StepError::new(Step::Landlock, what, io::Error::from_raw_os_error(errno)),
        None => StepError::new(Step::Landlock, format!("{what}: {error}"), nix::Error::EOPNOTSUPP),
    }
}

/// The crate's name for an ABI: rights newer than it knows are not there to be handled.
#[must_use]
pub fn abi(number: u32) -> ABI {
    ABI::from(i32::try_from(number).unwrap_or(0))
}

/// What a path gives: reading, running and, where granted, every way of writing but devices (the call's own terminals can be
/// used). Rules of one layer add up on
/// the way to `/`, mounts included, so that what lies below something writable is writable to landlock, whatever its own
/// rule and however many layers there are: each layer must let new files be made in the outer directory, and what is above
/// those is above the inner one. [`Plan::read_only_by_mount`] lists what is held by its mount alone, and the answer says so.
fn rights(abi: ABI, mount: &Mount, directory: bool) -> BitFlags<AccessFs> {
    let mut rights = AccessFs::ReadFile | AccessFs::ReadDir;
    if mount.exec {
        rights |= AccessFs::Execute;
    }
    if mount.write {
        rights |= AccessFs::from_write(abi) & !(AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::IoctlDev);
        if matches!(mount.source, Source::Terminals(_)) {
            // What ioctl(2) may ask of them is the filter's decision.
            rights |= AccessFs::from_all(abi) & AccessFs::IoctlDev;
        }
        if !matches!(mount.source, Source::Tmpfs { .. }) {
            // A host's server may listen on a path in there.
            rights &= !AccessFs::ResolveUnix;
        }
    }
    if directory { rights } else { rights & AccessFs::from_file(abi) }
}

/// The rights that an ABI has and that are handled for a plugin, by their names in landlock(7).
#[must_use]
pub fn rights_of(number: u32) -> Vec<String> {
    let abi = abi(number);
    let mut names: Vec<String> = AccessFs::from_all(abi).iter().map(|right| snake("fs", &right)).collect();
    names.extend(Scope::from_all(abi).iter().map(|scope| snake("scope", &scope)));
    names
}

/// `ReadFile` as `fs_read_file`.
fn snake(of: &str, right: &impl std::fmt::Debug) -> String {
    format!("{right:?}").chars().fold(of.to_owned(), |mut name, c| {
        if c.is_uppercase() {
            name.push('_');
        }
        name.extend(c.to_lowercase());
        name
    })
}

/// The plugin's ruleset: it handles all paths and scopes that `abi` has, as a hard requirement (the crate's default is best
/// effort). It has no ports, of TCP (ABI 4) or UDP (ABI 10): the call's network namespace holds nothing but the call, so they
/// would take away ports of its own loopback and nothing else, and programs would find another loopback with every ABI.
///
/// # Errors
/// When the kernel lacks what its ABI number says.
pub fn ruleset(number: u32) -> Result<RulesetCreated, StepError> {
    create(number, BitFlags::EMPTY, Scope::from_all(abi(number)))
}

/// The ruleset of the engine's own processes, which are in the host's network: with ports, and without scopes, because they
/// signal the call's processes and the caller signals them.
///
/// # Errors
/// As [`ruleset`].
pub fn unscoped(number: u32) -> Result<RulesetCreated, StepError> {
    create(number, AccessNet::from_all(abi(number)), BitFlags::EMPTY)
}

/// The gateway's ruleset: [`unscoped`] without sending by UDP (ABI 10). The gateway answers questions for names, which come from
/// ports of the call's choice, and a rule names one port.
///
/// # Errors
/// As [`ruleset`].
pub fn gateway(number: u32) -> Result<RulesetCreated, StepError> {
    create(number, AccessNet::from_all(abi(number)) & !AccessNet::ConnectSendUdp, BitFlags::EMPTY)
}

fn create(number: u32, net: BitFlags<AccessNet>, scopes: BitFlags<Scope>) -> Result<RulesetCreated, StepError> {
    let abi = abi(number);
    if abi == ABI::Unsupported {
        let error = crate::sys::process::landlock_version().err().unwrap_or(nix::Error::EOPNOTSUPP.into());
        return Err(StepError::new(Step::Landlock, "landlock", error));
    }
    let build = || {
        let mut ruleset = Ruleset::default()
            .set_compatibility(CompatLevel::HardRequirement)
            .handle_access(AccessFs::from_all(abi))?;
        if !net.is_empty() {
            ruleset = ruleset.handle_access(net)?;
        }
        if !scopes.is_empty() {
            ruleset = ruleset.scope(scopes)?;
        }
        ruleset.create()
    };
    build().map_err(|error| fail("landlock ruleset", error))
}

/// Parent side: the ruleset with the rules of all host paths.
///
/// # Errors
/// A rule that the kernel refuses; never skipped.
pub fn prepare(plan: &Plan, trees: &[Tree]) -> Result<RulesetCreated, StepError> {
    let abi = abi(plan.landlock_abi);
    let mut rules = ruleset(plan.landlock_abi)?;
    for tree in trees {
        let mount = &plan.mounts[tree.index];
        rules = rules
            .add_rule(PathBeneath::new(tree.object.fd(), rights(abi, mount, tree.directory)))
            .map_err(|error| fail(&mount.path.display().to_string(), error))?;
    }
    Ok(rules)
}

/// Adds the rules of ports that may be dialled, as far as the ABI has rights for that.
///
/// # Errors
/// A rule that the kernel refuses.
pub fn dialling(
    mut rules: RulesetCreated,
    abi: ABI,
    ports: impl IntoIterator<Item = u16>,
) -> Result<RulesetCreated, StepError> {
    let all = AccessNet::from_all(abi);
    if !all.contains(AccessNet::ConnectTcp) {
        return Ok(rules);
    }
    for port in ports {
        rules = rules
            .add_rule(NetPort::new(port, AccessNet::ConnectTcp))
            .map_err(|error| fail(&format!("port {port}"), error))?;
    }
    // A datagram socket is bound to a port of the kernel's choice by its first datagram.
    if all.contains(AccessNet::BindUdp) {
        rules = rules.add_rule(NetPort::new(0, AccessNet::BindUdp)).map_err(|error| fail("port 0", error))?;
    }
    Ok(rules)
}

/// Child side: adds the rules of what was made fresh in the root, then restricts. Returns the ruleset for the layer that
/// the plugin alone takes later.
///
/// # Errors
/// A rule that the kernel refuses, or anything less than full enforcement.
pub fn step(plan: &Plan, rules: RulesetCreated) -> Result<RulesetCreated, StepError> {
    let abi = abi(plan.landlock_abi);
    let beneath = |rules: RulesetCreated, path: &Path, rights: BitFlags<AccessFs>| {
        let object = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
            .map_err(|error| StepError::new(Step::Landlock, path.display().to_string(), error))?;
        rules.add_rule(PathBeneath::new(object, rights)).map_err(|error| fail(&path.display().to_string(), error))
    };
    // Listing only: what lies below is the sealed root itself and mounts that all have rules of their own.
    let mut rules = beneath(rules, Path::new("/"), AccessFs::ReadDir.into())?;
    for directory in ["/etc", "/run/upm"] {
        rules = beneath(rules, Path::new(directory), AccessFs::ReadFile | AccessFs::ReadDir)?;
    }
    for mount in &plan.mounts {
        if matches!(mount.source, Source::Tmpfs { .. } | Source::Proc | Source::Terminals(_)) {
            rules = beneath(rules, &mount.path, rights(abi, mount, true))?;
        }
    }
    restrict(rules)
}

/// Restricts the process, and hands the ruleset back for a further layer.
///
/// # Errors
/// Anything less than full enforcement.
pub fn restrict(rules: RulesetCreated) -> Result<RulesetCreated, StepError> {
    let again = rules.try_clone().map_err(|error| StepError::new(Step::Landlock, "ruleset", error))?;
    // no_new_privs is a step of its own, before this one.
    let status = rules.no_new_privs(false).restrict_self().map_err(|error| fail("restrict_self", error))?;
    if status.ruleset != RulesetStatus::FullyEnforced {
        let only = format!("landlock: only {:?}", status.ruleset);
        return Err(StepError::new(Step::Landlock, only, nix::Error::EOPNOTSUPP));
    }
    Ok(again)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::plan::Why;
    use std::fs;
    use std::path::PathBuf;

    fn mount(path: PathBuf, write: bool) -> Mount {
        Mount { path, source: Source::Host { mapped: true }, write, exec: true, why: Why::Read }
    }

    /// The rules of a plan with no mount around them. That an inner rule takes nothing away is what the kernel documents, and why
    /// `read_only_by_mount` is reported: if a kernel ever does otherwise, this test fails.
    #[test]
    fn rules_of_a_parent_add_up() {
        let Ok(number) = crate::sys::process::landlock_version() else { return };
        let home = tempfile::tempdir().unwrap();
        let at = |below: &str| home.path().join(below);
        for dir in ["write/read", "apart"] {
            fs::create_dir_all(at(dir)).unwrap();
        }
        let (inner, apart) = (at("write/read/file"), at("apart/file"));
        for file in [&inner, &apart] {
            fs::write(file, "x").unwrap();
        }
        let mounts = [mount(at("write"), true), mount(at("write/read"), false), mount(at("apart"), false)];
        // A domain is the thread's own.
        let tried = std::thread::spawn(move || {
            let mut rules = ruleset(number).unwrap();
            for one in &mounts {
                let object = rustix::fs::open(&one.path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
                rules = rules.add_rule(PathBeneath::new(object, rights(abi(number), one, true))).unwrap();
            }
            nix::sys::prctl::set_no_new_privs().unwrap();
            // As the plugin has it: two layers.
            restrict(restrict(rules).unwrap()).unwrap();
            let open = |path: &Path| fs::OpenOptions::new().append(true).open(path).map(drop).map_err(|e| e.kind());
            let read = |path: &Path| fs::read(path).is_ok();
            (open(&inner), open(&apart), read(&inner) && read(&apart))
        });
        let tried = tried.join().unwrap();
        assert_eq!(tried, (Ok(()), Err(io::ErrorKind::PermissionDenied), true));
    }
}
