//! Compiles `seccomp/*.json` for the target, and checks it for every architecture that the product knows.

#[path = "src/confine/filter/profile.rs"]
#[allow(dead_code, reason = "the tests of the crate use the rest")]
mod profile;

use profile::{Arch, Profile, Table};
use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;
use std::{env, fs};

const PROFILES: [&str; 6] = ["default", "init", "gateway", "supervisor", "observer", "reader"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=seccomp");
    println!("cargo::rerun-if-changed=src/confine/filter/profile.rs");
    let root = env::var("CARGO_MANIFEST_DIR")?;
    let dir = Path::new(&root).join("seccomp");
    let target = match env::var("CARGO_CFG_TARGET_ARCH")?.as_str() {
        "x86_64" => Arch::X86_64,
        "aarch64" => Arch::Aarch64,
        other => return Err(format!("{other}: seccomp/ has profiles for x86_64 and aarch64 only").into()),
    };
    let table = Table::parse(&fs::read_to_string(dir.join("syscalls.tbl"))?)?;

    let mut names = String::new();
    let mut out = format!("const PROLOGUE: usize = {};\n", profile::PROLOGUE);
    for name in PROFILES {
        let file = dir.join(name).with_extension("json");
        let text = fs::read_to_string(&file)?;
        for arch in Arch::ALL {
            let in_file = |e: profile::ProfileError| format!("{} ({arch}): {e}", file.display());
            let loaded = Profile::load(&text, &table, arch).map_err(in_file)?;
            let program = loaded.compile().map_err(in_file)?;
            if arch != target {
                continue;
            }
            let constant = name.to_uppercase();
            writeln!(out, "static {constant}: [Insn; {}] = {program:?};", program.len())?;
            if name == "default" {
                let fixed: Vec<_> = loaded.fixed.iter().collect();
                let allowed = |partly: bool| -> Vec<&str> {
                    let found = |nr: &u32| match loaded.rules.get(nr) {
                        Some(verdict) => {
                            if partly {
                                !verdict.allow_when.is_empty()
                            } else {
                                verdict.allow_when.is_empty() && verdict.otherwise == profile::Action::Allow
                            }
                        }
                        None => false,
                    };
                    table.of(target).filter(|(_, nr)| found(nr)).map(|(name, _)| name).collect()
                };
                for (list, names) in [("ALLOWED", allowed(false)), ("PARTLY", allowed(true))] {
                    writeln!(out, "static {list}: [&str; {}] = {names:?};", names.len())?;
                }
                writeln!(names, "static FIXED: [(&str, &str); {}] = {fixed:?};", fixed.len())?;
            }
        }
    }
    let by_name: Vec<_> = table.of(target).collect();
    writeln!(names, "static BY_NAME: [(&str, u32); {}] = {by_name:?};", by_name.len())?;
    let mut by_number = by_name.clone();
    by_number.sort_by_key(|(_, nr)| *nr);
    let by_number: Vec<_> = by_number.into_iter().map(|(name, nr)| (nr, name)).collect();
    writeln!(names, "static BY_NUMBER: [(u32, &str); {}] = {by_number:?};", by_number.len())?;
    let into = env::var("OUT_DIR")?;
    fs::write(Path::new(&into).join("filters.rs"), out)?;
    fs::write(Path::new(&into).join("syscalls.rs"), names)?;
    Ok(())
}
