//! Memory of the kernel that no process has mapped, where no cgroup counts it: what sockets hold, shared memory without a
//! file, pages that pipes and sockets keep, page tables.

mod common;

use common::{Fixture, Mode, assert_errno, assert_ok};
use rstest::rstest;
use serde_json::{Value, json};

/// `net.core.wmem_default` and `rmem_default` as kernels come: what a buffer has that nobody has enlarged.
const BUFFER: u64 = 212_992;

/// The call was ended for its memory, by the watch's sum or by a cgroup.
#[track_caller]
fn exceeded(f: &Fixture, act: &str, args: Value) {
    let data = f.run(act, args).failed("memory_exceeded", 137);
    if data["details"]["by"] == "sum" {
        assert!(data["details"]["used"].as_u64() > data["details"]["memory"].as_u64(), "{data:#}");
    }
    f.assert_clean();
}

#[rstest]
fn buffers_stay_as_they_are_and_programs_are_not_told(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "") else { return };
    let default = f.control("socket_pairs", json!([1]))["sndbuf"].as_u64().unwrap();
    let larger = f.control("socket_pairs", json!([1, 0, 1 << 20]));
    assert!(larger["sndbuf"].as_u64().unwrap() > default, "{larger}");
    for kind in [libc::SOCK_STREAM, libc::SOCK_DGRAM, libc::SOCK_SEQPACKET] {
        for buffer in [1 << 12, 1 << 20, i64::from(i32::MAX)] {
            let inside = f.act("socket_pairs", json!([1, 0, buffer, kind]));
            assert_ok(&inside);
            assert_eq!(inside["sndbuf"], default, "{inside}");
        }
    }
    assert_eq!(f.run("socket_pairs", json!([1, 0, 1 << 20])).data()["denials"], json!([]));
    // a level of another family has options of the same number
    assert_ok(&f.act("setsockopt", json!(["AF_INET", "SOCK_STREAM", 6, 7, "01000000"])));
}

#[rstest]
fn tcp_buffers_do_not_grow(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "write = [\"{project_root}\"]") else { return };
    let most = 4 * 2 * 2 * BUFFER;
    let outside = f.control("tcp_pairs", json!([4, 0, 8 << 20]));
    assert!(outside["bytes"].as_u64().unwrap() > most, "{outside}");
    let inside = f.act("tcp_pairs", json!([4, 0, 8 << 20]));
    assert_ok(&inside);
    assert!(inside["bytes"].as_u64().unwrap() <= most, "{inside}, at most {most}");
    if !common::is_root() {
        return common::skip("only root may look into the call's network namespace");
    }
    let begun = f.text("project/begun");
    let running = f.upm(["Probe", "run", &json!({"args": ["sleep", 1, begun]}).to_string()]).start();
    common::service::begun(begun.as_ref());
    let own = running.pid();
    let children = std::fs::read_to_string(format!("/proc/{own}/task/{own}/children")).unwrap();
    let net = format!("--net=/proc/{}/ns/net", children.split(' ').next().unwrap());
    let files = ["tcp_rmem", "tcp_wmem"].map(|name| format!("/proc/sys/net/ipv4/{name}"));
    let told = std::process::Command::new("nsenter").arg(&net).arg("cat").args(&files).output().unwrap();
    let told = String::from_utf8(told.stdout).unwrap();
    assert_eq!(told, format!("4096\t131072\t{BUFFER}\n4096\t16384\t{BUFFER}\n"));
    let host = files.map(|file| std::fs::read_to_string(file).unwrap()).concat();
    assert!(!host.contains(&format!("\t{BUFFER}\n")), "{host}");
    assert_ok(&running.wait().result());
}

