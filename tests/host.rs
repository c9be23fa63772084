//! The package on booted systems: what `tests/nspawn/commands` does there, and what must come of it.

mod common;

use common::booted::{self, Ran};
use common::{has_program, is_root, repository, skip};
use serde_json::json;
use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

const PLUGIN: &str = r#"
import errno, os, time


class Slow:
    def __init__(self, project_root):
        self.project_root = project_root

    def sleep(self, seconds):
        time.sleep(seconds)
        return "slept"

    def write(self):
        with open(self.project_root + "/written", "w") as file:
            file.write("written")

    def denied(self):
        names = []
        for act in (lambda: os.chroot("/tmp"), lambda: time.clock_settime(time.CLOCK_REALTIME, 0)):
            try:
                act()
                names.append("done")
            except OSError as error:
                names.append(errno.errorcode[error.errno])
        return names
"#;

const TABLE: &str = r#"
# edited by the administrator
[plugins.Slow]
module = "slow"
allowed_methods = ["sleep", "write", "denied"]
callers = ["user:deploy"]
write = ["{project_root}"]
# the last line
"#;

/// `MESSAGE_ID`s with a text of upm's: of starts and denials.
const CATALOG: [&str; 2] = ["ffa1f64c78a040d592566480ee6d2f28", "274a59a9a4af416ba30ebe3cab783c6a"];

/// Boots `suite`, goes through the stages, and gives what they left; `None` if that is not available here.
fn boot(suite: &str) -> Option<BTreeMap<String, Ran>> {
    if !is_root() {
        skip("booting a system needs root");
        return None;
    }
    for program in ["systemd-nspawn", "mmdebstrap", "dpkg-deb"] {
        if !has_program(program) {
            return None;
        }
    }
    let (deb, rpm) = booted::packages();
    let payload = tempfile::tempdir_in("/var/tmp").unwrap();
    let put = |name: &str, content: &[u8]| fs::write(payload.path().join(name), content).unwrap();
    fs::copy(deb, payload.path().join("upm.deb")).unwrap();
    fs::copy(rpm, payload.path().join("upm.rpm")).unwrap();
    fs::copy(repository().join("tests/nspawn/commands"), payload.path().join("commands")).unwrap();
    put("slow.py", PLUGIN.as_bytes());
    put("slow.toml", TABLE.as_bytes());
    let mut command = Command::new(repository().join("tests/nspawn/boot"));
    Some(booted::boot(suite, command.arg(suite).arg(payload.path()), payload.path()))
}

#[test]
fn the_package_on_debian_12() {
    if let Some(ran) = boot("bookworm") {
        holds(&ran, false);
    }
}

#[test]
fn the_package_on_debian_13() {
    if let Some(ran) = boot("trixie") {
        holds(&ran, true);
    }
}

fn holds(ran: &BTreeMap<String, Ran>, has_userns_rule: bool) {
    let ran = |name: &str| ran.get(name).unwrap_or_else(|| panic!("{name} was not run"));
    installed(&ran, has_userns_rule);
    called(&ran);
    scheduled(&ran);
    without_journald(&ran);
    ended(&ran);
    kept_and_gone(&ran);
    from_the_rpm(&ran);
}

fn installed<'a>(ran: &impl Fn(&str) -> &'a Ran, has_userns_rule: bool) {
    ran("install").ok();
    let files = ran("files").ok();
    for path in [
        "/usr/bin/upm",
        "/etc/upm/upm_config.toml",
        "/usr/lib/upm/plugins/hello_plugin/schemas/greet.json",
        "/usr/share/man/man1/upm.1.gz",
        "/usr/share/man/man5/upm_config.5.gz",
        "/usr/share/man/man7/upm-security.7.gz",
        "/usr/share/bash-completion/completions/upm",
        "/usr/share/zsh/vendor-completions/_upm",
        "/usr/share/fish/vendor_completions.d/upm.fish",
        "/usr/share/doc/upm/copyright",
    ] {
        assert!(files.lines().any(|line| line == path), "{path}: {files}");
    }
    assert_eq!(ran("socket").ok(), "ActiveState=active\nUnitFileState=enabled\n");
    assert_eq!(
        ran("owners").ok(),
        "/run/upm/upm.sock root:root 666\n/var/lib/upm/project upm:upm 755\n/var/cache/upm root:root 755\n\
         /var/log/upm root:adm 750\n/etc/upm/upm_config.toml root:root 644\n"
    );
    assert!(ran("passwd").ok().ends_with(":/nonexistent:/usr/sbin/nologin\n"));
    // the section that cargo-auditable writes the list of crates into
    ran("sbom").ok();
    // compiled, and not compared with the source: PEP 552's flags are 0b01
    let compiled = ran("compiled").ok();
    assert!(compiled.lines().count() >= 4 && compiled.lines().all(|line| line.ends_with(" 1")), "{compiled}");
    assert_eq!(ran("apparmor").exit == 0, has_userns_rule, "{:#?}", ran("apparmor"));
    assert!(!has_userns_rule || ran("apparmor").stdout.contains("userns,"));
    let catalog = ran("catalog").ok();
    for id in CATALOG {
        assert!(catalog.contains(id), "{id}: {catalog}");
    }
    // nothing to look at in what the package brings, but that this host has no network
    let check: Vec<&str> = ran("check").ok().lines().filter(|line| !line.contains("does not resolve here")).collect();
    assert!(
        matches!(check[..], [usable] if usable.starts_with("/etc/upm/upm_config.toml: 2 plugins, 15 methods, usable")),
        "{check:#?}"
    );
    ran("doctor").ok();
    let verify = ran("verify");
    assert_eq!((verify.ok(), verify.stderr.as_str()), ("", ""), "{verify:#?}");
    for unit in ["security", "security-run"] {
        println!("{unit}: {}", ran(unit).ok().lines().last().unwrap_or_default());
    }
    assert_eq!(ran("greet").result(), json!({"message": "Hello, root!"}));
    assert_eq!(ran("greet-user").result(), json!({"message": "Hello, deploy!"}));
    ran("check-own").ok();
}

