//! The oldest kernel that is supported: Debian 12's 6.1, booted under qemu (see `tests/qemu/`). There landlock has ABI
//! 2 (no network rules, no scopes), the guest has cgroup v2, and tmpfs can't be mounted with mapped ids.

mod common;

use common::booted::Ran;
use common::guest::{self, Kernel, Place, Tests};
use common::{Fixture, Mode, assert_errno_in, assert_ok, built_probe};
use rstest::rstest;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;

const CONFIG: &str = r#"
project_root = "project"
cache_dir = "cache"
plugin_paths = ["plugins"]

[plugins.HelloPlugin]
module = "hello"
allowed_methods = ["greet", "tiny", "flood"]

[plugins.Probe]
exec = "plugins/upm-probe"
allowed_methods = ["run"]
write = ["{project_root}"]
memory = "128MiB"
processes = 16

[plugins.HelloPlugin.methods.tiny]
memory = "256KiB"
"#;

/// Added to [`CONFIG`].
const HALF: &str = "\n[plugins.Probe.methods.run]\ncpus = 0.5\n";

/// What this kernel's landlock, ABI 2, cannot give.
const NEWER: &str = r#"
[plugins.Probe]
exec = "plugins/upm-probe"
allowed_methods = ["run"]
landlock_min_abi = 4
"#;

const HELLO: &str = r#"
class HelloPlugin:
    version = "1.0.0"

    def greet(self, name):
        return "Hello, " + name

    tiny = greet

    def flood(self):
        import time
        end = time.monotonic() + 5
        while time.monotonic() < end:
            print("x" * 6000)
"#;

/// What is tried inside: each must fail in the sandbox, and the same words work outside (the control).
fn denied() -> Vec<(Value, &'static str)> {
    vec![
        (json!(["mount", "none", "/tmp", "tmpfs"]), "EPERM"),
        (json!(["clone_newuser"]), "EPERM"),
        (json!(["privileged", "bpf"]), "EPERM"),
        (json!(["privileged", "perf_event_open"]), "EPERM"),
        (json!(["ptrace_attach", 0]), "EPERM"),
        (json!(["socket", "AF_NETLINK", "SOCK_RAW", 15]), "EAFNOSUPPORT"),
        (json!(["set_id", "openat", "/srv/upm/project/set-id"]), "EPERM"),
        (json!(["mknod", "whiteout", "/srv/upm/project/whiteout"]), "EPERM"),
        (json!(["write", "/srv/upm/escaped", "x"]), "EROFS|ENOENT|EACCES"),
        (json!(["read", "/srv/upm/upm_config.toml"]), "ENOENT"),
        (json!(["list", "/proc/1/fd"]), "EACCES|EPERM|ENOENT"),
        (json!(["notified", "/usr"]), "EPERM"),
        (json!(["fcntl_directory", "/usr", 1026, 0x10]), "EPERM"),
        (json!(["fcntl_pipe", 1031, 1 << 17]), "EPERM"),
        // the probe keeps what it has locked: not the same file twice by flock
        (json!(["lock", "LOCK_EX", "/srv/upm/plugins/upm-probe"]), "EPERM"),
        (json!(["lock", "LOCK_SH", "/usr"]), "EPERM"),
        (json!(["lock", "F_SETLK", "/srv/upm/plugins/upm-probe"]), "EPERM"),
        (json!(["lock", "F_SETLKW", "/srv/upm/plugins/upm-probe"]), "EPERM"),
        (json!(["lock", "F_OFD_SETLK", "/srv/upm/plugins/upm-probe"]), "EPERM"),
    ]
}

/// Ways to lock what the call may write; the probe keeps them all.
const LOCKS: [&str; 5] = ["LOCK_EX", "F_SETLK", "F_SETLKW", "F_OFD_SETLK", "F_OFD_SETLKW"];

