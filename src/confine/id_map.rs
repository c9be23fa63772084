//! Step `id_map`, and the user namespaces that id-mapped mounts take their mapping from.

use super::channels::{self, Tag};
use super::step::{Step, StepError, Subject};
use crate::decide::plan::INSIDE_ID;
use crate::sys::clone::{Forked, fork_into};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Parent side: `setgroups deny`, then the maps of one user and one group (user_namespaces(7)).
///
/// # Errors
/// `EPERM` where the kernel refuses the map.
pub fn write_maps(pid: i32, inside: (u32, u32), outside: (u32, u32)) -> Result<(), StepError> {
    let write = |file: &str, text: String| {
        let path = format!("/proc/{pid}/{file}");
        fs::write(&path, text).map_err(|error| StepError::new(Step::IdMap, path, error).of(Subject::ProcFile))
    };
    write("setgroups", "deny".to_owned())?;
    write("gid_map", format!("{} {} 1", inside.1, outside.1))?;
    write("uid_map", format!("{} {} 1", inside.0, outside.0))
}

/// Child side: waits for the supervisor's word, then becomes the plugin's user.
///
/// # Errors
/// `EPIPE` when the supervisor is gone, `EPERM`.
pub fn step(status: BorrowedFd<'_>) -> Result<(), StepError> {
    let fail = |what: &str, error: io::Error| StepError::new(Step::IdMap, what, error);
    let mut word = [0u8; 1];
    match channels::receive(status, &mut word) {
        Ok(Some(_)) if word[0] == Tag::Go as u8 => {}
        Ok(_) => return Err(fail("supervisor", nix::Error::EPIPE.into())),
        Err(error) => return Err(fail("status channel", error)),
    }
    nix::unistd::setresgid(INSIDE_ID.into(), INSIDE_ID.into(), INSIDE_ID.into())
        .map_err(|errno| fail("setresgid", errno.into()))?;
    nix::unistd::setresuid(INSIDE_ID.into(), INSIDE_ID.into(), INSIDE_ID.into())
        .map_err(|errno| fail("setresuid", errno.into()))
}

/// A user namespace in which `owner`'s ids, as the file system stores them, stand for `plugin`'s: a mount with this
/// mapping shows the owner's files as the plugin's and stores the plugin's as the owner's (`mount_setattr(2)`).
///
/// # Errors
/// What clone3 and the map files say.
pub fn mapping_namespace(owner: (u32, u32), plugin: (u32, u32)) -> Result<OwnedFd, StepError> {
    let fail = |error: io::Error| StepError::new(Step::Clone, "user namespace for id-mapped mounts", error);
    let (hold, release) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|error| fail(error.into()))?;
    match fork_into(nix::sched::CloneFlags::CLONE_NEWUSER.bits() as u64, None).map_err(fail)? {
        Forked::Child => {
            // Lives only until its namespace is open in the parent, whose end of the pipe then closes.
            drop(release);
            let ended = rustix::io::read(&hold, &mut [0u8; 1]);
            crate::sys::process::exit_now(i32::from(ended.is_err()));
        }
        Forked::Parent { pid, pidfd } => {
            let namespace = write_maps(pid, owner, plugin).and_then(|()| {
                let path = format!("/proc/{pid}/ns/user");
                File::open(&path).map_err(|error| StepError::new(Step::Prepare, path, error))
            });
            drop(release);
            rustix::process::waitid(
                rustix::process::WaitId::PidFd(pidfd.as_fd()),
                rustix::process::WaitIdOptions::EXITED,
            )
            .map_err(|error| fail(error.into()))?;
            namespace.map(OwnedFd::from)
        }
    }
}
