//! The audit file: JSON lines, each one `write(2)` with `O_APPEND`.

use super::sinks::AuditError;
use crate::report::complain;
use crate::sys::poll::poll;
use crate::text::shorten;
use rustix::fs::{FileType, FlockOperation, Mode, OFlags, SeekFrom, flock, fstat, open, openat, seek};
use rustix::io::Errno;
use std::cell::Cell;
use std::fs::DirBuilder;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a lock that another process holds is waited for, once.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);
/// How often a lock that another `upm` holds is tried again.
const LOCK_PAUSE: Duration = Duration::from_millis(5);

const CONFIGURE: &str = "set audit.file in the configuration to a file in a directory that only you can write";

/// An open audit file.
#[derive(Debug)]
pub struct FileSink {
    path: PathBuf,
    file: OwnedFd,
    /// Somebody keeps it locked: that is not waited for again.
    kept_locked: Cell<bool>,
}

impl FileSink {
    /// Opens the file, creating it with mode 0600, and what is missing of its directory with mode 0700.
    ///
    /// `check` is asked about the directory before anything in it is opened, and about the one that is there before anything
    /// is made in it. The file itself is opened from a
    /// descriptor of that directory, without following a link, and must be a regular file of this user that no
    /// one else can write.
    ///
    /// # Errors
    /// The directory or the file is not available, or cannot be trusted.
    pub fn open(path: &Path, check: impl Fn(&Path) -> Result<(), String>) -> Result<Self, AuditError> {
        Self::open_or_look(path, check, true)
    }

    /// What [`FileSink::open`] would say, without creating anything.
    ///
    /// # Errors
    /// As there.
    pub fn look(path: &Path, check: impl Fn(&Path) -> Result<(), String>) -> Result<(), AuditError> {
        let Some(parent) = path.parent().filter(|parent| parent.is_absolute() && !there(path)) else {
            return Self::open_or_look(path, check, false).map(drop);
        };
        let home = nearest(parent);
        let failed = |reason: String| AuditError::new(path.display().to_string(), reason, CONFIGURE);
        check(home).map_err(failed)?;
        let may = rustix::fs::access(home, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK);
        may.map_err(|errno| failed(format!("{}: nothing can be created there: {errno}", home.display())))
    }

