//! What an administrator can do when the host refuses a layer: looked for on this very host, where it lets itself be read.
//!
//! A system call that does not exist (`ENOSYS`) or is not permitted (`EPERM`) is a missing layer: the call's own namespaces give
//! every right that a step needs. A failure on one path, one number or a full table is not a missing layer, and has no remedy here.

use super::step::{Step, StepError, Subject};
use crate::sys::clone::{Forked, fork_into};
use nix::errno::Errno;
use nix::sched::CloneFlags;
use std::fs;
use std::path::Path;

/// Namespaces by the names that `/proc/self/ns`, `user.max_*_namespaces` and the kernel's configuration have for them.
const KINDS: [(&str, CloneFlags); 7] = [
    ("user", CloneFlags::CLONE_NEWUSER),
    ("mnt", CloneFlags::CLONE_NEWNS),
    ("pid", CloneFlags::CLONE_NEWPID),
    ("net", CloneFlags::CLONE_NEWNET),
    ("ipc", CloneFlags::CLONE_NEWIPC),
    ("uts", CloneFlags::CLONE_NEWUTS),
    ("cgroup", CloneFlags::CLONE_NEWCGROUP),
];

/// What an administrator can do, by the step that found out, on what, and its errno; `None` where no layer is missing.
#[must_use]
pub(super) fn remedy(error: &StepError, errno: Errno) -> Option<String> {
    by_obstacle((error.step, error.subject), &error.object, errno, &Obstacles::look)
}

/// As [`remedy`], of a host that `look` describes. It is asked only when there is something to say.
fn by_obstacle(
    (step, subject): (Step, Subject),
    object: &str,
    errno: Errno,
    look: &dyn Fn() -> Obstacles,
) -> Option<String> {
    use Errno::{E2BIG, EACCES, EINVAL, ENOENT, ENOSPC, ENOSYS, EOPNOTSUPP, EPERM, EROFS, EUSERS};
    let of_proc = subject == Subject::ProcFile;
    match (step, errno) {
        (Step::Limits, EACCES | EPERM | EROFS | ENOENT) if of_proc => Some(format!(
            "make {object} writable where upm runs: what the call may take of its user's share of the kernel is bounded there (systemd: \
             `ProtectKernelTunables=no`; a container: `--security-opt systempaths=unconfined`)"
        )),
        (Step::Clone, EPERM | EACCES) => Some(look().userns()),
        (Step::IdMap, EPERM | EACCES) if of_proc => Some(look().userns()),
        (Step::Clone | Step::IdMap, ENOENT) => {
            Some("mount a whole /proc where upm runs (systemd: `ProcSubset=all`, `ProtectProc=default`)".to_owned())
        }
        (Step::Clone, ENOSPC) => Some(limits(&exhausted())),
        // A detached tree is a mount namespace to the kernel.
        (Step::Prepare, ENOSPC) => Some(match exhausted() {
            full if full.is_empty() => "raise `sysctl fs.mount-max`: no more mounts fit".to_owned(),
            full => limits(&full),
        }),
        (Step::Clone, EUSERS) => {
            Some("start upm less deep: user namespaces can be nested 32 times, and that many enclose it".to_owned())
        }
        (Step::Clone, EINVAL) if !of_proc => {
            let missing = look().missing_kinds;
            let options = if missing.is_empty() { KINDS.map(|(kind, _)| option(kind)).join(", ") } else { missing };
            Some(format!("use a kernel with {options}"))
        }
        (Step::Root, EPERM) if subject == Subject::OwnProc && !look().covered.is_empty() => Some(format!(
            "other mounts cover {} of the host's /proc (as in containers), so the kernel refuses a fresh one: run upm where /proc is \
             whole (`--security-opt systempaths=unconfined`; systemd: `ProtectKernelTunables=no`, `ProtectKernelLogs=no`, \
             `ProcSubset=all`, `ProtectProc=default`)",
            look().covered
        )),
        (Step::Landlock, ENOSYS | EOPNOTSUPP | EPERM) => Some(look().landlock(errno)),
        (Step::Landlock, E2BIG) => {
            Some("start upm under fewer landlock layers: the kernel stacks 16, and a call takes two".to_owned())
        }
        (Step::Seccomp, EINVAL | EOPNOTSUPP) => {
            Some("use a kernel with CONFIG_SECCOMP_FILTER and user notification (Linux 5.0 or newer)".to_owned())
        }
        // Of one granted path: what holds for all of them has failed on a path of the system before.
        (Step::Prepare, EPERM) if subject == Subject::Granted => None,
        // The program, and not the call.
        (Step::Exec, EPERM) => None,
        // What was read back is what it is.
        (Step::Verify, _) => None,
        (_, ENOSYS | EPERM) => Some(look().refused(calls(step), errno)),
        _ => None,
    }
}

