//! What the packages hold agrees with the program: manual pages, completions, the journal's texts, the units, the lists of
//! files. `tests/host.rs` installs them.

mod common;

use common::{Fixture, Mode, booted, cache, has_program, is_root, repository, skip};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

fn read(path: &str) -> String {
    let path = repository().join(path);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn help(words: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_upm")).args(words).arg("--help").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// `--options` that a text names.
fn options(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !(c.is_ascii_lowercase() || c == '-'))
        .filter_map(|word| word.strip_prefix("--"))
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

/// The commands that the usage of `upm --help` shows.
fn commands() -> Vec<String> {
    let text = help(&[]);
    let usage = text.split("Usage:").nth(1).unwrap().split("\n\n").next().unwrap();
    let words = usage.lines().filter_map(|line| line.trim().strip_prefix("upm ")?.split(' ').next());
    let found: Vec<String> =
        words.filter(|word| word.starts_with(|c: char| c.is_ascii_lowercase())).map(str::to_owned).collect();
    assert!(found.len() >= 4 && found.contains(&"explain".to_owned()), "{found:?}");
    found
}

#[test]
fn the_manual_has_every_command_and_option() {
    // as a reader sees it: roff writes a hyphen with a backslash
    let manual = |name: &str| read(&format!("packaging/man/{name}.1")).replace("\\-", "-");
    let page = manual("upm");
    let completions =
        ["upm.bash", "_upm", "upm.fish"].map(|name| (name, read(&format!("packaging/completions/{name}"))));
    let listed = |text: &str| -> BTreeSet<String> {
        options(text.split("\nOptions:\n").nth(1).map_or("", |rest| rest.split("\n\n").next().unwrap()))
    };
    let mut all = listed(&help(&[]));
    assert!(all.len() > 7 && all.contains("via"), "{all:?}");
    for option in &all {
        assert!(page.contains(&format!("\\fB--{option}\\fR")), "upm.1 has no --{option}");
    }
    for command in commands() {
        assert!(page.contains(&format!("\\fBupm\\fR {command} ")), "the synopsis of upm.1 has no {command}");
        assert!(page.contains(&format!("\nupm-{command}(1)\n")), "upm.1 does not refer to upm-{command}(1)");
        let own = manual(&format!("upm-{command}"));
        for option in listed(&help(&[&command])) {
            assert!(own.contains(&format!("\\fB--{option}\\fR")), "upm-{command}.1 has no --{option}");
            all.insert(option);
        }
        for (name, text) in &completions {
            assert!(text.contains(&command), "{name} has no {command}");
        }
    }
    for option in all {
        for (name, text) in &completions {
            let shown = if *name == "upm.fish" { format!("-l {option}") } else { format!("--{option}") };
            assert!(text.contains(&shown), "{name} has no --{option}");
        }
    }
}

/// Keys of the configuration, as the file that reads them names them.
#[test]
fn the_manual_has_every_key() {
    let source = read("src/config/model.rs");
    let page = read("packaging/man/upm_config.5");
    let grant = upm::keys::Key::ALL.iter().map(|key| key.name());
    let keys: BTreeSet<&str> = source
        .lines()
        .filter_map(|line| line.trim().strip_prefix('"')?.split_once("\" => "))
        .filter(|(key, _)| key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'))
        // words that a value may be
        .filter(|(_, rest)| !rest.starts_with("Ok(") && !rest.starts_with("Some("))
        .map(|(key, _)| key)
        .chain(grant)
        .collect();
    assert!(keys.len() > 35 && keys.contains("landlock_min_abi") && keys.contains("allow_private"), "{keys:?}");
    for key in keys {
        let found = [
            format!(".It Ic {key}\n"),
            format!(".It Ic {key} No"),
            format!(".It Ic [{key}]"),
            format!(".It Ic [{key}."),
        ];
        assert!(found.iter().any(|text| page.contains(text)), "upm_config.5 has no {key}");
    }
}

#[test]
fn the_manual_is_well_formed() {
    if !has_program("mandoc") {
        return;
    }
    for entry in fs::read_dir(repository().join("packaging/man")).unwrap().flatten() {
        let output = Command::new("mandoc").args(["-T", "lint", "-W", "warning"]).arg(entry.path()).output().unwrap();
        assert!(output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
    }
}

#[test]
fn the_catalog_has_a_text_for_every_event() {
    let journald = read("src/audit/journald.rs");
    let ids: BTreeSet<&str> =
        journald.split('"').filter(|word| word.len() == 32 && word.bytes().all(|b| b.is_ascii_hexdigit())).collect();
    assert!(ids.len() >= 4, "{ids:?}");
    let catalog = read("packaging/journald/upm.catalog");
    let entries: BTreeSet<&str> = catalog.lines().filter_map(|line| line.strip_prefix("-- ")).collect();
    assert_eq!(entries, ids);
    let record = read("src/audit/record.rs").to_lowercase();
    for field in catalog.split('@').filter(|word| word.starts_with("UPM_")) {
        let name = field.strip_prefix("UPM_").unwrap().to_lowercase();
        assert!(record.contains(&format!("\"{name}\"")), "no record has {field}");
    }
}

fn units() -> Vec<(String, String)> {
    ["upm@.service", "upm-run@.service"]
        .map(|name| (name.to_owned(), read(&format!("packaging/systemd/{name}"))))
        .into()
}

/// A score over 3.0 needs a reason for each setting that makes it: it is set to what is needed, or its comment says which
/// step forbids it.
#[test]
fn every_exposure_of_the_units_is_explained() {
    if !has_program("systemd-analyze") {
        return;
    }
    for (name, text) in units() {
        let path = repository().join("packaging/systemd").join(&name);
        let output = Command::new("systemd-analyze")
            .args(["security", "--offline=true", "--no-pager", "--json=short"])
            .arg(&path)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let settings: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
        let exposed = settings.iter().filter(|one| one["set"] == false && one["exposure"].as_str().is_some());
        let mut count = 0;
        for one in exposed {
            count += 1;
            let setting = one["name"].as_str().unwrap().split(['=', '/', ':']).next().unwrap();
            let setting = if setting == "User" { "User=" } else { setting };
            assert!(text.contains(setting), "{name}: {one}");
        }
        assert!(count > 10, "{name}: {settings:?}");
        // the same hardening in both, so that a timer's call is as confined
        let hardening = |text: &str| text.split_once("\nNoNewPrivileges=").unwrap().1.replace(&name, "");
        assert_eq!(hardening(&text), hardening(&units()[0].1.replace("upm@.service", &name)));
    }
}

/// Every file below `packaging` and `plugins` that belongs to a host is in both packages, where the same program looks.
#[test]
fn both_packages_hold_the_same_files() {
    let text = read("Cargo.toml");
    let part = |table: &str| text.split(&format!("[package.metadata.{table}]\n")).nth(1).unwrap().to_owned();
    let (deb, rpm) = (part("deb"), part("generate-rpm"));
    let deb = deb.split("\n]\n").next().unwrap();
    let list = |text: &str, marker: &str| -> BTreeSet<String> {
        text.lines().filter_map(|line| line.trim().strip_prefix(marker)?.split('"').next()).map(str::to_owned).collect()
    };
    let deb = list(deb, "[\"");
    let mut rpm = list(&rpm, "{ source = \"");
    // the .deb makes `copyright` of it
    assert!(rpm.remove("LICENSE"));
    assert_eq!(deb, rpm);
    let has = |path: &str| {
        let (dir, file) = path.rsplit_once('/').unwrap();
        let extension = file.rsplit_once('.').map_or("", |(_, extension)| extension);
        deb.contains(path) || deb.contains(&format!("{dir}/*.{extension}"))
    };
    let mut todo: Vec<PathBuf> = ["plugins", "packaging"].map(|dir| repository().join(dir)).into();
    while let Some(dir) = todo.pop() {
        for path in fs::read_dir(&dir).unwrap().flatten().map(|entry| entry.path()) {
            let below = path.strip_prefix(repository()).unwrap().to_str().unwrap().to_owned();
            if ["packaging/deb", "packaging/rpm"].contains(&below.as_str()) || below.ends_with("__pycache__") {
                continue;
            } else if path.is_dir() {
                todo.push(path);
            } else if !["packaging/build", "packaging/cross", "packaging/tools", "packaging/README.md"]
                .contains(&below.as_str())
            {
                assert!(has(&below), "{below} is in no package");
            }
        }
    }
}

/// `packaging/build --arch arm64`: what it says of itself, what it needs, and the program in it.
#[test]
fn the_packages_for_arm64_are_for_arm64() {
    if cfg!(not(target_arch = "x86_64")) || !booted::can_cross() {
        return;
    }
    let (deb, rpm) = booted::build_packages(&["--arch", "arm64"], &booted::cross_target());
    let dpkg = |option: &str, rest: &[&str]| {
        let output = Command::new("dpkg-deb").arg(option).arg(&deb).args(rest).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(dpkg("--field", &["Architecture"]), "arm64\n");
    // Debian 12 has 2.36
    let depends = dpkg("--field", &["Depends"]);
    let libc = depends.split("libc6 (>= 2.").nth(1).and_then(|rest| rest.split(')').next()?.parse::<u32>().ok());
    assert!(libc.is_some_and(|minor| minor <= 36), "{depends}");
    assert!(rpm.to_str().unwrap().ends_with(".aarch64.rpm"), "{rpm:?}");
    let root = tempfile::tempdir().unwrap();
    dpkg("--extract", &[root.path().to_str().unwrap()]);
    let program = fs::read(root.path().join("usr/bin/upm")).unwrap();
    // elf(5): e_machine, EM_AARCH64
    assert_eq!((&program[..4], &program[18..20]), (&b"\x7fELF"[..], &[183, 0][..]));
}

/// What each shell offers for these lines, from the configuration that is there.
fn offers(shell: &str) {
    if !has_program(shell) {
        return;
    }
    let mode = if common::is_root() { Mode::Root } else { Mode::User };
    let Some(f) = Fixture::shipped(mode, str::to_owned) else { return };
    let script = match shell {
        "bash" => {
            r#". "$1/upm.bash"
               COMP_WORDS=($2) COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
               [[ $2 != *' ' ]] || { COMP_WORDS+=(''); ((++COMP_CWORD)); }
               _upm; printf '%s\n' "${COMPREPLY[@]}""#
        }
        "fish" => "source $argv[1]/upm.fish; complete -C $argv[2] | string split -f1 \\t",
        _ => {
            // zsh completes at a terminal only: one of its own, in which what is offered is written to a file
            r#"zmodload zsh/zpty
               zpty -b sh zsh -f
               zpty -w sh "PS1=; fpath=($1 \$fpath); autoload -U compinit; compinit -u -D
               zstyle ':completion:*' insert-tab false; bindkey '^I' complete-word
               compadd() { local -a offered; builtin compadd -O offered \"\$@\"; [[ -z \$offered ]] || print -rl -- \$offered >>$3; builtin compadd \"\$@\" }
               print -r -- begun >$3"
               for n in {1..100}; do sleep 0.05; [[ ! -s $3 ]] || break; done
               zpty -n -w sh "$2"$'\t'
               for n in {1..100}; do sleep 0.05; (( $(wc -l <$3) < 2 )) || break; done
               sleep 0.3; zpty -d sh; cat $3"#
        }
    };
    for (line, wanted) in [
        ("upm ", &["list", "explain", "check", "doctor", "HelloPlugin", "PipPlugin"][..]),
        ("upm Pip", &["PipPlugin"]),
        ("upm PipPlugin in", &["install", "info"]),
        ("upm explain HelloPlugin gr", &["greet", "greet_async"]),
        ("upm --pro", &["--project"]),
        ("upm HelloPlugin --ti", &["--timeout"]),
        ("upm audit --si", &["--since"]),
        ("upm audit sh", &["show"]),
        ("upm explain HelloPlugin greet --ma", &["--may"]),
        ("upm --project /tmp Hel", &["HelloPlugin"]),
        ("upm help do", &["doctor"]),
    ] {
        let offered = f.path("offered");
        let _ = fs::remove_file(&offered);
        let args: Vec<String> = match shell {
            "bash" => vec!["--norc".into(), "-c".into(), script.into(), "bash".into()],
            "fish" => vec!["-N".into(), "-c".into(), script.into()],
            _ => vec!["-f".into(), "-c".into(), script.into(), "zsh".into()],
        };
        let output = Command::new("timeout")
            .args(["30", shell])
            .args(args)
            .arg(repository().join("packaging/completions"))
            .arg(line)
            .arg(&offered)
            .env_clear()
            .env("PATH", format!("{}:/usr/bin:/bin", f.text("bin")))
            .env("HOME", f.path("home"))
            .env("UPM_CONFIG_PATH", f.path("upm_config.toml"))
            .env("TERM", "dumb")
            .current_dir(f.dir())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let found: BTreeSet<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        for want in wanted {
            assert!(found.contains(want), "{shell}: {line:?}: {want} is not among {found:?}: {output:?}");
        }
        assert!(!found.contains("uninstall"), "{shell}: {line:?}: {found:?}");
    }
}

#[test]
fn bash_completes() {
    offers("bash");
}

#[test]
fn fish_completes() {
    offers("fish");
}

#[test]
fn zsh_completes() {
    offers("zsh");
}

/// A distribution builds with its own compiler and the crates of `Cargo.lock`.
#[test]
fn debian_13s_compiler_builds_all() {
    if !is_root() {
        return skip("the tree with the compiler is made by root");
    }
    if !has_program("mmdebstrap") {
        return;
    }
    let mut command = Command::new(repository().join("tests/nspawn/compiler"));
    command.args(["check", "--workspace", "--all-targets", "--locked", "--offline"]).env("UPM_TEST_CACHE", cache());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
