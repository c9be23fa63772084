//! Places with a host's policy or secrets. Neither remedies nor `upm learn` ever propose them; an administrator can still
//! grant them by hand. Paths are compared as text, so the caller must resolve links first.

use std::path::{Component, Path};

/// Directories in which nothing is proposed for writing: system files, programs, packages' state, root's files.
const SYSTEM: [&str; 19] = [
    "/etc",
    "/usr",
    "/boot",
    "/efi",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/root",
    "/opt",
    "/snap",
    "/nix",
    "/gnu",
    "/lost+found",
    "/ostree",
    "/sysroot",
    "/selinux",
];
/// The same in `/var`: jobs, mail, logs, state and caches of services.
const STATE: [&str; 21] = [
    "account",
    "adm",
    "agentx",
    "backups",
    "cache",
    "crash",
    "cron",
    "db",
    "games",
    "kerberos",
    "lib",
    "local",
    "lock",
    "log",
    "mail",
    "named",
    "opt",
    "run",
    "spool",
    "yp",
    "lost+found",
];
/// Directories and files in which nothing is proposed for reading: keys, passwords, access rules, mail, logs.
const KEPT: [&str; 9] =
    ["/boot", "/efi", "/root", "/var/spool", "/var/mail", "/var/log", "/var/backups", "/var/lib", "/lost+found"];
/// The same in `/etc`. A trailing `*` matches any ending.
const KEPT_ETC: [&str; 53] = [
    "apt/auth.conf*",
    "at.allow",
    "at.deny",
    "audit*",
    "containers",
    "cni",
    "credstore*",
    "cron*",
    "anacrontab",
    "cups",
    "docker",
    "doas.conf",
    "dovecot",
    "exim4",
    "fuse.conf",
    "gshadow*",
    "gnutls",
    "ipsec*",
    "krb5.keytab",
    "kubernetes",
    "rancher",
    "ldap",
    "letsencrypt",
    "libvirt",
    "mysql",
    "NetworkManager",
    "netplan",
    "opasswd",
    "openvpn",
    "openldap",
    "pam.d",
    "pam.conf",
    "pki/tls/private",
    "polkit-1",
    "postfix",
    "postgresql*",
    "ppp",
    "samba",
    "securetty",
    "security",
    "selinux",
    "shadow*",
    "snmp",
    "ssh",
    "ssl/private",
    "sssd",
    "strongswan*",
    "subuid*",
    "subgid*",
    "sudo*",
    "upm",
    "wireguard",
    "wpa_supplicant",
];
/// Names, in any directory, of files with a user's keys, passwords, automatically started programs, or their settings.
const PERSONAL: [&str; 58] = [
    ".authinfo",
    ".aws",
    ".azure",
    ".bash_login",
    ".bash_logout",
    ".bash_profile",
    ".bashrc",
    ".boto",
    ".bundle",
    ".cargo",
    ".config",
    ".cshrc",
    ".docker",
    ".emacs",
    ".emacs.d",
    ".env",
    ".envrc",
    ".fetchmailrc",
    ".forward",
    ".gem",
    ".gitconfig",
    ".git-credentials",
    ".gnupg",
    ".gcloud",
    ".helm",
    ".k5login",
    ".kshrc",
    ".kube",
    ".local",
    ".login",
    ".mozilla",
    ".my.cnf",
    ".netrc",
    ".npmrc",
    ".pam_environment",
    ".password-store",
    ".pgpass",
    ".pip",
    ".pki",
    ".procmailrc",
    ".profile",
    ".pypirc",
    ".rhosts",
    ".shosts",
    ".ssh",
    ".subversion",
    ".tcshrc",
    ".terraform.d",
    ".thunderbird",
    ".vault-token",
    ".vim",
    ".vimrc",
    ".xinitrc",
    ".xprofile",
    ".xsession",
    ".zlogin",
    ".zprofile",
    ".zshrc",
];
/// Directories whose contents other programs run or apply later: hooks, tasks, workflows.
const OBEYED: [&str; 7] = [".git", ".hg", ".svn", ".github", ".gitlab", ".vscode", ".idea"];
/// Directories with home directories.
const HOMES: [&str; 4] = ["/home", "/var/home", "/export/home", "/usr/home"];

/// Why `path` is never proposed, for reading or for writing; `None` for an ordinary place.
#[must_use]
pub fn unproposed(path: &Path, write: bool) -> Option<String> {
    let what = place(path, write)?;
    let act = if write { "write" } else { "read" };
    Some(format!(
        "{} {what}, so it is never proposed: let the plugin use its project or cache; to grant it anyway, add it to \
         `{act}` by hand",
        path.display()
    ))
}