/// The system calls that a step is made of.
fn calls(step: Step) -> &'static str {
    match step {
        Step::Prepare => "openat2, open_tree, mount_setattr, fcntl, fchown, statx, readlinkat, symlinkat, fsync",
        Step::Clone => "clone3 and unshare with namespaces, pipe2, waitid",
        Step::Session => {
            "setsid, keyctl, prctl, ppoll, rt_sigaction, pidfd_open, socketpair, pipe2, setsockopt, \
             sched_getscheduler, sched_setscheduler, getpriority, setpriority, ioprio_get, ioprio_set"
        }
        Step::IdMap => "setgroups, setresgid, setresuid, sendmsg, recvmsg",
        Step::Network => "sethostname, socket, setsockopt, bind, listen, ioctl, sendmsg",
        Step::Root => {
            "mount, fsopen, fsconfig, fsmount, move_mount, mount_setattr, openat2, mkdirat, symlinkat, pivot_root, umount2, \
             chdir, fchdir"
        }
        Step::Limits => "prlimit64",
        Step::Capabilities => "capset, prctl",
        Step::NoNewPrivs => "prctl",
        Step::Landlock => "landlock_create_ruleset, landlock_add_rule, landlock_restrict_self",
        Step::Verify => "mknodat",
        Step::Init => "clone, prctl, dup2, close_range, wait4, setitimer, signalfd4, ppoll",
        Step::Seccomp => "seccomp",
        Step::Exec => "execve",
    }
}

/// The kernel's configuration option for a kind of namespace; mount namespaces have none.
fn option(kind: &str) -> String {
    match kind {
        "mnt" => "mount namespaces".to_owned(),
        "cgroup" => "CONFIG_CGROUPS".to_owned(),
        kind => format!("CONFIG_{}_NS", kind.to_uppercase()),
    }
}

/// Which kinds of namespaces are at their limit, each tried: the limits of all enclosing user namespaces count, and only
/// one's own can be read.
fn exhausted() -> Vec<&'static str> {
    let full = |flags: CloneFlags| match fork_into((flags | CloneFlags::CLONE_NEWUSER).bits() as u64, None) {
        Ok(Forked::Child) => crate::sys::process::exit_now(0),
        Ok(Forked::Parent { pid, .. }) => {
            // ECHILD cannot happen: nothing else waits for it.
            crate::sys::process::wait_usage(pid).ok();
            false
        }
        Err(error) => error.raw_os_error() == Some(Errno::ENOSPC as i32),
    };
    if full(CloneFlags::CLONE_NEWUSER) {
        return vec!["user"];
    }
    KINDS.into_iter().filter(|(_, flag)| full(*flag)).map(|(kind, _)| kind).collect()
}

fn limits(exhausted: &[&str]) -> String {
    let all = KINDS.map(|(kind, _)| kind);
    let kinds = if exhausted.is_empty() { &all } else { exhausted };
    let keys: Vec<String> = kinds.iter().map(|kind| format!("`sysctl user.max_{kind}_namespaces`")).collect();
    format!("raise {}: the limit is reached or zero, here or in an enclosing user namespace", keys.join(", "))
}

/// What may stand in the way here. What cannot be read is left out.
#[derive(Debug, Clone, Default)]
struct Obstacles {
    /// `CAP_SYS_ADMIN` is effective.
    admin: bool,
    /// upm itself runs under a system call filter.
    filtered: bool,
    /// `kernel.unprivileged_userns_clone` is 0.
    userns_off: bool,
    /// `kernel.apparmor_restrict_unprivileged_userns` is 1.
    apparmor_userns: bool,
    /// The security module's context that upm runs in, when that is not `unconfined`.
    context: String,
    /// upm's root is not that of its mount namespace.
    chroot: bool,
    /// Mounts below `/proc`, joined.
    covered: String,
    /// Options of namespaces that this kernel does not have, joined.
    missing_kinds: String,
    /// `/sys/kernel/security/lsm`; empty when that cannot be read.
    lsm: String,
    /// upm's own file.
    program: String,
}

