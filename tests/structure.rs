//! What holds of the source itself: where `unsafe` may stand, which way imports point, what is documented where.

use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = repository().join(path);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Files below `dir` with this extension, relative to the repository.
fn files(dir: &str, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut todo = vec![repository().join(dir)];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                todo.push(path);
            } else if path.extension().is_some_and(|e| e == extension) {
                found.push(path.strip_prefix(repository()).unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

/// Source without comments and string contents, so that only code is looked at. Lines stay where they are.
fn code(source: &str) -> String {
    let bytes: Vec<char> = source.chars().collect();
    let mut out = String::new();
    let mut at = 0;
    let starts = |at: usize, text: &str| text.chars().enumerate().all(|(i, c)| bytes.get(at + i) == Some(&c));
    while at < bytes.len() {
        if starts(at, "//") {
            while at < bytes.len() && bytes[at] != '\n' {
                at += 1;
            }
        } else if starts(at, "/*") {
            while at < bytes.len() && !starts(at, "*/") {
                if bytes[at] == '\n' {
                    out.push('\n');
                }
                at += 1;
            }
            at += 2;
        } else if let Some(hashes) = raw_string(&bytes, at) {
            let end = format!("\"{}", "#".repeat(hashes));
            at += 2 + hashes;
            while at < bytes.len() && !starts(at, &end) {
                if bytes[at] == '\n' {
                    out.push('\n');
                }
                at += 1;
            }
            at += end.len();
            out.push_str("\"\"");
        } else if bytes[at] == '"' {
            at += 1;
            while at < bytes.len() && bytes[at] != '"' {
                if bytes[at] == '\n' {
                    out.push('\n');
                }
                at += if bytes[at] == '\\' { 2 } else { 1 };
            }
            at += 1;
            out.push_str("\"\"");
        } else if starts(at, "'\\") || (bytes[at] == '\'' && bytes.get(at + 2) == Some(&'\'')) {
            // a character; a lifetime has no closing quote there
            at += if bytes.get(at + 1) == Some(&'\\') { 2 } else { 1 };
            at += 1;
            while at < bytes.len() && bytes[at] != '\'' {
                at += 1;
            }
            at += 1;
            out.push_str("' '");
        } else {
            out.push(bytes[at]);
            at += 1;
        }
    }
    out
}

fn raw_string(bytes: &[char], at: usize) -> Option<usize> {
    let word_before = at > 0 && (bytes[at - 1].is_alphanumeric() || bytes[at - 1] == '_') && bytes[at - 1] != 'b';
    if bytes[at] != 'r' || word_before {
        return None;
    }
    let hashes = bytes[at + 1..].iter().take_while(|c| **c == '#').count();
    (bytes.get(at + 1 + hashes) == Some(&'"')).then_some(hashes)
}

/// What of `code` is there when no test is built: all but the items that `#[cfg(test)]` stands before.
fn outside_tests(code: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut out = String::new();
    let mut rest = code;
    while let Some(at) = rest.find(MARK) {
        out.push_str(&rest[..at]);
        rest = &rest[at + MARK.len()..];
        rest = &rest[item(rest)..];
    }
    out + rest
}

/// How long the item is that `code` begins with, with its attributes.
fn item(code: &str) -> usize {
    let begun = code.len() - code.trim_start().len();
    if code[begun..].starts_with("#[") {
        let attribute = begun + code[begun..].find(']').unwrap() + 1;
        return attribute + item(&code[attribute..]);
    }
    let mut head = words(code).filter(|word| !["pub", "crate", "super"].contains(word));
    let keyword = match (head.next().unwrap_or_default(), head.next()) {
        ("const", Some("fn")) => "fn",
        (word, _) => word,
    };
    let known = ["mod", "fn", "use", "impl", "struct", "enum", "const", "static", "type", "trait", "unsafe"];
    assert!(known.contains(&keyword), "#[cfg(test)] before {keyword:?}: this test does not know where that ends");
    let mut depth = 0_usize;
    for (at, c) in code.char_indices() {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            _ => {}
        }
        let block = c == '}' && !["use", "const", "static", "type"].contains(&keyword);
        if depth == 0 && (c == ';' || block) {
            return at + 1;
        }
    }
    code.len()
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

#[test]
fn the_stripper_leaves_code_alone() {
    assert_eq!(code("a // unsafe\nb"), "a \nb");
    assert_eq!(code("let a = \"un\\\"safe\"; c"), "let a = \"\"; c");
    assert_eq!(code("r#\"unsafe \" \"# + x"), "\"\" + x");
    assert_eq!(code("'\"' 'a 'b' x"), "' ' 'a ' ' x");
    assert_eq!(code("/* unsafe\n */y"), "\ny");
}

#[test]
fn only_tests_are_left_out() {
    let source = "use a;\n#[cfg(test)]\nuse b::{c, d};\nfn e() { f() }\n#[cfg(test)]\n#[allow(x)]\npub(super) mod g {\nfn h() {}\n}\n\
                  static I: [u8; 2] = [1, 2];\n#[cfg(test)]\nconst J: [u8; 1] = [{ 1 }];\n#[cfg(test)]\nmod k;\nuse l;\n\
                  #[cfg(test)]\nimpl M<[u8; 2]> {\nfn n() {}\n}\n#[cfg(test)]\nconst fn p() {}\nuse o;";
    let left = "use a; fn e() { f() } static I: [u8; 2] = [1, 2]; use l; use o;";
    assert_eq!(outside_tests(source).split_whitespace().collect::<Vec<_>>().join(" "), left);
}

#[test]
fn unsafe_stands_only_in_sys_and_says_why() {
    let mut wrong = Vec::new();
    for path in [files("src", "rs"), files("seccomp", "rs")].concat() {
        let source = read(&path);
        let lines: Vec<&str> = source.lines().collect();
        for (at, line) in code(&source).lines().enumerate() {
            if !words(line).any(|word| word == "unsafe") {
                continue;
            }
            let place = format!("{}:{}", path.display(), at + 1);
            if !path.starts_with("src/sys") && path != Path::new("src/sys.rs") {
                wrong.push(format!("{place}: unsafe outside src/sys"));
            }
            // an `unsafe fn` says it by `# Safety`, a block by SAFETY in the comment above it or above its statement
            let above = lines[at.saturating_sub(12)..=at].join("\n");
            if !above.contains("SAFETY:") && !above.contains("# Safety") {
                wrong.push(format!("{place}: unsafe without // SAFETY:"));
            }
        }
    }
    for path in files("tests", "rs") {
        // programs that run inside
        let inside = path.starts_with("tests/probe") || path.starts_with("tests/runtimes");
        if !inside && words(&code(&read(&path))).any(|word| word == "unsafe") {
            wrong.push(format!("{}: unsafe in a test", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Top-level modules that a file's code names by one of `roots`, as `crate::x`. Tests may use what they like.
fn imports(path: &Path, roots: &[&str]) -> BTreeSet<String> {
    let text = outside_tests(&code(&read(path)));
    let mut found = BTreeSet::new();
    for root in roots {
        for (at, _) in text.match_indices(root) {
            if text[..at].chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_') {
                continue;
            }
            let rest = &text[at + root.len()..];
            if let Some(list) = rest.strip_prefix('{') {
                let mut depth = 0;
                let mut first = true;
                let mut word = String::new();
                for c in list.chars() {
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => first = true,
                        c if c.is_alphanumeric() || c == '_' => {
                            if first && depth == 0 {
                                word.push(c);
                            }
                            continue;
                        }
                        _ => {}
                    }
                    if !word.is_empty() {
                        found.insert(std::mem::take(&mut word));
                        first = false;
                    }
                }
                found.extend((!word.is_empty()).then_some(word));
            } else if let Some(word) = words(rest).next() {
                found.insert(word.to_owned());
            }
        }
    }
    found
}

/// What each folder of src, or file beside them, may name. It may name only what stands above it, so that there is no circle.
const MAY_NAME: &[(&str, &[&str])] = &[
    ("keys", &[]),
    ("sys", &[]),
    ("text", &[]),
    ("units", &[]),
    ("json", &["text"]),
    ("types", &["json", "keys"]),
    ("mounts", &[]),
    ("walk", &["mounts"]),
    ("report", &["json", "keys", "sys", "text", "types"]),
    ("config", &["json", "keys", "mounts", "sys", "text", "types", "units", "walk"]),
    // the typed configuration is plain data too; reading it is config's own
    ("decide", &["config", "json", "keys", "text", "types", "units", "walk"]),
    ("confine", &["decide", "keys", "mounts", "sys", "text", "types", "walk"]),
    ("gateway", &["decide", "sys", "text", "types"]),
    ("host", &["config", "confine", "decide", "keys", "mounts", "sys", "text", "types", "walk"]),
    (
        "supervise",
        &["confine", "decide", "gateway", "host", "json", "keys", "report", "sys", "text", "types", "units", "walk"],
    ),
    // a client's configuration is read by a supervised run
    ("plugin", &["config", "decide", "supervise", "text", "types", "walk"]),
    ("sealed", &["confine", "decide", "supervise", "types", "walk"]),
    ("audit", &["config", "decide", "host", "json", "plugin", "report", "sys", "text", "types"]),
    // it tries a whole call
    ("doctor", &["audit", "config", "confine", "decide", "host", "plugin", "report", "supervise", "sys", "types"]),
    (
        "call",
        &[
            "audit",
            "config",
            "confine",
            "decide",
            "host",
            "keys",
            "plugin",
            "report",
            "supervise",
            "sys",
            "text",
            "types",
            "walk",
        ],
    ),
    (
        "cli",
        &[
            "audit",
            "call",
            "config",
            "confine",
            "decide",
            "doctor",
            "gateway",
            "host",
            "json",
            "keys",
            "plugin",
            "report",
            "sealed",
            "supervise",
            "sys",
            "text",
            "types",
            "units",
            "walk",
        ],
    ),
    ("lib", &[]),
    ("main", &["cli"]),
];

#[test]
fn imports_point_one_way() {
    let mut wrong = Vec::new();
    for (at, (who, allowed)) in MAY_NAME.iter().enumerate() {
        for what in allowed.iter().filter(|what| !MAY_NAME[..at].iter().any(|(above, _)| above == *what)) {
            wrong.push(format!("{who} may name {what}, which does not stand above it"));
        }
    }
    let mut unused: BTreeSet<(String, String)> = MAY_NAME
        .iter()
        .flat_map(|(who, allowed)| allowed.iter().map(|what| (who.to_string(), what.to_string())))
        .collect();
    for path in files("src", "rs").into_iter().filter(|path| !path.ends_with("tests.rs")) {
        let inside = path.strip_prefix("src").unwrap();
        let module = inside.components().next().unwrap().as_os_str().to_string_lossy().replace(".rs", "");
        let Some((_, allowed)) = MAY_NAME.iter().find(|(who, _)| *who == module) else {
            wrong.push(format!("{}: {module} has no list", path.display()));
            continue;
        };
        let mut named = imports(&path, &["crate::", "upm::"]);
        // There `super` is the crate.
        if inside.components().count() == 1 || inside == Path::new(&module).join("mod.rs") {
            named.extend(imports(&path, &["super::"]));
        }
        for what in named.iter().filter(|what| **what != module) {
            unused.remove(&(module.clone(), what.clone()));
            if !allowed.contains(&what.as_str()) {
                wrong.push(format!("{}: {module} names {what}", path.display()));
            }
        }
    }
    wrong.extend(unused.into_iter().map(|(who, what)| format!("{who} may name {what} and does not")));
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// `decide`, the envelope, the plain data and the filters can't hold `unsafe` at all.
#[test]
fn the_pure_parts_forbid_unsafe() {
    let mut wanted = ["src/types.rs", "src/confine/filter.rs", "seccomp/src/lib.rs"].map(PathBuf::from).to_vec();
    for (module, file) in [("decide", "mod"), ("report", "envelope")] {
        let in_dir = PathBuf::from(format!("src/{module}/{file}.rs"));
        let flat = PathBuf::from(format!("src/{module}.rs"));
        wanted.push(if repository().join(&in_dir).exists() { in_dir } else { flat });
    }
    for path in wanted {
        assert!(read(&path).contains("#![forbid(unsafe_code)]"), "{}: no #![forbid(unsafe_code)]", path.display());
    }
}

/// `Cargo.toml` of every crate of the workspace.
fn manifests() -> Vec<String> {
    let root = read("Cargo.toml");
    let members = root.split("members = [").nth(1).unwrap().split(']').next().unwrap();
    let members: Vec<&str> = members.split('"').skip(1).step_by(2).collect();
    assert_eq!(members[0], ".");
    members.iter().map(|member| format!("{member}/Cargo.toml").replace("./", "")).collect()
}

#[test]
fn every_crate_is_private_and_in_the_layout() {
    let contributing = read("CONTRIBUTING.md");
    let layout = contributing.split("\n## Layout\n").nth(1).unwrap().split("\n\n").next().unwrap();
    for path in manifests() {
        assert!(read(&path).lines().any(|line| line == "publish = false"), "{path}: not `publish = false`");
        if let Some(folder) = Path::new(&path).parent().and_then(Path::file_name) {
            let folder = folder.to_string_lossy();
            assert!(layout.contains(&format!("`{folder}/`")), "CONTRIBUTING.md, Layout: {folder}/ is missing");
        }
    }
}

/// A call neither reads nor compiles a profile: what the engine uses of `seccomp/` depends on nothing that does.
#[test]
fn the_engine_uses_instructions_and_additions_alone() {
    let named = |path: &str| imports(Path::new(path), &["crate::"]).into_iter().collect::<Vec<_>>();
    assert_eq!((named("seccomp/src/bpf.rs"), named("seccomp/src/runtime.rs")), (vec![], vec!["bpf".to_owned()]));
    let mut seen = 0;
    for path in files("src", "rs").into_iter().filter(|path| !path.ends_with("tests.rs")) {
        let named = imports(&path, &["upm_seccomp::"]);
        seen += named.len();
        assert!(named.iter().all(|module| module == "bpf" || module == "runtime"), "{}: {named:?}", path.display());
    }
    assert!(seen >= 2, "{seen}: where is the filter?");
}

/// Numbers of the kernel's interface, and code, stand once.
#[test]
fn nothing_of_the_filters_stands_twice() {
    let mut sources = [files("src", "rs"), files("seccomp", "rs")].concat();
    sources.push("build.rs".into());
    sources.retain(|path| !path.ends_with("tests.rs") && !path.starts_with("seccomp/src/tests"));
    let sources: Vec<(PathBuf, String)> = sources.into_iter().map(|path| (path.clone(), code(&read(path)))).collect();
    for (path, text) in &sources {
        assert!(!text.contains("#[path"), "{}: #[path]", path.display());
        assert!(!words(text).any(|word| word == "dead_code"), "{}: allow(dead_code)", path.display());
    }
    // SECCOMP_RET_ALLOW, _USER_NOTIF, _KILL_PROCESS and _ERRNO
    for value in ["0x7fff_0000", "0x7fc0_0000", "0x8000_0000", "0x0005_0000"] {
        let has: Vec<&PathBuf> =
            sources.iter().filter(|(_, text)| text.contains(value)).map(|(path, _)| path).collect();
        assert_eq!(has, [Path::new("seccomp/src/bpf.rs")], "{value}");
    }
}

/// Lines of each function, nested ones too, by name.
fn functions(code: &str) -> Vec<(&str, usize)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        let before = code[..at].chars().next_back();
        let name = words(&code[at + 3..]).next().unwrap_or_default();
        if before.is_none_or(|c| c.is_whitespace()) && code[at + 3..].starts_with(name) {
            found.push((name, code[at..at + item(&code[at..])].lines().count()));
        }
    }
    found
}

#[test]
fn small_rooms_stay_small() {
    let mut all: Vec<PathBuf> = Vec::new();
    for folder in ["seccomp", "src/audit", "src/confine/filter", "src/doctor", "src/gateway", "src/supervise"] {
        all.extend(files(folder, "rs"));
    }
    all.extend(["src/call.rs", "src/confine/filter.rs", "build.rs"].map(PathBuf::from));
    for path in all.into_iter().filter(|path| !path.ends_with("gateway/tests.rs")) {
        let text = outside_tests(&code(&read(&path)));
        let lines = text.lines().count();
        assert!(lines <= 450, "{}: {lines} lines", path.display());
        for (name, lines) in functions(&text) {
            assert!(
                lines <= 80 || path.components().any(|c| c.as_os_str() == "tests"),
                "{}: {name} has {lines} lines",
                path.display()
            );
        }
    }
}

#[test]
fn every_dependency_says_what_it_is_for() {
    for path in manifests() {
        let text = read(&path);
        let lines: Vec<&str> = text.lines().collect();
        let mut section = "";
        for (at, line) in lines.iter().enumerate() {
            if line.starts_with('[') {
                section = line;
            } else if section.contains("dependencies]") && line.contains('=') && !line.starts_with('#') {
                assert!(lines[at - 1].starts_with("# "), "{path}:{}: no comment above {line}", at + 1);
            }
        }
    }
}

/// The variants of `types::Code`, as `data.code` shows them.
fn codes() -> Vec<String> {
    let text = code(&read("src/types/failure.rs"));
    let body = text.split("pub enum Code").nth(1).unwrap().split('{').nth(1).unwrap().split('}').next().unwrap();
    let codes: Vec<String> = body
        .split(',')
        .filter_map(|variant| words(variant).last())
        .map(|name| {
            let mut snake = String::new();
            for (at, c) in name.chars().enumerate() {
                if c.is_uppercase() && at > 0 {
                    snake.push('_');
                }
                snake.extend(c.to_lowercase());
            }
            snake
        })
        .collect();
    assert!(codes.len() > 20 && codes.contains(&"cpu_time_exceeded".to_owned()), "{codes:?}");
    codes
}

#[test]
fn every_code_is_in_the_schema_and_the_readme() {
    let schema: Value = serde_json::from_str(&read("response.schema.json")).unwrap();
    let mut known = BTreeSet::new();
    collect_strings(&schema, &mut known);
    let readme = read("README.md");
    for code in codes() {
        assert!(known.contains(&code), "response.schema.json does not know {code}");
        assert!(readme.contains(&format!("`{code}`")), "README.md does not name `{code}`");
    }
}

fn collect_strings(value: &Value, into: &mut BTreeSet<String>) {
    match value {
        Value::String(text) => {
            into.insert(text.clone());
        }
        Value::Array(list) => list.iter().for_each(|one| collect_strings(one, into)),
        Value::Object(map) => map.values().for_each(|one| collect_strings(one, into)),
        _ => {}
    }
}

/// A system call that was handed to the supervisor and goes on was decided by nobody who looked: only `upm learn`, which
/// decides nothing, who counts calls by their number and values alone, and locks of a process, where a look is all that can be
/// had, may do that.
#[test]
fn only_who_watches_or_counts_lets_calls_go_on() {
    let users: Vec<PathBuf> =
        files("src", "rs").into_iter().filter(|path| code(&read(path)).contains("notif_continue")).collect();
    let known =
        ["src/supervise/epoll.rs", "src/supervise/locks.rs", "src/supervise/observe/mod.rs", "src/sys/seccomp.rs"];
    assert_eq!(users, known.map(Path::new));
    let flag = |path: &&PathBuf| code(&read(path)).contains("NOTIF_FLAG_CONTINUE");
    let all = files("src", "rs");
    assert_eq!(all.iter().filter(flag).collect::<Vec<_>>(), [Path::new("src/sys/seccomp.rs")]);
}

/// `file.rs::function` as the documents name it: the test must be there, and be a test.
#[test]
fn every_test_that_a_document_names_exists() {
    let mut wrong = Vec::new();
    let mut seen = 0;
    for document in ["SECURITY.md", "CONTRIBUTING.md"] {
        for (at, line) in read(document).lines().enumerate() {
            let names = line.split('`').filter_map(|quoted| quoted.split_once(".rs::"));
            for (file, function) in names {
                seen += 1;
                let path = format!("{file}.rs");
                let is_test = repository().join(&path).is_file() && tests_of(&read(&path)).contains(function);
                if !is_test {
                    wrong.push(format!("{document}:{}: {path} has no test {function}", at + 1));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(seen > 20, "{seen}: the documents name tests as `tests/file.rs::function`");
}

/// The functions that `#[test]` or `#[rstest]` stands before.
fn tests_of(source: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut is_test = false;
    for line in code(source).lines().map(str::trim) {
        if line == "#[test]" || line == "#[rstest]" {
            is_test = true;
        } else if let Some(rest) = line.strip_prefix("fn ").or_else(|| line.strip_prefix("pub fn ")) {
            if std::mem::take(&mut is_test) {
                found.extend(words(rest).next().map(str::to_owned));
            }
        }
    }
    found
}

#[test]
fn only_tests_are_taken_for_tests() {
    let source =
        "#[rstest]\n#[case::a(1)]\nfn one(\n#[case] n: u8) {}\nfn two() {}\n#[test]\n// fn three()\nfn four() {}";
    assert_eq!(tests_of(source).into_iter().collect::<Vec<_>>(), ["four", "one"]);
}

/// A unit that starts the engine may have what its steps need as root, and no more.
#[test]
fn units_have_the_capabilities_of_the_steps() {
    let mut needed: Vec<String> = upm::confine::privileges::OF_ROOT.map(|(name, ..)| name.to_owned()).to_vec();
    needed.sort();
    for path in files("packaging", "service") {
        let text = read(&path);
        let sets: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("CapabilityBoundingSet=")).collect();
        let mut listed: Vec<&str> = sets.iter().flat_map(|set| set.split_whitespace()).collect();
        listed.sort_unstable();
        assert_eq!(listed, needed, "{}", path.display());
    }
}

#[test]
fn nothing_is_left_to_do() {
    for path in files("src", "rs") {
        let text = code(&read(&path));
        for macro_name in ["todo!", "unimplemented!", "dbg!"] {
            assert!(!text.contains(macro_name), "{}: {macro_name}", path.display());
        }
    }
}

/// Which hosts a package manager talks to is the host's configuration's business: what the clients here are built or
/// configured to use is asked of them, and none of it may stand in the source.
#[test]
fn no_registry_is_built_in() {
    let mut hosts = BTreeSet::new();
    let mut add = |text: &str| {
        for word in text.split(|c: char| c.is_whitespace() || "'\"<>()[],=".contains(c)) {
            if let Some(rest) = word.strip_prefix("https://").or_else(|| word.strip_prefix("http://")) {
                let host = rest.split(['/', ':', '@']).next().unwrap_or_default();
                if host.contains('.') && !host.starts_with("127.") {
                    hosts.insert(host.to_lowercase());
                }
            }
        }
    };
    let ask = |program: &str, args: &[&str]| {
        Command::new(program)
            .args(args)
            .output()
            .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
            .unwrap_or_default()
    };
    let built_in =
        "from pip._internal.models.index import PyPI; print(PyPI.simple_url, 'https://' + PyPI.file_storage_domain)";
    add(&ask("/usr/bin/python3", &["-I", "-c", built_in]));
    add(&ask("/usr/bin/python3", &["-I", "-m", "pip", "config", "list"]));
    add(&ask("npm", &["config", "get", "registry"]));
    if hosts.is_empty() {
        println!("skipped: neither pip nor npm is here to ask");
        return;
    }
    let mut wrong = Vec::new();
    let places = ["src", "plugins", "seccomp", "packaging", "tests"];
    for extension in ["rs", "py", "json", "toml", "md", "service", "conf"] {
        let mut all: Vec<PathBuf> = places.iter().flat_map(|dir| files(dir, extension)).collect();
        all.extend(["upm_config.toml", "README.md", "SECURITY.md"].map(PathBuf::from));
        for path in all.into_iter().filter(|path| repository().join(path).exists()) {
            let text = read(&path).to_lowercase();
            for host in hosts.iter().filter(|host| text.contains(host.as_str())) {
                wrong.push(format!("{}: {host}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
