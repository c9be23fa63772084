//! journald's native protocol, <https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>.
//!
//! | event | `MESSAGE_ID` |
//! |---|---|
//! | `call_started` | `ffa1f64c78a040d592566480ee6d2f28` |
//! | `call_finished` | `b3492ba68a6e4f1d97a5daa07aceb00e` |
//! | `call_refused` | `ded39d6727824b589341b1c097b6323c` |
//! | `denial` | `274a59a9a4af416ba30ebe3cab783c6a` |
//! | `refusals_counted` | `1f6f0c2b5d0e4a54a8c6b37d9e21c0f7` |

use super::record::Event;
use super::sinks::AuditError;
use crate::sys::poll::poll;
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Instant;

const REMEDY: &str =
    "start systemd-journald, or set audit.journald to \"auto\" or \"off\" so that the audit file is used";

/// The catalog's key of an event; never changes.
#[must_use]
pub fn message_id(event: &Event) -> &'static str {
    match event {
        Event::CallStarted => "ffa1f64c78a040d592566480ee6d2f28",
        Event::CallFinished => "b3492ba68a6e4f1d97a5daa07aceb00e",
        Event::CallRefused => "ded39d6727824b589341b1c097b6323c",
        Event::Denial(_) => "274a59a9a4af416ba30ebe3cab783c6a",
        Event::RefusalsCounted { .. } => "1f6f0c2b5d0e4a54a8c6b37d9e21c0f7",
    }
}

/// A connected, non-blocking socket to journald. Connected, because only then `poll(2)` reports when journald's queue
/// has room, and because a confined process may no longer be able to connect.
#[derive(Debug)]
pub struct Journald {
    socket: UnixDatagram,
}

impl Journald {
    /// Connects to journald.
    ///
    /// # Errors
    /// Nothing listens at `path`.
    pub fn connect(path: &Path) -> Result<Self, AuditError> {
        let connect = || {
            let socket = UnixDatagram::unbound()?;
            socket.connect(path)?;
            socket.set_nonblocking(true)?;
            Ok(Journald { socket })
        };
        connect().map_err(|error: std::io::Error| {
            AuditError::new("journald", format!("{}: {error}", path.display()), REMEDY)
        })
    }

    /// [`Journald::connect`] where `check` finds that only root and the caller could have put the socket into its directory.
    /// Without systemd, any user may be able to create that directory; a process that listens there would get the records, and
    /// keep them from the file.
    ///
    /// # Errors
    /// As there, and what `check` says.
    pub fn connect_checked(path: &Path, check: impl Fn(&Path) -> Result<(), String>) -> Result<Self, AuditError> {
        let journald = Self::connect(path)?;
        let remedy = "remove it, or set audit.journald to \"off\"";
        check(path.parent().unwrap_or(path)).map_err(|reason| AuditError::new("journald", reason, remedy))?;
        Ok(journald)
    }

    /// Sends one entry, until `deadline` at the latest. Uses `sendmsg` and `ppoll`; an entry too long for a datagram
    /// also `memfd_create`, `write`, `fcntl` and `close`.
    ///
    /// # Errors
    /// journald did not take it in time, or has gone.
    pub fn send(&self, fields: &[(String, String)], deadline: Instant) -> Result<(), AuditError> {
        let entry = encode(fields);
        let sent = match self.send_datagram(&entry, None, deadline) {
            // ENOBUFS: the socket's send buffer is smaller than the entry, on some kernels.
            Err(Errno::MSGSIZE | Errno::NOBUFS) => seal(&entry)
                .map_err(std::io::Error::from)
                .and_then(|memfd| Ok(self.send_datagram(&[], Some(memfd.as_fd()), deadline)?)),
            other => other.map_err(std::io::Error::from),
        };
        sent.map_err(|error| {
            let reason = match error.kind() {
                std::io::ErrorKind::TimedOut => "it did not take the record in time".to_owned(),
                _ => error.to_string(),
            };
            AuditError::new("journald", reason, REMEDY)
        })
    }

