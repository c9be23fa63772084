//! The digest of a plugin's files, for audit: two calls with the same one ran the same code.

use sha2::{Digest, Sha256};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Files that are read; a plugin with more is refused by the ownership check before.
const MAX_FILES: usize = 10_000;

/// SHA-256 over the relative path, length and contents of each regular file, in the order of their paths. Compiled files
/// (`__pycache__`) count: the interpreter may run them in place of the source.
///
/// # Errors
/// A file that cannot be read, or too many of them.
pub fn tree(path: &Path) -> io::Result<String> {
    let mut files = Vec::new();
    collect(path, &mut files)?;
    files.sort();
    let mut hash = Sha256::new();
    for file in files {
        let contents = fs::read(&file)?;
        let name = file.strip_prefix(path).unwrap_or(&file);
        hash.update(name.as_os_str().as_encoded_bytes());
        hash.update([0]);
        hash.update((contents.len() as u64).to_le_bytes());
        hash.update(&contents);
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
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
