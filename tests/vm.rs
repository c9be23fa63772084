//! Real limits on whole hosts: Debian 12 and 13 with their own kernels and systemd, and 13 with the newest kernel of unstable,
//! booted under qemu (see `tests/qemu/`).
//! What is done there is in `tests/qemu/commands`. Here the kernel's own killer ends calls, journald tells their stories,
//! and a user's service manager delegates.

mod common;

use common::booted::{self, Ran};
use common::guest::Kernel;
use common::{cache, has_program, is_root, repository, skip};
use rstest::rstest;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::time::Instant;

const PLUGIN: &str = r#"
import errno, os, signal, time


class Hungry:
    def __init__(self):
        pass

    def memory(self, processes, mib):
        children = []
        for _ in range(processes):
            child = os.fork()
            if child == 0:
                held = b"x" * (mib << 20)
                time.sleep(2)
                os._exit(len(held) != mib << 20)
            children.append(child)
        return [os.waitpid(child, 0)[1] for child in children]

    def fork(self, processes):
        children, stopped = [], None
        while len(children) < processes:
            try:
                child = os.fork()
            except OSError as error:
                stopped = errno.errorcode[error.errno]
                break
            if child == 0:
                signal.pause()
                os._exit(1)
            children.append(child)
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        return {"forked": len(children), "stopped": stopped}

    def spin(self):
        while True:
            pass

    def turn(self, seconds):
        for _ in range(2):
            if os.fork() == 0:
                end = time.monotonic() + seconds
                while time.monotonic() < end:
                    pass
                os._exit(0)
        return [os.wait()[1] for _ in range(2)]

    def sleep(self, seconds):
        time.sleep(seconds)
"#;

const TABLE: &str = r#"
[plugins.Hungry]
module = "hungry"
site = false
allowed_methods = ["memory", "fork", "spin", "turn", "sleep"]
callers = ["user:deploy"]
memory = "96MiB"
processes = 16
cpu_time = "20s"
timeout = "3m"

[plugins.Hungry.methods.spin]
cpu_time = "3s"

[plugins.Hungry.methods.turn]
cpus = 0.5
egress = ["pip"]
"#;

/// Of a grant of [`TABLE`].
const MEMORY: u64 = 96 << 20;

/// Boots `kernel` with the userland of `suite`, goes through the stages, and gives what they left; `None` if that is not
/// available here.
fn boot(kernel: Kernel, suite: &str) -> Option<BTreeMap<String, Ran>> {
    if cfg!(not(target_arch = "x86_64")) {
        skip("the guest is an x86_64 machine");
        return None;
    }
    if !is_root() {
        skip("the tree of a whole system is made by root");
        return None;
    }
    for program in ["qemu-system-x86_64", "mmdebstrap", "mkfs.ext4", "cpio", "busybox", "xz", "dpkg-deb", "systemctl"] {
        if !has_program(program) {
            return None;
        }
    }
    let deb = booted::package();
    let begun = Instant::now();
    let payload = tempfile::tempdir_in("/var/tmp").unwrap();
    let put = |name: &str, content: &[u8]| fs::write(payload.path().join(name), content).unwrap();
    fs::copy(deb, payload.path().join("upm.deb")).unwrap();
    fs::copy(repository().join("tests/qemu/commands"), payload.path().join("commands")).unwrap();
    put("hungry.py", PLUGIN.as_bytes());
    put("hungry.toml", TABLE.as_bytes());
    let mut command = Command::new(repository().join("tests/qemu/boot"));
    command.arg(payload.path()).args([kernel.name(), suite]).env("UPM_TEST_CACHE", cache());
    let output = command.output().unwrap();
    if kernel.cannot_be_had(&output) {
        return None;
    }
    let name = format!("vm-{}", kernel.name());
    let ran = booted::stages(&name, &output, payload.path());
    kernel.assert_runs(&ran["uname"]);
    let uptime = |name: &str| ran[name].ok().split_once('.').unwrap().0.to_owned();
    println!("{name}: {} s; stages from {} to {} s", begun.elapsed().as_secs(), uptime("booted"), uptime("ended"));
    Some(ran)
}