    /// The socket.
    #[must_use]
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn send_datagram(&self, bytes: &[u8], file: Option<BorrowedFd<'_>>, deadline: Instant) -> Result<(), Errno> {
        let files: Vec<BorrowedFd<'_>> = file.into_iter().collect();
        loop {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !files.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&files)) {
                return Err(Errno::NOBUFS);
            }
            match sendmsg(&self.socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL) {
                Ok(sent) if sent == bytes.len() => return Ok(()),
                // The kernel sends a datagram whole or not at all: a filter has answered in its place.
                Ok(_) => return Err(Errno::IO),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.wait(deadline)?,
                Err(errno) => return Err(errno),
            }
        }
    }

    fn wait(&self, deadline: Instant) -> Result<(), Errno> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Errno::TIMEDOUT);
        }
        match poll(&mut [PollFd::new(&self.socket, PollFlags::OUT)], Some(left))? {
            0 => Err(Errno::TIMEDOUT),
            _ => Ok(()),
        }
    }
}

/// Every field in the form with a length, so that no value can end its field and begin another.
fn encode(fields: &[(String, String)]) -> Vec<u8> {
    let mut entry = Vec::new();
    for (name, value) in fields {
        entry.extend_from_slice(name.as_bytes());
        entry.push(b'\n');
        entry.extend_from_slice(&(value.len() as u64).to_le_bytes());
        entry.extend_from_slice(value.as_bytes());
        entry.push(b'\n');
    }
    entry
}

