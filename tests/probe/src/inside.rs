//! What a process can see of itself and its surroundings.

use crate::answer::Answer;
use crate::args::Args;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;

/// Everything at once.
pub fn report(args: Args) -> Answer {
    let part = |f: fn(Args) -> Answer| f(args).unwrap_or_else(|trouble| json!({"errno": trouble.errno}));
    let env: BTreeMap<String, String> = std::env::vars_os()
        .map(|(key, value)| (key.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
        .collect();
    let text = |path: &str| {
        fs::read_to_string(path).map_or_else(|e| json!({"errno": e.raw_os_error()}), |t| json!(t.trim_end()))
    };
    // SAFETY: these take no pointers and cannot fail.
    let ids = unsafe {
        (
            libc::getuid(),
            libc::geteuid(),
            libc::getgid(),
            libc::getegid(),
            libc::getpid(),
            libc::getppid(),
            libc::getsid(0),
            libc::umask(0o22),
        )
    };
    // SAFETY: puts back what the line above took away.
    unsafe { libc::umask(ids.7) };
    Ok(json!({
        "status": part(status),
        "mounts": part(mounts)["mounts"],
        "fds": part(descriptors)["fds"],
        "namespaces": part(namespaces)["namespaces"],
        "pids": part(pids)["pids"],
        "limits": part(limits)["limits"],
        "uid": ids.0, "euid": ids.1, "gid": ids.2, "egid": ids.3, "pid": ids.4, "ppid": ids.5, "sid": ids.6,
        "umask": ids.7,
        "cwd": std::env::current_dir().map_or(Value::Null, |path| json!(path)),
        "exe": fs::read_link("/proc/self/exe").map_or(Value::Null, |path| json!(path)),
        "cmdline": std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>(),
        "env": env,
        "hostname": text("/proc/sys/kernel/hostname"),
        "uname": hostname(),
        "cgroup": text("/proc/self/cgroup"),
        "uid_map": text("/proc/self/uid_map"),
        "gid_map": text("/proc/self/gid_map"),
        "setgroups": text("/proc/self/setgroups"),
        "loginuid": text("/proc/self/loginuid"),
    }))
}

fn hostname() -> Value {
    let mut buffer = [0_u8; 65];
    // SAFETY: the length is the buffer's.
    if unsafe { libc::gethostname(buffer.as_mut_ptr().cast(), buffer.len()) } != 0 {
        return Value::Null;
    }
    let end = buffer.iter().position(|b| *b == 0).unwrap_or(buffer.len());
    json!(String::from_utf8_lossy(&buffer[..end]))
}

/// `/proc/PID/status` (own by default) as a table of strings.
pub fn status(args: Args) -> Answer {
    let text = fs::read_to_string(format!("/proc/{}/status", args.text_or(0, "self")))?;
    let map: Map<String, Value> = text
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(key, value)| (key.to_owned(), json!(value.trim())))
        .collect();
    Ok(Value::Object(map))
}

/// `/proc/self/mountinfo`: path, options, type, source.
pub fn mounts(_: Args) -> Answer {
    let text = fs::read_to_string("/proc/self/mountinfo")?;
    let mounts: Vec<Value> = text
        .lines()
        .filter_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            let left: Vec<&str> = left.split(' ').collect();
            let right: Vec<&str> = right.split(' ').collect();
            Some(json!({"root": left.get(3)?, "path": left.get(4)?, "options": left.get(5)?, "optional": left[6..],
                        "type": right.first()?, "source": right.get(1)?, "super": right.get(2)}))
        })
        .collect();
    Ok(json!({ "mounts": mounts }))
}

/// Open descriptors, each with what it points to. Found by asking each number, as `/proc/self/fd` itself needs one.
pub fn descriptors(_: Args) -> Answer {
    let mut fds = Map::new();
    for fd in 0..1024 {
        // SAFETY: F_GETFD takes no pointer; a number that is not open answers EBADF.
        let flags = unsafe { libc::fcntl(fd, libc::F_GETFD) };
        if flags >= 0 {
            let target = fs::read_link(format!("/proc/self/fd/{fd}")).map_or_else(
                |error| format!("errno {:?}", error.raw_os_error()),
                |path| path.to_string_lossy().into_owned(),
            );
            fds.insert(fd.to_string(), json!(target));
        }
    }
    Ok(json!({ "fds": fds }))
}

