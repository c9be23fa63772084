//! The commands beside calls, and what goes where.

mod common;

use common::{Fixture, Mode, has_program};
use rstest::rstest;
use serde_json::{Value, json};

#[rstest]
fn commands_answer_in_text_and_json(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "write = [\"{project_root}\"]") else { return };
    for words in [vec!["list"], vec!["list", "Probe"], vec!["explain", "Probe", "run"], vec!["check"], vec!["doctor"]] {
        let text = f.upm(words.clone()).run();
        assert_eq!(text.exit, Some(0), "{words:?}: {text:#?}");
        assert!(!text.stdout.trim().is_empty(), "{words:?}");
        assert!(serde_json::from_str::<Value>(&text.stdout).is_err(), "{words:?}: text, not JSON");
        let mut with_json = words.clone();
        with_json.push("--json");
        let answer = f.upm(with_json).run();
        assert_eq!(answer.exit, Some(0), "{words:?}: {answer:#?}");
        serde_json::from_str::<Value>(&answer.stdout).unwrap_or_else(|e| panic!("{words:?}: {e}: {}", answer.stdout));
    }
    assert!(f.upm(["list"]).run().stdout.contains("Probe"));
    assert!(f.upm(["list", "Probe"]).run().stdout.contains("run"));
}

/// What `explain` prints and what is enforced are the same value.
#[rstest]
fn explain_shows_the_plan_that_is_enforced(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "write = [\"{project_root}\"]\nopen_files = 77") else { return };
    let plan = f.upm(["explain", "Probe", "run", "--json"]).run().stdout;
    let enforced = f.run("echo", Value::Null).data()["sandbox"]["plan_sha256"].as_str().unwrap().to_owned();
    assert!(plan.contains(&enforced), "{enforced}: {plan}");
    let text = f.upm(["explain", "Probe", "run"]).run().stdout;
    assert!(text.contains("77") && text.contains(&f.text("project")), "{text}");
    assert!(text.contains("built-in") && text.contains("plugin"), "where each value comes from: {text}");
}

#[rstest]
fn check_finds_what_is_wrong(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "nope = 1") else { return };
    let answer = f.upm(["check"]).run();
    assert!([Some(1), Some(125)].contains(&answer.exit), "{answer:#?}");
    assert!(format!("{}{}", answer.stdout, answer.stderr).contains("nope"), "{answer:#?}");
    f.config("[plugins.Hello]\nmodule = \"missing\"\nallowed_methods = [\"greet\"]\n");
    let missing = f.upm(["check"]).run();
    assert_eq!(missing.exit, Some(1), "{missing:#?}");
}

#[rstest]
fn unknown_things_are_usage_errors(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "") else { return };
    for words in
        [vec!["lst"], vec!["explain"], vec!["explain", "Nobody", "run"], vec!["list", "Nobody"], vec!["doctor", "x"]]
    {
        let answer = f.upm(words.clone()).run();
        assert!(answer.exit.is_some_and(|exit| exit != 0), "{words:?}: {answer:#?}");
    }
}

#[rstest]
fn help_and_version(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::bare(mode) else { return };
    let help = f.upm(["--help"]).run();
    assert_eq!(help.exit, Some(0));
    assert!(help.stdout.contains("upm") && help.stdout.contains("--config"), "{}", help.stdout);
    let version = f.upm(["--version"]).run();
    assert_eq!(version.stdout.trim(), format!("upm {}", env!("CARGO_PKG_VERSION")));
}

/// `help` is a command, and `--help` may stand anywhere.
#[rstest]
fn help_of_a_command(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::bare(mode) else { return };
    let help = |words: &[&str]| {
        let answer = f.upm(words).run();
        assert_eq!((answer.exit, answer.stderr.as_str()), (Some(0), ""), "{words:?}: {answer:#?}");
        answer.stdout
    };
    assert_eq!(help(&["help"]), help(&["--help"]));
    assert_ne!(help(&["help"]), help(&["help", "explain"]));
    for words in [["explain", "--help"], ["--help", "explain"], ["-h", "explain"]] {
        assert_eq!(help(&words), help(&["help", "explain"]), "{words:?}");
    }
    assert!(help(&["help", "explain"]).contains("Usage: upm explain "));
    let data = f.upm(["help", "explian"]).run().failed("usage", 2);
    assert_eq!(data["details"]["suggestion"], "upm explain", "{data:#}");
    f.upm(["help", "list", "more"]).run().failed("usage", 2);
}

