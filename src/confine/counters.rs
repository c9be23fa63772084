//! Part of step `limits`: what the kernel counts for each user in each user namespace (`user.max_*`, namespaces(7), kernel/ucount.c).
//!
//! Whatever a process takes of these is charged in its own user namespace and in every one above it: at the top to the user
//! who made the call's, who could then get nothing more on the host. The call's own limits are what bounds it, so each one
//! that this kernel has is set, also those that this version does not know: to zero, unless the plan grants some.

use super::step::{Step, StepError, Subject};
use nix::errno::Errno;
use rustix::fs::{Dir, Mode, OFlags, open, openat};
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;

/// The files' directory. In each user namespace it shows that one's own limits.
const DIRECTORY: &str = "/proc/sys/user";
/// What must be there (Linux 5.6): where one is missing the directory is not what it should be.
const REQUIRED: [&str; 8] = [
    "max_user_namespaces",
    "max_mnt_namespaces",
    "max_pid_namespaces",
    "max_net_namespaces",
    "max_ipc_namespaces",
    "max_uts_namespaces",
    "max_cgroup_namespaces",
    "max_time_namespaces",
];
/// Most inotify instances of a call that is granted watches: an eighth of what a host gives each user (`fs.inotify`).
const INSTANCES: u64 = 16;

/// The limits' files, kept open from before the root is changed until they are read back.
#[derive(Debug)]
pub struct Counters(Vec<(String, File)>);

fn fail(name: &str, error: io::Error) -> StepError {
    StepError::new(Step::Limits, format!("{DIRECTORY}/{name}"), error).of(Subject::ProcFile)
}

/// The value of a counter for a call that is granted this many watches.
fn granted(name: &str, watches: u64) -> u64 {
    match name {
        "max_inotify_watches" => watches,
        "max_inotify_instances" => watches.min(INSTANCES),
        _ => 0,
    }
}

impl Counters {
    /// Opens them in the host's `/proc`: the call's own does not show them.
    ///
    /// # Errors
    /// Names the file that cannot be opened, or is missing.
    pub fn open() -> Result<Counters, StepError> {
        let unlisted = |error: rustix::io::Errno| fail(REQUIRED[0], error.into());
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let directory = open(DIRECTORY, flags, Mode::empty()).map_err(unlisted)?;
        let mut files = Vec::new();
        for entry in Dir::read_from(&directory).map_err(unlisted)? {
            let entry = entry.map_err(unlisted)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with('.') {
                continue;
            }
            // By the directory: each path from `/` on would cost more than the file.
            let file = openat(&directory, entry.file_name(), OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
                .map_err(|error| fail(&name, error.into()))?;
            files.push((name, File::from(file)));
        }
        match REQUIRED.iter().find(|wanted| files.iter().all(|(name, _)| name != *wanted)) {
            Some(missing) => Err(fail(missing, Errno::ENOENT.into())),
            None => Ok(Counters(files)),
        }
    }

    /// Sets them for a call that is granted this many watches.
    ///
    /// # Errors
    /// Names the file that cannot be written.
    pub fn set(&mut self, watches: u64) -> Result<(), StepError> {
        for (name, file) in &mut self.0 {
            file.write_all(granted(name, watches).to_string().as_bytes()).map_err(|error| fail(name, error))?;
        }
        Ok(())
    }

    /// Reads them back. The value that is not as planned, if there is one, and what it is.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn differing(&self, watches: u64) -> io::Result<Option<String>> {
        for (name, file) in &self.0 {
            let mut bytes = [0; 32];
            let length = file.read_at(&mut bytes, 0)?;
            let found = String::from_utf8_lossy(&bytes[..length]).trim().to_owned();
            if found != granted(name, watches).to_string() {
                return Ok(Some(format!("{DIRECTORY}/{name} {found:?}")));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file that takes what is written and does not keep it, as one of another kernel's meaning would.
    #[test]
    fn what_was_not_kept_is_seen() {
        let named = |name: &str, file| (name.to_owned(), file);
        let kept = || named("max_inotify_watches", tempfile::tempfile().unwrap());
        let mut counters = Counters(vec![kept()]);
        counters.set(7).unwrap();
        assert_eq!(counters.differing(7).unwrap(), None);
        let found = counters.differing(8).unwrap();
        assert_eq!(found.as_deref(), Some("/proc/sys/user/max_inotify_watches \"7\""));
        let null = File::options().read(true).write(true).open("/dev/null").unwrap();
        let mut counters = Counters(vec![kept(), named("max_user_namespaces", null)]);
        counters.set(0).unwrap();
        let found = counters.differing(0).unwrap();
        assert_eq!(found.as_deref(), Some("/proc/sys/user/max_user_namespaces \"\""));
    }

    #[test]
    fn all_is_zero_but_what_is_granted() {
        assert_eq!(granted("max_inotify_watches", 64), 64);
        assert_eq!(granted("max_inotify_instances", 64), INSTANCES);
        for name in REQUIRED.iter().chain(&["max_fanotify_groups", "max_what_nobody_knows"]) {
            assert_eq!(granted(name, 64), 0);
        }
    }
}
