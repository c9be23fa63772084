//! The service and its callers, as tests see them.

use super::{Fixture, assert_schema, which};
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What systemd does for `Accept=yes` and `StandardInput=socket`.
pub struct Service {
    /// Its path.
    pub socket: String,
    stop: Arc<AtomicBool>,
    running: Arc<Mutex<Vec<Child>>>,
    listener: Option<std::thread::JoinHandle<()>>,
}

impl Service {
    pub fn start(f: &Fixture) -> Service {
        Service::through(f, &[])
    }

    /// `upm serve` started by `before`, as the fixture's caller.
    pub fn through(f: &Fixture, before: &[&str]) -> Service {
        let socket = f.text("upm.sock");
        let _ = fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).unwrap();
        fs::set_permissions(&socket, fs::Permissions::from_mode(0o666)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let words: Vec<String> =
            before.iter().map(|word| (*word).to_owned()).chain([f.text("bin/upm"), "serve".into()]).collect();
        let model = f.as_caller(&which(&words[0]).unwrap_or_else(|| PathBuf::from(&words[0])));
        let program = model.get_program().to_owned();
        let args: Vec<_> = model.get_args().map(ToOwned::to_owned).chain(words[1..].iter().map(Into::into)).collect();
        let env: Vec<_> =
            model.get_envs().filter_map(|(key, value)| Some((key.to_owned(), value?.to_owned()))).collect();
        let (dir, log) = (f.dir().to_owned(), f.path("service.log"));
        let stop = Arc::new(AtomicBool::new(false));
        let running = Arc::new(Mutex::new(Vec::new()));
        let (stopped, started) = (Arc::clone(&stop), Arc::clone(&running));
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let Ok((stream, _)) = listener.accept() else {
                    std::thread::sleep(Duration::from_millis(2));
                    continue;
                };
                let stream = OwnedFd::from(stream);
                let child = Command::new(&program)
                    .args(&args)
                    .env_clear()
                    .envs(env.iter().map(|(key, value)| (key, value)))
                    .current_dir(&dir)
                    .stdin(stream.try_clone().unwrap())
                    .stdout(stream)
                    .stderr(fs::File::options().create(true).append(true).open(&log).unwrap())
                    .spawn()
                    .unwrap();
                started.lock().unwrap().push(child);
            }
        });
        Service { socket, stop, running, listener: Some(thread) }
    }

    pub fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.socket).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream
    }

    /// Sends bytes and gives every line that comes.
    pub fn say(&self, bytes: &[u8]) -> Vec<Value> {
        let mut stream = self.connect();
        // what is refused early is not read to its end
        let _ = stream.write_all(bytes);
        lines(stream)
    }

    pub fn ask(&self, request: &Value) -> Vec<Value> {
        self.say(format!("{request}\n").as_bytes())
    }

    /// Exit statuses of all that were started, once every one has ended.
    pub fn ended(&self, within: Duration) -> Vec<Option<i32>> {
        let end = Instant::now() + within;
        loop {
            let mut running = self.running.lock().unwrap();
            let statuses: Vec<_> = running.iter_mut().map(|child| child.try_wait().unwrap()).collect();
            if !statuses.is_empty() && statuses.iter().all(Option::is_some) {
                return statuses.into_iter().flatten().map(|status| status.code()).collect();
            }
            drop(running);
            assert!(Instant::now() < end, "a service's process does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn pids(&self) -> Vec<u32> {
        self.running.lock().unwrap().iter().map(Child::id).collect()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.listener.take().map(std::thread::JoinHandle::join);
        for child in self.running.lock().unwrap().iter_mut() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

pub fn lines(stream: UnixStream) -> Vec<Value> {
    let lines = BufReader::new(stream).lines().map_while(Result::ok);
    lines.map(|line| serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

/// The envelope, which is the last line.
#[track_caller]
pub fn envelope(mut lines: Vec<Value>) -> Value {
    let last = lines.pop().expect("an answer");
    assert_schema(&last);
    last
}

#[track_caller]
pub fn refused(lines: Vec<Value>, code: &str) -> String {
    let envelope = envelope(lines);
    assert_eq!(envelope["data"]["code"], code, "{envelope:#}");
    envelope["data"]["error"].as_str().unwrap().to_owned()
}

pub fn run(args: Value) -> Value {
    json!({"plugin": "Probe", "method": "run", "args": args})
}

/// A user besides the fixture's. No `passwd` knows it.
pub struct Other {
    pub uid: u32,
    pub gid: u32,
    pub groups: &'static str,
}

pub const OTHER: Other = Other { uid: 45_678, gid: 45_679, groups: "45680,45681" };

/// Runs the fixture's `upm` as another user, in its directory.
pub fn as_other(f: &Fixture, other: &Other, words: &[&str]) -> Output {
    let (uid, gid) = (other.uid.to_string(), other.gid.to_string());
    Command::new("setpriv")
        .args(["--reuid", &uid, "--regid", &gid, "--groups", other.groups, "--"])
        .arg(f.path("bin/upm"))
        .args(words)
        .env_clear()
        .current_dir(f.dir())
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

#[track_caller]
pub fn answered(output: &Output) -> (Option<i32>, Value) {
    let text = String::from_utf8_lossy(&output.stdout);
    let envelope: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {output:?}"));
    assert_schema(&envelope);
    (output.status.code(), envelope)
}

pub fn begun(path: &Path) {
    let end = Instant::now() + Duration::from_secs(20);
    while !path.exists() {
        assert!(Instant::now() < end, "{} does not come", path.display());
        std::thread::sleep(Duration::from_millis(5));
    }
}