/// Completions, manual pages and the tables of grant keys are made of the source, and those here are the newest.
#[test]
fn completions_and_manual_pages_are_current() {
    let xtask = std::path::Path::new(env!("CARGO_BIN_EXE_upm")).with_file_name("xtask");
    assert!(xtask.is_file(), "{}: build it with `cargo build --workspace`, as tests/run does", xtask.display());
    let output = std::process::Command::new(xtask).args(["docs", "--check"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Options may stand anywhere, also before the command, and are refused where they do nothing.
#[rstest]
fn options_stand_anywhere(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "") else { return };
    let listed = f.upm(["list", "Probe", "--json"]).run().stdout;
    assert!(listed.contains("Probe"), "{listed}");
    for words in [["--json", "list", "Probe"], ["list", "--json", "Probe"], ["--json", "--", "list"]] {
        assert_eq!(f.upm(words).run().stdout, listed, "{words:?}");
    }
    let config = f.text("upm_config.toml");
    assert_eq!(f.upm(["--config", &config, "list", "Probe", "--json"]).run().stdout, listed);
    let echo = r#"{"args":["echo",1]}"#;
    let wanted = f.upm(["Probe", "run", echo]).run().result();
    for words in [["--timeout", "9s", "Probe", "run", echo], ["Probe", "run", "--timeout=9s", "--", echo]] {
        assert_eq!(f.upm(words).run().result(), wanted, "{words:?}");
    }
    for words in [
        &["list", "--timeout", "1s"][..],
        &["--may", "read /x", "Probe", "run"],
        &["audit", "show", "--via", "/x"],
        &["Probe", "run", "--timeout", "1s", "--timeout", "1s"],
        &["Probe", "run", "--", "{}", "--timeout", "1s"],
    ] {
        f.upm(words).run().failed("usage", 2);
    }
}

#[rstest]
fn verbose_streams_the_plugins_stderr(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "") else { return };
    let print = r#"{"args":["print","stderr","one\n\u001b[2Jtwo\n"]}"#;
    let loud = f.upm(["-v", "Probe", "run", print]).run();
    assert!(loud.stderr.contains("one") && loud.stderr.contains("two"), "{:?}", loud.stderr);
    assert!(loud.envelope()["data"]["output"]["stderr"].as_str().unwrap().contains("one"));
    assert_eq!(f.upm(["Probe", "run", print]).run().stderr, "");
}

/// On a terminal the envelope is indented and what the plugin wrote can't drive the terminal.
#[rstest]
fn on_a_terminal_nothing_escapes(#[values(Mode::Root, Mode::User)] mode: Mode) {
    if !has_program("script") {
        return;
    }
    let Some(f) = Fixture::probe(mode, "") else { return };
    let print = json!({"args": ["print", "stderr", "\u{1b}]0;title\u{7}\u{9b}2J\r\n"]}).to_string();
    let words = r#"script -qec "$0 $1 $2 $3 '$4'" /dev/null"#;
    let answer = f
        .upm(["-v", "Probe", "run", &print])
        .through(["/bin/sh", "-c", words])
        .env("NO_COLOR", "1")
        .env("TERM", "xterm")
        .run();
    let text = answer.stdout;
    assert!(text.contains("\"success\": true"), "indented on a terminal: {text:?}");
    assert!(!text.contains("\u{1b}]0;") && !text.contains('\u{7}') && !text.contains('\u{9b}'), "{text:?}");
}

#[rstest]
fn questions_end_with_yes_or_no(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "read = [\"/usr/share\"]\nwrite = [\"{project_root}\"]") else { return };
    let ask = |act: &str| f.upm(["explain", "Probe", "run", "--may", act]).run();
    let help = f.upm(["--help"]).run().stdout;
    assert!(help.contains("--may"), "{help}");
    for act in [format!("write={}", f.text("project/x")), "read=/usr/share".to_owned()] {
        assert_eq!(ask(&act).exit, Some(0), "{act}: {:#?}", ask(&act));
    }
    for act in ["read=/etc/shadow".to_owned(), format!("write={}", f.text("audit/x")), "write=/usr/share/x".to_owned()]
    {
        assert_eq!(ask(&act).exit, Some(1), "{act}: {:#?}", ask(&act));
    }
}

/// The answer arrives even if nobody reads stderr: a pipe without a reader, as the journal's stream is when journald ends.
#[rstest]
fn nobody_reads_stderr(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "") else { return };
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    drop(reader);
    let mut command = f.as_caller(&f.path("bin/upm"));
    // a value that there is something to say about
    command.args(["Probe", "run", r#"{"args":["echo",1]}"#]).current_dir(f.dir()).env("UPM_LOG", "nonsense");
    let output = command.stderr(writer).output().unwrap();
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"));
    assert_eq!((output.status.code(), &answer["success"]), (Some(0), &json!(true)), "{answer:#}");
    // the control: it is said where it is read
    let told = f.upm(["Probe", "run", r#"{"args":["echo",1]}"#]).env("UPM_LOG", "nonsense").run();
    assert!(told.stderr.contains("UPM_LOG=nonsense"), "{told:#?}");
}
