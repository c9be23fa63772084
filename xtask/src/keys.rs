//! The tables of grant keys in README.md and upm_config(5), between two comments of theirs.

use std::io;
use std::path::{Path, PathBuf};
use upm::config::keys::docs;

/// The documents with the tables that the source has.
pub fn tables(repository: &Path) -> io::Result<[(PathBuf, String); 2]> {
    // The second is how a comment begins there.
    let with = |path: &str, comment: &str, made: &str| {
        let text = std::fs::read_to_string(repository.join(path))?;
        let whole = replaced(&text, comment, made);
        let missing = || io::Error::other(format!("{path}: the comments around the table of grant keys are missing"));
        Ok::<_, io::Error>((path.into(), whole.ok_or_else(missing)?))
    };
    Ok([with("README.md", "<!-- ", &docs::markdown())?, with("packaging/man/upm_config.5", ".\\\" ", &docs::mdoc())?])
}

fn replaced(text: &str, comment: &str, made: &str) -> Option<String> {
    let start = text.find(&format!("{comment}Made from src/keys.rs"))?;
    let from = start + text[start..].find('\n')? + 1;
    let to = from + text[from..].find(&format!("{comment}end of the keys"))?;
    Some(format!("{}{made}{}", &text[..from], &text[to..]))
}
