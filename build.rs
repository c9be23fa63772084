//! Compiles `seccomp/*.json` for the target, and checks it for every supported architecture.

use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::{env, fs};
use upm_seccomp::{Arch, PROFILES, Profile, ProfileError, Table};

fn main() -> Result<(), Box<dyn Error>> {
    let target = env::var("CARGO_CFG_TARGET_ARCH")?;
    let target = Arch::ALL
        .into_iter()
        .find(|arch| arch.to_string() == target)
        .ok_or_else(|| format!("{target}: seccomp/ has profiles for x86_64 and aarch64 only"))?;
    let table = Table::parse(&read("syscalls.tbl")?)?;

    let mut filters = String::new();
    let mut names = String::new();
    for name in PROFILES {
        let file = format!("{name}.json");
        let text = read(&file)?;
        for arch in Arch::ALL {
            let in_file = |e: ProfileError| format!("seccomp/{file} ({arch}): {e}");
            let profile = Profile::load(&text, &table, arch).map_err(in_file)?;
            let program = profile.compile().map_err(in_file)?;
            if arch != target {
                continue;
            }
            list(&mut filters, &name.to_uppercase(), "Instruction", &program)?;
            if name == "default" {
                list(&mut filters, "ALLOWED", "&str", &profile.allowed(&table))?;
                list(&mut filters, "PARTLY", "&str", &profile.partly(&table))?;
                list(&mut names, "FIXED", "(&str, &str)", &profile.fixed.iter().collect::<Vec<_>>())?;
            }
        }
    }
    let by_name: Vec<_> = table.of(target).collect();
    list(&mut names, "BY_NAME", "(&str, u32)", &by_name)?;
    let mut by_number: Vec<_> = by_name.into_iter().map(|(name, nr)| (nr, name)).collect();
    by_number.sort_unstable();
    list(&mut names, "BY_NUMBER", "(u32, &str)", &by_number)?;
    link_unwinder();
    let into = env::var("OUT_DIR")?;
    fs::write(Path::new(&into).join("filters.rs"), filters)?;
    fs::write(Path::new(&into).join("syscalls.rs"), names)?;
    Ok(())
}

/// Links the C compiler's unwinder into the program: as a shared library each call would load it. Where the compiler has no
/// archive of it, nothing changes.
fn link_unwinder() {
    let linker = env::var("RUSTC_LINKER").unwrap_or_else(|_| "cc".to_owned());
    let asked = Command::new(linker).arg("-print-file-name=libgcc_eh.a").output();
    let found = asked.ok().and_then(|answer| String::from_utf8(answer.stdout).ok());
    // Without one, the name comes back.
    if let Some(folder) =
        found.as_deref().map(str::trim).map(Path::new).filter(|path| path.is_absolute()).and_then(Path::parent)
    {
        println!("cargo::rustc-link-search=native={}", folder.display());
        println!("cargo::rustc-link-lib=static:+whole-archive,-bundle=gcc_eh");
    }
}

/// The text of a file in `seccomp/`; a change of it starts a new build.
fn read(name: &str) -> Result<String, Box<dyn Error>> {
    let file = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("seccomp").join(name);
    println!("cargo::rerun-if-changed={}", file.display());
    fs::read_to_string(&file).map_err(|e| format!("{}: {e}", file.display()).into())
}

/// A list of constants as Rust code.
fn list(out: &mut String, name: &str, of: &str, items: &[impl std::fmt::Debug]) -> std::fmt::Result {
    writeln!(out, "static {name}: [{of}; {}] = {items:?};", items.len())
}