    fn open_or_look(
        path: &Path,
        check: impl Fn(&Path) -> Result<(), String>,
        create: bool,
    ) -> Result<Self, AuditError> {
        let error = |reason: String, remedy: &str| AuditError::new(path.display().to_string(), reason, remedy);
        let configure = CONFIGURE;
        let (directory, name) = match (path.parent(), path.file_name()) {
            (Some(directory), Some(name)) if path.is_absolute() => (directory, name),
            _ => return Err(error("it is not the absolute path of a file".to_owned(), configure)),
        };
        if create && !there(directory) {
            // Behind a link that others could have put there nothing is made.
            check(nearest(directory)).map_err(|reason| error(reason, configure))?;
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(directory)
                .map_err(|cause| error(format!("{}: {cause}", directory.display()), configure))?;
        }
        check(directory).map_err(|reason| error(reason, configure))?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = open(directory, flags, Mode::empty())
            .map_err(|errno| error(format!("{}: {errno}", directory.display()), configure))?;
        // Read as well, for the last byte; not blocking, should it be a FIFO.
        let flags = OFlags::RDWR
            | OFlags::APPEND
            | if create { OFlags::CREATE } else { OFlags::empty() }
            | OFlags::NOFOLLOW
            | OFlags::NONBLOCK
            | OFlags::NOCTTY
            | OFlags::CLOEXEC;
        let file = openat(&directory, name, flags, Mode::RUSR | Mode::WUSR).map_err(|errno| match errno {
            Errno::LOOP => error("it is a symbolic link".to_owned(), "remove the link, or name the file itself"),
            errno => error(format!("it cannot be opened: {errno}"), configure),
        })?;
        let stat = fstat(&file).map_err(|errno| error(format!("it cannot be examined: {errno}"), configure))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(error("it is not a regular file".to_owned(), configure));
        }
        let user = nix::unistd::geteuid().as_raw();
        if stat.st_uid != user {
            let reason = format!("it belongs to uid {}, not to uid {user}", stat.st_uid);
            return Err(error(reason, &format!("chown {user} {}", path.display())));
        }
        if stat.st_mode & 0o022 != 0 {
            let reason = format!("others can write it (mode {:03o})", stat.st_mode & 0o777);
            return Err(error(reason, &format!("chmod go-w {}", path.display())));
        }
        Ok(FileSink { path: path.to_owned(), file, kept_locked: Cell::new(false) })
    }

    /// Appends one line, which must end with a newline, until `deadline` at the latest. Uses `flock`, `ppoll`,
    /// `lseek`, `pread64` and `write`.
    ///
    /// A line that an earlier writer could not finish (a full disk, a crash) is ended first, in the same write, so
    /// that it spoils no other. The lock keeps two writers from taking each other's unfinished line for one.
    ///
    /// Everyone who may read the file can lock it (flock(2)), but cannot keep records out of it that way: after
    /// [`LOCK_PATIENCE`] the line is written all the same, behind a newline that ends whatever stands there.
    ///
    /// # Errors
    /// The line is not in the file, or not whole; or the file has no name any more.
    pub fn append(&self, line: &[u8], deadline: Instant) -> Result<(), AuditError> {
        let error = |reason: String, remedy: &str| AuditError::new(self.path.display().to_string(), reason, remedy);
        let patience = if self.kept_locked.get() { Duration::ZERO } else { LOCK_PATIENCE };
        let locked = match self.lock(deadline.min(Instant::now() + patience)) {
            Ok(()) => true,
            Err(Errno::TIMEDOUT) => {
                if !self.kept_locked.replace(true) {
                    complain(format_args!(
                        "audit: {}: another process keeps it locked; it is written to all the same (`fuser` names that process)",
                        shorten(&self.path, 400)
                    ));
                }
                false
            }
            Err(errno) => {
                let reason = format!("it cannot be locked: {errno}");
                return Err(error(reason, "set audit.file to a file on a local file system"));
            }
        };
        let written = self.write(line, !locked);
        let unlocked = if locked { flock(&self.file, FlockOperation::Unlock) } else { Ok(()) };
        written
            .and_then(|()| unlocked.map_err(|errno| errno.to_string()))
            .map_err(|reason| error(reason, "make room on its file system, or set another audit.file"))?;
        match fstat(&self.file) {
            Ok(stat) if stat.st_nlink > 0 => Ok(()),
            Ok(_) => Err(error(
                "it was removed since the call began".to_owned(),
                "when you rotate it, keep the renamed file until the running calls have ended (logrotate: delaycompress)",
            )),
            Err(errno) => Err(error(format!("it cannot be examined: {errno}"), CONFIGURE)),
        }
    }

    /// The path it was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file.
    #[must_use]
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Waits by trying: a blocking `flock(2)` knows no deadline.
    fn lock(&self, deadline: Instant) -> Result<(), Errno> {
        loop {
            match flock(&self.file, FlockOperation::NonBlockingLockExclusive) {
                Err(Errno::WOULDBLOCK | Errno::INTR) => {}
                other => return other,
            }
            if Instant::now() >= deadline {
                return Err(Errno::TIMEDOUT);
            }
            poll(&mut [], Some(LOCK_PAUSE))?;
        }
    }

    /// With `apart` a newline comes first in any case.
    fn write(&self, line: &[u8], apart: bool) -> Result<(), String> {
        let size = seek(&self.file, SeekFrom::End(0)).map_err(|errno| errno.to_string())?;
        let mut bytes = Vec::with_capacity(line.len() + 1);
        if apart {
            bytes.push(b'\n');
        } else if size > 0 {
            let mut last = [0];
            let read = rustix::io::pread(&self.file, &mut last, size - 1).map_err(|errno| errno.to_string())?;
            if read != 1 || last[0] != b'\n' {
                bytes.push(b'\n');
            }
        }
        bytes.extend_from_slice(line);
        loop {
            return match rustix::io::write(&self.file, &bytes) {
                Ok(written) if written == bytes.len() => Ok(()),
                Ok(written) => Err(format!("only {written} of {} bytes could be written", bytes.len())),
                Err(Errno::INTR) => continue,
                Err(errno) => Err(errno.to_string()),
            };
        }
    }
}

fn there(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok()
}

/// Where something would have to be made for `directory`: itself, or the nearest above it that is there.
fn nearest(directory: &Path) -> &Path {
    directory.ancestors().find(|above| there(above)).unwrap_or(directory)
}

#[cfg(test)]
impl FileSink {
    /// A file on a full disk.
    pub(super) fn full() -> Self {
        FileSink {
            path: "/dev/full".into(),
            file: open("/dev/full", OFlags::RDWR | OFlags::APPEND, Mode::empty()).unwrap(),
            kept_locked: Cell::new(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(200)
    }

    fn trusted(_: &Path) -> Result<(), String> {
        Ok(())
    }

    #[test]
    fn file_and_directories_are_private() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a/b/audit.jsonl");
        let sink = FileSink::open(&path, trusted).unwrap();
        sink.append(b"{}\n", soon()).unwrap();
        for (path, mode) in [("a", 0o40700), ("a/b", 0o40700), ("a/b/audit.jsonl", 0o100_600)] {
            assert_eq!(std::fs::metadata(directory.path().join(path)).unwrap().mode(), mode, "{path}");
        }
        let again = FileSink::open(&path, trusted).unwrap();
        again.append(b"[]\n", soon()).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"{}\n[]\n");
    }

