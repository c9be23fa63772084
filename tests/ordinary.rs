//! What ordinary programs do: each act works on the host, and without a grant inside a call, or the table says why not.
//!
//! The third column is bubblewrap, with the whole host read-only, no network and namespaces of its own: what people compare upm with.
//! `cargo test --test ordinary -- --nocapture` prints the table.

mod common;

use common::{Answer, Fixture, Mode, which};
use rstest::rstest;
use serde_json::{Value, json};

/// Runs each act in a process of its own, with a new directory as its working directory.
const RUNNER: &str = r#"
import os, subprocess, sys, tempfile

class Ordinary:
    def run(self, acts):
        return [self.act(*act) for act in acts]

    def act(self, program, code):
        argv = {"python": [sys.executable, "-I", "-c", code], "sh": ["/bin/sh", "-ec", code]}[program]
        with tempfile.TemporaryDirectory() as directory:
            done = subprocess.run(argv, cwd=directory, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=200)
        return [done.returncode, (done.stdout + done.stderr)[-600:]]
"#;

/// What is expected of an act inside. On the host every act works.
#[derive(Clone, Copy)]
enum Inside {
    /// It works.
    Works,
    /// It fails, with this in its output, and why that stays so.
    Fails(&'static str, &'static str),
    /// It works, and on the host perhaps not: why.
    Only(&'static str),
}
use Inside::{Fails, Only, Works};

/// Name, program, what it is given, and how it ends inside.
type Act = (&'static str, &'static str, &'static str, Inside);

#[rustfmt::skip]
const PROCESSES: &[Act] = &[
    ("subprocess", "python", "import subprocess; assert subprocess.check_output(['/bin/echo', 'x']) == b'x\\n'", Works),
    ("fork and wait", "python", "import os; p = os.fork()\nif p == 0: os._exit(3)\nassert os.waitstatus_to_exitcode(os.waitpid(p, 0)[1]) == 3", Works),
    ("posix_spawn", "python", "import os; assert os.waitpid(os.posix_spawn('/bin/true', ['true'], {}), 0)[1] == 0", Works),
    ("pidfd", "python", "import os, signal; p = os.fork()\nif p == 0: signal.pause()\nf = os.pidfd_open(p); signal.pidfd_send_signal(f, signal.SIGTERM); assert os.waitpid(p, 0)[1] == 15", Works),
    ("a session and a process group", "python", "import os; p = os.fork()\nif p == 0: os.setsid(); os._exit(0 if os.getsid(0) == os.getpgid(0) == os.getpid() else 1)\nassert os.waitpid(p, 0)[1] == 0", Works),
    ("threads", "python", "import threading; t = [threading.Thread(target=lambda: None) for _ in range(20)]; [x.start() for x in t]; [x.join() for x in t]", Works),
    ("a pool of threads", "python", "from concurrent.futures import ThreadPoolExecutor as P\nwith P(4) as p: assert list(p.map(abs, [-1, -2])) == [1, 2]", Works),
    ("a pool of processes, fork", "python", "import multiprocessing as m\nwith m.get_context('fork').Pool(2) as p: assert p.map(abs, [-1, -2]) == [1, 2]", Works),
    ("a pool of processes, spawn", "python", "import multiprocessing as m\nif __name__ == '__main__':\n with m.get_context('spawn').Pool(2) as p: assert p.map(abs, [-1, -2]) == [1, 2]", Works),
    ("a pool of processes, forkserver", "python", "import multiprocessing as m\nif __name__ == '__main__':\n with m.get_context('forkserver').Pool(2) as p: assert p.map(abs, [-1, -2]) == [1, 2]", Works),
    ("multiprocessing.Manager", "python", "import multiprocessing as m\nif __name__ == '__main__':\n with m.Manager() as g: d = g.dict(a=1); assert d['a'] == 1", Works),
    ("multiprocessing.shared_memory", "python", "from multiprocessing.shared_memory import SharedMemory as S; s = S(create=True, size=4096); s.buf[0] = 7; s.close(); s.unlink()", Works),
    ("multiprocessing.Queue", "python", "import multiprocessing as m; q = m.Queue(); q.put(1); assert q.get() == 1", Works),
    ("semaphores of POSIX", "python", "import multiprocessing as m; s = m.Semaphore(2); s.acquire(); s.release()", Works),
    ("asyncio and a child", "python", "import asyncio\nasync def main():\n p = await asyncio.create_subprocess_exec('/bin/true'); assert await p.wait() == 0\nasyncio.run(main())", Works),
    ("waiting for a signal", "python", "import signal, os; signal.signal(signal.SIGUSR1, lambda *a: None); os.kill(os.getpid(), signal.SIGUSR1)", Works),
    ("an alarm", "python", "import signal; signal.signal(signal.SIGALRM, lambda *a: None); signal.setitimer(signal.ITIMER_REAL, 0.01); signal.pause()", Works),
    ("sigtimedwait", "python", "import signal, os; signal.pthread_sigmask(signal.SIG_BLOCK, [10]); os.kill(os.getpid(), 10); assert signal.sigtimedwait([10], 1).si_signo == 10", Works),
    ("nice", "python", "import os; os.nice(1)", Works),
    ("resource limits", "python", "import resource as r; s, h = r.getrlimit(r.RLIMIT_NOFILE); r.setrlimit(r.RLIMIT_NOFILE, (min(s, 64), h)); r.getrusage(r.RUSAGE_CHILDREN)", Works),
    ("a pipeline of the shell", "sh", "test \"$(printf 'b\\na\\n' | sort | head -1)\" = a", Works),
    ("a here-document and a trap", "sh", "trap 'rm -f x' EXIT; cat >x <<EOF\nhello\nEOF\ngrep -q hello x", Works),
    ("jobs in the background", "sh", "sleep 0.05 & wait $!", Works),
    ("xargs -P", "sh", "printf '%s\\n' 1 2 3 4 | xargs -P 4 -I{} sh -c 'exit 0'", Works),
    ("env and nohup", "sh", "env A=1 sh -c 'test $A = 1'; nohup true >/dev/null 2>&1", Works),
    ("timeout", "sh", "timeout 5 true", Works),
];

#[rustfmt::skip]
const NETWORK: &[Act] = &[
    ("listen on 127.0.0.1", "python", "import socket; s = socket.create_server(('127.0.0.1', 0)); c = socket.create_connection(s.getsockname()); a, _ = s.accept(); c.sendall(b'x'); assert a.recv(1) == b'x'", Works),
    ("listen on ::1", "python", "import socket; s = socket.create_server(('::1', 0), family=socket.AF_INET6); c = socket.create_connection(s.getsockname()[:2]); a, _ = s.accept(); c.sendall(b'x'); assert a.recv(1) == b'x'", Works),
    ("listen on every address", "python", "import socket; s = socket.create_server(('', 0)); socket.create_connection(('127.9.9.9', s.getsockname()[1])).close()", Works),
    ("UDP on 127.0.0.1", "python", "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('127.0.0.1', 0)); s.sendto(b'x', s.getsockname()); assert s.recv(1) == b'x'", Works),
    ("an HTTP server and its client", "python", "import http.server, threading, urllib.request\ns = http.server.ThreadingHTTPServer(('localhost', 0), http.server.SimpleHTTPRequestHandler); threading.Thread(target=s.serve_forever, daemon=True).start()\nassert urllib.request.urlopen('http://localhost:%d/' % s.server_port).status == 200; s.shutdown()", Works),
    ("an address is in use", "python", "import socket, errno; s = socket.create_server(('127.0.0.1', 0))\ntry: socket.create_server(s.getsockname()); raise SystemExit('no error')\nexcept OSError as e: assert e.errno == errno.EADDRINUSE", Works),
    ("nobody listens", "python", "import socket\ntry: socket.create_connection(('127.0.0.1', 9)); raise SystemExit('no error')\nexcept ConnectionRefusedError: pass", Works),
    ("the own host name", "python", "import socket; socket.gethostbyname(socket.gethostname()); socket.getaddrinfo(socket.gethostname(), 80); socket.getfqdn()", Works),
    ("localhost", "python", "import socket; assert socket.gethostbyname('localhost') == '127.0.0.1'; assert {a[4][0] for a in socket.getaddrinfo('localhost', 1)} >= {'127.0.0.1'}", Works),
    ("services by name", "python", "import socket; assert socket.getservbyname('https') == 443; assert socket.getservbyport(22) == 'ssh'", Works),
    ("interfaces", "python", "import socket; assert any(n == 'lo' for _, n in socket.if_nameindex()); assert socket.if_nametoindex('lo') == 1", Works),
    ("a socket pair", "python", "import socket; a, b = socket.socketpair(); a.send(b'x'); assert b.recv(1) == b'x'", Works),
    ("a UNIX socket with a path", "python", "import socket, os; s = socket.socket(socket.AF_UNIX); s.bind('s'); s.listen(); c = socket.socket(socket.AF_UNIX); c.connect('s')", Works),
    ("an abstract UNIX socket", "python", "import socket; s = socket.socket(socket.AF_UNIX); s.bind('\\0x'); s.listen(); c = socket.socket(socket.AF_UNIX); c.connect('\\0x')", Works),
    ("a passed descriptor", "python", "import socket, os; a, b = socket.socketpair(); socket.send_fds(a, [b'x'], [1]); assert len(socket.recv_fds(b, 1, 1)[1]) == 1", Works),
    ("asyncio's server", "python", "import asyncio\nasync def main():\n s = await asyncio.start_server(lambda r, w: w.close(), '127.0.0.1', 0)\n r, w = await asyncio.open_connection(*s.sockets[0].getsockname()); assert await r.read() == b''\nasyncio.run(main())", Works),
    ("keep-alive and no delay", "python", "import socket; s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1); s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)", Works),
    ("lingering", "python", "import socket, struct; s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))", Fails("PermissionError", "a lingering socket that is passed on blocks who closes it, the supervisor too")),
    ("the TLS library", "python", "import ssl; c = ssl.create_default_context(); assert c.cert_store_stats()['x509_ca'] > 0", Works),
];

#[rustfmt::skip]
const FILES: &[Act] = &[
    ("temporary files", "python", "import tempfile\nwith tempfile.NamedTemporaryFile() as f: f.write(b'x'); f.flush()", Works),
    ("a file without a name", "python", "import os; f = os.open('.', os.O_TMPFILE | os.O_RDWR); os.write(f, b'x')", Works),
    ("rename, link, symlink", "python", "import os; open('a', 'w').close(); os.rename('a', 'b'); os.link('b', 'c'); os.symlink('c', 'd'); assert os.readlink('d') == 'c'; os.stat('d')", Works),
    ("a mapped file", "python", "import mmap\nf = open('a', 'w+b'); f.truncate(4096); m = mmap.mmap(f.fileno(), 4096); m[0] = 1; m.flush()", Works),
    ("shared memory of a fork", "python", "import mmap, os; m = mmap.mmap(-1, 4096)\nif os.fork() == 0: m[0] = 1; os._exit(0)\nos.wait(); assert m[0] == 1", Fails("PermissionError", "no limit counts memory that is shared without a file, where no cgroup does; a file in /dev/shm works")),
    ("flock", "python", "import fcntl; f = open('a', 'w'); fcntl.flock(f, fcntl.LOCK_EX)", Works),
    ("lockf", "python", "import fcntl; f = open('a', 'w'); fcntl.lockf(f, fcntl.LOCK_EX); fcntl.lockf(f, fcntl.LOCK_UN)", Works),
    ("sqlite with a write-ahead log", "python", "import sqlite3; d = sqlite3.connect('a.db'); assert d.execute('pragma journal_mode=wal').fetchone() == ('wal',); d.execute('create table t(x)'); d.execute('insert into t values (1)'); d.commit(); assert d.execute('select x from t').fetchall() == [(1,)]", Works),
    ("dbm", "python", "import dbm.dumb; d = dbm.dumb.open('a', 'c'); d['k'] = 'v'; d.close()", Works),
    ("copying with metadata", "python", "import shutil; open('a', 'w').write('x'); shutil.copy2('a', 'b'); shutil.copytree('/etc/ssl/certs' if False else '.', '../copied', dirs_exist_ok=True); shutil.rmtree('../copied')", Works),
    ("sparse files", "python", "import os; f = os.open('a', os.O_CREAT | os.O_RDWR); os.ftruncate(f, 1 << 30); os.pwrite(f, b'x', 1 << 29); assert os.lseek(f, 0, os.SEEK_DATA) > 0", Works),
    ("posix_fallocate and fsync", "python", "import os; f = os.open('a', os.O_CREAT | os.O_RDWR); os.posix_fallocate(f, 0, 4096); os.fsync(f); os.fdatasync(f)", Works),
    ("modes and times", "python", "import os; open('a', 'w').close(); os.chmod('a', 0o640); os.utime('a', (1, 2)); assert os.stat('a').st_mtime == 2; os.umask(0o77)", Works),
    ("a named pipe", "python", "import os, threading; os.mkfifo('p'); threading.Thread(target=lambda: open('p', 'w').write('x')).start(); assert open('p').read() == 'x'", Works),
    ("scandir and glob", "python", "import os, glob; open('a', 'w').close(); assert glob.glob('*') == ['a']; list(os.walk('/usr/share', topdown=True))[:1]", Works),
    ("zip, tar, gzip, bz2, lzma", "python", "import shutil, os; os.mkdir('d'); open('d/a', 'w').write('x')\nfor f in ('zip', 'tar', 'gztar', 'bztar', 'xztar'): shutil.unpack_archive(shutil.make_archive('o' + f, f, 'd'), 'u' + f)", Works),
    ("sendfile", "python", "import os, socket, shutil; open('a', 'w').write('x' * 9999); shutil.copyfile('a', 'b'); assert os.path.getsize('b') == 9999", Works),
    ("venv", "python", "import venv; venv.create('v', with_pip=False)", Works),
    ("compileall", "python", "import compileall; open('a.py', 'w').write('x = 1'); assert compileall.compile_file('a.py', quiet=2)", Works),
    ("ctypes", "python", "import ctypes; assert ctypes.CDLL(None).getpid() > 0", Works),
    ("tar and its pipes", "sh", "mkdir d; echo x >d/a; tar cf - d | tar tf - | grep -q d/a; tar czf a.tgz d; tar xzf a.tgz", Works),
    ("cp -a, mv, rm -r", "sh", "mkdir d; echo x >d/a; cp -a d e; mv e f; rm -r d f", Works),
    ("find, xargs, sed -i", "sh", "echo a >x; find . -name x -print0 | xargs -0 sed -i s/a/b/; grep -q b x", Works),
    ("mktemp and dd", "sh", "f=$(mktemp); dd if=/dev/zero of=$f bs=1k count=100 2>/dev/null; test $(stat -c %s $f) = 102400; rm $f", Works),
    ("sorting a large file", "sh", "seq 300000 | sort -R -S 4M -T . | sort -n -S 4M -T . | tail -1 | grep -qx 300000", Works),
    ("git", "sh", "git init -q . && git config user.email a@b && git config user.name n && echo x >a && git add a && git commit -qm m && git log --oneline | grep -q m", Works),
    ("make and cc", "sh", "printf 'int main(void){return 0;}' >a.c; printf 'a: a.c\\n\\tcc -o $@ $<\\n' >Makefile; make -s -j2", Works),
    ("running what was built", "sh", "printf 'int main(void){return 0;}' >a.c; cc -o a a.c; ./a", Fails("ermission denied", "/tmp is noexec; a granted directory is not")),
    ("awk, bc, date, od", "sh", "test $(awk 'BEGIN{print 1+1}') = 2; date +%s >/dev/null; printf a | od -c | grep -q a", Works),
    ("sha256sum and base64", "sh", "printf a | sha256sum | grep -q ca978112; printf a | base64 | grep -q YQ==", Works),
    ("perl", "sh", "perl -MFile::Temp -e 'my $f = File::Temp->new; print $f \"x\"; exit 0'", Works),
];

#[rustfmt::skip]
const SYSTEM: &[Act] = &[
    ("cpu_count", "python", "import os; assert os.cpu_count() >= 1; assert len(os.sched_getaffinity(0)) >= 1", Works),
    ("nproc", "sh", "test $(nproc) -ge 1; test $(getconf _NPROCESSORS_ONLN) -ge 1", Works),
    ("uname and platform", "python", "import os, platform; assert os.uname().sysname == 'Linux'; platform.platform(); platform.libc_ver()", Works),
    ("the distribution", "python", "import platform; assert platform.freedesktop_os_release()['ID']", Works),
    ("mimetypes", "python", "import mimetypes; assert mimetypes.guess_type('a.webmanifest')[0] or mimetypes.guess_type('a.epub')[0]; assert mimetypes.guess_type('a.html')[0] == 'text/html'", Works),
    ("the own user", "python", "import pwd, grp, os, getpass; assert pwd.getpwuid(os.getuid()).pw_name; grp.getgrgid(os.getgid())", Only("the tests' user has no name there")),
    ("time zones", "python", "import time, datetime; time.tzset(); datetime.datetime.now().astimezone(); import zoneinfo; zoneinfo.ZoneInfo('Europe/Berlin')", Works),
    ("locales", "python", "import locale; locale.setlocale(locale.LC_ALL, ''); assert locale.getpreferredencoding().lower().replace('-', '') in ('utf8', 'ansi_x3.41968')", Works),
    ("random numbers", "python", "import os, secrets, uuid; assert len(os.urandom(8)) == 8; secrets.token_hex(); uuid.uuid4(); uuid.uuid1(); open('/dev/urandom', 'rb').read(4)", Works),
    ("/proc/self", "python", "assert 'VmRSS' in open('/proc/self/status').read(); open('/proc/self/maps').read(); open('/proc/self/mountinfo').read(); import os; os.listdir('/proc/self/fd')", Works),
    ("memory and load", "python", "assert 'MemTotal' in open('/proc/meminfo').read(); float(open('/proc/loadavg').read().split()[0]); float(open('/proc/uptime').read().split()[0])", Works),
    ("processors in /proc", "python", "assert 'processor' in open('/proc/cpuinfo').read(); assert open('/proc/stat').read().startswith('cpu ')", Works),
    ("processors in /sys", "python", "import glob; assert glob.glob('/sys/devices/system/cpu/cpu[0-9]*'); open('/sys/devices/system/cpu/online').read()", Works),
    ("settings of the kernel", "python", "import os; int(open('/proc/sys/kernel/pid_max').read()); assert open('/proc/sys/kernel/osrelease').read().strip() == os.uname().release", Works),
    ("free and uptime", "sh", "free >/dev/null; uptime >/dev/null; cat /proc/version >/dev/null", Works),
    ("who uses which file of the kernel", "sh", "cat /proc/interrupts", Fails("ermission denied", "of /proc only what tells of the machine is shown")),
    ("ps", "sh", "test $(ps -e | wc -l) -ge 2", Works),
    ("df and du", "sh", "df -h . >/dev/null; du -sh . >/dev/null", Works),
    ("id and whoami", "sh", "id >/dev/null; whoami >/dev/null", Only("the tests' user has no name there")),
    ("inotify", "python", "import ctypes; assert ctypes.CDLL(None).inotify_init1(0) >= 0, 'inotify'", Fails("inotify", "it shows what others do with files of the host: grant key file_watches")),
    ("perf and ptrace", "python", "import ctypes; assert ctypes.CDLL(None).ptrace(0, 0, 0, 0) == 0, 'ptrace'", Fails("ptrace", "much code of the kernel that no plugin needs")),
];

const PTY: Inside = Fails("", "no terminals: grant key pty");

#[rustfmt::skip]
const TERMINALS: &[Act] = &[
    ("openpty", "python", "import pty, os; m, s = pty.openpty(); os.write(s, b'x\\n'); got = os.read(m, 9)\nwhile got[-1:] != b'\\n': got += os.read(m, 9)\nassert got == b'x\\r\\n'; assert os.ttyname(s).startswith('/dev/pts/'); os.stat(os.ttyname(s))", PTY),
    ("fork with a terminal", "python", "import pty, os\npid, m = pty.fork()\nif pid == 0: os.execvp('sh', ['sh', '-c', 'test -t 0 && tty && exit 3'])\nassert os.read(m, 99).startswith(b'/dev/pts/'); assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3", PTY),
    ("a program in a terminal", "python", "import pty; assert pty.spawn(['sh', '-c', 'exit 5']) == 5 << 8", PTY),
    ("the window's size", "python", "import pty, os, fcntl, termios, struct; m, s = pty.openpty(); fcntl.ioctl(m, termios.TIOCSWINSZ, struct.pack('HHHH', 33, 44, 0, 0)); assert os.get_terminal_size(s) == (44, 33)", PTY),
    ("raw mode, flow and drain", "python", "import pty, os, tty, termios; m, s = pty.openpty(); tty.setraw(s); termios.tcflow(s, termios.TCOON); termios.tcflush(s, termios.TCIOFLUSH); termios.tcsendbreak(s, 0); os.write(m, b'a'); assert os.read(s, 9) == b'a'; termios.tcdrain(m)", PTY),
    ("Ctrl-C ends what is in front", "python", "import pty, os, signal\npid, m = pty.fork()\nif pid == 0: os.execvp('sh', ['sh', '-c', 'echo up; exec sleep 60'])\nos.read(m, 9); os.write(m, b'\\x03'); assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGINT", PTY),
    ("script", "sh", "script -qec 'test -t 0 && tty' /dev/null </dev/null | grep -q ^/dev/pts/", PTY),
    ("a shell with jobs", "sh", "script -qec \"bash --norc -ic 'sleep 0.1 & fg'\" /dev/null </dev/null | grep -q sleep", PTY),
    ("stty", "sh", "script -qec 'stty rows 7 cols 9; stty size' /dev/null </dev/null | grep -q '7 9'", PTY),
];

fn all() -> Vec<Act> {
    [PROCESSES, NETWORK, FILES, SYSTEM].concat()
}

fn arguments(acts: &[Act]) -> Value {
    json!(acts.iter().map(|(_, program, code, _)| [program, code]).collect::<Vec<_>>())
}

/// What does not work in bubblewrap, and why.
const NOT_IN_BUBBLEWRAP: &[(&str, &str)] =
    &[("the own host name", "it has the host's /etc/hosts, which does not name the sandbox's host")];
#[rustfmt::skip]
const BUBBLEWRAP: &[&str] = &[
    "bwrap", "--unshare-all", "--die-with-parent", "--hostname", "sandbox", "--ro-bind", "/", "/", "--dev", "/dev",
    "--proc", "/proc", "--tmpfs", "/tmp",
];

/// Each act outside of upm, by the same user, `through` another program or directly.
fn outside(f: &Fixture, acts: &[Act], through: &[&str]) -> Vec<(i64, String)> {
    let script = format!("{RUNNER}\nimport json\nprint(json.dumps(Ordinary().run(json.loads(sys.argv[1]))))\n");
    let arguments = arguments(acts).to_string();
    let words = [through, &["/usr/bin/python3", "-I", "-c", &script, &arguments]].concat();
    let mut command = f.as_caller(std::path::Path::new(words[0]));
    command.args(&words[1..]).env("HOME", f.mkdir_writable("home"));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[rstest]
fn ordinary_programs_run_as_they_do_outside(
    #[values(Mode::Root, Mode::User)] mode: Mode,
    #[values("", "write = [\"{project_root}\"]\nunix_sockets = true")] grant: &str,
) {
    let Some(f) = Fixture::new(
        mode,
        &format!(
            "[plugins.Ordinary]\nmodule = \"ordinary\"\nallowed_methods = [\"run\"]\ntimeout = \"240s\"\n{grant}\n"
        ),
    ) else {
        return;
    };
    compare(&f, &all());
}

/// Pseudo terminals with the key `pty` and without.
#[rstest]
fn terminals_are_there_where_they_are_granted(
    #[values(Mode::Root, Mode::User)] mode: Mode,
    #[values("", "pty = true", "pty = true\non_violation = \"kill\"")] grant: &str,
) {
    let tables = format!("[plugins.Ordinary]\nmodule = \"ordinary\"\nallowed_methods = [\"run\"]\n{grant}\n");
    let Some(f) = Fixture::new(mode, &tables) else { return };
    let mut acts = TERMINALS.to_vec();
    if !grant.is_empty() {
        acts.iter_mut().for_each(|act| act.3 = Works);
    }
    compare(&f, &acts);
}

/// Each act on the host and inside.
fn compare(f: &Fixture, acts: &[Act]) {
    f.python("ordinary", RUNNER);
    let host = outside(f, acts, &[]);
    let bubblewrap = which(BUBBLEWRAP[0]).map(|_| outside(f, acts, BUBBLEWRAP));
    let answer = f.call("Ordinary", "run", &json!([arguments(acts)]));
    let inside: Vec<(i64, String)> = serde_json::from_value(answer.result()).unwrap();
    let mut wrong = Vec::new();
    println!("{:60} {:12} {:12} upm", "act", "host", "bubblewrap");
    for (at, (((name, _, _, expected), outside), inside)) in acts.iter().zip(&host).zip(&inside).enumerate() {
        let works = |ended: &(i64, String)| if ended.0 == 0 { "works" } else { "fails" };
        let third = bubblewrap.as_ref().map(|all| &all[at]);
        println!("{name:60} {:12} {:12} {}", works(outside), third.map_or("not here", works), works(inside));
        let known = NOT_IN_BUBBLEWRAP.iter().any(|(other, _)| other == name) || matches!(expected, Only(_));
        if let Some(third) = third.filter(|third| third.0 != 0 && !known) {
            wrong.push(format!("{name}: bubblewrap: {}", third.1));
        }
        match expected {
            Only(why) if outside.0 != 0 => println!("{name}: not on this host: {why}"),
            _ if outside.0 != 0 => wrong.push(format!("{name}: it does not work on this host: {}", outside.1)),
            _ => {}
        }
        match expected {
            Works | Only(_) if inside.0 != 0 => wrong.push(format!("{name}: {}", inside.1)),
            Fails(with, why) if inside.0 == 0 || !inside.1.contains(with) => {
                wrong.push(format!("{name}: expected {with} ({why}), got {} {}", inside.0, inside.1));
            }
            _ => {}
        }
    }
    assert!(wrong.is_empty(), "{}\n\n{:#}", wrong.join("\n\n"), answer.data()["denials"]);
}

/// With a granted directory a host's server may listen in it; landlock can tell such sockets from the call's own from ABI 9 on.
#[rstest]
fn unix_sockets_are_granted_where_the_kernel_cannot_tell(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let pool = "import multiprocessing as m\nif __name__ == '__main__':\n with m.get_context('forkserver').Pool(2) as p: assert p.map(abs, [-1]) == [1]";
    let grant =
        "[plugins.Ordinary]\nmodule = \"ordinary\"\nallowed_methods = [\"run\"]\nwrite = [\"{project_root}\"]\n";
    let Some(f) = Fixture::new(mode, grant) else { return };
    f.python("ordinary", RUNNER);
    let hosts = f.path("project/hosts");
    let _listener = std::os::unix::net::UnixListener::bind(&hosts).unwrap();
    std::fs::set_permissions(&hosts, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    // a call of root's can write nothing that is another's
    f.of_another("project/hosts");
    let connect = |path: &str| format!("c = socket.socket(socket.AF_UNIX); c.connect('{path}')");
    let of_the_host = format!("import socket; {}", connect(&f.text("project/hosts")));
    assert!(f.as_caller("/usr/bin/python3".as_ref()).args(["-c", &of_the_host]).status().unwrap().success());
    let own = f.text("project/own");
    let own = format!(
        "import os, socket; s = socket.socket(socket.AF_UNIX); s.bind('{own}'); s.listen(); {}; os.unlink('{own}')",
        connect(&own)
    );
    let call = || f.call("Ordinary", "run", &json!([[["python", pool], ["python", own], ["python", of_the_host]]]));
    let ends = |call: &Answer| [0, 1, 2].map(|at| call.result()[at][0] == 0);
    let refused = call();
    let abi = refused.data()["sandbox"]["layers"]["landlock"]["asked"]["abi"].as_u64().unwrap();
    if abi >= 9 {
        for key in ["", "unix_sockets = true\n", "on_violation = \"kill\"\n"] {
            f.config(&format!("{grant}{key}"));
            let call = call();
            assert_eq!(ends(&call), [true, true, false], "{key}: {:#}", call.data());
            assert!(call.result()[2][1].as_str().unwrap().contains("PermissionError: [Errno 13]"), "{:#}", call.data());
        }
        return;
    }
    assert_eq!(ends(&refused), [false; 3], "{:#}", refused.data());
    assert!(refused.result()[0][1].as_str().unwrap().contains("[Errno 97]"), "{:#}", refused.data());
    let denial = &refused.denials("seccomp", "socket")[0];
    assert_eq!(denial["rule"], "unix_sockets (built-in)", "{denial:#}");
    assert_eq!(denial["remedy"], "[plugins.Ordinary.methods.run]\nunix_sockets = true", "{denial:#}");
    for key in ["unix_sockets = true\n", "unix_sockets = true\non_violation = \"kill\"\n"] {
        f.config(&format!("{grant}{key}"));
        assert_eq!(ends(&call()), [true; 3], "{key}");
    }
    // programs ask a name service cache by such a socket, and go on without
    f.config(&format!("{grant}on_violation = \"kill\"\n"));
    assert_eq!(call().result()[0][0], 1);
    assert_eq!(refused.denials("seccomp", "socket").len(), 1);
}
