//! Who a caller is, and whether `callers` names it. Names are looked up with the host's `nsswitch.conf`.

use crate::sys;
use crate::sys::poll::poll;
use crate::text::shorten;
use crate::types::{Caller, CallerSpec};
use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd::{Gid, Group, User};
use rustix::event::{PollFd, PollFlags};
use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

/// The user who started this process.
#[must_use]
pub fn own() -> Caller {
    Caller {
        uid: nix::unistd::getuid().as_raw(),
        gid: nix::unistd::getgid().as_raw(),
        groups: nix::unistd::getgroups().unwrap_or_default().into_iter().map(Gid::as_raw).collect(),
        pid: None,
        login_uid: login_uid(),
    }
}

/// Who connected this UNIX socket, as recorded by the kernel at that time.
///
/// # Errors
/// The kernel does not report it.
pub fn peer(socket: BorrowedFd<'_>) -> io::Result<Caller> {
    let who = getsockopt(&socket, sockopt::PeerCredentials)?;
    let groups = sys::net::peer_groups(socket)?;
    // 0: the process is in a pid namespace that is not visible here.
    let pid = Some(who.pid()).filter(|pid| *pid > 0);
    let login_uid = match (pid, sys::net::peer_pidfd(socket)?) {
        (Some(pid), Some(process)) => {
            let read = login_uid_of(pid);
            // If the process has not ended by now, its number was not reused while that was read.
            let mut ended = [PollFd::new(&process, PollFlags::IN)];
            read.filter(|_| matches!(poll(&mut ended, Some(Duration::ZERO)), Ok(0)))
        }
        // Before Linux 6.5 the number may already belong to another process, and an audit record must not guess.
        _ => None,
    };
    Ok(Caller { uid: who.uid(), gid: who.gid(), groups, pid, login_uid })
}

/// The user who logged in, from `/proc/self/loginuid`; `None` if unset (4294967295) or not supported by the kernel.
#[must_use]
pub fn login_uid() -> Option<u32> {
    parse_login_uid(&std::fs::read_to_string("/proc/self/loginuid").ok()?)
}

/// The same for another process.
fn login_uid_of(pid: i32) -> Option<u32> {
    parse_login_uid(&std::fs::read_to_string(format!("/proc/{pid}/loginuid")).ok()?)
}

fn parse_login_uid(text: &str) -> Option<u32> {
    text.trim_end().parse().ok().filter(|uid| *uid != u32::MAX)
}

/// Whether the caller is one of these. A name that is unknown on this host matches nobody.
#[must_use]
pub fn names(callers: &[CallerSpec], caller: &Caller) -> bool {
    callers.iter().any(|spec| match (spec, id(spec)) {
        (_, None) => false,
        (CallerSpec::User(_), Some(uid)) => uid == caller.uid,
        (CallerSpec::Group(_), Some(gid)) => gid == caller.gid || caller.groups.contains(&gid),
    })
}

/// The user's or group's number; `None` for a name that is unknown on this host or cannot be looked up now.
#[must_use]
pub fn id(spec: &CallerSpec) -> Option<u32> {
    match spec {
        CallerSpec::User(name) | CallerSpec::Group(name) if name.bytes().all(|b| b.is_ascii_digit()) => {
            name.parse().ok()
        }
        CallerSpec::User(name) => User::from_name(name).ok().flatten().map(|user| user.uid.as_raw()),
        CallerSpec::Group(name) => Group::from_name(name).ok().flatten().map(|group| group.gid.as_raw()),
    }
}

/// A user for messages: its name, if it has one, and its number.
#[must_use]
pub fn shown(uid: u32) -> String {
    match User::from_uid(uid.into()) {
        Ok(Some(user)) => format!("{} ({uid})", shorten(&user.name, 80)),
        _ => uid.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    fn caller(uid: u32, gid: u32, groups: &[u32]) -> Caller {
        Caller { uid, gid, groups: groups.to_vec(), pid: None, login_uid: None }
    }

    fn user(name: &str) -> CallerSpec {
        CallerSpec::User(name.into())
    }

    fn group(name: &str) -> CallerSpec {
        CallerSpec::Group(name.into())
    }

    #[test]
    fn the_login_user_is_unset_at_its_greatest_value() {
        assert_eq!(parse_login_uid("4294967295\n"), None);
        assert_eq!(parse_login_uid("1000"), Some(1000));
        assert_eq!(parse_login_uid("x"), None);
    }

    #[test]
    fn users_and_groups_by_name_and_number() {
        let one = caller(1234, 500, &[600, 700]);
        for spec in [user("1234"), group("500"), group("700")] {
            assert!(names(&[user("1"), spec.clone()], &one), "{spec}");
        }
        for spec in [user("500"), user("600"), group("1234"), user("root"), group("root")] {
            assert!(!names(std::slice::from_ref(&spec), &one), "{spec}");
        }
        assert!(!names(&[], &one), "an empty list names nobody");
        let root = caller(0, 0, &[]);
        assert!(names(&[user("root")], &root) && names(&[group("root")], &root));
    }

    #[test]
    fn a_name_that_nobody_has_names_nobody() {
        let nobody = user("upm-test-no-such-user");
        assert_eq!(id(&nobody), None);
        // to setresuid(2), 2^32-1 means "leave unchanged": no lookup may return it
        for uid in [0, 65534, u32::MAX] {
            assert!(!names(&[nobody.clone(), group("upm-test-no-such-group")], &caller(uid, uid, &[uid])));
        }
    }

    #[test]
    fn the_peer_of_a_pair_is_this_process() {
        let (one, _other) = UnixStream::pair().unwrap();
        let peer = peer(one.as_fd()).unwrap();
        let own = own();
        assert_eq!((peer.uid, peer.gid, &peer.groups), (own.uid, own.gid, &own.groups));
        assert_eq!(peer.pid, Some(std::process::id() as i32));
    }
}