/// Names of the own namespaces.
pub fn namespaces(_: Args) -> Answer {
    let mut found = Map::new();
    for kind in ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"] {
        let link = fs::read_link(format!("/proc/self/ns/{kind}"));
        found.insert(
            kind.into(),
            link.map_or_else(|e| json!({"errno": e.raw_os_error()}), |path| json!(path.to_string_lossy())),
        );
    }
    Ok(json!({ "namespaces": found }))
}

/// Process ids that `/proc` shows, each with its command line.
pub fn pids(_: Args) -> Answer {
    let mut found = Map::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.bytes().all(|b| b.is_ascii_digit()) {
            let line = fs::read(format!("/proc/{name}/cmdline")).map_or_else(
                |e| json!({"errno": e.raw_os_error()}),
                |bytes| json!(String::from_utf8_lossy(&bytes).replace('\0', " ")),
            );
            found.insert(name, line);
        }
    }
    Ok(json!({ "pids": found }))
}

/// Soft and hard limits; -1 means unlimited.
pub fn limits(_: Args) -> Answer {
    let names = [
        "RLIMIT_CPU",
        "RLIMIT_FSIZE",
        "RLIMIT_DATA",
        "RLIMIT_STACK",
        "RLIMIT_CORE",
        "RLIMIT_NPROC",
        "RLIMIT_NOFILE",
        "RLIMIT_MEMLOCK",
        "RLIMIT_AS",
        "RLIMIT_SIGPENDING",
        "RLIMIT_MSGQUEUE",
        "RLIMIT_NICE",
        "RLIMIT_RTPRIO",
    ];
    let mut found = Map::new();
    for name in names {
        let mut limit = [0_u64; 2];
        let which = crate::constants::constant(name).unwrap_or(-1);
        crate::sys::call(libc::SYS_prlimit64, &[0, which, 0, limit.as_mut_ptr() as i64])?;
        found.insert(name.into(), json!([limit[0] as i64, limit[1] as i64]));
    }
    Ok(json!({ "limits": found }))
}

/// Looks for a secret everywhere a process can read: environment and command line of every visible process, the own
/// memory, and the files named after the marker. The marker is given reversed, so that the question is not its own
/// answer.
pub fn find_marker(args: Args) -> Answer {
    let reversed = args.text(0)?.as_bytes();
    let mut found = Vec::new();
    let mut looked = 0_u64;
    let mut look = |place: String, bytes: &[u8]| {
        looked += bytes.len() as u64;
        if holds(bytes, reversed) {
            found.push(place);
        }
    };
    for entry in fs::read_dir("/proc")?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.bytes().all(|b| b.is_ascii_digit()) || name == "self" {
            for file in ["environ", "cmdline", "comm", "status", "mountinfo", "auxv", "maps"] {
                if let Ok(bytes) = fs::read(format!("/proc/{name}/{file}")) {
                    look(format!("/proc/{name}/{file}"), &bytes);
                }
            }
        }
    }
    for path in args.rest(1).0.iter().filter_map(Value::as_str) {
        if let Ok(bytes) = fs::read(path) {
            look(path.to_owned(), &bytes);
        }
    }
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    if let Ok(memory) = fs::File::open("/proc/self/mem") {
        for line in maps.lines() {
            let Some((from, to)) = line.split(' ').next().and_then(|range| range.split_once('-')) else { continue };
            let (Ok(from), Ok(to)) = (u64::from_str_radix(from, 16), u64::from_str_radix(to, 16)) else { continue };
            if to - from > 64 << 20 {
                continue;
            }
            let mut bytes = vec![0; (to - from) as usize];
            if memory.read_at(&mut bytes, from).is_ok() {
                look(format!("memory {line}"), &bytes);
            }
        }
    }
    Ok(json!({"found": found, "looked_at_bytes": looked}))
}

/// Whether `bytes` hold `reversed` read backwards.
fn holds(bytes: &[u8], reversed: &[u8]) -> bool {
    !reversed.is_empty() && bytes.windows(reversed.len()).any(|window| window.iter().eq(reversed.iter().rev()))
}