fn called<'a>(ran: &impl Fn(&str) -> &'a Ran) {
    assert_eq!(ran("via-root").result(), json!({"message": "Hello, root!"}));
    ran("via-deploy").result();
    assert_eq!(ran("written").ok(), "deploy:deploy\n");

    ran("via-other").failed("caller_not_allowed", 126);
    let record = ran("other-record").json();
    assert_eq!((&record["UPM_EVENT"], &record["UPM_CODE"]), (&json!("call_refused"), &json!("caller_not_allowed")));
    for field in ["UPM_CALLER_UID", "UPM_CALLER_GID", "UPM_CALLER_PID"] {
        assert!(
            record[field].as_str().is_some_and(|id| id.parse::<u32>().is_ok_and(|id| id > 1)),
            "{field}: {record:#}"
        );
    }

    assert_eq!(ran("by-hand").envelope()["data"]["result"], "slept");

    // the unit's hardening takes nothing from the report: what a plugin tries is denied by the sandbox, and recorded
    let denied = |name: &str| {
        let data = ran(name).envelope()["data"].clone();
        assert_eq!(data["result"], json!(["EPERM", "EPERM"]), "{data:#}");
        let denials: Vec<String> =
            data["denials"].as_array().unwrap().iter().map(|d| d["operation"].as_str().unwrap().to_owned()).collect();
        denials
    };
    assert_eq!(denied("denied"), ["chroot", "clock_settime"]);
    assert_eq!(denied("outside-denied"), denied("denied"));
    let story = ran("story").ok();
    for text in [
        "A call of Slow denied has started",
        "Slow was denied: chroot",
        "The layer seccomp stopped it",
        "A call of Slow denied has ended: ok",
        "UPM_REQUEST_ID=00000000-0000-4000-8000-000000000003",
    ] {
        assert!(story.contains(text), "{text}: {story}");
    }
    assert!(!story.contains('@'), "every field of the catalog's texts was filled in: {story}");

    // a hundred calls, and each has its two records
    assert_eq!(
        ran("many").stdout.split_whitespace().collect::<Vec<_>>(),
        ["100", "\"UPM_EVENT\":\"call_finished\"", "\"UPM_EVENT\":\"call_started\""]
    );
    let refused = ran("too-many");
    assert_ne!(refused.exit, 0, "{refused:#?}");
    let refused = refused.envelope();
    assert!(refused["data"]["error"].as_str().unwrap().contains("/run/upm/upm.sock"), "{refused:#}");
    assert_eq!(ran("room-again").result(), "slept");
}

fn scheduled<'a>(ran: &impl Fn(&str) -> &'a Ran) {
    ran("enable-timer").ok();
    assert_eq!(ran("scheduled").result(), json!({"message": "Hello, world!"}));
    assert!(ran("timers").ok().contains("upm-run@nightly.timer"));
    ran("quoting").ok();
    assert_eq!(ran("quoted").result(), json!({"message": "Hello, $HOME; % \"two\"  words!"}));
    assert_ne!(ran("wrong").exit, 0);
    assert_eq!(ran("wrong-status").ok(), "Result=exit-code\nExecMainStatus=126\n");
    ran("shop").ok();
    assert_eq!(ran("shop-written").ok(), "deploy:deploy\n");
}

fn without_journald<'a>(ran: &impl Fn(&str) -> &'a Ran) {
    let both = |name: &str| {
        let mut events: Vec<&str> = ran(name).stdout.lines().collect();
        events.sort_unstable();
        events.dedup();
        assert_eq!(events, ["\"UPM_EVENT\":\"call_finished\"", "\"UPM_EVENT\":\"call_started\""], "{name}");
    };
    assert_eq!(ran("amid-stop").result(), "slept");
    both("amid-stop-records");
    assert_eq!(ran("without-journald").result(), "slept");
    both("without-journald-records");
    let hung = &ran("hung").stdout;
    // stored in the other sink, or refused because that took too long: on a busy machine it may
    let stored = "\"UPM_EVENT\":\"call_finished\" \"UPM_EVENT\":\"call_started\"";
    let mut calls = 0;
    for line in hung.lines() {
        let (count, said) = line.trim().split_once(' ').unwrap();
        let refused = said.trim().starts_with("\"code\":\"audit_unavailable\"");
        assert!(refused || said.trim() == stored, "a call without its records: {hung}");
        calls += if refused { 0 } else { count.parse::<u32>().unwrap() };
    }
    assert!(calls >= 50, "{hung}");
}

