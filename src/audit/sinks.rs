//! The sinks that must hold a record before a call goes on.
//!
//! [`Sinks::open`] connects and opens everything, before any confinement. [`Sinks::store`] then needs only
//! `sendmsg`, `ppoll`, `flock`, `lseek`, `pread64` and `write` on descriptors that are already open, what any
//! allocation needs (`brk`, `mmap`, `mremap`, `munmap`), `clock_gettime` on machines without a vDSO clock, and
//! `getrandom` once in a process that has not made a map before. A record too long for one datagram needs
//! `memfd_create`, `fcntl` and `close` too: only one with `arguments` can be, so confined callers leave those out.
//! Landlock rights matter at opening alone.

use super::file::FileSink;
use super::journald::Journald;
use super::record::Record;
use crate::config::{self, Audit, JournaldMode};
use crate::report::envelope::hostname;
use crate::types::{Code, Details, Failure};
use std::fmt;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A record is stored within this time or the call is refused.
pub const DEADLINE: Duration = Duration::from_secs(2);

/// What journald may use of [`DEADLINE`] when a file stands by.
const JOURNALD_SHARE: Duration = Duration::from_millis(1500);

/// Where journald listens for its native protocol.
pub const JOURNALD_SOCKET: &str = "/run/systemd/journal/socket";

/// A record could not be stored, or a sink could not be opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditError {
    /// `journald`, or the file's path.
    pub sink: String,
    /// What failed.
    pub reason: String,
    /// What an administrator can do.
    pub remedy: String,
}

impl AuditError {
    /// An error of one sink.
    #[must_use]
    pub fn new(sink: impl Into<String>, reason: impl Into<String>, remedy: impl Into<String>) -> Self {
        AuditError { sink: sink.into(), reason: reason.into(), remedy: remedy.into() }
    }

    /// The same, after another sink had failed too.
    fn after(mut self, earlier: Option<AuditError>) -> Self {
        if let Some(earlier) = earlier {
            self.reason = format!("{} (and {}: {})", self.reason, earlier.sink, earlier.reason);
        }
        self
    }
}

impl fmt::Display for AuditError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "audit: {}: {}; {}", self.sink, self.reason, self.remedy)
    }
}

impl std::error::Error for AuditError {}

impl From<AuditError> for Failure {
    fn from(error: AuditError) -> Self {
        let message = error.to_string();
        let AuditError { sink, reason, remedy } = error;
        Failure::new(Code::AuditUnavailable, message).with(Details::Audit { sink, reason, remedy })
    }
}

/// The file of this process when the configuration names none: [`config::default_audit_file`].
#[must_use]
pub fn default_file() -> Option<PathBuf> {
    config::default_audit_file(nix::unistd::getuid().is_root(), &|name| std::env::var_os(name))
}

/// Where a record went.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Stored {
    /// The sinks that hold it; never empty.
    pub sinks: Vec<String>,
    /// The sinks that should hold it too but failed; journald once, when it is given up. The caller reports it on stderr.
    pub failed: Vec<AuditError>,
}

/// Open sinks. Their descriptors are close-on-exec.
#[derive(Debug)]
pub struct Sinks {
    mode: JournaldMode,
    journald: Option<Journald>,
    /// Why journald is out of use, once it failed: a call does not wait for it again and again.
    journald_failed: Option<AuditError>,
    file: Option<FileSink>,
    /// The file is the configuration's and gets every record; otherwise it only stands in for journald.
    file_always: bool,
    /// Why there is no substitute file.
    file_failed: Option<AuditError>,
    /// Both are asked for once: confined, there may be no `uname` and no `getpid`.
    hostname: String,
    pid: u32,
}

impl Sinks {
    /// Opens the sinks of a configuration, or the default ones without a configuration.
    ///
    /// # Errors
    /// As [`Sinks::open`].
    pub fn of(audit: Option<&Audit>) -> Result<Self, AuditError> {
        let (mode, file) = audit.map_or((JournaldMode::Auto, None), |audit| (audit.journald, audit.file.clone()));
        let check = |path: &Path| config::check_trusted(path).map(drop).map_err(|error| error.to_string());
        Sinks::open(mode, file, default_file(), Path::new(JOURNALD_SOCKET), check)
    }

