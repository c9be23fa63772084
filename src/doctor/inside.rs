//! upm's own program as a plugin: it tries the requested acts and reports their results. It does not know the required
//! results.

use super::went;
use crate::report::complain;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The argument on the command line. It is not in the help: outside a trial it fails.
pub const WORD: &str = "doctor-inside";

/// Limit for the bytes of a call frame.
const FRAME: usize = 1 << 16;

/// An act to try. None does harm where it is allowed.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Ask {
    /// Open a file, or list a directory.
    Open(PathBuf),
    /// Create a file in this directory and remove it again.
    Create(PathBuf),
    /// Write this many bytes into a file in `/tmp`.
    Fill(u64),
    /// Open files until the kernel denies it.
    Files,
    /// Allocate this much memory.
    Memory(u64),
    /// List the descriptors that were inherited through exec.
    Descriptors,
    /// List the processes in `/proc`.
    Processes,
    /// List the network interfaces.
    Interfaces,
    /// Get the user and group.
    Ids,
    /// List the capability sets that are not empty.
    Capabilities,
    /// Get `NoNewPrivs`.
    NoNewPrivileges,
    /// A system call that the filter allows.
    WorkingDirectory,
    /// Mount on a path that does not exist.
    Mount,
    /// Create a user namespace for this process.
    UserNamespace,
    /// Be traced by the parent.
    Trace,
    /// Connect by TCP.
    Connect(SocketAddr),
    /// Connect to an abstract UNIX socket.
    Abstract(String),
    /// Look up a name.
    Resolve(String),
}

/// Answers one call frame on descriptor 3. `None` if that is not a stream socket: this is not a trial.
#[must_use]
pub fn answer() -> Option<i32> {
    let mut frames = File::from(crate::sys::process::inherited_stream(3)?);
    let asks = match read(&mut frames) {
        Ok(asks) => asks,
        Err(error) => {
            complain(format_args!("descriptor 3: {error}"));
            return Some(1);
        }
    };
    let answers: Vec<String> = asks.iter().map(|ask| answer_one(ask, &frames)).collect();
    let frame = format!("{}\n", json!({ "type": "result", "result": answers }));
    Some(i32::from(frames.write_all(frame.as_bytes()).is_err()))
}

fn read(frames: &mut impl Read) -> io::Result<Vec<Ask>> {
    let mut frame = Vec::new();
    let mut buffer = [0u8; 4096];
    while !frame.ends_with(b"\n") && frame.len() < FRAME {
        match frames.read(&mut buffer)? {
            0 => break,
            count => frame.extend_from_slice(&buffer[..count]),
        }
    }
    let mut call: Value = serde_json::from_slice(&frame)?;
    Ok(serde_json::from_value(call["args"].take())?)
}

fn answer_one(ask: &Ask, frames: &File) -> String {
    match ask {
        Ask::Open(path) => went(open(path), "opens"),
        Ask::Create(directory) => went(create(directory), "works"),
        Ask::Fill(bytes) => went(fill(*bytes), "works"),
        Ask::Files => files(frames),
        Ask::Memory(bytes) => memory(*bytes),
        Ask::Descriptors => descriptors().unwrap_or_else(|error| error.to_string()),
        Ask::Processes => processes().unwrap_or_else(|error| error.to_string()),
        Ask::Interfaces => interfaces().unwrap_or_else(|error| error.to_string()),
        Ask::Ids => format!("{}:{}", nix::unistd::getuid(), nix::unistd::getgid()),
        Ask::Capabilities => capabilities(),
        Ask::NoNewPrivileges => {
            status("NoNewPrivs:").map_or("unknown", |set| if set == "1" { "set" } else { "not set" }).to_owned()
        }
        Ask::WorkingDirectory => went(std::env::current_dir(), "works"),
        Ask::Mount => {
            let none: Option<&str> = None;
            let mounted =
                nix::mount::mount(Some("none"), "/no/such/place", Some("tmpfs"), nix::mount::MsFlags::empty(), none);
            went(mounted.map_err(Into::into), "works")
        }
        Ask::UserNamespace => {
            went(nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER).map_err(Into::into), "works")
        }
        Ask::Trace => went(crate::sys::process::be_traced(), "works"),
        Ask::Connect(address) => went(TcpStream::connect_timeout(address, Duration::from_secs(2)), "connects"),
        Ask::Abstract(name) => {
            let connected =
                UnixAddress::from_abstract_name(name).and_then(|address| UnixStream::connect_addr(&address));
            went(connected, "connects")
        }
        Ask::Resolve(name) => match (name.as_str(), 443).to_socket_addrs() {
            Ok(addresses) if addresses.len() > 0 => "an address".to_owned(),
            _ => "no address".to_owned(),
        },
    }
}

fn open(path: &Path) -> io::Result<()> {
    if path.is_dir() { fs::read_dir(path).map(drop) } else { File::open(path).map(drop) }
}

fn create(directory: &Path) -> io::Result<()> {
    let path = directory.join(".upm-doctor");
    OpenOptions::new().write(true).create_new(true).open(&path)?;
    fs::remove_file(path)
}

