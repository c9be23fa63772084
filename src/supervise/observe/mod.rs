//! `upm learn`: what the plugin looks for and does not get. The filter reports the system calls that name files and addresses to
//! the supervisor, which records what they name and lets them go on. This decides nothing: a second filter, the mounts and
//! Landlock do. A record is only what the plugin claims: it can change it between the look and the act.

mod peek;

use crate::confine::step::{Step, StepError};
use crate::decide::names;
use crate::decide::plan::Plan;
use crate::decide::verdict;
use crate::sys;
use crate::sys::seccomp::Notification;
use crate::types::{Look, LookFor, Observed};
use peek::{Peek, Question};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Looks that are listed; further ones are only counted.
const MAX_LOOKS: usize = 2000;

/// What the arguments of a system call name.
#[derive(Clone, Copy)]
enum Names {
    /// A path: the argument with the descriptor of its directory, if there is one, and the argument with the path.
    Path(Option<usize>, usize),
    /// A socket address: the arguments with the address and its length.
    Address(usize, usize),
}

/// How a system call uses what it names.
#[derive(Clone, Copy)]
enum Access {
    Read,
    Write,
    Execute,
    /// By the flags of open(2), in this argument.
    Flags(usize),
}

use Access::{Execute, Flags, Read, Write};
use Names::{Address, Path as P};

/// The system calls that are watched, what they name, and how they use it.
const WATCHED: [(&str, &[Names], Access); 40] = [
    ("open", &[P(None, 0)], Flags(1)),
    ("openat", &[P(Some(0), 1)], Flags(2)),
    ("creat", &[P(None, 0)], Write),
    ("stat", &[P(None, 0)], Read),
    ("lstat", &[P(None, 0)], Read),
    ("newfstatat", &[P(Some(0), 1)], Read),
    ("statx", &[P(Some(0), 1)], Read),
    ("statfs", &[P(None, 0)], Read),
    ("access", &[P(None, 0)], Read),
    ("faccessat", &[P(Some(0), 1)], Read),
    ("faccessat2", &[P(Some(0), 1)], Read),
    ("readlink", &[P(None, 0)], Read),
    ("readlinkat", &[P(Some(0), 1)], Read),
    ("chdir", &[P(None, 0)], Read),
    ("execve", &[P(None, 0)], Execute),
    ("execveat", &[P(Some(0), 1)], Execute),
    ("mkdir", &[P(None, 0)], Write),
    ("mkdirat", &[P(Some(0), 1)], Write),
    ("rmdir", &[P(None, 0)], Write),
    ("unlink", &[P(None, 0)], Write),
    ("unlinkat", &[P(Some(0), 1)], Write),
    ("rename", &[P(None, 0), P(None, 1)], Write),
    ("renameat", &[P(Some(0), 1), P(Some(2), 3)], Write),
    ("renameat2", &[P(Some(0), 1), P(Some(2), 3)], Write),
    ("link", &[P(None, 0), P(None, 1)], Write),
    ("linkat", &[P(Some(0), 1), P(Some(2), 3)], Write),
    ("symlink", &[P(None, 1)], Write),
    ("symlinkat", &[P(Some(1), 2)], Write),
    ("truncate", &[P(None, 0)], Write),
    ("chmod", &[P(None, 0)], Write),
    ("fchmodat", &[P(Some(0), 1)], Write),
    ("fchmodat2", &[P(Some(0), 1)], Write),
    ("chown", &[P(None, 0)], Write),
    ("lchown", &[P(None, 0)], Write),
    ("fchownat", &[P(Some(0), 1)], Write),
    ("utime", &[P(None, 0)], Write),
    ("utimes", &[P(None, 0)], Write),
    ("utimensat", &[P(Some(0), 1)], Write),
    ("mknodat", &[P(Some(0), 1)], Write),
    ("connect", &[Address(1, 2)], Read),
];

/// The numbers of the watched system calls that the filter can allow, on this architecture.
#[must_use]
pub fn watched() -> Vec<u32> {
    let allowed =
        |name: &&str| crate::confine::filter::standing(name).is_some_and(|s| s != crate::types::Standing::Refused);
    WATCHED.iter().map(|(name, ..)| *name).filter(allowed).filter_map(crate::confine::filter::syscall_number).collect()
}

/// Records what the plugin looks for.
pub struct Observer {
    peek: Peek,
    seen: BTreeMap<(LookFor, String), u64>,
    /// Granted names, by the addresses that the gateway gave them.
    names: BTreeMap<Ipv4Addr, String>,
    dropped: u64,
}

impl Observer {
    /// Starts the process that reads the memory of the plugin. It dies with this process.
    ///
    /// # Errors
    /// No more processes or descriptors.
    pub fn start() -> Result<Self, StepError> {
        let own = sys::process::own_pidfd().map_err(|error| StepError::new(Step::Prepare, "pidfd", error))?;
        let peek = peek::start(own.as_fd())?;
        Ok(Observer { peek, seen: BTreeMap::new(), names: BTreeMap::new(), dropped: 0 })
    }

    /// The gateway gave this address to a granted name.
    pub fn named(&mut self, name: &str, address: Ipv4Addr) {
        self.names.insert(address, name.to_owned());
    }

