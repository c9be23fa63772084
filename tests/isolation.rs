//! What two calls could share, and what a plugin could reach of the host's services.

mod common;

use common::{Fixture, Mode, assert_errno, assert_errno_in, assert_ok, unique};
use rstest::rstest;
use serde_json::{Value, json};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};

#[rstest]
fn temporary_files_are_private(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "") else { return };
    let name = unique("upm-private");
    for dir in ["/tmp", "/dev/shm"] {
        let path = format!("{dir}/{name}");
        let answers = f.acts(&[json!(["write", path, "x"]), json!(["read", path])]);
        answers.iter().for_each(assert_ok);
        assert_errno(&f.act("read", json!([path])), "ENOENT");
        assert!(!std::path::Path::new(&path).exists(), "{path} is on the host");
    }
    std::fs::write(format!("/tmp/{name}"), "host").unwrap();
    assert_errno(&f.act("read", json!([format!("/tmp/{name}")])), "ENOENT");
    std::fs::remove_file(format!("/tmp/{name}")).unwrap();
}

#[rstest]
fn system_v_and_posix_ipc_are_private(#[values(Mode::Root, Mode::User)] mode: Mode) {
    // System V is granted here: by default it is refused, since no limit counts what it holds.
    let calls = ["shmget", "shmat", "shmdt", "shmctl", "msgget", "msgctl", "semget", "semctl"];
    let Some(f) = Fixture::probe(mode, &format!("syscalls = {}", json!(calls))) else { return };
    let key = 0x7570_6d00 + i64::from(f.uid % 256);
    let flags = "IPC_CREAT|0o600";
    for act in ["shmget", "msgget", "semget"] {
        assert_ok(&f.control(act, json!([key, flags])));
        let answers = f.acts(&[json!([act, key, 0]), json!([act, key, flags]), json!([act, key, 0])]);
        assert_errno(&answers[0], "ENOENT");
        assert_ok(&answers[1]);
        assert_ok(&answers[2]);
        assert_errno(&f.act(act, json!([key, 0])), "ENOENT");
        let found = f.control(act, json!([key, 0]))["value"].clone();
        let (call, remove) = match act {
            "shmget" => ("SYS_shmctl", json!([found, "IPC_RMID", 0])),
            "msgget" => ("SYS_msgctl", json!([found, "IPC_RMID", 0])),
            _ => ("SYS_semctl", json!([found, 0, "IPC_RMID", 0])),
        };
        let mut words = vec![json!(call)];
        words.extend(remove.as_array().unwrap().clone());
        assert_ok(&f.control("syscall", Value::Array(words)));
    }
    let name = unique("q");
    assert_ok(&f.control("mq_open", json!([name, "O_CREAT|O_RDWR"])));
    // landlock refuses the queue's file where the name space itself would not
    let inside = f.act("mq_open", json!([name, "O_RDWR"]));
    assert_errno_in(&inside, &["ENOENT", "EACCES"]);
    assert_ok(&f.control("syscall", json!(["SYS_mq_unlink", {"text": name}])));
}

#[rstest]
fn keyrings_are_out_of_reach(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "") else { return };
    let answers = f.acts(&[
        json!(["add_key", "upm", "secret"]),
        json!(["keyring", "session"]),
        json!(["keyring", "user"]),
        json!(["find_key", "upm"]),
    ]);
    answers.iter().for_each(|answer| assert_errno_in(answer, &["EPERM", "ENOSYS"]));
    let name = unique("key");
    assert_ok(&f.control("add_key", json!([name, "secret", "user"])));
    assert_ok(&f.control("keyring", json!(["user"])));
}

/// With the calls let through, the session keyring is still a new one.
#[rstest]
fn the_session_keyring_is_a_new_one(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "syscalls = [\"keyctl\", \"add_key\", \"request_key\"]") else { return };
    let first = f.acts(&[json!(["add_key", "upm", "secret"]), json!(["find_key", "upm"])]);
    first.iter().for_each(assert_ok);
    assert_eq!(first[1]["text"], "secret");
    assert_errno_in(&f.act("find_key", json!(["upm"])), &["ENOKEY", "EACCES"]);
}

#[rstest]
fn sockets_of_the_host_are_unreachable(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "") else { return };
    let name = unique("upm-abstract");
    let _listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    let path = f.path("home/socket");
    let _named = UnixListener::bind(&path).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    assert_ok(&f.control("unix_connect", json!([format!("@{name}")])));
    assert_ok(&f.control("unix_connect", json!([path])));
    assert_errno_in(&f.act("unix_connect", json!([format!("@{name}")])), &["ECONNREFUSED", "EPERM"]);
    assert_errno(&f.act("unix_connect", json!([path])), "ENOENT");
    for service in [
        "/run/dbus/system_bus_socket",
        "/var/run/dbus/system_bus_socket",
        "/run/docker.sock",
        "/var/run/docker.sock",
        "/run/systemd/private",
        "/run/systemd/journal/socket",
        "/run/systemd/journal/stdout",
        "/dev/log",
        "/run/containerd/containerd.sock",
        "/run/user/1000/bus",
        "/run/nscd/socket",
        "/run/snapd.socket",
    ] {
        assert_errno_in(&f.act("unix_connect", json!([service])), &["ENOENT", "EACCES"]);
        assert_errno_in(&f.act("unix_connect", json!([service, "dgram"])), &["ENOENT", "EACCES"]);
    }
}

