//! Where the lines of records lie while what they say is put together: in memory is only where each of them is.
#![forbid(unsafe_code)]

use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Bytes of the journal's lines that are kept in memory; beyond, they go to a file without a name.
const IN_MEMORY: usize = 16 << 20;
/// Where such a file may be; the first is on a disk.
const DIRECTORIES: [&str; 2] = ["/var/tmp", "/tmp"];

/// Lines that can be read again.
#[derive(Debug)]
pub(super) enum Shelf {
    /// In the file that they were read from.
    There(File),
    /// Kept here.
    Memory(Vec<u8>),
    /// Kept in a file without a name, up to this offset.
    Spool(File, u64),
}

impl Shelf {
    /// Where a line lies, of which `at` is the place in its own file. Keeps it, where it cannot be read there again.
    pub(super) fn keep(&mut self, line: &[u8], at: u64) -> io::Result<u64> {
        if let Shelf::Memory(kept) = self {
            if kept.len() + line.len() > IN_MEMORY {
                let file = spool()?;
                file.write_all_at(kept, 0)?;
                *self = Shelf::Spool(file, kept.len() as u64);
            }
        }
        match self {
            Shelf::There(_) => Ok(at),
            Shelf::Memory(kept) => {
                kept.extend_from_slice(line);
                Ok((kept.len() - line.len()) as u64)
            }
            Shelf::Spool(file, end) => {
                file.write_all_at(line, *end)?;
                *end += line.len() as u64;
                Ok(*end - line.len() as u64)
            }
        }
    }

    /// Reads a line again.
    pub(super) fn line(&self, offset: u64, line: &mut [u8]) -> io::Result<()> {
        match self {
            Shelf::There(file) | Shelf::Spool(file, _) => file.read_exact_at(line, offset),
            Shelf::Memory(kept) => {
                let start = usize::try_from(offset).map_err(io::Error::other)?;
                let end = start.checked_add(line.len());
                let kept = end.and_then(|end| kept.get(start..end)).ok_or(io::ErrorKind::UnexpectedEof)?;
                line.copy_from_slice(kept);
                Ok(())
            }
        }
    }
}

fn spool() -> io::Result<File> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for directory in DIRECTORIES {
        match rustix::fs::open(directory, OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR) {
            Ok(file) => return Ok(File::from(file)),
            Err(error) => last = error.into(),
        }
    }
    Err(io::Error::new(last.kind(), format!("{}: no file can be made there: {last}", DIRECTORIES.join(", "))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_again_wherever_they_lie() {
        let mut shelf = Shelf::Memory(Vec::new());
        let line = |n: usize| format!("{n:07}").repeat(1 << 17);
        let places: Vec<u64> = (0..40).map(|n| shelf.keep(line(n).as_bytes(), 77).unwrap()).collect();
        assert!(matches!(shelf, Shelf::Spool(..)), "more than fits in memory");
        let mut read = vec![0; line(0).len()];
        for (n, place) in places.iter().enumerate().rev() {
            shelf.line(*place, &mut read).unwrap();
            assert_eq!(read, line(n).as_bytes());
        }
        assert!(shelf.line(places[39] + 1, &mut read).is_err(), "beyond the end");
        let small = Shelf::Memory(b"ab".to_vec());
        assert!(small.line(1, &mut [0; 2]).is_err() && small.line(u64::MAX, &mut [0; 2]).is_err());
    }
}