    /// Opens what the configuration's `[audit]` asks for.
    ///
    /// `file` is the configured file, written in addition to journald; `default_file` stands in for journald when
    /// none is configured ([`default_file`]). `socket` is [`JOURNALD_SOCKET`] but in tests. `check` refuses a
    /// directory that others could write, and says why and how to fix it.
    ///
    /// # Errors
    /// A sink that the configuration names is not available, or no sink is.
    pub fn open(
        mode: JournaldMode,
        file: Option<PathBuf>,
        default_file: Option<PathBuf>,
        socket: &Path,
        check: impl Fn(&Path) -> Result<(), String>,
    ) -> Result<Self, AuditError> {
        let mut sinks = Sinks {
            mode,
            journald: None,
            journald_failed: None,
            file: None,
            file_always: file.is_some() || mode == JournaldMode::Off,
            file_failed: None,
            hostname: hostname(),
            pid: std::process::id(),
        };
        if mode != JournaldMode::Off {
            match Journald::connect_checked(socket, &check) {
                Ok(journald) => sinks.journald = Some(journald),
                Err(error) if mode == JournaldMode::Required => return Err(error),
                Err(error) => sinks.journald_failed = Some(error),
            }
        }
        if let Some(file) = file {
            sinks.file = Some(FileSink::open(&file, &check)?);
        } else if mode != JournaldMode::Required {
            // Opened even if journald answers: the confined supervisor could not open it later.
            let opened = match default_file {
                Some(file) => FileSink::open(&file, &check),
                None => Err(AuditError::new(
                    "default file",
                    "neither XDG_STATE_HOME nor HOME is an absolute path",
                    "set audit.file in the configuration, or HOME",
                )),
            };
            match opened {
                Ok(file) => sinks.file = Some(file),
                Err(error) if sinks.journald.is_none() => return Err(error.after(sinks.journald_failed)),
                Err(error) => sinks.file_failed = Some(error),
            }
        }
        Ok(sinks)
    }

    /// Stores one record, in at most [`DEADLINE`].
    ///
    /// # Errors
    /// No sink took it, or journald did not and is required: the call must not go on.
    pub fn store(&mut self, record: &Record) -> Result<Stored, AuditError> {
        let start = Instant::now();
        let mut stored = Stored { sinks: Vec::new(), failed: Vec::new() };
        let mut given_up = None;
        if let Some(journald) = &self.journald {
            let share = if self.file.is_some() { JOURNALD_SHARE } else { DEADLINE };
            match journald.send(&record.fields(), start + share) {
                Ok(()) => stored.sinks.push("journald".to_owned()),
                Err(error) => {
                    self.journald = None;
                    self.journald_failed = Some(error.clone());
                    given_up = Some(error);
                }
            }
        }
        let journald_stored = !stored.sinks.is_empty();
        if let Some(file) = &self.file {
            if self.file_always || !journald_stored {
                match file.append(record.line(&self.hostname, self.pid).as_bytes(), start + DEADLINE) {
                    Ok(()) => stored.sinks.push(file.path().display().to_string()),
                    Err(error) => stored.failed.push(error),
                }
            }
        }
        let journald_failed = || self.journald_failed.clone().filter(|_| !journald_stored);
        if let Some(error) = journald_failed() {
            if self.mode == JournaldMode::Required {
                return Err(error);
            }
            if stored.sinks.is_empty() {
                let last = stored.failed.pop().or_else(|| self.file_failed.clone());
                return Err(match last {
                    Some(last) => last.after(Some(error)),
                    None => error,
                });
            }
        } else if stored.sinks.is_empty() {
            return Err(stored.failed.pop().unwrap_or_else(|| {
                AuditError::new("audit", "no sink is open", "set audit.journald or audit.file in the configuration")
            }));
        }
        stored.failed.extend(given_up);
        Ok(stored)
    }

    /// The file's path: `explain` and `check` name it, and no plugin may write at or above it.
    #[must_use]
    pub fn file_path(&self) -> Option<&Path> {
        self.file.as_ref().map(FileSink::path)
    }

