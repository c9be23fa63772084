//! `cargo xtask docs`: completions and the manual pages of section 1, made of the definition of the command line and of the
//! hand-written parts in `xtask/completions` and `xtask/man`; the tables of grant keys, made of the table in `src/keys.rs`.

mod completions;
mod keys;
mod man;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{env, fs, io};

const USAGE: &str = "Usage: cargo xtask docs [--check]

Writes packaging/completions, the pages of section 1 in packaging/man, and
the tables of grant keys in README.md and packaging/man/upm_config.5.
With --check nothing is written; exit status 1 when a file is not current.
";

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let check = match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["docs"] => false,
        ["docs", "--check"] => true,
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match docs(check) {
        Ok(stale) if stale.is_empty() => ExitCode::SUCCESS,
        Ok(stale) => {
            for path in stale {
                eprintln!("{}: not current; run `cargo xtask docs`", path.display());
            }
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Writes every file that is not current, or says which those are.
fn docs(check: bool) -> io::Result<Vec<PathBuf>> {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let command = upm::cli::command();
    let mut made: BTreeMap<PathBuf, String> = completions::all(&command)?;
    made.extend(man::pages(&command)?);
    made.extend(keys::tables(&repository)?);
    let mut stale = Vec::new();
    for (path, text) in &made {
        let place = repository.join(path);
        if fs::read(&place).is_ok_and(|there| there == text.as_bytes()) {
            continue;
        }
        if check {
            stale.push(path.clone());
        } else {
            fs::write(&place, text)?;
        }
    }
    // A page of a command that is gone.
    for entry in fs::read_dir(repository.join("packaging/man"))? {
        let path = Path::new("packaging/man").join(entry?.file_name());
        if path.extension().is_some_and(|section| section == "1") && !made.contains_key(&path) {
            if check {
                stale.push(path);
            } else {
                fs::remove_file(repository.join(path))?;
            }
        }
    }
    Ok(stale)
}