    /// Records what a watched system call names, and lets it go on. False if this system call is not watched, and so is a
    /// denial.
    ///
    /// # Errors
    /// An error of the listener.
    pub fn observe(&mut self, plan: &Plan, listener: BorrowedFd<'_>, asked: &Notification) -> std::io::Result<bool> {
        let name = crate::confine::filter::syscall_name(asked.nr).unwrap_or_default();
        let Some((_, named, access)) = WATCHED.iter().find(|(watched, ..)| *watched == name) else { return Ok(false) };
        let mut looks = Vec::new();
        for what in *named {
            looks.extend(match *what {
                Names::Path(dir, path) => self.path(asked, dir, path, *access),
                Names::Address(address, length) => self.address(asked, address, length),
            });
        }
        // What was read belongs to that process only if it still waits.
        if sys::seccomp::notif_id_valid(listener, asked.id)? {
            for (act, object) in looks {
                self.note(plan, act, object);
            }
        }
        sys::seccomp::notif_continue(listener, asked.id)?;
        Ok(true)
    }

    fn note(&mut self, plan: &Plan, act: LookFor, object: String) {
        let given = match act {
            LookFor::Connect => granted(plan, &object),
            LookFor::Write => verdict::holds(plan, Path::new(&object), true),
            LookFor::Execute if verdict::no_exec(plan, &object).is_some() => false,
            LookFor::Read | LookFor::Execute => verdict::holds(plan, Path::new(&object), false),
        };
        if given {
            return;
        }
        let full = self.seen.len() >= MAX_LOOKS;
        match self.seen.entry((act, object)) {
            std::collections::btree_map::Entry::Occupied(mut known) => *known.get_mut() += 1,
            std::collections::btree_map::Entry::Vacant(_) if full => self.dropped += 1,
            std::collections::btree_map::Entry::Vacant(new) => drop(new.insert(1)),
        }
    }

    fn path(
        &mut self,
        asked: &Notification,
        dir: Option<usize>,
        path: usize,
        access: Access,
    ) -> Option<(LookFor, String)> {
        let text = self.peek.ask(asked.pid, Question::Text(asked.args[path]))?;
        if text.is_empty() {
            // It names the descriptor itself.
            return None;
        }
        let text = Path::new(OsStr::from_bytes(&text));
        let full = if text.is_absolute() {
            text.to_owned()
        } else {
            // AT_FDCWD is negative.
            let question = match dir.map(|dir| asked.args[dir] as i32) {
                Some(fd) if fd >= 0 => Question::Descriptor(fd),
                _ => Question::Directory,
            };
            let base = self.peek.ask(asked.pid, question)?;
            PathBuf::from(OsStr::from_bytes(&base)).join(text)
        };
        let act = match access {
            Read => LookFor::Read,
            Write => LookFor::Write,
            Execute => LookFor::Execute,
            Flags(at) => {
                let flags = rustix::fs::OFlags::from_bits_retain(asked.args[at] as u32);
                let changing = rustix::fs::OFlags::WRONLY
                    | rustix::fs::OFlags::RDWR
                    | rustix::fs::OFlags::CREATE
                    | rustix::fs::OFlags::TRUNC;
                if flags.intersects(changing) { LookFor::Write } else { LookFor::Read }
            }
        };
        match verdict::normal(&full).to_str() {
            Some(object) => Some((act, object.to_owned())),
            // A configuration cannot contain it.
            None => {
                self.dropped += 1;
                None
            }
        }
    }

    fn address(&mut self, asked: &Notification, address: usize, length: usize) -> Option<(LookFor, String)> {
        // sockaddr_storage is the longest.
        let length = u32::try_from(asked.args[length]).ok()?.min(128);
        let bytes = self.peek.ask(asked.pid, Question::Bytes(asked.args[address], length))?;
        let object = self.destination(&bytes)?;
        Some((LookFor::Connect, object))
    }

    /// `name:port`, `address:port` or `unix:path` of what neither the stub nor the gateway serves.
    fn destination(&self, bytes: &[u8]) -> Option<String> {
        // linux/socket.h
        const AF_UNIX: u16 = 1;
        const AF_INET: u16 = 2;
        const AF_INET6: u16 = 10;
        let family = u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?);
        if family == AF_UNIX {
            let path = &bytes[2..];
            let path = match path.first()? {
                0 => format!("@{}", String::from_utf8_lossy(&path[1..])),
                _ => String::from_utf8_lossy(path.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned(),
            };
            return Some(format!("unix:{path}"));
        }
        let port = u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?);
        let ip = match family {
            AF_INET => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(bytes.get(4..8)?).ok()?)),
            AF_INET6 => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(bytes.get(8..24)?).ok()?)),
            _ => return None,
        };
        // Port 0: getaddrinfo(3) asks which local address would be used, and sends nothing.
        match ip {
            _ if port == 0 => None,
            IpAddr::V4(ip) if self.names.contains_key(&ip) => Some(format!("{}:{port}", self.names[&ip])),
            ip if ip.is_loopback() => None,
            ip => Some(std::net::SocketAddr::new(ip, port).to_string()),
        }
    }

    /// What was seen.
    #[must_use]
    pub fn finish(self) -> Observed {
        let looks = self.seen.into_iter().map(|((act, object), count)| Look { act, object, count }).collect();
        Observed { looks, dropped: self.dropped }
    }
}

/// Whether the gateway carries `name:port`.
fn granted(plan: &Plan, object: &str) -> bool {
    if let Some(path) = object.strip_prefix("unix:") {
        // The call's own are those without a path, and those in its memory.
        return path.starts_with('@') || verdict::in_memory(plan, Path::new(path)).is_some();
    }
    let named = object.rsplit_once(':').and_then(|(name, port)| Some((name, port.parse().ok()?)));
    named.is_some_and(|(name, port)| names::rule_for(&plan.egress, name, port).is_some())
}