impl Obstacles {
    fn look() -> Obstacles {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().trim_end_matches('\0').to_owned();
        let status = read("/proc/self/status");
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let capabilities = field("CapEff:").and_then(|set| u64::from_str_radix(set, 16).ok()).unwrap_or(0);
        let sys_admin = rustix::thread::CapabilitySet::SYS_ADMIN.bits();
        let mountinfo = read("/proc/self/mountinfo");
        let places: Vec<&str> = mountinfo.lines().filter_map(|line| line.split(' ').nth(4)).collect();
        let kinds = KINDS.iter().filter(|(kind, _)| !Path::new("/proc/self/ns").join(kind).exists());
        // AppArmor's own file first: the other is that of whichever module is the first.
        let context = [read("/proc/self/attr/apparmor/current"), read("/proc/self/attr/current")];
        Obstacles {
            admin: capabilities & sys_admin != 0,
            filtered: field("Seccomp:") == Some("2"),
            userns_off: read("/proc/sys/kernel/unprivileged_userns_clone") == "0",
            apparmor_userns: read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1",
            context: context.into_iter().find(|text| !text.is_empty() && text != "unconfined").unwrap_or_default(),
            // A chroot is not a mount: then no visible mount is at `/`.
            chroot: !places.is_empty() && !places.contains(&"/"),
            covered: covered(&places).join(", "),
            missing_kinds: kinds.map(|(kind, _)| option(kind)).collect::<Vec<_>>().join(", "),
            lsm: read("/sys/kernel/security/lsm"),
            program: std::env::current_exe().unwrap_or_default().display().to_string(),
        }
    }

    /// Why user namespaces are refused.
    fn userns(&self) -> String {
        let mut all = Vec::new();
        if !self.admin && self.userns_off {
            all.push("allow unprivileged user namespaces: `sysctl kernel.unprivileged_userns_clone=1`".to_owned());
        }
        all.extend(self.restricted());
        all.extend(self.filter(calls(Step::Clone)));
        if self.chroot {
            all.push(
                "start upm outside of the chroot that it is in: the kernel makes no user namespace there".to_owned(),
            );
        }
        if all.is_empty() {
            all.push(format!(
                "allow unprivileged user namespaces (`sysctl kernel.unprivileged_userns_clone=1` where it exists, an AppArmor \
                 profile with `userns`, SELinux's class user_namespace), or in a container {}",
                allow(calls(Step::Clone))
            ));
        }
        all.join("; and ")
    }

    /// Why these calls are refused.
    fn refused(&self, calls: &str, errno: Errno) -> String {
        let mut all: Vec<String> = self.filter(calls).into_iter().collect();
        if errno == Errno::ENOSYS {
            if all.is_empty() {
                all.push(format!("use Linux 5.19 or newer, with its usual options: one of {calls} does not exist"));
            }
            return all.join("; and ");
        }
        all.extend(self.restricted());
        if all.is_empty() {
            all.push(format!(
                "a security module refuses one of {calls}: see the kernel's log (`journalctl -k`, `ausearch -m AVC -c upm`) and allow it"
            ));
        }
        all.join("; and ")
    }

    fn landlock(&self, errno: Errno) -> String {
        let known = self.lsm.split(',').any(|module| module == "landlock");
        if errno != Errno::EOPNOTSUPP && (known || self.lsm.is_empty()) {
            if let Some(filter) = self.filter(calls(Step::Landlock)) {
                return filter;
            }
        }
        let order = if self.lsm.is_empty() { "…" } else { &self.lsm };
        format!(
            "enable landlock in the kernel: CONFIG_SECURITY_LANDLOCK=y, and `lsm=landlock,{order}` on its command line"
        )
    }

    fn filter(&self, calls: &str) -> Option<String> {
        self.filtered.then(|| allow(calls))
    }

    /// AppArmor, and the context of whichever security module.
    fn restricted(&self) -> Vec<String> {
        let mut all = Vec::new();
        if !self.admin && self.apparmor_userns {
            all.push(format!(
                "give {} an AppArmor profile with the rule `userns,` (SECURITY.md shows one), or `sysctl \
                 kernel.apparmor_restrict_unprivileged_userns=0`",
                self.program
            ));
        }
        if !self.context.is_empty() {
            all.push(format!(
                "let the security context {} that upm runs in do it: its refusals are in the kernel's log",
                self.context
            ));
        }
        all
    }
}

fn allow(calls: &str) -> String {
    format!(
        "allow {calls} in the system call filter that upm itself runs under (a container's seccomp profile; systemd: \
         `SystemCallFilter=`, `RestrictNamespaces=`)"
    )
}