fn fill(bytes: u64) -> io::Result<()> {
    let path = Path::new("/tmp/.upm-doctor-fill");
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    let written = io::copy(&mut io::repeat(b'x').take(bytes), &mut file).map(drop);
    fs::remove_file(path)?;
    written
}

/// Duplicates the frame socket, because opening a file might fail.
fn files(frames: &File) -> String {
    let mut open = Vec::new();
    loop {
        match frames.try_clone() {
            Ok(file) if open.len() < 100_000 => open.push(file),
            Ok(_) => return "unlimited".to_owned(),
            Err(error) => {
                // The lowest free number is used: whatever was open already, the last one gives the limit.
                let most = open.iter().map(|file| file.as_raw_fd() + 1).max().unwrap_or(0);
                return format!("{most} at most, then {}", went::<()>(Err(error), ""));
            }
        }
    }
}

fn memory(bytes: u64) -> String {
    let mut taken: Vec<u8> = Vec::new();
    match taken.try_reserve_exact(usize::try_from(bytes).unwrap_or(usize::MAX)) {
        Ok(()) => "works".to_owned(),
        Err(_) => "ENOMEM".to_owned(),
    }
}

fn descriptors() -> io::Result<String> {
    let mut open = Vec::new();
    for entry in fs::read_dir("/proc/self/fd")? {
        let number = entry?.file_name().to_string_lossy().into_owned();
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{number}")).unwrap_or_default();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
        let flags = flags.and_then(|text| i32::from_str_radix(text.trim(), 8).ok()).unwrap_or(0);
        // What this process opened itself, such as the directory that is being read, is close-on-exec.
        if flags & rustix::fs::OFlags::CLOEXEC.bits() as i32 == 0 {
            open.extend(number.parse::<u32>());
        }
    }
    open.sort_unstable();
    Ok(open.iter().map(u32::to_string).collect::<Vec<_>>().join(" "))
}

fn processes() -> io::Result<String> {
    let own = std::process::id();
    let mut others = Vec::new();
    for entry in fs::read_dir("/proc")? {
        others.extend(entry?.file_name().to_string_lossy().parse::<u32>().ok().filter(|pid| *pid != own));
    }
    Ok(if others.is_empty() { "only its own".to_owned() } else { format!("{others:?} too") })
}

fn interfaces() -> io::Result<String> {
    let table = fs::read_to_string("/proc/self/net/dev")?;
    let names = table.lines().filter_map(|line| line.split_once(':')).map(|(name, _)| name.trim());
    Ok(names.collect::<Vec<_>>().join(" "))
}

/// A field of `/proc/self/status`.
fn status(name: &str) -> Option<String> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find_map(|line| line.strip_prefix(name)).map(|text| text.trim().to_owned())
}

fn capabilities() -> String {
    let full: Vec<&str> = ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"]
        .into_iter()
        .filter(|set| status(set).is_none_or(|text| text.bytes().any(|digit| digit != b'0')))
        .collect();
    if full.is_empty() { "none".to_owned() } else { full.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asks_are_read_from_a_call_frame() {
        let asks = vec![Ask::Open("/etc/shadow".into()), Ask::Mount, Ask::Connect("127.0.0.1:1".parse().unwrap())];
        let frame = format!("{}\n", json!({ "type": "call", "args": asks }));
        let read = read(&mut frame.as_bytes()).unwrap();
        assert_eq!(json!(read), json!(asks));
        assert!(super::read(&mut &b"{\"args\":[\"reboot\"]}\n"[..]).is_err());
        assert!(super::read(&mut io::repeat(b' ')).is_err(), "its length is limited");
    }

    /// Outside a sandbox, where nothing is denied, the same acts have other results.
    #[test]
    fn the_acts_report_what_is_so() {
        let frames = File::open("/dev/null").unwrap();
        let result = |ask: Ask| answer_one(&ask, &frames);
        assert_eq!(result(Ask::Open("/usr".into())), "opens");
        assert_eq!(result(Ask::Open("/no/such/file".into())), "ENOENT");
        assert_eq!(result(Ask::Create("/tmp".into())), "works");
        assert_eq!(result(Ask::Create("/proc".into())), "ENOENT");
        assert_eq!(result(Ask::WorkingDirectory), "works");
        assert_eq!(result(Ask::Memory(1 << 20)), "works");
        assert_eq!(result(Ask::Memory(u64::MAX)), "ENOMEM");
        assert_ne!(result(Ask::Processes), "only its own");
        // Other inherited descriptors depend on what started this process; one that is not close-on-exec is listed too.
        let let_through = rustix::io::dup(&frames).unwrap();
        let numbers = result(Ask::Descriptors);
        let numbers: Vec<&str> = numbers.split(' ').collect();
        assert_eq!(numbers[..3], ["0", "1", "2"]);
        assert!(numbers.contains(&let_through.as_raw_fd().to_string().as_str()), "{numbers:?}");
        assert!(result(Ask::Interfaces).split(' ').any(|name| name == "lo"));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(result(Ask::Connect(listener.local_addr().unwrap())), "connects");
        assert_ne!(result(Ask::Mount), "works");
    }
}