    #[test]
    fn what_cannot_be_trusted_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.jsonl");
        let open = |path: &Path| FileSink::open(path, trusted).unwrap_err();

        symlink("elsewhere", &path).unwrap();
        assert_eq!(open(&path).reason, "it is a symbolic link");
        assert!(!directory.path().join("elsewhere").exists());
        std::fs::remove_file(&path).unwrap();

        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(open(&path).reason, "it is not a regular file");
        std::fs::remove_file(&path).unwrap();

        std::fs::write(&path, "").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o622)).unwrap();
        let error = open(&path);
        assert_eq!(error.reason, "others can write it (mode 622)");
        assert_eq!(error.remedy, format!("chmod go-w {}", path.display()));

        assert_eq!(open(Path::new("audit.jsonl")).reason, "it is not the absolute path of a file");
        let error = FileSink::open(&path, |asked| Err(format!("{}: no", asked.display()))).unwrap_err();
        assert_eq!(error.reason, format!("{}: no", directory.path().display()));
        if nix::unistd::geteuid().is_root() {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            std::os::unix::fs::chown(&path, Some(12345), None).unwrap();
            assert_eq!(open(&path).reason, "it belongs to uid 12345, not to uid 0");
        }
    }

    #[test]
    fn an_unfinished_line_spoils_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.jsonl");
        let sink = FileSink::open(&path, trusted).unwrap();
        sink.append(b"{\"a\":1}\n", soon()).unwrap();
        sink.write(b"{\"b\":", false).unwrap();
        sink.append(b"{\"c\":3}\n", soon()).unwrap();
        sink.append(b"{\"d\":4}\n", soon()).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"a\":1}\n{\"b\":\n{\"c\":3}\n{\"d\":4}\n");
    }

    #[test]
    fn a_full_disk_is_an_error() {
        let full = FileSink::full();
        let error = full.append(b"{}\n", soon()).unwrap_err();
        assert_eq!(error.sink, "/dev/full");
        assert!(error.reason.starts_with("No space left on device"), "{error}");
    }

    #[test]
    fn a_lock_is_waited_for_once_and_keeps_no_record_out() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.jsonl");
        let (one, two) = (FileSink::open(&path, trusted).unwrap(), FileSink::open(&path, trusted).unwrap());
        one.write(b"{\"torn\":", false).unwrap();
        flock(&one.file, FlockOperation::LockExclusive).unwrap();
        let start = Instant::now();
        two.append(b"{}\n", soon()).unwrap();
        assert!(start.elapsed() >= Duration::from_millis(200) && start.elapsed() < Duration::from_secs(1));
        let start = Instant::now();
        two.append(b"[]\n", soon()).unwrap();
        assert!(start.elapsed() < Duration::from_millis(150));
        flock(&one.file, FlockOperation::Unlock).unwrap();
        one.append(b"1\n", soon()).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"torn\":\n{}\n\n[]\n1\n");
    }

    #[test]
    fn a_file_that_was_removed_holds_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.jsonl");
        let sink = FileSink::open(&path, trusted).unwrap();
        std::fs::rename(&path, directory.path().join("audit.jsonl.1")).unwrap();
        sink.append(b"{}\n", soon()).unwrap();
        std::fs::remove_file(directory.path().join("audit.jsonl.1")).unwrap();
        assert_eq!(sink.append(b"{}\n", soon()).unwrap_err().reason, "it was removed since the call began");
    }

    #[test]
    fn nothing_is_made_where_the_check_says_no() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("others")).unwrap();
        symlink("others", directory.path().join("link")).unwrap();
        let path = directory.path().join("link/a/b/audit.jsonl");
        let check = |asked: &Path| if asked.ends_with("link") { Err("of others".to_owned()) } else { Ok(()) };
        assert_eq!(FileSink::open(&path, check).unwrap_err().reason, "of others");
        assert!(!directory.path().join("others/a").exists());
        FileSink::open(&path, trusted).unwrap();
        assert!(directory.path().join("others/a/b/audit.jsonl").exists(), "the control");
    }

    #[test]
    fn concurrent_writers_keep_their_lines_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.jsonl");
        std::thread::scope(|scope| {
            for writer in 0..4u8 {
                let path = &path;
                scope.spawn(move || {
                    let sink = FileSink::open(path, trusted).unwrap();
                    let mut line = vec![b'a' + writer; 20_000];
                    line.push(b'\n');
                    for _ in 0..25 {
                        sink.append(&line, Instant::now() + Duration::from_secs(20)).unwrap();
                    }
                });
            }
        });
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 100);
        assert!(text.lines().all(|line| line.len() == 20_000 && line.bytes().all(|byte| byte == line.as_bytes()[0])));
    }
}