    /// The descriptors that must stay open while other processes are made.
    #[must_use]
    pub fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let journald = self.journald.as_ref().map(Journald::descriptor);
        journald.into_iter().chain(self.file.as_ref().map(FileSink::descriptor)).collect()
    }

    /// Whether journald is in use.
    #[must_use]
    pub fn journald(&self) -> bool {
        self.journald.is_some()
    }

    /// Why journald was given up, in [`JournaldMode::Auto`].
    #[must_use]
    pub fn journald_failed(&self) -> Option<&AuditError> {
        self.journald_failed.as_ref()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::record::Event;
    use super::*;
    use crate::types::{Denial, Denied, Explained};
    use serde_json::{Value, json};
    use std::os::unix::net::UnixDatagram;

    pub fn record(event: Event) -> Record {
        Record {
            plugin: Some("PipPlugin".into()),
            method: Some("install".into()),
            ..Record::new(event, "cdb3458d-0b84-491a-9c4e-709f30e11111", 1000, None)
        }
    }

    pub fn denial() -> Explained {
        Explained {
            denial: Denial::new(Denied::Resolve { name: "evil\nUPM_CODE=ok".into() }, 3),
            rule: "egress".into(),
            remedy: "grant\nUPM_CODE=ok".into(),
        }
    }

    fn lines(path: &Path) -> Vec<Value> {
        let text = std::fs::read_to_string(path).unwrap();
        assert!(text.is_empty() || text.ends_with('\n'));
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn trusted(_: &Path) -> Result<(), String> {
        Ok(())
    }

    struct Host {
        directory: tempfile::TempDir,
    }

    impl Host {
        fn new() -> Self {
            Host { directory: tempfile::tempdir().unwrap() }
        }
        fn socket(&self) -> PathBuf {
            self.directory.path().join("socket")
        }
        fn default_file(&self) -> PathBuf {
            self.directory.path().join("state/upm/audit.jsonl")
        }
        fn open(&self, mode: JournaldMode, file: Option<PathBuf>) -> Result<Sinks, AuditError> {
            Sinks::open(mode, file, Some(self.default_file()), &self.socket(), trusted)
        }
    }

    #[test]
    fn auto_prefers_journald_and_keeps_the_file_empty() {
        let host = Host::new();
        let journald = UnixDatagram::bind(host.socket()).unwrap();
        let mut sinks = host.open(JournaldMode::Auto, None).unwrap();
        let stored = sinks.store(&record(Event::CallStarted)).unwrap();
        assert_eq!(stored, Stored { sinks: vec!["journald".into()], failed: vec![] });
        let mut buffer = [0; 4096];
        assert!(journald.recv(&mut buffer).unwrap() > 0);
        assert_eq!(lines(&host.default_file()), Vec::<Value>::new());
        assert_eq!(sinks.descriptors().len(), 2);
    }

    #[test]
    fn auto_without_journald_writes_the_file() {
        let host = Host::new();
        let mut sinks = host.open(JournaldMode::Auto, None).unwrap();
        assert!(!sinks.journald());
        let mut finished = record(Event::CallFinished);
        finished.duration_us = Some(12);
        finished.denials = Some(0);
        let stored = sinks.store(&finished).unwrap();
        assert_eq!(stored.sinks, [host.default_file().display().to_string()]);
        let mut line = lines(&host.default_file()).remove(0);
        let stamp = line.as_object_mut().unwrap().shift_remove("timestamp").unwrap();
        assert_eq!(stamp.as_str().unwrap().len(), 27);
        assert_eq!(
            line,
            json!({
                "hostname": hostname(), "pid": std::process::id(), "UPM_EVENT": "call_finished",
                "MESSAGE_ID": super::super::journald::message_id(&Event::CallFinished),
                "UPM_REQUEST_ID": "cdb3458d-0b84-491a-9c4e-709f30e11111", "UPM_PLUGIN": "PipPlugin",
                "UPM_METHOD": "install", "UPM_CALLER_UID": 1000, "UPM_LOGIN_UID": null, "UPM_CODE": "ok",
                "UPM_DURATION_US": 12, "UPM_DENIALS": 0,
            })
        );
    }

    #[test]
    fn a_denial_is_written_with_its_members() {
        let host = Host::new();
        let mut sinks = host.open(JournaldMode::Off, None).unwrap();
        let mut long = denial();
        long.remedy = "é".repeat(5000);
        let _ = sinks.store(&record(Event::Denial(Box::new(long)))).unwrap();
        let line = lines(&host.default_file()).remove(0);
        assert_eq!(line["UPM_EVENT"], "denial");
        assert_eq!(line["UPM_OBJECT"], r#"{"name":"evil\nUPM_CODE=ok"}"#);
        assert_eq!(line["UPM_COUNT"], 3);
        assert_eq!(line["UPM_REMEDY"], format!("{}…", "é".repeat(1024)));
        assert_eq!(line.get("UPM_CODE"), None);
    }

    #[test]
    fn a_socket_in_a_directory_of_others_is_no_journald() {
        let host = Host::new();
        let journald = UnixDatagram::bind(host.socket()).unwrap();
        let others = |path: &Path| if path == host.directory.path() { Err("of others".to_owned()) } else { Ok(()) };
        let open = |mode| Sinks::open(mode, None, Some(host.default_file()), &host.socket(), others);
        assert_eq!(open(JournaldMode::Required).unwrap_err().reason, "of others");
        std::fs::create_dir_all(host.default_file().parent().unwrap()).unwrap();
        let mut sinks = open(JournaldMode::Auto).unwrap();
        let _ = sinks.store(&record(Event::CallStarted)).unwrap();
        assert_eq!(lines(&host.default_file()).len(), 1);
        journald.set_nonblocking(true).unwrap();
        assert!(journald.recv(&mut [0; 16]).is_err());
    }

    #[test]
    fn required_refuses_without_journald() {
        let host = Host::new();
        let error = host.open(JournaldMode::Required, None).unwrap_err();
        assert_eq!(error.sink, "journald");
        assert!(!host.default_file().exists());
        let failure = Failure::from(error);
        assert_eq!(failure.code, Code::AuditUnavailable);
        assert!(failure.message.starts_with("audit: journald: "), "{}", failure.message);
        assert!(matches!(&failure.details, Details::Audit { sink, .. } if sink == "journald"));
    }

    #[test]
    fn a_configured_file_is_written_in_addition() {
        let host = Host::new();
        let _journald = UnixDatagram::bind(host.socket()).unwrap();
        let file = host.directory.path().join("own/audit.jsonl");
        let mut sinks = host.open(JournaldMode::Required, Some(file.clone())).unwrap();
        let stored = sinks.store(&record(Event::CallRefused)).unwrap();
        assert_eq!(stored.sinks, ["journald".to_owned(), file.display().to_string()]);
        assert_eq!(lines(&file).len(), 1);
        assert!(!host.default_file().exists());
    }

    #[test]
    fn a_configured_file_that_fails_is_told_and_journald_holds_the_record() {
        let host = Host::new();
        let journald = UnixDatagram::bind(host.socket()).unwrap();
        let mut sinks = host.open(JournaldMode::Auto, Some(host.directory.path().join("own.jsonl"))).unwrap();
        sinks.file = Some(FileSink::full());
        let stored = sinks.store(&record(Event::CallFinished)).unwrap();
        assert_eq!(stored.sinks, ["journald"]);
        assert_eq!(stored.failed.iter().map(|error| error.sink.as_str()).collect::<Vec<_>>(), ["/dev/full"]);
        drop(journald);
        let error = sinks.store(&record(Event::CallFinished)).unwrap_err();
        assert_eq!(error.sink, "/dev/full");
        assert!(error.reason.contains("No space left on device") && error.reason.contains("journald: "), "{error}");
    }

    #[test]
    fn a_required_journald_that_goes_away_refuses_though_the_file_has_the_record() {
        let host = Host::new();
        let journald = UnixDatagram::bind(host.socket()).unwrap();
        let file = host.directory.path().join("own.jsonl");
        let mut sinks = host.open(JournaldMode::Required, Some(file.clone())).unwrap();
        drop(journald);
        assert_eq!(sinks.store(&record(Event::CallStarted)).unwrap_err().sink, "journald");
        assert_eq!(sinks.store(&record(Event::CallFinished)).unwrap_err().sink, "journald");
        assert_eq!(lines(&file).len(), 2);
    }

    #[test]
    fn off_never_asks_journald() {
        let host = Host::new();
        let journald = UnixDatagram::bind(host.socket()).unwrap();
        journald.set_nonblocking(true).unwrap();
        let mut sinks = host.open(JournaldMode::Off, None).unwrap();
        let _ = sinks.store(&record(Event::CallStarted)).unwrap();
        assert_eq!(lines(&host.default_file()).len(), 1);
        assert_eq!(journald.recv(&mut [0; 16]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    }

    /// Fills the queue of a journald that never reads. Where it is long (`net.unix.max_dgram_qlen`, 512 with systemd) one
    /// sender's own buffer is full before it is.
    fn stuff(socket: &Path) {
        loop {
            let sender = UnixDatagram::unbound().unwrap();
            sender.set_nonblocking(true).unwrap();
            sender.connect(socket).unwrap();
            if sender.send(b"x").is_err() {
                return;
            }
            while sender.send(b"x").is_ok() {}
        }
    }

    #[test]
    fn a_journald_that_never_reads_costs_bounded_time_once_and_the_file_serves() {
        let host = Host::new();
        let _journald = UnixDatagram::bind(host.socket()).unwrap();
        let mut sinks = host.open(JournaldMode::Auto, None).unwrap();
        stuff(&host.socket());
        let start = Instant::now();
        let stored = sinks.store(&record(Event::CallStarted)).unwrap();
        let first = start.elapsed();
        assert!(first >= Duration::from_millis(1400) && first < DEADLINE, "{first:?}");
        assert_eq!(stored.sinks, [host.default_file().display().to_string()]);
        assert_eq!(stored.failed.len(), 1);
        assert_eq!(stored.failed[0].reason, "it did not take the record in time");
        let start = Instant::now();
        let stored = sinks.store(&record(Event::CallFinished)).unwrap();
        assert_eq!(stored.failed, []);
        assert!(start.elapsed() < Duration::from_millis(500));
        assert_eq!(lines(&host.default_file()).len(), 2);
    }

    #[test]
    fn a_required_journald_that_never_reads_refuses_in_two_seconds() {
        let host = Host::new();
        let _journald = UnixDatagram::bind(host.socket()).unwrap();
        let mut sinks = host.open(JournaldMode::Required, None).unwrap();
        stuff(&host.socket());
        let start = Instant::now();
        let error = sinks.store(&record(Event::CallStarted)).unwrap_err();
        assert_eq!(error.sink, "journald");
        assert!(start.elapsed() >= Duration::from_millis(1900) && start.elapsed() < Duration::from_millis(2500));
    }

    #[test]
    fn a_journald_that_goes_away_is_seen() {
        let host = Host::new();
        let journald = UnixDatagram::bind(host.socket()).unwrap();
        let mut sinks = host.open(JournaldMode::Auto, None).unwrap();
        drop(journald);
        let stored = sinks.store(&record(Event::CallFinished)).unwrap();
        assert_eq!(stored.sinks, [host.default_file().display().to_string()]);
        assert_eq!(lines(&host.default_file()).len(), 1);
    }

    #[test]
    fn no_sink_at_all_refuses_and_names_both() {
        let host = Host::new();
        let error = Sinks::open(JournaldMode::Auto, None, None, &host.socket(), trusted).unwrap_err();
        assert_eq!(error.sink, "default file");
        assert!(error.reason.contains("journald: "), "{error}");
        let refused = |_: &Path| Err("is writable by group 5; chmod g-w".to_owned());
        let error =
            Sinks::open(JournaldMode::Off, None, Some(host.default_file()), &host.socket(), refused).unwrap_err();
        assert!(error.reason.contains("writable by group 5"), "{error}");
    }

    #[test]
    fn journald_alone_serves_when_the_default_file_cannot_be_opened() {
        let host = Host::new();
        let journald = UnixDatagram::bind(host.socket()).unwrap();
        let mut sinks = Sinks::open(JournaldMode::Auto, None, None, &host.socket(), trusted).unwrap();
        assert_eq!(sinks.store(&record(Event::CallStarted)).unwrap().sinks, ["journald"]);
        drop(journald);
        let error = sinks.store(&record(Event::CallFinished)).unwrap_err();
        assert_eq!(error.sink, "default file");
        assert!(error.reason.contains("journald: "), "{error}");
    }
}