#[rstest]
fn what_sockets_hold_counts_as_memory(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "memory = \"64MiB\"\nopen_files = 1000") else { return };
    // some are free, and what they hold is not what ends a call
    assert_ok(&f.act("socket_pairs", json!([30, 300])));
    exceeded(&f, "socket_pairs", json!([400, 3000, 4 << 20]));
    exceeded(&f, "udp_sockets", json!([400, 3000, 4 << 20]));
    exceeded(&f, "tcp_pairs", json!([200, 3000, 4 << 20, 2]));
    // no descriptor is open of these
    exceeded(&f, "backlog", json!([400, 3000]));
    for (act, args) in [("socket_pairs", json!([400])), ("udp_sockets", json!([400])), ("backlog", json!([400]))] {
        assert!(f.control(act, args)["bytes"].as_u64().unwrap() > 16 << 20, "{act} outside");
    }
    let roomy = Fixture::probe(mode, "memory = \"1GiB\"\nopen_files = 1000").unwrap();
    assert_ok(&roomy.act("socket_pairs", json!([400, 300])));
    assert_ok(&roomy.act("backlog", json!([400, 300])));
}

#[rstest]
fn the_answer_says_what_of_it_is_for_sockets(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "memory = \"64MiB\"\nopen_files = 1000") else { return };
    if f.run("echo", json!([1])).data()["sandbox"]["layers"]["limits"]["active"]["memory_by"] == "cgroup" {
        return common::skip("a cgroup counts what is held, not what could be");
    }
    // not a byte is in them: what they could hold is what counts
    f.python(
        "late",
        "import socket, time\nclass Late:\n    def run(self):\n        self.held = [socket.socketpair() for _ in range(300)]\n        \
         time.sleep(5)\n",
    );
    f.config(&format!(
        "{}\n[plugins.Late]\nmodule = \"late\"\nallowed_methods = [\"run\"]\nopen_files = 1000\nmemory = \"64MiB\"\n",
        common::PROBE
    ));
    let data = f.call("Late", "run", &json!([])).failed("memory_exceeded", 137);
    // as many as were there when the watch looked
    assert!(data["details"]["sockets"].as_u64().unwrap() > 64, "{data:#}");
    assert!(data["details"]["sockets_bytes"].as_u64().unwrap() > 64 << 20, "{data:#}");
}

#[rstest]
fn shared_memory_without_a_file_cannot_be_had(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "") else { return };
    assert_ok(&f.control("shared_memory", json!([16])));
    let answer = f.run("shared_memory", json!([16]));
    assert_errno(&answer.result(), "EPERM");
    let denials = answer.denials("seccomp", "mmap");
    assert!(denials[0]["remedy"].as_str().unwrap().contains("syscalls = [\"mmap\"]"), "{denials:#?}");
    // the device that is the same thing
    assert_ok(&f.control("shared_memory", json!([16, 0, "/dev/zero"])));
    assert_errno(&f.act("shared_memory", json!([16, 0, "/dev/zero"])), "ENODEV");
    assert_errno(&f.act("shared_memory", json!([16, 0, "/dev/full"])), "ENODEV");
    let read = f.act("read", json!(["/dev/zero", 4]));
    assert_eq!((&read["bytes"], &read["text"]), (&json!(4), &json!("\0\0\0\0")), "{read}");
    // with a file, whose size `tmp` and /dev/shm bound, it works
    let shared = [
        json!(["create", "/dev/shm/x"]),
        json!(["truncate", "/dev/shm/x", 1 << 20]),
        json!(["shared_memory", 1, 0, "/dev/shm/x"]),
    ];
    f.acts(&shared).iter().for_each(assert_ok);
    // segments of System V are the same; queues and semaphores are memory of the kernel for which there is no limit at all
    for (act, name) in [("shmget", "shmget"), ("msgget", "msgget"), ("semget", "semget")] {
        assert_errno(&f.act(act, json!([0, "IPC_CREAT|0o600"])), "EPERM");
        let granted = Fixture::probe(mode, &format!("syscalls = [\"{name}\"]")).unwrap();
        assert_ok(&granted.act(act, json!([0, "IPC_CREAT|0o600"])));
    }
}