/// The entry in a sealed memory file. journald before version 254 wants exactly these four seals, so the file must
/// not get `F_SEAL_EXEC`, which `MFD_NOEXEC_SEAL` adds, unless the host (`vm.memfd_noexec` = 2) leaves no other way.
fn seal(entry: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let memfd = match memfd_create("upm-audit", flags) {
        Err(Errno::ACCESS) => memfd_create("upm-audit", flags | MemfdFlags::NOEXEC_SEAL)?,
        other => other?,
    };
    let mut rest = entry;
    while !rest.is_empty() {
        match rustix::io::write(&memfd, rest) {
            Ok(0) => return Err(Errno::IO),
            Ok(written) => rest = &rest[written..],
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    fcntl_add_seals(&memfd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL)?;
    Ok(memfd)
}

#[cfg(test)]
mod tests {
    use super::super::record::Record;
    use super::super::sinks::DEADLINE;
    use super::super::sinks::tests::{denial, record};
    use super::*;
    use rustix::fs::fcntl_get_seals;
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    use std::collections::BTreeMap;
    use std::io::{IoSliceMut, Read, Seek};

    /// Reads an entry as journald does.
    fn decode(mut entry: &[u8]) -> BTreeMap<String, String> {
        let mut fields = BTreeMap::new();
        while !entry.is_empty() {
            let end = entry.iter().position(|byte| *byte == b'\n').unwrap();
            let name = std::str::from_utf8(&entry[..end]).unwrap();
            assert!(!name.contains('='));
            let (length, rest) = entry[end + 1..].split_first_chunk::<8>().unwrap();
            let (value, rest) = rest.split_at(usize::try_from(u64::from_le_bytes(*length)).unwrap());
            assert_eq!(rest[0], b'\n');
            let value = std::str::from_utf8(value).unwrap().to_owned();
            assert_eq!(fields.insert(name.to_owned(), value), None, "{name} twice");
            entry = &rest[1..];
        }
        fields
    }

    fn send(record: &Record) -> (UnixDatagram, tempfile::TempDir) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let journald = UnixDatagram::bind(&path).unwrap();
        Journald::connect(&path).unwrap().send(&record.fields(), Instant::now() + DEADLINE).unwrap();
        (journald, directory)
    }

    #[test]
    fn the_fields_of_a_call() {
        let mut started = record(Event::CallStarted);
        started.login_uid = Some(1001);
        started.args_sha256 = Some("aa".into());
        started.policy_sha256 = Some("bb".into());
        started.plugin_sha256 = Some("cc".into());
        let (journald, _directory) = send(&started);
        let mut buffer = vec![0; 65536];
        let length = journald.recv(&mut buffer).unwrap();
        let expected = [
            ("MESSAGE", "call started: PipPlugin install by uid 1000"),
            ("MESSAGE_ID", "ffa1f64c78a040d592566480ee6d2f28"),
            ("PRIORITY", "6"),
            ("SYSLOG_IDENTIFIER", "upm"),
            ("UPM_ARGS_SHA256", "aa"),
            ("UPM_CALLER_UID", "1000"),
            ("UPM_EVENT", "call_started"),
            ("UPM_LOGIN_UID", "1001"),
            ("UPM_METHOD", "install"),
            ("UPM_PLUGIN", "PipPlugin"),
            ("UPM_PLUGIN_SHA256", "cc"),
            ("UPM_POLICY_SHA256", "bb"),
            ("UPM_REQUEST_ID", "cdb3458d-0b84-491a-9c4e-709f30e11111"),
        ];
        let expected: BTreeMap<_, _> = expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        assert_eq!(decode(&buffer[..length]), expected);
    }

    #[test]
    fn hostile_values_inject_no_field() {
        let mut refused = record(Event::Denial(Box::new(denial())));
        refused.plugin = Some("X\nUPM_CALLER_UID=0\nUPM_CODE\n\u{1}\0\0\0\0\0\0\0x\n".into());
        let (journald, _directory) = send(&refused);
        let mut buffer = vec![0; 65536];
        let length = journald.recv(&mut buffer).unwrap();
        let fields = decode(&buffer[..length]);
        assert_eq!(fields["UPM_PLUGIN"], refused.plugin.unwrap());
        assert_eq!(fields["UPM_CALLER_UID"], "1000");
        assert_eq!(fields["UPM_OBJECT"], r#"{"name":"evil\nUPM_CODE=ok"}"#);
        assert_eq!(fields["UPM_REMEDY"], "grant\nUPM_CODE=ok");
        assert_eq!(fields["UPM_COUNT"], "3");
        assert_eq!(fields.get("UPM_CODE"), None);
        assert_eq!(
            fields["MESSAGE"],
            "denied: X\\nUPM_CALLER_UID=0\\nUPM_CODE\\n\\x01\\x00\\x00\\x00\\x00\\x00\\x00\\x00x\\n install by uid \
             1000: egress resolve {\"name\":\"evil\\nUPM_CODE=ok\"}"
        );
    }

    #[test]
    fn an_entry_too_long_for_a_datagram_comes_in_a_sealed_file() {
        let mut started = record(Event::CallStarted);
        started.arguments = Some("a\n".repeat(1 << 19));
        let (journald, _directory) = send(&started);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut buffer = [0; 16];
        let message =
            recvmsg(&journald, &mut [IoSliceMut::new(&mut buffer)], &mut control, RecvFlags::empty()).unwrap();
        assert_eq!(message.bytes, 0);
        let Some(RecvAncillaryMessage::ScmRights(mut files)) = control.drain().next() else { panic!("no file") };
        let memfd = files.next().unwrap();
        assert_eq!(
            fcntl_get_seals(&memfd).unwrap(),
            SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL
        );
        let mut file = std::fs::File::from(memfd);
        file.rewind().unwrap();
        let mut entry = Vec::new();
        file.read_to_end(&mut entry).unwrap();
        assert_eq!(decode(&entry)["UPM_ARGUMENTS"], started.arguments.unwrap());
    }

    #[test]
    fn each_event_has_its_own_message_id() {
        let events = [Event::CallStarted, Event::CallFinished, Event::CallRefused, Event::Denial(Box::new(denial()))];
        let ids: std::collections::BTreeSet<_> = events.iter().map(message_id).collect();
        assert_eq!(ids.len(), 4);
        assert!(ids.iter().all(|id| id.len() == 32 && uuid::Uuid::parse_str(id).is_ok()));
    }
}
