//! What a call makes the engine do: its processor time is a small multiple of the call's own, and its memory one of what is
//! read.

mod common;

use common::{Answer, Call, Fixture, Mode};
use rstest::rstest;
use serde_json::{Value, json};
use std::fs;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::time::Duration;

/// Starts a program, and says on stderr what it and its children used: microseconds, and KiB of the largest of them.
const MEASURE: &str = "
import os, sys
pid = os.fork()
if pid == 0:
    os.execv(sys.argv[1], sys.argv[1:])
_, status, used = os.wait4(pid, 0)
os.write(2, b'\\nused %d %d\\n' % ((used.ru_utime + used.ru_stime) * 1e6, used.ru_maxrss))
os._exit(os.waitstatus_to_exitcode(status) & 0xff)
";

/// Sends as much as it can for the given time, from a buffer that is made once.
const FLOOD: &str = r#"
import ctypes, errno, os, socket, time

class Flood:
    def frames(self, seconds, line, exit):
        self.write(3, seconds, line)
        os._exit(exit)

    def write(self, fd, seconds, line):
        lines = line.encode() * (65536 // len(line))
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            os.write(fd, lines)

    def bytes(self, fd, seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            os.write(fd, b"x")
        return "done"

    def output(self, fd, seconds):
        self.write(fd, seconds, "x" * 63 + "\n")
        return "done"

    def denials(self, seconds):
        libc = ctypes.CDLL(None, use_errno=True)
        end, count = time.monotonic() + seconds, 0
        while time.monotonic() < end:
            assert libc.syscall(312, count % 50, 0, 0, 0, 0) == -1 and ctypes.get_errno() == errno.EPERM  # kcmp
            count += 1
        return count

    def stub(self):
        with open("/etc/resolv.conf") as file:
            return next(line.split()[1] for line in file if line.startswith("nameserver")), 53

    def names(self, seconds):
        stub = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        query = b"\0\1\1\0\0\1\0\0\0\0\0\0\4evil\7example\0\0\1\0\1"
        address, end = self.stub(), time.monotonic() + seconds
        while time.monotonic() < end:
            stub.sendto(query, address)
        return "done"

    def hang_up(self, seconds):
        stub = socket.create_connection(self.stub())
        stub.settimeout(5)
        assert stub.recv(1) == b""
        time.sleep(seconds)
        return "done"

    def members(self, count, piece):
        os.write(3, b'{"type":"result","result":[0')
        many = ("," + piece).encode() * 1000
        for _ in range(count // 1000):
            view = memoryview(many)
            while view:
                view = view[os.write(3, view):]
        os.write(3, b"]}\n")
        os._exit(0)

    def idle(self):
        return "done"

    def rest(self, seconds):
        time.sleep(seconds)
"#;

const METHODS: &str = r#"["frames", "output", "bytes", "denials", "names", "hang_up", "members", "idle", "rest"]"#;

fn flood(mode: Mode, grant: &str) -> Option<Fixture> {
    let f = Fixture::new(
        mode,
        &format!("[plugins.Flood]\nmodule = \"flood\"\nsite = false\nallowed_methods = {METHODS}\n{grant}\n"),
    )?;
    f.python("flood", FLOOD);
    Some(f)
}

fn measured(call: Call<'_>) -> Call<'_> {
    call.through(["/usr/bin/python3", "-I", "-S", "-c", MEASURE])
}

/// Microseconds of processor time and bytes of memory of the engine and all its children.
fn used(answer: &Answer) -> (u64, u64) {
    let line = answer.stderr.lines().rev().find_map(|line| line.strip_prefix("used ")).unwrap_or_default();
    let numbers: Vec<u64> = line.split(' ').filter_map(|number| number.parse().ok()).collect();
    let [micros, kib] = numbers.as_slice() else { panic!("no measure: {answer:#?}") };
    (*micros, kib << 10)
}

/// Microseconds that the engine used, and that the call did.
fn shares(answer: &Answer) -> (u64, u64) {
    let usage = answer.data()["usage"].clone();
    let call = usage["cpu_user_us"].as_u64().unwrap() + usage["cpu_system_us"].as_u64().unwrap();
    (used(answer).0.saturating_sub(call), call)
}

/// A call that does nothing takes of the engine what starting takes; of this program, so often slower than a released one.
fn at_rest(f: &Fixture) -> u64 {
    let answer = measured(f.upm(["Flood", "idle"])).run();
    assert_eq!(answer.result(), "done");
    shares(&answer).0
}

fn assert_small(f: &Fixture, answer: &Answer, what: &str) {
    let (engine, call) = shares(answer);
    let wall = answer.data()["usage"]["wall_us"].as_u64().unwrap();
    // twice the call's, 1/25 of the time and 100 ms; some more for the last batch and the clock's steps
    let bound = 2 * call + wall / 25 + 250_000 + 2 * at_rest(f);
    assert!(engine <= bound, "{what}: the engine {engine} us, the call {call} us in {wall} us; at most {bound} us");
    println!("{what}: the engine {engine} us, the call {call} us in {wall} us");
}

#[rstest]
#[case("frames", json!([4, "{\"type\":\"progress\",\"message\":\"m\",\"fraction\":0.5}\n", 0]))]
#[case("frames", json!([4, "{\"type\":\"progress\"}\n", 0]))]
#[case("output", json!([1, 4]))]
#[case("output", json!([2, 4]))]
#[case("bytes", json!([1, 4]))]
#[case("denials", json!([4]))]
#[case("names", json!([4]))]
fn a_flood_costs_the_engine_little_more_than_the_call(
    #[case] method: &str,
    #[case] args: Value,
    #[values(Mode::Root, Mode::User)] mode: Mode,
) {
    let Some(f) = flood(mode, "timeout = \"20s\"\noutput = \"64KiB\"") else { return };
    let answer = measured(f.upm(["Flood", method, &json!({ "args": args }).to_string()])).run();
    assert!([Some("plugin_exited"), None].contains(&answer.data()["code"].as_str()), "{answer:#?}");
    // it was served all the time: what it sent came through
    let data = answer.data();
    match method {
        "output" => assert!(data["output"]["truncated"].is_object(), "{data:#}"),
        "denials" => assert_eq!(
            data["denials"].as_array().unwrap().iter().map(|d| d["count"].as_u64().unwrap()).sum::<u64>()
                + data["denials_dropped"].as_u64().unwrap_or(0),
            data["result"].as_u64().unwrap()
        ),
        "names" => assert!(data["denials"][0]["count"].as_u64().unwrap() > 10, "{data:#}"),
        _ => {}
    }
    assert_small(&f, &answer, method);
    f.assert_clean();
}

/// If a call has a cgroup, all that it costs is counted in it: the plugin under its limits, upm's own processes beside it.
#[rstest]
fn the_engine_is_counted_in_the_calls_cgroup(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = flood(
        mode,
        "timeout = \"60s\"\noutput = \"64KiB\"\negress = [\"far\"]\n\n[egress.far]\nhosts = [\"far.example:443\"]",
    ) else {
        return;
    };
    let idle = f.upm(["Flood", "idle"]).run();
    assert_eq!(idle.result(), "done");
    let cgroup = idle.data()["sandbox"]["layers"]["limits"]["active"]["cgroup"].clone();
    let Some(path) = cgroup["path"].as_str() else {
        // This host has none for it; tests/kernel_6_1.rs has.
        assert!(!cgroup["missing"].as_str().unwrap().is_empty(), "{cgroup:#}");
        return;
    };
    let tree =
        Path::new("/sys/fs/cgroup").join(path.trim_start_matches('/')).parent().unwrap().parent().unwrap().to_owned();
    let places = |method: &str, args: Value, id: &str, moved: bool| {
        let call = f.upm(["Flood", method, &json!({ "args": args }).to_string()]).more(["--request-id", id]).start();
        let part = |pid: &str| fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        let (pid, engine) = (call.pid().to_string(), format!("/upm-call-{id}/engine\n"));
        let children = format!("/proc/{pid}/task/{pid}/children");
        let mut parts = Vec::new();
        for _ in 0..300 {
            let children = fs::read_to_string(&children).unwrap_or_default();
            parts = children.split_whitespace().map(part).collect();
            if parts.len() == 2 && part(&pid).ends_with(&engine) == moved {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        if !moved {
            std::thread::sleep(Duration::from_secs(1));
        }
        assert_eq!(part(&pid).ends_with(&engine), moved, "{method}: {}", part(&pid));
        assert!(parts.len() == 2 && parts[0].ends_with(&format!("/upm-call-{id}/plugin\n")), "{method}: {parts:?}");
        assert!(parts[1].ends_with(&engine), "the gateway: {parts:?}");
        let directory = tree.join(format!("upm-call-{id}"));
        let spent = fs::read_to_string(directory.join("engine/cpu.stat")).unwrap();
        assert!(!spent.starts_with("usage_usec 0\n"), "{spent}");
        let envelope = call.wait().envelope();
        assert_eq!(envelope["success"], true, "{envelope:#}");
        assert!(!directory.exists(), "left: {}", directory.display());
    };
    places("output", json!([1, 8]), "00000000-0000-4000-8000-00000000c0de", true);
    // moving takes longer than this call takes the supervisor
    places("rest", json!([5]), "00000000-0000-4000-8000-00000000c0df", false);
    f.assert_clean();
}

/// Who comes to the name stub by TCP is hung up on, and no trace of it keeps the supervisor busy.
#[rstest]
fn a_connection_to_the_stub_is_over_at_once(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = flood(mode, "") else { return };
    let answer = measured(f.upm(["Flood", "hang_up", r#"{"args":[2]}"#])).run();
    assert_eq!(answer.result(), "done");
    let (engine, _) = shares(&answer);
    assert!(engine < 500_000 + 2 * at_rest(&f), "{engine} us while nothing happened");
}

/// As many small values as a result may have: a tree of them would take seventy times as much.
#[rstest]
#[case("0", 3_000_000)]
#[case("{\"a\":0}", 900_000)]
#[case("[[]]", 1_500_000)]
#[case("\"\"", 2_000_000)]
fn a_result_takes_a_few_times_its_size(
    #[case] piece: &str,
    #[case] count: usize,
    #[values(Mode::Root, Mode::User)] mode: Mode,
) {
    let Some(f) = flood(mode, "timeout = \"60s\"\nresult = \"16MiB\"") else { return };
    let answer = measured(f.upm(["Flood", "members", &json!({"args": [count, piece]}).to_string()])).run();
    let expected = format!("[0{}]", format!(",{piece}").repeat(count));
    assert_eq!(answer.exit, Some(0), "{}", answer.stderr);
    assert!(answer.stdout.contains(&format!("\"result\":{expected},\"output\"")), "the result as it was written");
    let (bytes, size) = (used(&answer).1, expected.len() as u64);
    assert!(bytes < 4 * size + (40 << 20), "{} MiB for a result of {} MiB", bytes >> 20, size >> 20);
    println!("{} MiB for a result of {} MiB", bytes >> 20, size >> 20);
}

/// Keys are compared without being kept.
#[rstest]
fn an_object_of_many_members_takes_a_few_times_its_size(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::new(
        mode,
        "[plugins.Wide]\nexec = \"plugins/wide\"\nallowed_methods = [\"one\", \"twice\"]\ntimeout = \"60s\"\n",
    ) else {
        return;
    };
    let script = r#"#!/usr/bin/python3 -IS
import os
call = b""
while not call.endswith(b"\n"):
    call += os.read(3, 65536)
def send(text):
    view = memoryview(text)
    while view:
        view = view[os.write(3, view):]
send(b'{"type":"result","result":{"":0')
for at in range(0, 1000000, 1000):
    send("".join(',"%x":0' % n for n in range(at, at + 1000)).encode())
send(b',"7":1}}\n' if b'"twice"' in call else b'}}\n')
"#;
    f.write("plugins/wide", script);
    fs::set_permissions(f.path("plugins/wide"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let answer = measured(f.upm(["Wide", "one"])).run();
    assert_eq!(answer.exit, Some(0), "{:.2000}", answer.stdout);
    let (bytes, size) = (used(&answer).1, answer.stdout.len() as u64);
    assert!(bytes < 4 * size + (40 << 20), "{} MiB for {} MiB", bytes >> 20, size >> 20);
    let twice = measured(f.upm(["Wide", "twice"])).run();
    let data = twice.failed("protocol_violation", 1);
    assert!(data["error"].as_str().unwrap().contains("the key \"7\" occurs twice"), "{data:#}");
}

/// Members that become trees are short, and so is a progress.
#[rstest]
fn what_is_beside_a_result_is_short(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "timeout = \"20s\"") else { return };
    let raw = |text: String| f.run("frame_raw", json!([text + "\n"]));
    for (frame, code) in [
        (r#"{"type":"progress","message":"@"}"#, "protocol_violation"),
        (r#"{"type":"result","result":1,"plugin_version":"@"}"#, "result_too_large"),
        (r#"{"type":"error","kind":"plugin_raised","message":"m","details":{"a":"@"}}"#, "result_too_large"),
    ] {
        raw(frame.replace('@', &"x".repeat(70_000))).failed(code, 1);
        let short = raw(frame.replace('@', &"x".repeat(60_000))).data();
        assert!(![Some("protocol_violation"), Some("result_too_large")].contains(&short["code"].as_str()), "{frame}");
    }
}

/// The digest is of the bytes of all files, a file of 1 GiB included; none is held.
#[rstest]
fn a_large_file_of_a_plugin_is_not_held(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::new(mode, "[plugins.Big]\nmodule = \"big.plugin\"\nallowed_methods = [\"one\"]\n") else {
        return;
    };
    f.mkdir("plugins/big");
    f.write("plugins/big/plugin.py", "class Big:\n    def one(self): return 1\n");
    f.write("plugins/big/data", "");
    let mut data = fs::OpenOptions::new().write(true).open(f.path("plugins/big/data")).unwrap();
    data.seek(SeekFrom::Start(256 << 20)).unwrap();
    data.write_all(b"end").unwrap();
    let answer = measured(f.upm(["Big", "one"])).patience(Duration::from_secs(120)).run();
    assert_eq!(answer.result(), 1);
    let first = f.audit()[0]["UPM_PLUGIN_SHA256"].clone();
    assert!(used(&answer).1 < 100 << 20, "{} MiB", used(&answer).1 >> 20);
    data.seek(SeekFrom::Start(100 << 20)).unwrap();
    data.write_all(b"x").unwrap();
    assert_eq!(f.upm(["Big", "one"]).patience(Duration::from_secs(120)).run().result(), 1);
    assert_ne!(f.audit()[2]["UPM_PLUGIN_SHA256"], first, "one byte in the middle makes another digest");
}