#[rstest]
fn no_page_is_kept_by_a_byte(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "") else { return };
    for call in ["vmsplice", "splice", "tee", "sendfile"] {
        assert_ok(&f.control("spliced", json!([call])));
        let answer = f.run("spliced", json!([call]));
        assert_errno(&answer.result(), "EINVAL");
        assert_eq!(answer.data()["denials"], json!([]), "programs read and write instead");
        let granted = Fixture::probe(mode, &format!("syscalls = [\"{call}\"]")).unwrap();
        assert_ok(&granted.act("spliced", json!([call])));
    }
    f.python("copies", "import shutil, os\nclass Copies:\n    def run(self):\n        open('/tmp/a', 'wb').write(b'x' * 300000)\n        shutil.copyfile('/tmp/a', '/dev/shm/b')\n        return os.path.getsize('/dev/shm/b')\n");
    f.config(&format!("{}\n[plugins.Copies]\nmodule = \"copies\"\nallowed_methods = [\"run\"]\n", common::PROBE));
    assert_eq!(f.call("Copies", "run", &json!([])).result(), 300_000);
}

#[rstest]
fn page_tables_count_as_memory(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "memory = \"64MiB\"") else { return };
    // 4 KiB for each 2 MiB
    assert_ok(&f.act("page_tables", json!([4, 300])));
    assert_ok(&f.control("page_tables", json!([64])));
    exceeded(&f, "page_tables", json!([64, 3000]));
}

#[rstest]
fn flow_labels_of_the_host_cannot_be_taken(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "") else { return };
    // struct in6_flowlabel_req: ::1, any label, IPV6_FL_A_GET, IPV6_FL_S_EXCL, IPV6_FL_F_CREATE
    let request = format!("{}01{}", "00".repeat(15), "00000000000101000000000000000000");
    let args = json!(["AF_INET6", "SOCK_DGRAM", 41, 32, request]);
    assert_errno(&f.act("setsockopt", args.clone()), "EPERM");
    assert_ok(&f.control("setsockopt", args));
    assert_ok(&f.act("setsockopt", json!(["AF_INET6", "SOCK_DGRAM", 41, 26, "01000000"])));
}

/// On any host: with `require_cgroup` a call's memory is counted by a cgroup, or the call is refused, and all that tell say so.
#[rstest]
fn a_cgroup_that_is_required_is_there_or_the_call_is_refused(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "") else { return };
    let active = |answer: &Value| answer["sandbox"]["layers"]["limits"]["active"].clone();
    let without = active(&f.run("echo", json!([1])).data());
    let watched = without["memory_by"] == "watch";
    assert_eq!(without["memory_not_counted"].is_null(), !watched, "{without:#}");
    assert!(watched || without["memory_by"] == "cgroup", "{without:#}");

    f.config(&format!("{}require_cgroup = true\n", common::PROBE));
    let call = f.run("echo", json!([1]));
    let explained = f.upm(["explain", "Probe", "run", "--json"]).run();
    let explained: Value = serde_json::from_str(&explained.stdout).unwrap();
    assert_eq!(explained["plan"]["limits"]["require_cgroup"], true);
    let check = f.upm(["check"]).run();
    let doctor = f.upm(["doctor"]).run();
    if call.exit == Some(0) {
        assert_eq!(active(&call.data())["memory_by"], "cgroup");
        assert_eq!(explained["memory"]["by"], "cgroup");
        assert!(!check.stdout.contains("require_cgroup"), "{}", check.stdout);
        return;
    }
    assert!(watched, "a host whose calls have a cgroup refused one");
    let data = call.failed("sandbox_unavailable", 125);
    assert_eq!((&data["details"]["layer"], &data["details"]["key"]), (&json!("limits"), &json!("require_cgroup")));
    let remedy = data["details"]["remedy"].as_str().unwrap();
    assert!(remedy.contains("; or remove `require_cgroup`") && data["error"].as_str().unwrap().ends_with(remedy));
    assert_eq!(explained["memory"]["by"], "refused", "{:#}", explained["memory"]);
    assert_eq!(check.exit, Some(0), "{}", check.stdout);
    let warned = check
        .stdout
        .lines()
        .any(|line| line.starts_with("warning: ") && line.contains("require_cgroup: a call would be refused"));
    assert!(warned, "{}", check.stdout);
    assert!(doctor.stdout.contains("started like this, upm refuses calls with `require_cgroup`"), "{}", doctor.stdout);
    assert_eq!(doctor.exit, Some(1));
    // learn makes a call too
    let learn = f.upm(["learn", "Probe", "run", r#"{"args":["echo",1]}"#]).run();
    assert_ne!(learn.exit, Some(0), "{}", learn.stdout);
}