/// Mounts that make the kernel assume that parts of `/proc` are hidden. Mounts on its empty directories hide nothing.
fn covered<'a>(places: &[&'a str]) -> Vec<&'a str> {
    let hides = |place: &&&str| place.starts_with("/proc/") && **place != "/proc/sys/fs/binfmt_misc";
    places.iter().filter(hides).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(host: &Obstacles, step: Step, object: &str, errno: Errno) -> String {
        of(host, step, Subject::Other, object, errno)
    }

    fn of(host: &Obstacles, step: Step, subject: Subject, object: &str, errno: Errno) -> String {
        by_obstacle((step, subject), object, errno, &|| host.clone()).unwrap_or_default()
    }

    #[test]
    fn user_namespaces_name_what_stands_in_the_way() {
        let clone = |host: &Obstacles| on(host, Step::Clone, "clone3", Errno::EPERM);
        let off = Obstacles { userns_off: true, ..Obstacles::default() };
        assert_eq!(clone(&off), "allow unprivileged user namespaces: `sysctl kernel.unprivileged_userns_clone=1`");
        let apparmor = Obstacles { apparmor_userns: true, program: "/opt/upm".to_owned(), ..Obstacles::default() };
        assert!(clone(&apparmor).starts_with("give /opt/upm an AppArmor profile with the rule `userns,`"));
        // There the namespace can be made, but has no rights: the id map is what fails.
        assert_eq!(of(&apparmor, Step::IdMap, Subject::ProcFile, "/proc/7/uid_map", Errno::EPERM), clone(&apparmor));
        assert!(on(&apparmor, Step::Root, "root tmpfs", Errno::EPERM).contains("AppArmor"));
        let filtered = Obstacles { filtered: true, ..Obstacles::default() };
        assert!(
            clone(&filtered)
                .starts_with("allow clone3 and unshare with namespaces, pipe2, waitid in the system call filter")
        );
        assert!(clone(&Obstacles { chroot: true, ..Obstacles::default() }).contains("outside of the chroot"));
        assert!(clone(&Obstacles::default()).contains("kernel.unprivileged_userns_clone=1` where it exists"));
        let both = Obstacles { userns_off: true, ..filtered };
        assert!(clone(&both).contains("sysctl") && clone(&both).contains("; and allow clone3"));
        // Who has CAP_SYS_ADMIN needs no unprivileged ones.
        assert!(!clone(&Obstacles { admin: true, ..both }).contains("sysctl kernel.unprivileged"));
    }

    #[test]
    fn a_covered_proc_is_told_with_what_covers_it() {
        let host = Obstacles { covered: "/proc/kcore, /proc/keys".to_owned(), filtered: true, ..Obstacles::default() };
        let text = of(&host, Step::Root, Subject::OwnProc, "/proc", Errno::EPERM);
        assert!(text.starts_with("other mounts cover /proc/kcore, /proc/keys of the host's /proc"), "{text}");
        assert!(on(&host, Step::Root, "root tmpfs", Errno::EPERM).starts_with("allow mount, fsopen"));
        assert_eq!(covered(&["/", "/proc", "/proc/sys/fs/binfmt_misc", "/proc/acpi"]), ["/proc/acpi"]);
        let text = of(&host, Step::Limits, Subject::ProcFile, "/proc/sys/user/max_user_namespaces", Errno::EROFS);
        assert!(text.starts_with("make /proc/sys/user/max_user_namespaces writable"), "{text}");
    }

    #[test]
    fn landlock_is_off_or_filtered() {
        let host = |lsm: &str, filtered| Obstacles { lsm: lsm.to_owned(), filtered, ..Obstacles::default() };
        let text = |host: &Obstacles, errno| on(host, Step::Landlock, "landlock", errno);
        let off = "enable landlock in the kernel: CONFIG_SECURITY_LANDLOCK=y, and `lsm=landlock,";
        assert!(text(&host("capability,apparmor", false), Errno::EOPNOTSUPP).starts_with(off));
        assert!(
            text(&host("capability,apparmor", true), Errno::ENOSYS)
                .ends_with("`lsm=landlock,capability,apparmor` on its command line")
        );
        assert!(text(&host("landlock,capability", true), Errno::EPERM).starts_with("allow landlock_create_ruleset"));
        assert!(text(&host("", true), Errno::ENOSYS).starts_with("allow landlock_create_ruleset"));
        assert!(text(&host("", false), Errno::ENOSYS).starts_with(off));
    }

    #[test]
    fn limits_of_namespaces_name_the_key() {
        assert!(limits(&["net"]).starts_with("raise `sysctl user.max_net_namespaces`: "));
        assert!(limits(&[]).contains("user.max_user_namespaces") && limits(&[]).contains("user.max_cgroup_namespaces"));
        let host = Obstacles { missing_kinds: "CONFIG_USER_NS".to_owned(), ..Obstacles::default() };
        assert_eq!(on(&host, Step::Clone, "clone3", Errno::EINVAL), "use a kernel with CONFIG_USER_NS");
    }

    #[test]
    fn without_a_filter_it_is_a_security_module_or_the_kernel() {
        let confined = Obstacles { admin: true, context: "upm_t".to_owned(), ..Obstacles::default() };
        assert!(on(&confined, Step::Root, "root tmpfs", Errno::EPERM).contains("security context upm_t"));
        let plain = Obstacles { admin: true, ..Obstacles::default() };
        let text = on(&plain, Step::Session, "setsid", Errno::EPERM);
        assert!(text.starts_with("a security module refuses one of setsid"), "{text}");
        assert!(on(&plain, Step::Session, "setsid", Errno::ENOSYS).starts_with("use Linux 5.19 or newer"));
    }
}