fn place(path: &Path, write: bool) -> Option<String> {
    let inside = |place: &str, what: &str| Some(format!("is in {place}, {what}"));
    for home in HOMES {
        if path == Path::new(home) || path.parent() == Some(Path::new(home)) {
            return Some("is a whole home directory, with keys and settings in it".to_owned());
        }
        let hidden = path.strip_prefix(home).ok().and_then(|rest| rest.components().nth(1));
        if hidden.is_some_and(|part| part.as_os_str().as_encoded_bytes().starts_with(b".")) {
            return Some("is among the hidden files of a home directory, which contain keys and settings".to_owned());
        }
    }
    for part in path.components() {
        let Component::Normal(name) = part else { continue };
        if PERSONAL.iter().any(|known| name == *known) {
            return inside(&name.to_string_lossy(), "which contains a user's keys or settings");
        }
        if write && OBEYED.iter().any(|known| name == *known) {
            return inside(&name.to_string_lossy(), "which other programs run or apply later");
        }
    }
    if let Some(kept) = KEPT.iter().find(|kept| path.starts_with(kept)) {
        return inside(kept, "which contains confidential data of this host");
    }
    if let Ok(rest) = path.strip_prefix("/etc") {
        if KEPT_ETC.iter().any(|kept| names(kept, rest)) {
            return inside("/etc", "and contains this host's keys, passwords or access rules");
        }
    }
    if !write {
        return None;
    }
    if let Some(system) = SYSTEM.iter().find(|system| path.starts_with(system)) {
        return inside(system, "which controls this host");
    }
    let state = path.strip_prefix("/var").ok()?;
    match state.components().next() {
        None => Some("contains the state of this host's services".to_owned()),
        Some(first) if STATE.iter().any(|known| first.as_os_str() == *known) => {
            inside("/var", "and belongs to the state of this host's services")
        }
        Some(_) => None,
    }
}

/// Whether `pattern` names the first components of `path`.
fn names(pattern: &str, path: &Path) -> bool {
    let mut parts = path.components();
    pattern.split('/').all(|wanted| {
        let Some(part) = parts.next() else { return false };
        let name = part.as_os_str().to_string_lossy();
        match wanted.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => name == wanted,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_rules_or_identifies_a_host() {
        let kept = |path: &str, write| unproposed(Path::new(path), write).is_some();
        for path in [
            "/etc",
            "/etc/cron.d",
            "/etc/cron.d/job",
            "/etc/mime.types",
            "/usr/local/bin",
            "/boot/grub",
            "/lib/systemd/system",
            "/root/x",
            "/var",
            "/var/lib/dpkg",
            "/var/spool/cron/crontabs",
            "/opt/app",
            "/home",
            "/home/ada",
            "/home/ada/.ssh/x",
            "/home/ada/.config/systemd/user",
            "/srv/shop/.git",
            "/srv/shop/.git/hooks",
            "/srv/x/.ssh",
            "/home/ada/.bashrc",
            "/var/home/ada",
        ] {
            assert!(kept(path, true), "{path}");
        }
        for path in [
            "/etc/shadow",
            "/etc/shadow-",
            "/etc/ssh/sshd_config",
            "/etc/sudoers.d/x",
            "/etc/pam.d",
            "/etc/ssl/private/key",
            "/etc/apt/auth.conf.d/x",
            "/boot",
            "/root",
            "/home",
            "/home/ada",
            "/home/ada/.netrc",
            "/var/spool/cron",
            "/var/lib/x",
            "/srv/x/.gnupg/y",
            "/etc/upm/upm_config.toml",
        ] {
            assert!(kept(path, false), "{path}");
            assert!(kept(path, true), "{path}");
        }
        for path in [
            "/etc/mime.types",
            "/etc/xdg/x",
            "/opt/app/data",
            "/srv/shop/.git/config",
            "/usr/share/x",
            "/etc/apt/sources.list",
        ] {
            assert!(!kept(path, false), "{path}");
        }
        for path in [
            "/srv/shop",
            "/home/ada/shop",
            "/home/ada/shop/.venv",
            "/var/tmp/x",
            "/data",
            "/var/www/shop",
            "/etcetera",
            "/srv/.cache",
        ] {
            assert!(!kept(path, true) && !kept(path, false), "{path}");
        }
    }
}
