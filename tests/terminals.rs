//! Pseudo terminals of a call (`pty`): what they may not be used for, and whose they are.

mod common;

use common::{Fixture, Mode, assert_errno, assert_ok};
use nix::pty::openpty;
use nix::unistd::ttyname;
use rstest::rstest;
use serde_json::{Value, json};

const GRANT: &str = "[plugins.Terminals]\nmodule = \"terminals\"\nallowed_methods = [\"run\"]\npty = true\n";

/// Answers with what its argument, a function's body, returns.
const PLUGIN: &str = "
import errno, fcntl, os, pty, signal, termios, textwrap

def tried(act, *args):
    try:
        return act(*args)
    except OSError as error:
        return errno.errorcode[error.errno]

class Terminals:
    def run(self, body, *args):
        names = dict(globals(), args=args)
        exec('def body():\\n' + textwrap.indent(body, ' '), names)
        return names['body']()
";

fn fixture(mode: Mode, more: &str) -> Option<Fixture> {
    let f = Fixture::new(mode, &format!("{GRANT}{more}"))?;
    f.python("terminals", PLUGIN);
    Some(f)
}

/// `ioctl` added by `syscalls` lifts none of it. Control: the same terminal's size is read and set.
#[rstest]
fn nothing_is_typed_into_a_terminal(
    #[values(Mode::Root, Mode::User)] mode: Mode,
    #[values("", "syscalls = [\"ioctl\"]")] more: &str,
) {
    let Some(f) = Fixture::probe(mode, &format!("pty = true\n{more}")) else { return };
    for request in [0x5412_u64, 0x541c, 0x541d, 0x5423] {
        for high in [0, 0xdead_beef << 32] {
            let request = format!("{:#x}", request | high);
            let answer = f.run("ioctl", json!(["pty", request]));
            assert_errno(&answer.result(), "EPERM");
            let denial = &answer.denials("seccomp", "ioctl")[0];
            assert!(denial["rule"].as_str().unwrap().starts_with("pty ("), "{denial:#}");
            assert!(denial["remedy"].as_str().unwrap().starts_with("nothing: no program may type"), "{denial:#}");
        }
    }
    assert_ok(&f.act("ioctl", json!(["pty", "0x5413", "0000000000000000"])));
    assert_ok(&f.act("ioctl", json!(["pty", "0x5414", "2100210000000000"])));
    if mode == Mode::Root {
        // outside the kernel itself lets root type, and change the line discipline
        assert_ok(&f.control("ioctl", json!(["pty", "0x5412"])));
    }
}

/// Without the key there is none, and the answer, `explain` and `learn` name it.
#[rstest]
fn the_key_is_named_where_it_is_missing(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = fixture(mode, "") else { return };
    f.config(&GRANT.replace("pty = true\n", ""));
    let open = json!(["return os.open('/dev/ptmx', os.O_RDWR)"]);
    let remedy = "[plugins.Terminals.methods.run]\npty = true";
    let details = f.call("Terminals", "run", &open).failed("plugin_raised", 1)["details"].clone();
    assert_eq!((&details["errno_name"], &details["rule"]), (&json!("ENOENT"), &json!("pty (built-in)")), "{details:#}");
    assert_eq!(details["remedy"], remedy, "{details:#}");
    let asked = f.upm(["explain", "Terminals", "run", "--may", "write /dev/ptmx", "--json"]).run();
    let asked: Value = serde_json::from_str(&asked.stdout).unwrap();
    assert_eq!((&asked["may"], &asked["key"], &asked["remedy"]), (&json!(false), &json!("pty"), &json!(remedy)));
    // the C library also looks for 256 names of terminals as they once were
    for body in ["return os.open('/dev/ptmx', os.O_RDWR)", "return tried(os.openpty)"] {
        let learnt = f.upm(["learn", "Terminals", "run", &json!({ "args": [body] }).to_string(), "--json"]).run();
        let learnt: Value = serde_json::from_str(&learnt.stdout).unwrap();
        assert!(
            learnt["diff"].as_str().unwrap().contains("\n+[plugins.Terminals.methods.run]\n+pty = true\n"),
            "{learnt:#}"
        );
        assert_eq!(learnt["not_suggested"], json!([]), "{learnt:#}");
    }
    f.config(GRANT);
    assert!(f.call("Terminals", "run", &open).result().is_number());
    assert_eq!(f.upm(["explain", "Terminals", "run", "--may", "write /dev/ptmx"]).run().exit, Some(0));
}

/// A terminal of the host is open, with this number and as the caller's standard streams.
#[rstest]
fn the_hosts_terminals_are_out_of_reach(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = fixture(mode, "") else { return };
    let host = openpty(None, None).unwrap();
    let name = ttyname(&host.slave).unwrap().display().to_string();
    std::os::unix::fs::chown(&name, Some(f.owner()), None).unwrap();
    assert!(std::fs::File::open(&name).is_ok(), "the control");
    let body = "
found = [os.listdir('/dev/pts'), tried(os.open, args[0], os.O_RDWR), [os.isatty(fd) for fd in range(4)], tried(os.open, '/dev/tty', os.O_RDWR)]
master, slave = os.openpty()
found.append([os.listdir('/dev/pts').count('ptmx'), os.ttyname(slave), [tried(fcntl.ioctl, fd, termios.TIOCSCTTY, 0) for fd in range(4)]])
return found";
    let call = json!({ "args": [body, name] }).to_string();
    let command = format!("exec \"$@\" <{name} 2>{name}");
    let answer = f.upm(["Terminals", "run", &call]).through(["sh", "-c", &command, "sh"]).run();
    let not_one = json!(["ENOTTY", "ENOTTY", "ENOTTY", "ENOTTY"]);
    let expected = json!([["ptmx"], "ENOENT", [false, false, false, false], "ENOENT", [1, "/dev/pts/0", not_one]]);
    assert_eq!(answer.result(), expected, "{:#}", answer.data());
}

/// 64 at a time, however many are made; one that is given up makes room.
#[rstest]
fn a_call_has_64_terminals(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = fixture(mode, "open_files = 1000\n") else { return };
    let body = "
made = [os.openpty() for _ in range(64)]
refused = tried(os.open, '/dev/ptmx', os.O_RDWR)
for end in made.pop(): os.close(end)
return [refused, os.open('/dev/ptmx', os.O_RDWR) > 0]";
    assert_eq!(f.call("Terminals", "run", &json!([body])).result(), json!(["ENOSPC", true]));
}

/// What is in a terminal that nobody reads, deaf to its hang-up, ends with the call.
#[rstest]
fn a_terminal_keeps_no_call_alive(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = fixture(mode, "") else { return };
    let body = "
pids = []
for _ in range(8):
    pid, master = pty.fork()
    if pid == 0:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        os.write(1, b'x')
        while True: tried(os.write, 1, b'y' * 65536)
    pids.append([os.read(master, 1) == b'x', os.getpgid(pid) == pid])
return pids";
    assert_eq!(f.call("Terminals", "run", &json!([body])).result(), json!(vec![[true, true]; 8]));
    f.assert_clean();
}