/// Two calls at once do not see each other's abstract sockets.
#[rstest]
fn calls_do_not_meet(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "") else { return };
    let args = json!({"args": ["batch", ["unix_bind", "@upm-meet", 1500]]});
    let running = f.upm(["Probe", "run", &args.to_string()]).start();
    while f.audit().is_empty() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    // call_started is on record: a start takes milliseconds, the socket stays for 1.5 s
    std::thread::sleep(std::time::Duration::from_millis(400));
    assert_errno_in(&f.act("unix_connect", json!(["@upm-meet"])), &["ECONNREFUSED", "EPERM"]);
    assert_ok(&running.wait().result()["answers"][0]);
}

#[rstest]
fn identity_is_the_plugins_own(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "") else { return };
    let report = f.act("report", Value::Null);
    for id in ["uid", "euid", "gid", "egid"] {
        assert_eq!(report[id], 1000, "{id}");
    }
    assert_eq!(report["status"]["Groups"], "");
    assert_eq!(report["status"]["NoNewPrivs"], "1");
    assert_eq!(report["status"]["Seccomp"], "2");
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(report["status"][set], "0000000000000000", "{set}");
    }
    assert_eq!(report["setgroups"], "deny");
    assert_eq!(report["uid_map"].as_str().unwrap().split_whitespace().next(), Some("1000"));
    assert_eq!(report["uid_map"].as_str().unwrap().lines().count(), 1);
    assert_ne!(report["uname"], json!(nix::unistd::gethostname().unwrap().to_string_lossy()));
    for kind in ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"] {
        let host = std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
        assert_ne!(report["namespaces"][kind], json!(host.to_string_lossy()), "{kind}");
    }
    for act in [
        json!(["setgroups", 0]),
        json!(["capset_all"]),
        json!(["syscall", "SYS_setresuid", 0, 0, 0]),
        json!(["syscall", "SYS_setuid", 0]),
    ] {
        assert_errno_in(&f.acts(&[act])[0], &["EPERM", "EINVAL"]);
    }
}

#[rstest]
fn the_environment_is_what_is_promised(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "env = { SET = \"by grant\" }\nenv_pass = [\"PASSED\"]") else { return };
    let answer = f
        .upm(["Probe", "run", r#"{"args":["report"]}"#])
        .env("PASSED", "from the caller")
        .env("NOT_PASSED", "x")
        .env("LD_PRELOAD", "")
        .env("PYTHONPATH", "/tmp")
        .run();
    let env = answer.result()["env"].clone();
    let mut keys: Vec<&str> = env.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    assert_eq!(keys, ["HOME", "LANG", "PASSED", "PATH", "SET", "TMPDIR", "UPM_REQUEST_ID"], "{env:#}");
    assert_eq!((env["SET"].as_str(), env["PASSED"].as_str()), (Some("by grant"), Some("from the caller")));
    assert_eq!(env["UPM_REQUEST_ID"], answer.envelope()["request_id"]);
}

/// Control: without a grant of the directory, the value is only text.
#[rstest]
fn the_environment_can_name_the_project_and_the_cache(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let grant = r#"write = ["{cache_dir}"]
env = { TMPDIR = "{cache_dir}", A = "-I{project_root}/a:{cache_dir}/b{project_root}", B = '{"a": "{}", "b": "{cache}{CACHE_DIR} {project_root"}' }"#;
    let Some(f) = Fixture::probe(mode, grant) else { return };
    let (project, cache) = (f.path("project").display().to_string(), f.path("cache/Probe").display().to_string());
    let answer = f.run("report", json!([]));
    let env = &answer.result()["env"];
    assert_eq!(env["TMPDIR"], cache, "{env:#}");
    assert_eq!(env["A"], format!("-I{project}/a:{cache}/b{project}"));
    assert_eq!(env["B"], r#"{"a": "{}", "b": "{cache}{CACHE_DIR} {project_root"}"#);
    let explained = f.upm(["explain", "Probe", "run", "--json"]).run();
    let explained: Value = serde_json::from_str(&explained.stdout).unwrap();
    assert_eq!(explained["plan"]["env"]["TMPDIR"], cache);
    assert_eq!(explained["origins"]["env"]["value"]["A"], env["A"]);
}