fn commands() -> String {
    let batch = |at: &str| {
        // First: some acts leave descriptors of the probe's own open.
        let mut acts = vec![json!(["report"])];
        acts.extend(denied().into_iter().map(|(act, _)| act));
        acts.push(json!(["write", "/srv/upm/project/allowed", "x"]));
        acts.push(json!(["child", "timers", 5000]));
        acts.push(json!(["child", "epoll", 100]));
        acts.extend(LOCKS.map(|way| json!(["lock", way, "/srv/upm/project/allowed"])));
        let mut words = vec![json!("batch")];
        words.extend(acts);
        json!({ "args": words }).to_string().replace("/srv/upm", at)
    };
    let control = denied().iter().map(|(act, _)| format!("'{act}'")).collect::<Vec<_>>().join(" ");
    format!(
        r#"
mkdir project
run uname uname -r
run control ./plugins/upm-probe batch {control}
rm -rf project
cp -a /srv/upm /home/user/upm
chown -R 23456:23456 /home/user/upm
run root-doctor ./upm doctor --json
run root-newer ./upm --config newer.toml Probe run '{{"args":["echo"]}}'
run root-newer-doctor ./upm doctor --json --config newer.toml
run root-greet ./upm HelloPlugin greet '{{"args":["root"]}}'
run root-probe ./upm Probe run '{root}'
{planted}
run root-planted ../upm HelloPlugin greet
chown 0:0 .
run root-named ../upm --config upm_config.toml list
chown 65534:65534 .
cd ..
run root-memory ./upm Probe run '{{"args":["memory_bomb",400]}}'
cd /home/user/upm
run user-doctor as_user ./upm doctor --json
run user-newer as_user ./upm --config newer.toml Probe run '{{"args":["echo"]}}'
run user-newer-doctor as_user ./upm doctor --json --config newer.toml
run user-greet as_user ./upm HelloPlugin greet '{{"args":["user"]}}'
run user-probe as_user ./upm Probe run '{user}'
{planted}
run user-planted as_user ../upm HelloPlugin greet
run user-named as_user ../upm --config upm_config.toml list
cd ..
run user-memory as_user ./upm Probe run '{{"args":["memory_bomb",400]}}'
{CGROUPS}
cd /home/user/upm
{PATHS}
run processes ps
run mounts cat /proc/self/mountinfo
"#,
        planted = "cp -p upm_config.toml project/ && cd project",
        root = batch("/srv/upm"),
        user = batch("/home/user/upm"),
    )
}

/// Links that a project's owner has placed, and another name of the configuration's directory; each with its twin.
const PATHS: &str = r#"
cd /srv/upm
mkdir theirs theirs/shop secret alias other
echo secret >secret/key
chmod 700 secret
chmod 600 secret/key
chown 45678:45678 theirs theirs/shop alias other
cat >paths.toml <<'TOML'
projects = ["theirs/shop"]
plugin_paths = ["plugins"]
[plugins.Probe]
exec = "plugins/upm-probe"
allowed_methods = ["run"]
write = ["{project_root}"]
[plugins.Alias]
exec = "plugins/upm-probe"
allowed_methods = ["run"]
TOML
sed 's/^\[plugins.Alias\]/&\nwrite = ["alias"]/' paths.toml >alias.toml
in_shop() { ./upm --config paths.toml Probe run '{"args":["read","/srv/upm/theirs/shop/key"]}' --project /srv/upm/theirs/shop; }
in_alias() { ./upm --config alias.toml Alias run '{"args":["write","/srv/upm/alias/file","x"]}'; }
echo own >theirs/shop/key
run paths-own in_shop
mv theirs/shop theirs/old
ln -s /srv/upm/secret theirs/shop
chown -h 45678:45678 theirs/shop
run paths-linked in_shop
mount --bind . alias
run paths-alias in_alias
umount alias
mount --bind other alias
run paths-other in_alias
umount alias
"#;

/// Who may make cgroups, and what becomes of calls in them. `in_cgroup` starts a command alone in a cgroup, `beside_shell`
/// with the shell that started it; `bombs` runs what each must bear.
const CGROUPS: &str = r#"
tree=/sys/fs/cgroup
many='{"args":["memory_forked",8,60,5]}'
in_cgroup() { at=$1; shift; sh -c 'echo $$ >"$0/cgroup.procs" && exec "$@"' "$tree/$at" "$@"; }
beside_shell() { at=$1; shift; sh -c 'echo $$ >"$0/cgroup.procs" && "$@"; exit $?' "$tree/$at" "$@"; }
exec_as_user="/usr/bin/setpriv --reuid 23456 --regid 23456 --clear-groups env HOME=/home/user XDG_STATE_HOME=/home/user/state"
bombs() {
    who=$1; shift
    run $who-fits "$@" ./upm Probe run '{"args":["memory_forked",2,10,3]}'
    run $who-many "$@" ./upm Probe run "$many"
    run $who-tmp "$@" ./upm Probe run '{"args":["write_big","/tmp/big",240]}'
    run $who-pids "$@" ./upm Probe run '{"args":["fork_bomb",100]}'
    run $who-inside "$@" ./upm Probe run '{"args":["report"]}'
    run $who-whole "$@" ./upm Probe run '{"args":["spin",3]}'
    run $who-half "$@" ./upm --config half.toml Probe run '{"args":["spin",3]}'
    run $who-half-doctor "$@" ./upm --config half.toml doctor --json
}
delegate() { # NAME: a directory for the user, as cgroups(7) says
    mkdir $tree/$1
    chown 23456:23456 $tree/$1 $tree/$1/cgroup.procs $tree/$1/cgroup.subtree_control $tree/$1/cgroup.threads
}

