//! One document and a newline on stdout.
#![forbid(unsafe_code)]

use super::envelope::Envelope;
use crate::sys::poll::poll;
use crate::text::escape_json;
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use std::borrow::Cow;
use std::io::{self, Write};
use std::os::fd::AsFd;

/// The document with its newline. For a terminal it is indented, and characters that a terminal acts on are escaped
/// inside the JSON's strings, so that it stays the same JSON.
///
/// In pieces, so that a large result is not copied once more.
#[must_use]
pub fn render(document: &Envelope, terminal: bool) -> [Cow<'_, str>; 4] {
    if terminal {
        // Writing to memory cannot fail: keys are strings and numbers are finite.
        let text = serde_json::to_string_pretty(document).unwrap_or_default();
        return [escape_json(&text).into(), "\n".into(), "".into(), "".into()];
    }
    let [head, result, tail] = document.pieces();
    [head, result, tail, "\n".into()]
}

/// Writes all of `text`, waiting where the descriptor is non-blocking.
///
/// # Errors
/// What `write(2)` reports: `EPIPE` when the reader has gone (Rust programs ignore `SIGPIPE`), `ENOSPC`, `EBADF`, ….
pub fn write_all(fd: impl AsFd, text: &[u8]) -> io::Result<()> {
    let fd = fd.as_fd();
    let mut rest = text;
    while !rest.is_empty() {
        match rustix::io::write(fd, rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => rest = &rest[written..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => drop(poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::OUT)], None)?),
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// Writes the answer to stdout. An answer that cannot be written is reported on stderr; it must not cause a panic or
/// change the exit status, which still says how the call ended.
///
/// Returns whether the answer was written.
pub fn print(document: &Envelope) -> bool {
    let stdout = io::stdout();
    let pieces = render(document, rustix::termios::isatty(&stdout));
    match pieces.iter().try_for_each(|piece| write_all(&stdout, piece.as_bytes())) {
        Ok(()) => true,
        Err(error) => {
            // stderr may be closed as well; then nothing can be reported.
            let _ = writeln!(io::stderr(), "upm: standard output: the answer could not be written: {error}");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::fs::OpenOptions;

    #[test]
    fn one_document_and_a_newline() {
        let document = Envelope { document: json!({"b": 1, "a": "\u{9b}"}), result: None };
        assert_eq!(render(&document, false).concat(), "{\"b\":1,\"a\":\"\u{9b}\"}\n");
        assert_eq!(render(&document, true).concat(), "{\n  \"b\": 1,\n  \"a\": \"\\u009b\"\n}\n");
    }

    #[test]
    fn a_reader_that_left_and_a_full_disk_are_errors() {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        drop(reader);
        assert_eq!(write_all(&writer, b"x").unwrap_err().raw_os_error(), Some(Errno::PIPE.raw_os_error()));
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        assert_eq!(write_all(&full, b"x").unwrap_err().raw_os_error(), Some(Errno::NOSPC.raw_os_error()));
    }

    #[test]
    fn a_non_blocking_descriptor_gets_everything() {
        use std::io::Read;
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        rustix::io::ioctl_fionbio(&writer, true).unwrap();
        let text = vec![b'x'; 1 << 20];
        let drain = std::thread::spawn(move || {
            let mut all = Vec::new();
            std::fs::File::from(reader).read_to_end(&mut all).unwrap();
            all.len()
        });
        write_all(&writer, &text).unwrap();
        drop(writer);
        assert_eq!(drain.join().unwrap(), 1 << 20);
    }
}