#[test]
fn limits_are_real_on_debian_12() {
    let Some(ran) = boot(Kernel::Oldest, "bookworm") else { return };
    holds(&ran);
    assert!(!ran["apparmor"].stdout.lines().any(|line| line.starts_with("upm ")), "{:#?}", ran["apparmor"]);
}

#[rstest]
#[case::its_own_kernel(Kernel::Trixie)]
#[case::the_newest_kernel(Kernel::Newest)]
fn limits_are_real_on_debian_13(#[case] kernel: Kernel) {
    let Some(ran) = boot(kernel, "trixie") else { return };
    holds(&ran);
    assert!(ran["apparmor"].ok().lines().any(|line| line.starts_with("upm ")), "{:#?}", ran["apparmor"]);
}

fn holds(ran: &BTreeMap<String, Ran>) {
    let ran = |name: &str| ran.get(name).unwrap_or_else(|| panic!("{name} was not run"));
    assert_eq!(ran("hierarchy").ok(), "cgroup2fs\n");
    ran("install").ok();

    let found = doctor(ran("doctor"));
    assert!(found.starts_with("a call gets its own in /system.slice/run-"), "{found}");
    let found = doctor(ran("doctor-beside"));
    assert!(found.starts_with("not used: cgroup /system.slice/stage.service is not delegated"), "{found}");
    // once `cpus` is granted nothing else will do
    let without = ran("doctor-without");
    assert_eq!(without.exit, 1, "{without:#?}");
    let told = without.layer("cgroup");
    assert_eq!(told["holds"], false, "{told:#}");
    assert!(told["remedy"].as_str().unwrap().starts_with("start it in a cgroup of its own"), "{told:#}");
    over_the_socket(&ran);
    as_a_user(&ran);
    assert_eq!(ran("failed-units").ok(), "");
}

/// Every layer holds; what is said of cgroups.
#[track_caller]
fn doctor(ran: &Ran) -> String {
    ran.ok();
    for line in ran.json()["layers"].as_array().unwrap() {
        assert_eq!(line["holds"], true, "{line:#}");
    }
    ran.layer("cgroup")["found"].as_str().unwrap().to_owned()
}

/// The denial of `operation` in the data of a call.
#[track_caller]
fn denial<'a>(data: &'a Value, operation: &str) -> &'a Value {
    let denials = data["denials"].as_array().unwrap();
    denials.iter().find(|denial| denial["operation"] == operation).unwrap_or_else(|| panic!("{operation}: {data:#}"))
}

/// What the kernel counted: bytes, and processes with pid 1.
#[track_caller]
fn peaks(data: &Value) -> (u64, u64) {
    let peak = |key: &str| data["usage"][key].as_u64().unwrap_or_else(|| panic!("{key}: {data:#}"));
    (peak("memory_peak_bytes"), peak("pids_peak"))
}

/// The call was ended by the kernel, as its own cgroup tells.
#[track_caller]
fn memory_exceeded(ran: &Ran) -> Value {
    let data = ran.failed("memory_exceeded", 137);
    assert_eq!((&data["details"]["by"], &data["details"]["memory"]), (&json!("cgroup"), &json!(MEMORY)), "{data:#}");
    assert_eq!(denial(&data, "memory")["object"]["limit"], MEMORY);
    let (memory, _) = peaks(&data);
    assert!((MEMORY * 9 / 10..=MEMORY).contains(&memory), "{data:#}");
    data
}

/// What `journalctl -x` shows of a call, and that it has these texts.
#[track_caller]
fn tells(story: &Ran, texts: &[&str]) {
    for text in texts {
        assert!(story.ok().contains(text), "{text}: {story:#?}");
    }
    assert!(!story.stdout.contains('@'), "every field of the catalog's texts was filled in: {story:#?}");
}