cd /srv/upm
bombs root env
run tiny ./upm HelloPlugin tiny '{"args":["root"]}'
run root-left ls $tree/upm
run spared sh -c 'echo -1000 >/proc/self/oom_score_adj && exec "$0" "$@"' ./upm Probe run "$many"

# what a killed supervisor left goes with the next call; what belongs to a running one stays
# one after the other: a call that begins removes a cgroup that another has made but not locked yet, which then gets another name
up() {
    n=0
    while ! grep -q . $tree/upm/upm-call-00000000-0000-4000-8000-00000000000$1/plugin/cgroup.procs && [ $n -lt 100 ]; do sleep 0.1; n=$((n + 1)); done
} 2>/dev/null
./upm Probe run '{"args":["sleep",60]}' --request-id 00000000-0000-4000-8000-000000000001 >/dev/null 2>&1 &
killed=$!
up 1
./upm Probe run '{"args":["sleep",8]}' --request-id 00000000-0000-4000-8000-000000000002 >/run/slow 2>/dev/null &
slow=$!
up 2
kill -9 $killed
wait $killed
mkdir $tree/upm/upm-call-stale $tree/upm/not-a-call
run left-by-kill ls $tree/upm
run after-kill ./upm HelloPlugin greet '{"args":["root"]}'
run swept ls $tree/upm
wait $slow
run slow cat /run/slow
run slow-left ls $tree/upm

# root in a cgroup that is nobody's, one that its service manager marked, and one whose own limit is lower than the grant's
mkdir $tree/other $tree/marked $tree/low
/usr/bin/python3 -c 'import os
for name in ("marked", "low"): os.setxattr("/sys/fs/cgroup/" + name, "user.delegate", b"1")'
echo 60M >$tree/low/memory.max
run other-many in_cgroup other ./upm Probe run "$many"
run marked-doctor in_cgroup marked ./upm doctor --json
run marked-many in_cgroup marked ./upm Probe run "$many"
run marked-flood in_cgroup marked ./upm HelloPlugin flood
run marked-left ls $tree/marked
run low in_cgroup low ./upm Probe run '{"args":["memory_bomb",100]}'
# the tree is systemd's: nothing is made at its root
mkdir -p /run/systemd/system
run systemd-greet ./upm HelloPlugin greet '{"args":["root"]}'
run systemd-doctor ./upm doctor --json
busybox rmdir /run/systemd/system /run/systemd

