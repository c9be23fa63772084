//! Hosts that lack something: the call is refused with the layer, the reason and what an administrator can do, nothing of
//! the plugin has run, and `upm doctor` names the same. The probe's own modes make such hosts (`tests/probe/src/outside.rs`).

mod common;

use common::{Answer, Call, Fixture, Mode, skip};
use rstest::rstest;
use serde_json::{Value, json};
use std::os::unix::fs::chown;

const GRANT: &str = "write = [\"{project_root}\"]";

/// A call that leaves a marker when anything of the plugin runs.
fn call(f: &Fixture) -> Call<'_> {
    f.upm(["Probe", "run", &json!({ "args": ["write", f.text("project/marker"), "x"] }).to_string()])
}

fn ran(f: &Fixture) -> bool {
    f.path("project/marker").exists()
}

/// By a filter that fails `spec`.
fn without<'a>(f: &Fixture, call: Call<'a>, spec: &str) -> Call<'a> {
    call.through([f.text("plugins/upm-probe").as_str(), "without", spec, "--"])
}

/// The call's refusal names layer and remedy, in the text for people too.
#[track_caller]
fn refused(f: &Fixture, answer: &Answer, layer: &str, case: &str) -> String {
    let data = answer.failed("sandbox_unavailable", 125);
    let details = &data["details"];
    assert_eq!(details["layer"], layer, "{case}: {data:#}");
    let remedy = details["remedy"].as_str().unwrap_or_default().to_owned();
    assert!(remedy.len() > 10, "{case}: no remedy: {data:#}");
    let error = data["error"].as_str().unwrap();
    assert!(error.contains(layer) && error.ends_with(&remedy), "{case}: {error}");
    if let Some(errno) = details["errno"].as_str() {
        let reason = errno.split_once(": ").unwrap().1;
        assert!(error.contains(reason), "{case}: the reason is told: {error}");
    }
    assert!(data.get("output").is_none() && !ran(f), "{case}: something of the plugin ran: {data:#}");
    remedy
}

/// doctor's line of this layer.
#[track_caller]
fn line(doctor: &Answer, layer: &str) -> Value {
    let report: Value = serde_json::from_str(&doctor.stdout).unwrap_or_else(|e| panic!("{e}: {doctor:#?}"));
    let lines = report["layers"].as_array().unwrap();
    lines.iter().find(|line| line["layer"] == layer).unwrap_or_else(|| panic!("no {layer}: {report:#}")).clone()
}

/// doctor ends with 1 and says the same as the call did.
#[track_caller]
fn told(doctor: &Answer, layer: &str, remedy: &str, case: &str) {
    assert_eq!(doctor.exit, Some(1), "{case}: {doctor:#?}");
    let line = line(doctor, layer);
    assert_eq!((&line["holds"], line["remedy"].as_str()), (&json!(false), Some(remedy)), "{case}: {line:#}");
}

/// The system calls that a layer is made of: each is refused with `EPERM`, as a container's filter does, and hidden with
/// `ENOSYS`, as an old kernel does. One that only root or only a user makes says so.
#[rstest]
#[case::namespaces("namespaces", &[
    "clone3", "clone", "unshare user", "setgroups root", "setresuid", "setresgid", "setsid", "keyctl", "pidfd_open", "socketpair",
    "prctl(PR_SET_PDEATHSIG)", "prctl(PR_SET_DUMPABLE)", "close_range",
])]
#[case::root("root", &[
    "openat2", "open_tree", "mount_setattr", "move_mount", "fsopen", "fsconfig", "fsmount", "mount", "mkdirat", "symlinkat",
    "pivot_root", "umount2",
])]
#[case::limits("limits", &["prlimit64"])]
#[case::capabilities("capabilities", &[
    "capset", "prctl(PR_CAPBSET_DROP)", "prctl(PR_SET_SECUREBITS)", "prctl(PR_CAP_AMBIENT)", "prctl(PR_SET_NO_NEW_PRIVS)",
])]
#[case::landlock("landlock", &["landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self"])]
#[case::seccomp("seccomp", &["seccomp"])]
#[case::egress("egress", &["socket", "bind", "listen", "ioctl", "sethostname"])]
fn a_system_call_that_the_host_refuses_is_a_missing_layer(
    #[case] layer: &str,
    #[case] calls: &[&str],
    #[values(Mode::Root, Mode::User)] mode: Mode,
) {
    let Some(f) = Fixture::probe(mode, GRANT) else { return };
    for words in calls {
        let (name, who) = words.split_once(' ').unwrap_or((words, ""));
        if who == if mode == Mode::Root { "user" } else { "root" } {
            continue;
        }
        for errno in ["EPERM", "ENOSYS"] {
            let spec = format!("{name}={errno}");
            let remedy = refused(&f, &without(&f, call(&f), &spec).run(), layer, &spec);
            let bare = name.split('(').next().unwrap();
            assert!(remedy.contains(bare) && remedy.contains("filter"), "{spec}: what to allow, and where: {remedy}");
            told(&without(&f, f.upm(["doctor", "--json"]), &spec).run(), layer, &remedy, &spec);
        }
    }
    f.assert_clean();
}

/// The control: under the same filter with calls that no layer is made of, all works.
#[rstest]
fn an_unrelated_system_call_is_no_layer(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, GRANT) else { return };
    let spec = "acct=EPERM,swapon=ENOSYS,prctl(PR_SET_TIMERSLACK)=EPERM,getrandom=ENOSYS";
    without(&f, call(&f), spec).run().result();
    assert!(ran(&f), "the marker is written");
    let doctor = without(&f, f.upm(["doctor", "--json"]), spec).run();
    assert_eq!(doctor.exit, Some(0), "{doctor:#?}");
}