fn ended<'a>(ran: &impl Fn(&str) -> &'a Ran) {
    for n in [30, 31, 32] {
        let killed = ran(&format!("killed-{n}"));
        assert_ne!(killed.exit, 0, "{killed:#?}");
        assert_eq!(killed.envelope()["success"], false);
    }
    // started and nothing more: what a killed engine leaves
    assert_eq!(ran("killed").stdout, "\"UPM_EVENT\":\"call_started\"\n".repeat(3));
    assert!(ran("unended").ok().contains("no end recorded"), "{:#?}", ran("unended"));
    assert_eq!(ran("killed-left").stdout, "", "no plugin outlives its engine");
    assert_eq!(ran("after-kill").result(), json!({"message": "Hello, world!"}));

    ran("stopped").failed("cancelled", 143);
    assert!(ran("stopped-story").ok().contains("has ended: cancelled"), "{:#?}", ran("stopped-story"));
    assert_eq!(ran("gone").json()["UPM_CODE"], "cancelled");
    assert_eq!(ran("left").stdout, "");
    assert_eq!(ran("failed-units").ok(), "", "calls that failed leave no units");
    assert_eq!(ran("cgroups").ok(), "", "and no groups");
    assert_eq!(ran("engines").stdout, "", "no engine outlives its call");
}

fn kept_and_gone<'a>(ran: &impl Fn(&str) -> &'a Ran) {
    assert_eq!(
        ran("rebooted").ok(),
        "ActiveState=active\nUnitFileState=enabled\n\nActiveState=active\nUnitFileState=enabled\n"
    );
    assert_eq!(ran("via-rebooted").result(), "slept");
    assert_eq!(ran("boot-before").ok().lines().count(), 2, "{:#?}", ran("boot-before"));

    ran("unpack").ok();
    ran("pack").ok();
    assert_eq!(ran("amid-upgrade").result(), "slept");
    ran("upgrade").ok();
    assert_eq!(ran("upgraded").ok(), "99.0.0-1 installed");
    assert_eq!(ran("upgraded-config").ok(), "# the last line\n");
    assert_eq!(ran("upgraded-dist").ok(), "# new\n");
    assert_eq!(ran("upgraded-greet").result(), json!({"version": 99, "message": "Hello, world!"}), "new code, at once");
    ran("reinstall").ok();
    assert_eq!(ran("still-off").ok(), "ActiveState=inactive\nUnitFileState=disabled\n");

    ran("remove").ok();
    assert!(ran("removed").stdout.contains("upm_config.toml"), "{:#?}", ran("removed"));
    assert_ne!(ran("removed-socket").exit, 0);
    ran("purge").ok();
    for name in ["purged-user", "purged-group"] {
        assert_eq!((ran(name).exit, ran(name).stdout.as_str()), (2, ""), "{name}");
    }
    assert_eq!(ran("purged-units").stdout, "");
    assert_eq!(ran("purged-timers").stdout, "");
    assert!(CATALOG.iter().all(|id| !ran("purged-catalog").stdout.contains(id)));
    assert_eq!(ran("leftovers").stdout, "", "the disk is as it was before the package");
    assert_ne!(ran("run-left").exit, 0, "/run/upm is gone");
}

/// Not on a host that is made of such packages, but what the package does when it is installed and erased is done.
fn from_the_rpm<'a>(ran: &impl Fn(&str) -> &'a Ran) {
    ran("rpm-install").ok();
    assert_eq!(ran("rpm-verify").ok(), "", "every file as it is in the package");
    // by the presets, of which there are none here; it starts with the next boot
    assert_eq!(ran("rpm-socket").ok(), "ActiveState=inactive\nUnitFileState=enabled\n");
    assert!(ran("rpm-compiled").ok().lines().count() >= 4, "{:#?}", ran("rpm-compiled"));
    assert_eq!(ran("rpm-greet").result(), json!({"message": "Hello, world!"}));
    ran("rpm-erase").ok();
    assert_eq!(ran("rpm-units").stdout, "");
    // rpm knows no purge: what plugins and calls wrote stays, and the user that owns it
    let left =
        ran("rpm-leftovers").stdout.lines().filter(|line| line.contains("upm") && !line.ends_with("/audit.jsonl"));
    assert_eq!(left.collect::<Vec<_>>(), ["> /var/lib/upm", "> /var/lib/upm/project", "> /var/log/upm"]);
}