# the user, beside its shell's own cgroup, alone in a delegated one, and not alone
cd /home/user/upm
delegate user
as_user mkdir $tree/user/shell
bombs user beside_shell user/shell $exec_as_user
run user-cgroup-doctor beside_shell user/shell $exec_as_user ./upm doctor
run user-left ls $tree/user/upm
delegate alone
run alone-many in_cgroup alone $exec_as_user ./upm Probe run "$many"
run alone-left ls $tree/alone
# as below a user's service manager, which marks nothing; its owner may try to switch the controllers off
app=$tree/user/app
as_user sh -c "mkdir $app $app/scope && echo '+memory +pids' >$app/cgroup.subtree_control"
in_cgroup user/app/scope $exec_as_user ./upm Probe run '{"args":["sleep",6]}' >/run/scope 2>/dev/null &
n=0
while ! grep -q . $app/scope/upm/*/plugin/cgroup.procs && [ $n -lt 100 ]; do sleep 0.1; n=$((n + 1)); done 2>/dev/null
run off-amid busybox sh -c "echo -memory >$app/scope/cgroup.subtree_control"
wait $!
run scope cat /run/scope
run scope-left ls $app/scope
run off-after sh -c "echo +memory >$app/scope/cgroup.subtree_control && echo -memory >$app/scope/cgroup.subtree_control"
delegate shared
run shared-many beside_shell shared $exec_as_user ./upm Probe run "$many"
# where there is no cgroup, and in one that has not got this controller
run shared-half beside_shell shared $exec_as_user ./upm --config half.toml Probe run '{"args":["echo"]}'
run shared-half-doctor beside_shell shared $exec_as_user ./upm --config half.toml doctor --json
run scope-half in_cgroup user/app/scope $exec_as_user ./upm --config half.toml Probe run '{"args":["echo"]}'
"#;

fn boot() -> Option<BTreeMap<String, Ran>> {
    if !Kernel::Oldest.can_boot() {
        return None;
    }
    let payload = tempfile::tempdir().unwrap();
    let put = |name: &str, content: &[u8]| fs::write(payload.path().join(name), content).unwrap();
    fs::create_dir(payload.path().join("plugins")).unwrap();
    fs::copy(env!("CARGO_BIN_EXE_upm"), payload.path().join("upm")).unwrap();
    fs::copy(built_probe(), payload.path().join("plugins/upm-probe")).unwrap();
    put("plugins/hello.py", HELLO.as_bytes());
    put("upm_config.toml", CONFIG.as_bytes());
    put("newer.toml", NEWER.as_bytes());
    put("half.toml", format!("{CONFIG}{HALF}").as_bytes());
    put("commands", commands().as_bytes());

    guest::boot(payload.path(), Kernel::Oldest)
}

#[test]
fn the_engine_holds_on_6_1() {
    let Some(ran) = boot() else { return };

    let control = ran["control"].json();
    let worked = control["answers"].as_array().unwrap();
    for ((act, _), answer) in denied().iter().zip(worked) {
        assert_eq!(answer["ok"], true, "the control of {act}: {answer}");
    }

    for mode in ["root", "user"] {
        let doctor = &ran[&format!("{mode}-doctor")];
        assert_eq!(doctor.exit, 0, "{doctor:#?}");
        for line in doctor.json()["layers"].as_array().unwrap() {
            assert_eq!(line["holds"], true, "{mode}: {line:#}");
            for tried in line["tried"].as_array().unwrap() {
                assert_eq!(tried["got"], tried["expected"], "{mode}: {line:#}");
            }
        }
        let landlock = doctor.layer("landlock");
        assert!(landlock["found"].as_str().unwrap().starts_with("ABI 2: "), "{landlock:#}");
        // without rules for ports it is the empty namespace alone that keeps the host's loopback out of reach
        let egress = doctor.layer("egress");
        let outside = egress["tried"].as_array().unwrap().iter().find(|tried| {
            let act = tried["act"].as_str().unwrap();
            act.starts_with("connect to 127.0.0.1:") && act.ends_with("where upm listens on the host")
        });
        assert_eq!(outside.unwrap()["got"], "ECONNREFUSED", "{egress:#}");

        let newer = &ran[&format!("{mode}-newer")];
        let data = newer.envelope()["data"].clone();
        assert_eq!((data["code"].as_str(), newer.exit), (Some("sandbox_unavailable"), 125), "{data:#}");
        assert_eq!(data["details"]["layer"], "landlock", "{data:#}");
        assert!(data["error"].as_str().unwrap().starts_with("landlock: this kernel has ABI 2, the grant requires 4"));
        let newer = &ran[&format!("{mode}-newer-doctor")];
        assert_eq!(newer.exit, 1, "{newer:#?}");
        let told = newer.layer("landlock");
        assert_eq!((&told["holds"], &told["remedy"]), (&json!(false), &data["details"]["remedy"]), "{told:#}");

        assert_eq!(ran[&format!("{mode}-greet")].result(), json!(format!("Hello, {mode}")));

        let probe = &ran[&format!("{mode}-probe")];
        let mut answers = probe.result()["answers"].as_array().unwrap().clone();
        let report = answers.remove(0);
        for ((act, errno), answer) in denied().iter().zip(&answers) {
            println!("{mode}: {act}");
            assert_errno_in(answer, &errno.split('|').collect::<Vec<_>>());
        }
        assert_ok(&answers[denied().len()]);
        assert_eq!(report["uid"], 1000);
        assert_eq!(report["gid"], 1000);
        assert_eq!(report["status"]["Groups"], "", "{mode}: supplementary groups");
        assert_eq!(report["status"]["NoNewPrivs"], "1");
        assert_eq!(report["status"]["Seccomp"], "2");
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(report["status"][set], "0000000000000000", "{mode}: {set}");
        }
        let fds: Vec<&String> = report["fds"].as_object().unwrap().keys().collect();
        assert_eq!(fds, ["0", "1", "2", "3"], "{mode}: {report:#}");
        // what is counted for each user
        let (timers, epoll) = (&answers[denied().len() + 1]["answer"], &answers[denied().len() + 2]["answer"]);
        assert_eq!((&timers["made"], &timers["stopped_by_name"]), (&json!(256), &json!("EAGAIN")), "{mode}: {timers}");
        assert_eq!(epoll["made"], 100, "{mode}: {epoll}");
        let locked = &answers[denied().len() + 3..];
        assert_eq!(locked.len(), LOCKS.len());
        locked.iter().for_each(assert_ok);

        // a configuration is not searched for where a call could write
        let planted = ran[&format!("{mode}-planted")].failed("config_invalid", 125);
        assert!(planted["error"].as_str().unwrap().contains("was found, not named"), "{planted:#}");
        assert!(ran[&format!("{mode}-named")].ok().contains("HelloPlugin"));

        // a process at its own limit gets ENOMEM; the sum, or the cgroup, ends the call
        let memory = ran[&format!("{mode}-memory")].envelope();
        let told = memory["data"]["result"]["errno_name"] == "ENOMEM";
        assert!(told || memory["data"]["code"] == "memory_exceeded", "{mode}: {memory:#}");
    }

    cgroups(&ran);
    paths(&ran);

    assert!(!ran["processes"].stdout.contains("upm"), "left behind: {:#?}", ran["processes"]);
    assert!(!ran["mounts"].stdout.contains("/srv/upm"), "left behind: {:#?}", ran["mounts"]);
}

/// `data.sandbox.layers.limits.active`.
/// See [`PATHS`].
fn paths(ran: &BTreeMap<String, Ran>) {
    assert_eq!(ran["paths-own"].result()["text"], "own\n");
    assert_ok(&ran["paths-other"].result());
    for (name, code, said) in
        [("paths-linked", "usage", "symbolic link"), ("paths-alias", "config_invalid", "configuration")]
    {
        let data = ran[name].envelope()["data"].clone();
        assert_eq!(data["code"], code, "{data:#}");
        assert!(data["error"].as_str().unwrap().contains(said), "{data:#}");
    }
}

fn limits(envelope: &Value) -> &Value {
    &envelope["data"]["sandbox"]["layers"]["limits"]["active"]
}

/// The call was ended because of its memory, as what counted it says.
fn exceeded(ran: &Ran, by: &str) -> Value {
    let envelope = ran.envelope();
    let data = &envelope["data"];
    assert_eq!((data["code"].as_str(), ran.exit), (Some("memory_exceeded"), 137), "{envelope:#}");
    assert_eq!(data["details"]["by"], by, "{envelope:#}");
    assert_eq!(data["details"]["memory"], 128 << 20);
    let denial = data["denials"].as_array().unwrap().iter().find(|denial| denial["operation"] == "memory").unwrap();
    assert_eq!(denial["object"]["limit"], 128 << 20, "{denial}");
    envelope
}

fn missing<'a>(envelope: &'a Value, why: &str) -> &'a Value {
    let cgroup = &limits(envelope)["cgroup"];
    assert!(cgroup["missing"].as_str().is_some_and(|found| found.contains(why)), "{envelope:#}");
    assert!(limits(envelope)["memory"].as_str().unwrap().contains("sum"), "{envelope:#}");
    assert!(envelope["data"]["usage"].get("memory_peak_bytes").is_none(), "{envelope:#}");
    cgroup
}

/// Names in a listing of a cgroup's directory that are cgroups of upm's.
fn made(ran: &Ran) -> Vec<&str> {
    ran.stdout.lines().filter(|name| name.starts_with("upm-")).collect()
}

fn cgroups(ran: &BTreeMap<String, Ran>) {
    for (mode, base) in [("root", "/upm/upm-call-"), ("user", "/user/upm/upm-call-")] {
        let fits = ran[&format!("{mode}-fits")].envelope();
        assert_eq!(fits["success"], true, "{fits:#}");
        let limits = limits(&fits);
        assert_eq!(
            (limits["memory"].as_str(), limits["processes"].as_str()),
            (Some("cgroup, and RLIMIT_DATA a process"), Some("cgroup")),
            "{mode}: {limits:#}"
        );
        assert!(limits["cgroup"]["path"].as_str().unwrap().starts_with(base), "{limits:#}");
        let active =
            json!({"memory.max": "134217728", "memory.swap.max": "0", "memory.oom.group": "1", "pids.max": "17"});
        assert_eq!(limits["cgroup"]["active"], active);
        let usage = &fits["data"]["usage"];
        let peak = usage["memory_peak_bytes"].as_u64().unwrap();
        assert!((15 << 20..100 << 20).contains(&peak), "two processes of 10 MiB: {usage}");
        assert_eq!(usage["pids_peak"], 4, "pid 1, the plugin, two more: {usage}");
        assert!(fits["data"]["denials"].as_array().unwrap().is_empty(), "{fits:#}");

        for bomb in ["many", "tmp"] {
            let envelope = exceeded(&ran[&format!("{mode}-{bomb}")], "cgroup");
            let used = envelope["data"]["details"]["used"].as_u64().unwrap();
            assert!((120 << 20..=129 << 20).contains(&used), "{envelope:#}");
        }

        let pids = ran[&format!("{mode}-pids")].envelope();
        assert_eq!(pids["data"]["result"]["stopped_by_name"], "EAGAIN", "{pids:#}");
        assert_eq!(pids["data"]["result"]["forked"], 15, "{pids:#}");
        let denial =
            pids["data"]["denials"].as_array().unwrap().iter().find(|one| one["operation"] == "processes").unwrap();
        assert_eq!(denial["object"], json!({"limit": 16, "used": 16, "unit": "processes"}));
        assert_eq!(denial["remedy"], "[plugins.Probe.methods.run]\nprocesses = 32");

        slowed_down(&ran[&format!("{mode}-whole")], &ran[&format!("{mode}-half")]);
        let doctor = ran[&format!("{mode}-half-doctor")].layer("cgroup");
        assert!(doctor["holds"] == true && doctor["found"].as_str().unwrap().ends_with(" cpu.max"), "{doctor:#}");

        let inside = ran[&format!("{mode}-inside")].result();
        assert_eq!(inside["cgroup"], "0::/", "the call's cgroup is the root of what it sees");
        let mut types = inside["mounts"].as_array().unwrap().iter().map(|mount| mount["type"].as_str().unwrap());
        assert!(types.all(|kind| !kind.contains("cgroup")), "{inside:#}");
        assert_eq!(made(&ran[&format!("{mode}-left")]), Vec::<&str>::new());
    }
    let doctor = &ran["user-cgroup-doctor"];
    assert!(doctor.stdout.contains("a call gets its own in /user/upm: memory.max"), "{doctor:#?}");
    exceeded(&ran["spared"], "cgroup");
    // less than the steps themselves need: the plugin was never started
    let tiny = ran["tiny"].envelope();
    assert_eq!((tiny["data"]["code"].as_str(), ran["tiny"].exit), (Some("memory_exceeded"), 137), "{tiny:#}");
    assert!(tiny["data"]["details"]["by"] == "cgroup" && tiny["data"].get("usage").is_none(), "{tiny:#}");

    let (first, second) =
        ("upm-call-00000000-0000-4000-8000-000000000001", "upm-call-00000000-0000-4000-8000-000000000002");
    assert_eq!(made(&ran["left-by-kill"]), [first, second, "upm-call-stale"]);
    assert_eq!(ran["after-kill"].result(), "Hello, root");
    assert_eq!(made(&ran["swept"]), [second]);
    assert!(ran["swept"].stdout.contains("not-a-call"), "{:#?}", ran["swept"]);
    assert_eq!(ran["slow"].envelope()["success"], true, "{:#?}", ran["slow"]);
    assert_eq!(made(&ran["slow-left"]), Vec::<&str>::new());

    missing(&exceeded(&ran["other-many"], "sum"), "/other is not delegated");
    exceeded(&ran["marked-many"], "cgroup");
    // upm has left it, moved on when it had much to do, and came back
    assert_eq!(ran["marked-flood"].envelope()["success"], true, "{:#?}", ran["marked-flood"]);
    assert!(!ran["marked-left"].stdout.contains("upm"), "{:#?}", ran["marked-left"]);
    assert!(
        ran["marked-doctor"].stdout.contains("a call gets its own in /marked/upm: memory.max"),
        "{:#?}",
        ran["marked-doctor"]
    );
    let low = ran["low"].envelope();
    assert_eq!((low["data"]["code"].as_str(), ran["low"].exit), (Some("plugin_killed"), 137), "{low:#}");
    assert!(low["data"]["details"]["by"].as_str().unwrap().contains("outside of the call's own limit"), "{low:#}");

    let systemd = missing(&ran["systemd-greet"].envelope(), "root cgroup").clone();
    assert!(systemd["remedy"].as_str().unwrap().contains("systemd-run --scope -p Delegate=yes"), "{systemd}");
    let told = ran["systemd-doctor"].layer("cgroup");
    assert_eq!((&told["holds"], &told["remedy"]), (&json!(true), &systemd["remedy"]));

    missing(&ran["user-greet"].envelope(), "root cgroup");
    exceeded(&ran["alone-many"], "cgroup");
    assert!(!ran["alone-left"].stdout.contains("upm"), "{:#?}", ran["alone-left"]);
    let scope = ran["scope"].envelope();
    let path = limits(&scope)["cgroup"]["path"].as_str().unwrap();
    assert!(path.starts_with("/user/app/scope/upm/upm-call-"), "{path}");
    assert!(ran["off-amid"].exit != 0 && ran["off-amid"].stderr.contains("busy"), "{:#?}", ran["off-amid"]);
    assert_eq!(ran["off-after"].exit, 0, "{:#?}", ran["off-after"]);
    assert!(!ran["scope-left"].stdout.contains("upm"), "{:#?}", ran["scope-left"]);
    missing(&exceeded(&ran["shared-many"], "sum"), "/shared holds other processes");

    // nothing else serves `cpus`
    for (name, why) in [
        ("shared-half", "cgroup /shared holds other processes"),
        ("scope-half", "cgroup /user/app/scope: cpu is not among its controllers"),
    ] {
        let data = ran[name].envelope()["data"].clone();
        assert_eq!((data["code"].as_str(), ran[name].exit), (Some("sandbox_unavailable"), 125), "{data:#}");
        assert_eq!((&data["details"]["layer"], &data["details"]["key"]), (&json!("limits"), &json!("cpus")));
        assert!(data["error"].as_str().unwrap().contains(why), "{data:#}");
    }
    let doctor = &ran["shared-half-doctor"];
    let told = doctor.layer("cgroup");
    assert_eq!((doctor.exit, &told["holds"]), (1, &json!(false)), "{told:#}");
    assert!(told["found"].as_str().unwrap().ends_with("started like this, upm refuses calls with `cpus`"));
}

/// The same seconds of spinning: with half a processor it gets less than two thirds of them, and the answer says how long it waited.
fn slowed_down(whole: &Ran, half: &Ran) {
    let spent = |ran: &Ran| {
        assert_eq!(ran.exit, 0, "{ran:#?}");
        let usage = ran.envelope()["data"]["usage"].clone();
        let number = |key: &str| usage[key].as_u64().unwrap_or_else(|| panic!("{key}: {usage}"));
        (number("cpu_user_us") + number("cpu_system_us"), usage["cpu_throttled_us"].as_u64(), number("wall_us"))
    };
    let (cpu, waited, wall) = spent(whole);
    assert!(cpu > 2_000_000 && waited.is_none(), "{cpu} µs of {wall}, {whole:#?}");
    let (cpu, waited, wall) = spent(half);
    assert!(cpu < wall * 2 / 3 && waited.unwrap() > 1_000_000, "{cpu} µs of {wall}, {half:#?}");
    let envelope = half.envelope();
    let limits = limits(&envelope);
    assert_eq!((&limits["cgroup"]["active"]["cpu.max"], &limits["cpus"]), (&json!("50000 100000"), &json!("cgroup")));
    assert_eq!(envelope["data"]["sandbox"]["layers"]["limits"]["asked"]["cpus"], 0.5);
}

/// On any host: `cpus` is enforced, or the call is refused with the remedy. Without the key it runs.
#[rstest]
fn processors_are_bound_or_the_call_is_refused(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "timeout = \"20s\"") else { return };
    f.act("echo", json!([]));
    f.config(&format!("{}cpus = 0.5\n", common::PROBE));
    let call = f.run("echo", json!([]));
    if call.exit == Some(0) {
        assert_eq!(limits(&call.envelope())["cgroup"]["active"]["cpu.max"], "50000 100000", "{:#}", call.data());
        return;
    }
    let data = call.failed("sandbox_unavailable", 125);
    assert_eq!((&data["details"]["layer"], &data["details"]["key"]), (&json!("limits"), &json!("cpus")));
    let remedy = data["details"]["remedy"].as_str().unwrap();
    assert!(!remedy.is_empty() && data["error"].as_str().unwrap().ends_with(remedy), "{data:#}");
}

/// On any host: a call has a cgroup, with the limits that were asked for, or says why it has none.
#[rstest]
fn what_bounds_memory_and_processes_is_said(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "memory = \"128MiB\"\nprocesses = 20\ntimeout = \"20s\"") else { return };
    let call = f.run("memory_forked", json!([8, 60, 5]));
    call.failed("memory_exceeded", 137);
    let data = call.data();
    let limits = &data["sandbox"]["layers"]["limits"]["active"];
    let cgroup = &limits["cgroup"];
    if let Some(found) = cgroup["missing"].as_str() {
        assert!(!found.is_empty() && !cgroup["remedy"].as_str().unwrap().is_empty(), "{limits:#}");
        assert_eq!(limits["memory"], "RLIMIT_DATA a process, and the sum watched every 100 ms");
        assert_eq!(limits["processes"], "RLIMIT_NPROC in the call's user namespace");
        assert_eq!(data["details"]["by"], "sum");
        assert!(data["usage"].get("memory_peak_bytes").is_none() && data["usage"].get("pids_peak").is_none());
    } else {
        assert_eq!(cgroup["active"]["memory.max"], "134217728", "{limits:#}");
        assert_eq!(cgroup["active"]["pids.max"], "21", "{limits:#}");
        assert_eq!(data["details"]["by"], "cgroup");
        assert!(data["usage"]["memory_peak_bytes"].as_u64().unwrap() > 100 << 20, "{data:#}");
    }
}

/// Tests of other files that run on this kernel, a guest each list, and what is left out and why.
const MEMORY: &[Tests] = &[
    Tests { file: "kernel_memory", place: Place::Apart, only: &[], without: &[] },
    // what a cgroup changes
    Tests {
        file: "kernel_memory",
        place: Place::Top,
        only: &["what_sockets_hold", "page_tables", "a_cgroup_that_is_required"],
        without: &[("Mode__User", "users' calls have a cgroup where it is delegated")],
    },
    Tests {
        file: "kernel_memory",
        place: Place::Delegated,
        only: &["what_sockets_hold", "page_tables", "a_cgroup_that_is_required"],
        without: &[("Mode__Root", "the tests run as a user")],
    },
    Tests {
        file: "effort",
        place: Place::Delegated,
        only: &["counted_in_the_calls_cgroup"],
        without: &[("Mode__Root", "the tests run as a user")],
    },
    Tests { file: "counted", place: Place::Top, only: &["extended_attributes", "copying_goes_on"], without: &[] },
];

const FILES: &[Tests] = &[
    Tests { file: "locks", place: Place::Top, only: &["threads_that_outlive_the_first"], without: &[] },
    Tests { file: "nested", place: Place::Top, only: &["it_stays_where_it_is", "what_is_granted"], without: &[] },
    Tests {
        file: "owners",
        place: Place::Top,
        only: &[],
        without: &[("no_other_directory_is_given_away", "a hundred calls take a minute here")],
    },
    Tests {
        file: "audit_attacks",
        place: Place::Top,
        only: &[],
        without: &[
            ("a_full_disk_hides_no_call::mode_1_Mode__Root", "the disk is a tmpfs: no mapped ids before 6.3"),
            ("a_reader_who_locks_the_file", SECONDS),
        ],
    },
    Tests {
        file: "effort",
        place: Place::Top,
        only: &["little_more_than_the_call", "counted_in_the_calls_cgroup"],
        without: &[
            ("counted_in_the_calls_cgroup::mode_2_Mode__User", "users' calls have a cgroup where it is delegated"),
            // frames: upm reads megabytes by its own code, in which the kernel has no part
            ("little_more_than_the_call::case_1", SLOW),
            ("little_more_than_the_call::case_2", SLOW),
            // the same as the third, of stderr and byte by byte
            ("little_more_than_the_call::case_4", SLOW),
            ("little_more_than_the_call::case_5", SLOW),
        ],
    },
];

const CALLERS: &[Tests] = &[
    Tests { file: "hostile_caller", place: Place::Top, only: &[], without: &[] },
    Tests {
        file: "afterwards",
        place: Place::Top,
        only: &[],
        without: &[("when_a_limit_ends_its_process", SECONDS), ("a_programs_last_frame", SECONDS)],
    },
    Tests {
        file: "strangers",
        place: Place::Top,
        only: &[],
        without: &[("case_2_malformed", "the same as its first case, which takes 25 s here")],
    },
];

// so does own_filter.rs, which is not here
const SECONDS: &str = "counts seconds, and without KVM a call itself may take as long";
const SLOW: &str = "takes half a minute without KVM";

#[rstest]
#[case::memory(MEMORY)]
#[case::files(FILES)]
#[case::callers(CALLERS)]
fn tests_of_other_files_pass_on_6_1(#[case] tests: &[Tests]) {
    guest::run(tests, Kernel::Oldest);
}

#[test]
fn the_console_is_cut_at_its_markers() {
    let ran = guest::parse("noise\n@@BEGIN a\n{}\n\n@@STDERR a\nw\n@@END a 3\n@@DONE\n");
    assert_eq!((ran["a"].stdout.trim(), ran["a"].stderr.trim(), ran["a"].exit), ("{}", "w", 3));
}

#[test]
fn a_run_that_is_not_all_of_its_tests_fails() {
    let names = ["a".to_owned(), "b".to_owned()].into();
    let ran = |exit, stdout: &str| Ran { exit, stdout: stdout.into(), stderr: String::new() };
    assert_eq!(guest::wrong(&names, &ran(0, "test a ... ok\ntest b ... ok\n")), None);
    for (exit, stdout) in [
        (0, ""),
        (0, "test a ... ok\n"),
        (0, "test a ... ok\ntest b ... ignored\n"),
        (0, "test a ... ok\ntest b ... ok\ntest c ... ok\n"),
        (101, "test a ... ok\ntest b ... FAILED\n"),
        (101, "test a ... ok\ntest b ... ok\n"),
    ] {
        assert!(guest::wrong(&names, &ran(exit, stdout)).is_some(), "{exit} {stdout}");
    }
    assert!(guest::wrong(&[].into(), &ran(0, "")).is_some());
}
