//! The digest of a plugin's files, for audit: calls with the same digest ran the same code.

use sha2::{Digest, Sha256};
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Limit for the files; the ownership check already refuses a plugin with more.
const MAX_FILES: usize = 10_000;
/// Bytes to read at once.
const CHUNK: usize = 128 << 10;

/// SHA-256 over the relative path, length and contents of each regular file, sorted by path. Compiled files
/// (`__pycache__`) count: the interpreter may run them instead of the source.
///
/// # Errors
/// A file cannot be read, or there are too many.
pub fn tree(path: &Path) -> io::Result<String> {
    let mut files = Vec::new();
    collect(path, &mut files)?;
    files.sort();
    let mut buffer = vec![0; CHUNK];
    let mut hash = Sha256::new();
    for file in files {
        let name = file.strip_prefix(path).unwrap_or(&file);
        hash.update(name.as_os_str().as_encoded_bytes());
        hash.update([0]);
        contents(&file, &mut hash, &mut buffer)?;
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Hashes a file's length and bytes in pieces: the file may be larger than memory.
fn contents(path: &Path, hash: &mut Sha256, buffer: &mut [u8]) -> io::Result<()> {
    let mut file = fs::File::open(path)?;
    let length = file.metadata()?.len();
    hash.update(length.to_le_bytes());
    let mut read = 0;
    loop {
        let count = match file.read(buffer) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        read += count as u64;
        // This also ends if the file grows as fast as it is read.
        if read > length || (count == 0 && read < length) {
            return Err(io::Error::other(format!("{}: its size changed while it was read; try again", path.display())));
        }
        if count == 0 {
            return Ok(());
        }
        hash.update(&buffer[..count]);
    }
}

fn collect(path: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    let kind = fs::symlink_metadata(path)?.file_type();
    if kind.is_file() {
        if files.len() >= MAX_FILES {
            return Err(io::Error::other(format!("{}: more than {MAX_FILES} files", path.display())));
        }
        files.push(path.to_path_buf());
    } else if kind.is_dir() {
        for entry in fs::read_dir(path)? {
            collect(&entry?.path(), files)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_is_of_names_lengths_and_bytes() {
        let directory = tempfile::tempdir().unwrap();
        let large = vec![b'x'; 3 * CHUNK + 17];
        fs::write(directory.path().join("b"), &large).unwrap();
        fs::write(directory.path().join("a"), "").unwrap();
        let mut whole = Sha256::new();
        for (name, bytes) in [("a", b"".as_slice()), ("b", large.as_slice())] {
            whole.update(name.as_bytes());
            whole.update([0]);
            whole.update((bytes.len() as u64).to_le_bytes());
            whole.update(bytes);
        }
        let expected: String = whole.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(tree(directory.path()).unwrap(), expected);
    }
}