fn over_the_socket<'a>(ran: &impl Fn(&str) -> &'a Ran) {
    // within its grant: all children ended well, and the kernel counted them
    assert_eq!(ran("fits").result(), json!([0, 0]));
    let data = ran("fits").envelope()["data"].clone();
    let (memory, pids) = peaks(&data);
    assert!((20 << 20..MEMORY).contains(&memory), "two of 10 MiB: {data:#}");
    assert_eq!(pids, 4, "pid 1, the plugin, two more: {data:#}");
    let limits = &data["sandbox"]["layers"]["limits"]["active"]["cgroup"];
    let path = limits["path"].as_str().unwrap_or_else(|| panic!("{data:#}"));
    assert!(
        path.starts_with("/system.slice/system-upm.slice/upm@") && path.contains(".service/upm/upm-call-"),
        "{path}"
    );

    memory_exceeded(ran("memory"));
    tells(
        ran("memory-story"),
        &[
            "A call of Hungry memory has started",
            "A call of Hungry memory has ended: memory_exceeded",
            "Hungry was denied: memory",
            "The layer limits stopped it",
            "memory = \"192MiB\"",
        ],
    );
    assert_eq!(ran("memory-record").json()["UPM_CODE"], "memory_exceeded");
    let kernel = ran("kernel").ok();
    assert!(kernel.contains("Memory cgroup out of memory: Killed process"), "{kernel}");
    assert!(kernel.contains("are going to be killed due to memory.oom.group set"), "{kernel}");

    assert_eq!(ran("few").result(), json!({"forked": 3, "stopped": null}));
    too_many(ran("processes"));
    tells(ran("processes-story"), &["has ended: ok", "Hungry was denied: processes", "processes = 32"]);

    let data = ran("cpu").failed("cpu_time_exceeded", 152);
    let spent = data["usage"]["cpu_user_us"].as_u64().unwrap() + data["usage"]["cpu_system_us"].as_u64().unwrap();
    assert!((2_500_000..10_000_000).contains(&spent), "{data:#}");
    denial(&data, "cpu_time");

    slowed_down(ran("slow"));
    assert_eq!(ran("during").ok().lines().count(), 1, "{:#?}", ran("during"));
    assert_eq!(ran("left").ok(), "", "the calls' cgroups are gone");
}

/// The kernel refused it a process over its grant, and said so.
#[track_caller]
fn too_many(ran: &Ran) {
    assert_eq!(ran.result(), json!({"forked": 15, "stopped": "EAGAIN"}));
    let data = ran.envelope()["data"].clone();
    assert_eq!(denial(&data, "processes")["object"], json!({"limit": 16, "used": 16, "unit": "processes"}));
    assert_eq!(peaks(&data).1, 17, "pid 1 is not the plugin's: {data:#}");
}

/// Two processes that each spin for four seconds get two seconds' worth together. Start-up is slowed down too, not what reads
/// pip's configuration before.
#[track_caller]
fn slowed_down(ran: &Ran) {
    assert_eq!(ran.result(), json!([0, 0]));
    let data = ran.envelope()["data"].clone();
    let used = |key: &str| data["usage"][key].as_u64().unwrap_or_else(|| panic!("{key}: {data:#}"));
    let (spent, wall) = (used("cpu_user_us") + used("cpu_system_us"), used("wall_us"));
    assert!(spent < wall * 2 / 3 && used("cpu_throttled_us") > 1_000_000, "{data:#}");
    let limits = &data["sandbox"]["layers"]["limits"]["active"];
    assert_eq!((&limits["cgroup"]["active"]["cpu.max"], &limits["cpus"]), (&json!("50000 100000"), &json!("cgroup")));
}

fn as_a_user<'a>(ran: &impl Fn(&str) -> &'a Ran) {
    // where nothing serves it, it is refused
    let data = ran("user-beside-slow").failed("sandbox_unavailable", 125);
    assert_eq!((&data["details"]["layer"], &data["details"]["key"]), (&json!("limits"), &json!("cpus")), "{data:#}");
    slowed_down(ran("user-slow"));
    // the control: beside others nothing is made for the user, and nothing counted
    let data = ran("user-beside").envelope()["data"].clone();
    assert_eq!(data["result"], json!([0, 0]), "{data:#}");
    assert!(data["sandbox"]["layers"]["limits"]["active"]["cgroup"]["missing"].is_string(), "{data:#}");
    assert!(data["usage"].get("memory_peak_bytes").is_none(), "{data:#}");

    let found = doctor(ran("user-doctor"));
    assert!(found.starts_with("a call gets its own in /user.slice/user-") && found.contains("/app.slice/"), "{found}");
    memory_exceeded(ran("user-memory"));
    tells(ran("user-story"), &["A call of Hungry memory has ended: memory_exceeded", "Hungry was denied: memory"]);
    too_many(ran("user-processes"));
    assert_eq!(ran("user-left").ok(), "");
}