/// As in a container. The control covers nothing of `/proc`.
#[rstest]
#[case::part("/proc/keys", "root", "/proc/keys")]
#[case::directory("/proc/acpi,/proc/irq", "root", "/proc/irq")]
#[case::sys("/proc/sys", "limits", "/proc/sys/user/max_user_namespaces")]
fn a_covered_proc_refuses(
    #[case] paths: &str,
    #[case] layer: &str,
    #[case] named: &str,
    #[values(Mode::Root, Mode::User)] mode: Mode,
) {
    if !common::is_root() {
        return skip("needs root, to mount over /proc");
    }
    let paths: Vec<&str> = paths.split(',').filter(|path| std::path::Path::new(path).exists()).collect();
    if !paths.contains(&named) && layer == "root" {
        return skip(&format!("this kernel has no {named}"));
    }
    let Some(f) = Fixture::probe(mode, GRANT) else { return };
    let paths = paths.join(",");
    let remedy = refused(&f, &call(&f).host("covered", &paths).run(), layer, &paths);
    assert!(remedy.contains(named), "{remedy}");
    told(&f.upm(["doctor", "--json"]).host("covered", &paths).run(), layer, &remedy, &paths);

    let elsewhere = f.mkdir("elsewhere");
    call(&f).host("covered", elsewhere.to_str().unwrap()).run().result();
    assert!(ran(&f));
    f.assert_clean();
}

/// `user.max_*_namespaces = 0`, in a user namespace of its own: the host's setting stays. The control has room.
#[rstest]
fn a_limit_of_namespaces_refuses(
    #[values("user", "mnt", "pid", "net", "ipc", "uts", "cgroup")] kind: &str,
    #[values(Mode::Root, Mode::User)] mode: Mode,
) {
    if !common::is_root() {
        return skip("needs root, to keep the ids of the host in a user namespace");
    }
    let Some(f) = Fixture::probe(mode, GRANT) else { return };
    if mode == Mode::Root {
        // No id-mapping is possible there: what is granted must be the plugin's already.
        chown(f.path("project"), Some(65534), Some(65534)).unwrap();
        f.config(&format!("{}run_as = \"65534\"\n{GRANT}\n", common::PROBE));
    }
    let zero = format!("{kind}=0");
    // Root's first mount namespaces are those that hold a granted tree.
    let layer = if (kind, mode) == ("mnt", Mode::Root) { "root" } else { "namespaces" };
    let remedy = refused(&f, &call(&f).host("limited", &zero).run(), layer, &zero);
    assert!(remedy.starts_with(&format!("raise `sysctl user.max_{kind}_namespaces`: ")), "{remedy}");
    let doctor = f.upm(["doctor", "--json"]).host("limited", &zero).run();
    told(&doctor, layer, &remedy, &zero);
    told(&doctor, "namespaces", &remedy, &zero);

    call(&f).host("limited", &format!("{kind}=100")).run().result();
    assert!(ran(&f));
    f.assert_clean();
}

/// Root that is not all of it. The control keeps what the sandbox is made with.
#[test]
fn root_without_cap_sys_admin_is_refused() {
    let Some(f) = Fixture::probe(Mode::Root, GRANT) else { return };
    let less = ["setpriv", "--bounding-set", "-sys_admin", "--"];
    let remedy = refused(&f, &call(&f).through(less).run(), "capabilities", "-sys_admin");
    assert!(remedy.contains("CAP_SYS_ADMIN"), "{remedy}");
    told(&f.upm(["doctor", "--json"]).through(less).run(), "capabilities", &remedy, "-sys_admin");
    call(&f).through(["setpriv", "--bounding-set", "-sys_boot", "--"]).run().result();
    assert!(ran(&f));
}

/// A path that is not as the configuration says does not count as a missing layer.
#[rstest]
fn a_failure_of_one_path_is_no_missing_layer(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::bare(mode) else { return };
    f.config(&format!("{}{GRANT}\nread = [\"{}\"]\n", common::PROBE, f.text("gone")));
    let data = call(&f).run().failed("sandbox_failed", 125);
    assert!(data["error"].as_str().unwrap().contains("/gone"), "{data:#}");
    assert!(data["details"].get("remedy").is_none() && !ran(&f), "{data:#}");
    f.mkdir("gone");
    call(&f).run().result();
}

/// What a call may write is on record before it may: without the system call that tells one object from another there is no
/// record, and no call. Without anything to write none is needed.
#[rstest]
fn a_record_that_cannot_be_made_refuses(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, GRANT) else { return };
    let config = f.text("upm_config.toml");
    let named = |act: &serde_json::Value| f.upm(["--config", &config, "Probe", "run", &act.to_string()]);
    let write = serde_json::json!({ "args": ["write", f.text("project/marker"), "x"] });
    for spec in ["statx=EPERM", "statx=ENOSYS"] {
        let data = without(&f, named(&write), spec).run().failed("sandbox_unavailable", 125);
        let remedy = data["details"]["remedy"].as_str().unwrap();
        assert!(remedy.contains("statx") && remedy.contains("filter"), "{data:#}");
        assert!(!ran(&f));
    }
    let found = without(&f, call(&f), "statx=ENOSYS").run().failed("config_invalid", 125);
    assert!(found["error"].as_str().unwrap().contains("--config"), "{found:#}");
    assert!(!ran(&f));
    // the controls
    named(&write).run().result();
    assert!(ran(&f));
    f.config(common::PROBE);
    without(&f, named(&serde_json::json!({ "args": ["echo"] })), "statx=ENOSYS").run().result();
}
