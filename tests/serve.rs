//! The service: one `upm serve` a connection, and `upm --via`, whose answers equal those of a local call.

mod common;

use common::service::{OTHER, Other, Service, answered, as_other, begun, envelope, lines, refused, run};
use common::{Fixture, Mode, PROBE, has_program, is_root, skip, which};
use nix::sys::signal::Signal;
use rstest::rstest;
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// The same words, here and over the socket.
#[rstest]
fn an_answer_is_that_of_a_call_made_here(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) =
        Fixture::probe(mode, "result = \"64KiB\"\noutput = \"1KiB\"\ntimeout = \"20s\"\narguments = \"4KiB\"")
    else {
        return;
    };
    let service = Service::start(&f);
    let text = |args: Value| json!({ "args": args }).to_string();
    let id = "cdb3458d-0b84-491a-9c4e-709f30e11111";
    let outcomes: Vec<(&str, i32, Vec<String>)> = vec![
        ("", 0, vec![text(json!(["echo", 1, "é\n", {"a": [0.1, null]}]))]),
        ("", 0, vec![text(json!(["print", "stderr", "a\nb\u{1b}[2J\n"])), "--request-id".into(), id.into()]),
        ("plugin_raised", 1, vec![text(json!(["frame_error", "plugin_raised", "oh no", "Traceback"]))]),
        ("plugin_exited", 1, vec![text(json!(["frame_none"]))]),
        ("protocol_violation", 1, vec![text(json!(["frame_garbage"]))]),
        ("result_too_large", 1, vec![text(json!(["frame_sized", 70_000]))]),
        ("arguments_invalid", 2, vec!["{".into()]),
        ("arguments_invalid", 2, vec![r#"{"args":[],"args":[]}"#.into()]),
        ("arguments_invalid", 2, vec![r#"{"args":{}}"#.into()]),
        ("arguments_invalid", 2, vec![r#"{"plugin":"Probe"}"#.into()]),
        ("arguments_invalid", 2, vec![text(json!(["echo", "x".repeat(5000)]))]),
        ("usage", 2, vec!["{}".into(), "--project".into(), "/nowhere".into()]),
        ("timeout", 124, vec![text(json!(["sleep", 20])), "--timeout".into(), "400ms".into()]),
        ("class_not_found", 127, vec![text(json!(["frame_error", "class_not_found", "m"]))]),
        ("plugin_killed", 139, vec![text(json!(["raise", "SIGSEGV"]))]),
        ("plugin_killed", 137, vec![text(json!(["raise", "SIGKILL"]))]),
    ];
    for (code, exit, words) in outcomes {
        let words: Vec<String> = ["Probe", "run"].map(String::from).into_iter().chain(words).collect();
        let here = f.upm(words.clone()).run();
        let via = f.upm(["--via", &service.socket].into_iter().map(String::from).chain(words.clone())).run();
        assert_eq!((here.exit, via.exit), (Some(exit), Some(exit)), "{words:?}: {here:#?} {via:#?}");
        let (here, via) = (here.data(), via.data());
        assert_eq!(via["code"].as_str().unwrap_or(""), code, "{words:?}: {via:#}");
        for member in ["code", "result", "output", "traceback", "egress", "plugin_version"] {
            assert_eq!(here[member], via[member], "{member} of {words:?}");
        }
        if words[2] != "{}" {
            assert_eq!((&here["error"], &here["details"]), (&via["error"], &via["details"]), "{words:?}");
            assert_eq!(here["sandbox"]["plan_sha256"], via["sandbox"]["plan_sha256"], "{words:?}");
        }
        if words.iter().any(|word| word == id) {
            assert_eq!(via["request_id"], id);
        }
    }
    for (code, words) in [("plugin_not_allowed", ["Nope", "run"]), ("method_not_allowed", ["Probe", "nope"])] {
        assert_eq!(
            f.upm(words).run().failed(code, 126)["error"],
            f.upm(["--via", &service.socket, words[0], words[1]]).run().failed(code, 126)["error"]
        );
    }
    let ended = service.ended(Duration::from_secs(5));
    assert!(ended.iter().all(|status| *status == Some(0)), "a failed call must not fail the service: {ended:?}");
    assert_eq!(fs::read_to_string(f.path("service.log")).unwrap(), "");
    f.assert_clean();
}

/// The envelope comes from the process that made the call, and the record knows who asked for it.
#[rstest]
fn the_record_has_the_peer(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "") else { return };
    let service = Service::start(&f);
    let answer = f.upm(["--via", &service.socket, "Probe", "run", r#"{"args":["echo"]}"#]).run();
    let envelope = answer.envelope();
    assert_eq!(json!(service.pids()), json!([envelope["pid"]]), "the pid is the service's: {envelope:#}");
    let records = f.audit();
    assert_eq!(records.len(), 2);
    for record in &records {
        assert_eq!(
            (&record["UPM_CALLER_UID"], &record["UPM_CALLER_GID"]),
            (&json!(f.uid), &json!(f.uid)),
            "{record:#}"
        );
        assert_eq!(record["UPM_REQUEST_ID"], envelope["request_id"]);
        let pid = record["UPM_CALLER_PID"].as_i64().unwrap();
        assert!(pid > 1 && record["UPM_CALLER_PID"] != record["pid"], "{record:#}");
    }
    // a call made here has its user and no other process to name
    f.call("Probe", "run", &json!(["echo"]));
    let here = f.audit().pop().unwrap();
    assert_eq!((&here["UPM_CALLER_UID"], here.get("UPM_CALLER_PID")), (&json!(f.uid), None), "{here:#}");
}

/// Who logged in is the peer's, not the service's, and no guess: the kernel hands out the very process from 6.5 on.
#[test]
fn the_record_has_who_logged_in() {
    let Some(f) = Fixture::probe(Mode::Root, "") else { return };
    let service = Service::start(&f);
    let script = r#"echo 4242 > /proc/self/loginuid && exec "$0" "$@""#;
    let call = f.upm(["--via", &service.socket, "Probe", "run", r#"{"args":["echo"]}"#]);
    let answer = call.through(["/bin/sh", "-c", script]).run();
    if answer.stderr.contains("loginuid") {
        return skip("this kernel keeps no login user, or does not let it be set");
    }
    assert_eq!(answer.exit, Some(0), "{answer:#?}");
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or(0));
    let new = (numbers.next(), numbers.next()) >= (Some(6), Some(5));
    let expected = if new { json!(4242) } else { Value::Null };
    for record in f.audit() {
        assert_eq!(record["UPM_LOGIN_UID"], expected, "{record:#}");
    }
}

/// Without `callers` only root and the service's own user; with it, those whom the most specific table names, and root.
#[rstest]
fn callers_are_named_by_the_configuration(#[values(Mode::Root, Mode::User)] mode: Mode) {
    if !is_root() {
        return skip("needs root to call as another user");
    }
    let table = |defaults: &str, plugin: &str, method: &str| {
        format!("[defaults]\n{defaults}\n{PROBE}{plugin}\n[plugins.Probe.methods.run]\n{method}\n")
    };
    let Some(f) = Fixture::new(mode, &table("", "", "")) else { return };
    let service = Service::start(&f);
    let call = ["--via", &service.socket, "Probe", "run", r#"{"args":["echo","mine"]}"#];
    let own = || f.upm(call).run().exit;
    let cases: [(&str, &str, &str, bool, bool); 14] = [
        ("", "", "", false, true),
        ("", "", "callers = [\"user:45678\"]", true, false),
        ("", "", "callers = [\"group:45679\"]", true, false),
        ("", "", "callers = [\"group:45681\"]", true, false),
        ("", "callers = [\"user:1\", \"group:45680\"]", "", true, false),
        ("callers = [\"user:45678\"]", "", "", true, false),
        ("callers = [\"user:45678\"]", "callers = []", "", false, false),
        ("callers = []", "callers = []", "callers = [\"user:45678\"]", true, false),
        ("", "callers = [\"user:45678\"]", "callers = [\"user:1\"]", false, false),
        ("", "", "callers = [\"user:45679\", \"group:45678\"]", false, false),
        ("", "", "callers = [\"user:root\", \"group:root\"]", false, false),
        ("", "", "callers = [\"user:upm-test-no-such-user\", \"user:45678\"]", true, false),
        ("", "", "callers = [\"user:upm-test-no-such-user\"]", false, false),
        ("", "", "callers = []", false, false),
    ];
    for (defaults, plugin, method, other, own_too) in cases {
        f.config(&table(defaults, plugin, method));
        let before = f.audit().len();
        let (exit, envelope) = answered(&as_other(&f, &OTHER, &call));
        if other {
            assert_eq!(
                (exit, &envelope["data"]["result"]["value"]),
                (Some(0), &json!(["mine"])),
                "{defaults} {plugin} {method}"
            );
        } else {
            assert_eq!(
                (exit, envelope["data"]["code"].as_str()),
                (Some(126), Some("caller_not_allowed")),
                "{defaults} {plugin} {method}: {envelope:#}"
            );
            let records = f.audit().split_off(before);
            assert_eq!(records.len(), 1, "nothing was started: {records:#?}");
            let (record, data) = (&records[0], &envelope["data"]);
            assert_eq!(
                (&record["UPM_EVENT"], &record["UPM_CODE"]),
                (&json!("call_refused"), &json!("caller_not_allowed"))
            );
            assert_eq!((&record["UPM_CALLER_UID"], &record["UPM_CALLER_GID"]), (&json!(45_678), &json!(45_679)));
            assert_eq!((&record["UPM_PLUGIN"], &record["UPM_METHOD"]), (&json!("Probe"), &json!("run")));
            assert_eq!(record["UPM_REQUEST_ID"], envelope["request_id"]);
            assert!(record["UPM_CALLER_PID"].as_i64().unwrap() > 1);
            assert_eq!((&data["details"]["uid"], &data["details"]["gid"]), (&json!(45_678), &json!(45_679)));
        }
        // the service's own user, by a process of its own; root always may
        let expected = if mode == Mode::Root || own_too { 0 } else { 126 };
        assert_eq!(own(), Some(expected), "{defaults} {plugin} {method}");
        let root = envelope_of_root(&service);
        assert_eq!(root["success"], true, "{root:#}");
        // a call made here has its user's own rights, and is nobody else's matter
        assert_eq!(f.act("echo", json!(["here"]))["value"], json!(["here"]));
    }
}

fn envelope_of_root(service: &Service) -> Value {
    envelope(service.ask(&run(json!(["echo"]))))
}

/// Who may not call learns nothing of what there is: neither plugins, nor methods, nor directories.
#[rstest]
fn who_may_not_call_learns_nothing(#[values(Mode::Root, Mode::User)] mode: Mode) {
    if !is_root() {
        return skip("needs root to call as another user");
    }
    let Some(f) = Fixture::probe(mode, "") else { return };
    let service = Service::start(&f);
    let ask = |words: &[&str]| {
        let words = [&["--via", &service.socket], words].concat();
        let (exit, envelope) = answered(&as_other(&f, &OTHER, &words));
        (
            exit,
            envelope["data"]["code"].as_str().unwrap_or("").to_owned(),
            envelope["data"]["error"].as_str().unwrap_or("").to_owned(),
        )
    };
    let secret = f.mkdir("secret");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o700)).unwrap();
    let there = secret.to_str().unwrap().to_owned();
    for words in [&["Probe", "run"][..], &["Nope", "run"], &["Probe", "nope"], &["Probe", "run", "--project", &there]] {
        let (exit, code, error) = ask(words);
        assert_eq!((exit, code.as_str()), (Some(126), "caller_not_allowed"), "{words:?}: {error}");
    }
    // who may call this method still cannot ask the service's eyes what is there
    f.config(&format!("{PROBE}callers = [\"user:45678\"]\n"));
    let not_there = f.text("secret/nothing");
    let answers: Vec<_> = [&there, &not_there]
        .map(|dir| ask(&["Probe", "run", "--project", dir]))
        .into_iter()
        .map(|(exit, code, error)| (exit, code, error.replace("/nothing", "")))
        .collect();
    assert_eq!(answers[0], answers[1], "one answer for what is there and what is not");
    assert_eq!((answers[0].0, answers[0].1.as_str()), (Some(2), "usage"));
    let (_, _, here) = {
        let answer = f.upm(["Probe", "run", "--project", &not_there]).run();
        (0, 0, answer.failed("usage", 2)["error"].as_str().unwrap().to_owned())
    };
    assert!(here.contains("No such file"), "a local call names the reason: {here}");
}

#[rstest]
fn twenty_calls_at_once(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "") else { return };
    let service = Service::start(&f);
    let calls: Vec<_> = (0..20)
        .map(|n| f.upm(["--via", &service.socket, "Probe", "run", &json!({"args": ["echo", n]}).to_string()]).start())
        .collect();
    for (n, call) in calls.into_iter().enumerate() {
        assert_eq!(call.wait().result()["value"], json!([n]));
    }
    let records = f.audit();
    assert_eq!(records.len(), 40);
    let mut pids: Vec<_> = records.iter().map(|record| record["UPM_CALLER_PID"].as_i64().unwrap()).collect();
    pids.sort_unstable();
    pids.dedup();
    assert_eq!(pids.len(), 20);
    assert_eq!(service.ended(Duration::from_secs(5)).len(), 20);
    f.assert_clean();
}

#[rstest]
fn what_is_no_request_is_refused_and_recorded(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "") else { return };
    let service = Service::start(&f);
    assert_eq!(envelope_of_root(&service)["success"], true, "the control");
    let good = run(json!(["echo"])).to_string();
    let id = "cdb3458d-0b84-491a-9c4e-709f30e11111";
    let with_id = format!(r#"{{"plugin":"Probe","method":"run","nope":1,"request_id":"{id}"}}"#) + "\n";
    let cases: Vec<(Vec<u8>, &str, &str)> = vec![
        (b"\n".to_vec(), "usage", "not valid JSON"),
        (b"GET / HTTP/1.1\r\n".to_vec(), "usage", "not valid JSON"),
        (b"\x1b[2J\xff\n".to_vec(), "usage", "not valid JSON"),
        (b"[]\n".to_vec(), "usage", "not a JSON object"),
        (b"{}\n".to_vec(), "usage", "`plugin` is missing"),
        (
            good.replace("\"plugin\":\"Probe\"", "\"plugin\":\"Probe\",\"plugin\":\"Probe\"").into_bytes(),
            "usage",
            "twice",
        ),
        (b"{\"plugin\":\"Probe\",\"method\":\"run\",\"args\":[{\"a\":1,\"a\":1}]}\n".to_vec(), "usage", "twice"),
        (with_id.into_bytes(), "usage", "nope is not a member"),
        (format!("{good}\n{good}\n").into_bytes(), "usage", "something follows"),
        (format!("{good}\n\n").into_bytes(), "usage", "something follows"),
        (b"{\"plugin\":\"Probe\",\"method\":\"run\",\"args\":7}\n".to_vec(), "arguments_invalid", "args"),
        (
            format!("{{\"plugin\":\"Probe\",\"method\":\"run\",\"args\":{}1{}}}\n", "[".repeat(70), "]".repeat(70))
                .into_bytes(),
            "arguments_invalid",
            "64",
        ),
        (vec![b'x'; 2 << 20], "arguments_invalid", "longer than"),
        ([vec![b' '; 2 << 20], good.clone().into_bytes(), b"\n".to_vec()].concat(), "arguments_invalid", "longer than"),
    ];
    let before = f.audit().len();
    for (n, (mut bytes, code, text)) in cases.into_iter().enumerate() {
        if bytes.len() < 1 << 20 && !bytes.ends_with(b"\n") {
            bytes.push(b'\n');
        }
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(100)]).into_owned();
        let lines = service.say(&bytes);
        assert_eq!(lines.len(), 1, "{shown}");
        if shown.contains(id) {
            assert_eq!(lines[0]["request_id"], id, "an answer that can be found");
        }
        let error = refused(lines, code);
        assert!(error.contains(text) && !error.contains('\u{1b}'), "{shown}: {error}");
        let records = f.audit();
        assert_eq!(records.len(), before + n + 1, "{shown}");
        let record = records.last().unwrap();
        assert_eq!((&record["UPM_EVENT"], &record["UPM_CODE"]), (&json!("call_refused"), &json!(code)), "{record:#}");
        assert_eq!(record["UPM_CALLER_PID"], json!(std::process::id()), "{record:#}");
    }
    // ends before its newline: here at once, below after a while
    let mut stream = service.connect();
    stream.write_all(good.as_bytes()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert!(refused(lines(stream), "usage").contains("no end"));
    let mut stream = service.connect();
    stream.write_all(good.as_bytes()).unwrap();
    let at = Instant::now();
    assert!(refused(lines(stream), "usage").contains("within 5 s"));
    assert!((4..8).contains(&at.elapsed().as_secs()), "{:?}", at.elapsed());
    assert!(service.ended(Duration::from_secs(5)).iter().all(|status| *status == Some(0)));
    f.assert_clean();
}

/// The bound before parsing follows the configuration.
#[rstest]
fn larger_arguments_where_the_configuration_allows_them(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "\n[plugins.Probe.methods.run]\narguments = \"3MiB\"\noutput = \"1KiB\"") else {
        return;
    };
    let service = Service::start(&f);
    let ask = |bytes: usize| {
        let text = json!({"args": ["echo", "x".repeat(bytes)]}).to_string();
        f.upm(["--via", &service.socket, "Probe", "run", "-"]).stdin(text).run()
    };
    assert_eq!(ask(2 << 20).result()["value"][0].as_str().unwrap().len(), 2 << 20);
    ask(4 << 20).failed("arguments_invalid", 2);
    f.config(PROBE);
    let refused = ask(2 << 20).failed("arguments_invalid", 2);
    assert_eq!(refused["details"]["max_bytes"], (1 << 20) + (32 << 10), "{refused:#}");
    assert_eq!(ask((1 << 20) - 100).exit, Some(0), "as much as a call made here");
}

#[rstest]
fn arguments_from_stdin(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "") else { return };
    let service = Service::start(&f);
    let call = || f.upm(["--via", &service.socket, "Probe", "run", "-"]);
    assert_eq!(call().stdin(r#" {"args": ["echo", "é"]} "#).run().result()["value"], json!(["é"]));
    call().stdin("{").run().failed("arguments_invalid", 2);
    call().run().failed("arguments_invalid", 2);
}

/// A relative `--project` belongs to the caller's directory, not to the service's.
#[rstest]
fn a_relative_project_is_the_callers(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::bare(mode) else { return };
    f.mkdir("work");
    f.mkdir_writable("work/shop");
    let head = f.config_head();
    let projects = format!("projects = [\"{}\"]\n", f.text("work/*"));
    f.write("upm_config.toml", format!("{projects}{head}{PROBE}write = [\"{{project_root}}\"]\n"));
    let service = Service::start(&f);
    let file = f.text("work/shop/made");
    let words = json!({"args": ["write", file, "x"]}).to_string();
    let call = |dir: &str| {
        f.upm(["--via", &service.socket, "Probe", "run", &words, "--project", "shop"]).cwd(f.path(dir)).run()
    };
    call("home").failed("usage", 2);
    assert_eq!(call("work").result()["ok"], true);
    assert_eq!(fs::read_to_string(&file).unwrap(), "x");
}

#[rstest]
fn progress_and_stderr_come_as_they_are_asked_for(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "") else { return };
    let service = Service::start(&f);
    let ask = |act: Value, asked: Value| {
        let mut request = run(act);
        request.as_object_mut().unwrap().extend(asked.as_object().unwrap().clone());
        service.ask(&request)
    };
    let mut told = ask(json!(["frame_progress", 3]), json!({"progress": true}));
    assert_eq!(envelope(told.split_off(3))["data"]["result"], "good");
    assert_eq!(told[0], json!({"type": "progress", "message": "step 0", "fraction": 1.0 / 3.0}));
    assert_eq!(told[2], json!({"type": "progress", "message": "step 2", "fraction": 1.0}));
    let text = "one\n\u{1b}[2Jé";
    let mut told = ask(json!(["print", "stderr", text]), json!({"verbose": true}));
    let last = envelope(vec![told.pop().unwrap()]);
    assert_eq!(last["data"]["output"]["stderr"], text);
    assert!(told.iter().all(|line| line["type"] == "stderr" && line.as_object().unwrap().len() == 2), "{told:?}");
    assert_eq!(told.iter().filter_map(|line| line["text"].as_str()).collect::<String>(), text);
    // without either key only the answer is sent
    for act in [json!(["frame_progress", 3]), json!(["print", "stderr", "x"])] {
        assert_eq!(ask(act, json!({"verbose": false})).len(), 1);
    }
    let print = json!({"args": ["print", "stderr", "one\ntwo\n"]}).to_string();
    let loud = f.upm(["-v", "--via", &service.socket, "Probe", "run", &print]).run();
    assert_eq!((loud.exit, loud.stderr.as_str()), (Some(0), "one\ntwo\n"));
    assert_eq!(f.upm(["--via", &service.socket, "Probe", "run", &print]).run().stderr, "");
}

/// It comes while the call runs, not with its end.
#[rstest]
fn stderr_comes_before_the_end(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "") else { return };
    let service = Service::start(&f);
    let mut stream = service.connect();
    let request = json!({"plugin": "Probe", "method": "run", "verbose": true, "args": ["batch", ["print", "stderr", "soon\n"], ["sleep", 20]]});
    writeln!(stream, "{request}").unwrap();
    let mut first = String::new();
    let at = Instant::now();
    BufReader::new(stream.try_clone().unwrap()).read_line(&mut first).unwrap();
    assert!(at.elapsed() < Duration::from_secs(10) && first.contains("soon"), "{first}");
    drop(stream);
    service.ended(Duration::from_secs(5));
    f.assert_clean();
}

#[rstest]
#[case(Signal::SIGINT, 130)]
#[case(Signal::SIGTERM, 143)]
#[case(Signal::SIGHUP, 129)]
fn a_signal_to_the_client_cancels_the_call(
    #[case] signal: Signal,
    #[case] exit: i32,
    #[values(Mode::Root, Mode::User)] mode: Mode,
) {
    let Some(f) = Fixture::probe(mode, "write = [\"{project_root}\"]") else { return };
    let service = Service::start(&f);
    let path = f.path("project/begun");
    let words = json!({"args": ["sleep", 30, path]}).to_string();
    let defaults = ["/usr/bin/env", "--default-signal=HUP,INT,TERM"];
    let running = f.upm(["--via", &service.socket, "Probe", "run", &words]).through(defaults).start();
    begun(&path);
    let at = Instant::now();
    running.signal(signal);
    let answer = running.wait();
    let data = answer.failed("cancelled", exit);
    assert!(at.elapsed() < Duration::from_secs(4), "{:?}", at.elapsed());
    assert_eq!(data["details"]["signal"], signal.as_str());
    assert_eq!(json!(service.pids()), json!([data["pid"]]), "the service's own answer");
    assert!(data["usage"].is_object(), "with what a call made here tells: {data:#}");
    assert_eq!(service.ended(Duration::from_secs(5)), [Some(0)]);
    f.assert_clean();
    assert_eq!(f.audit().last().unwrap()["UPM_CODE"], "cancelled");
}

/// Gone without a word: killed, or a connection that is closed.
#[rstest]
fn a_client_that_is_gone_cancels_its_call(
    #[values(Mode::Root, Mode::User)] mode: Mode,
    #[values(true, false)] killed: bool,
) {
    let Some(f) = Fixture::probe(mode, "write = [\"{project_root}\"]") else { return };
    let service = Service::start(&f);
    let path = f.path("project/begun");
    let act = json!(["batch", ["orphan", 30], ["sleep", 30, path]]);
    if killed {
        let running = f.upm(["--via", &service.socket, "Probe", "run", &json!({ "args": act }).to_string()]).start();
        begun(&path);
        running.signal(Signal::SIGKILL);
        assert_eq!(running.wait().signal, Some(9));
    } else {
        let mut stream = service.connect();
        writeln!(stream, "{}", run(act)).unwrap();
        begun(&path);
        assert!(f.leftovers().len() >= 3, "the control: it is under way: {:?}", f.leftovers());
        drop(stream);
    }
    let at = Instant::now();
    service.ended(Duration::from_secs(4));
    println!("gone after {:?}", at.elapsed());
    f.assert_clean();
    let last = f.audit().pop().unwrap();
    assert_eq!((&last["UPM_EVENT"], &last["UPM_CODE"]), (&json!("call_finished"), &json!("cancelled")), "{last:#}");
}

/// Also while the host's pip is asked for its configuration, which is most of this call's start.
#[rstest]
fn a_hang_up_at_any_moment_is_seen(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let pip = "egress = [\"pip\"]\n[egress.pip]\nclient = \"pip\"";
    let Some(f) = Fixture::probe(mode, pip) else { return };
    let service = Service::start(&f);
    for n in 0..10 {
        let mut stream = service.connect();
        writeln!(stream, "{}", run(json!(["sleep", 30]))).unwrap();
        std::thread::sleep(Duration::from_millis(70 * n));
    }
    service.ended(Duration::from_secs(15));
    f.assert_clean();
    let ends: Vec<Value> = f.audit().into_iter().filter(|record| record["UPM_EVENT"] != "call_started").collect();
    assert_eq!(ends.len(), 10);
    assert!(ends.iter().all(|record| record["UPM_CODE"] == "cancelled"), "{ends:#?}");
}

/// `shutdown` of one direction, as `nc -N` and `socat` do it, says only that there is no more to be read.
#[rstest]
fn half_a_hang_up_is_none(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "") else { return };
    let service = Service::start(&f);
    let mut stream = service.connect();
    writeln!(stream, "{}", run(json!(["batch", ["sleep", 1], ["echo", "still"]]))).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    std::thread::sleep(Duration::from_millis(800));
    // and it does not spin meanwhile: utime and stime of proc_pid_stat(5), in hundredths of a second
    let stat = fs::read_to_string(format!("/proc/{}/stat", service.pids()[0])).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let spent: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    assert!(spent < 40, "{stat}");
    let answer = envelope(lines(stream));
    assert_eq!(answer["data"]["result"]["answers"][1]["value"], json!(["still"]), "{answer:#}");
}

/// Whoever does not read its answer does not keep the service.
#[rstest]
fn a_client_that_does_not_read_is_left(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "timeout = \"20s\"") else { return };
    let service = Service::start(&f);
    let mut stream = service.connect();
    writeln!(stream, "{}", run(json!(["frame_sized", 4_000_000]))).unwrap();
    let at = Instant::now();
    assert_eq!(service.ended(Duration::from_secs(25)), [Some(0)]);
    assert!(at.elapsed() > Duration::from_secs(9), "it was given time: {:?}", at.elapsed());
    assert!(fs::read_to_string(f.path("service.log")).unwrap().contains("does not read"));
    let mut some = Vec::new();
    stream.read_to_end(&mut some).unwrap();
    assert!(!some.is_empty() && some.len() < 4_000_000, "{}", some.len());
    assert_eq!(f.audit().last().unwrap()["UPM_CODE"], "ok", "the call itself was done");
}

/// A flood of progress that nobody reads neither blocks the call nor grows.
#[rstest]
fn progress_that_nobody_reads_does_not_hold_the_call(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "timeout = \"3s\"") else { return };
    let service = Service::start(&f);
    let mut stream = service.connect();
    let mut request = run(json!(["frame_progress_forever"]));
    request["progress"] = json!(true);
    writeln!(stream, "{request}").unwrap();
    std::thread::sleep(Duration::from_millis(3500));
    let all = lines(stream);
    assert!(all.len() > 100, "{}", all.len());
    assert_eq!(
        refused(all, "timeout"),
        "Probe.run: not done after 3 s; raise `timeout` for this method if it needs longer"
    );
}

#[rstest]
fn words_that_do_not_go_together(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "") else { return };
    let config = f.text("upm_config.toml");
    for words in [
        &["--via", "x", "--config", &config, "Probe", "run"][..],
        &["--via", "x", "list"],
        &["--via", "x", "explain", "Probe", "run"],
        &["--via", "x", "check"],
        &["--via", "x", "doctor"],
        &["--via", "x", "serve"],
        &["serve", "x"],
        &["serve", "--project", "/"],
        &["serve", "--json"],
        // stdin is not a socket
        &["serve"],
    ] {
        f.upm(words.iter().copied()).run().failed("usage", 2);
    }
}

/// Only an accepted UNIX stream is served: nothing else says who calls.
#[rstest]
fn other_sockets_are_refused(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "") else { return };
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let _tcp = std::net::TcpStream::connect(tcp.local_addr().unwrap()).unwrap();
    let (_datagram, two) = std::os::unix::net::UnixDatagram::pair().unwrap();
    let listening = UnixListener::bind(f.path("listening")).unwrap();
    let sockets: [(OwnedFd, &str); 3] = [
        (tcp.accept().unwrap().0.into(), "not a UNIX stream socket"),
        (two.into(), "not a UNIX stream socket"),
        (listening.into(), "a listening socket"),
    ];
    for (socket, why) in sockets {
        let output = f.as_caller(&f.path("bin/upm")).arg("serve").current_dir(f.dir()).stdin(socket).output().unwrap();
        let (exit, envelope) = answered(&output);
        assert_eq!((exit, envelope["data"]["code"].as_str()), (Some(2), Some("usage")), "{envelope:#}");
        assert!(envelope["data"]["error"].as_str().unwrap().contains(why), "{envelope:#}");
    }
}

/// systemd's own program for trying socket activation, in both of its ways.
#[rstest]
fn systemd_starts_it(#[values(Mode::Root, Mode::User)] mode: Mode, #[values("--inetd", "--accept")] how: &str) {
    if !has_program("systemd-socket-activate") {
        return;
    }
    let Some(f) = Fixture::probe(mode, "") else { return };
    let socket = f.text("home/upm.sock");
    let mut command = f.as_caller(&which("systemd-socket-activate").unwrap());
    command.args(["--accept", how, "-l", &socket]).arg(f.path("bin/upm")).args([
        "serve",
        "--config",
        &f.text("upm_config.toml"),
    ]);
    let log = fs::File::create(f.path("activate.log")).unwrap();
    let mut activate = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
    begun(Path::new(&socket));
    let answers: Vec<_> = (0..3)
        .map(|n| f.upm(["--via", &socket, "Probe", "run", &json!({"args": ["echo", n]}).to_string()]).run())
        .collect();
    activate.kill().unwrap();
    activate.wait().unwrap();
    for (n, answer) in answers.into_iter().enumerate() {
        assert_eq!(answer.result()["value"], json!([n]), "{}", fs::read_to_string(f.path("activate.log")).unwrap());
    }
    f.assert_clean();
}

#[rstest]
fn a_service_that_is_not_there_is_explained(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "") else { return };
    let failed = |socket: &str, code: &str, exit: i32| {
        f.upm(["--via", socket, "Probe", "run"]).run().failed(code, exit)["error"].as_str().unwrap().to_owned()
    };
    assert!(failed("nowhere.sock", "internal", 125).contains("systemctl start upm.socket"));
    drop(UnixListener::bind(f.path("stale.sock")).unwrap());
    fs::set_permissions(f.path("stale.sock"), fs::Permissions::from_mode(0o666)).unwrap();
    assert!(failed("stale.sock", "internal", 125).contains("nothing listens there"));
    assert!(failed("upm_config.toml", "internal", 125).contains("nothing listens there"));
    failed(&"x".repeat(200), "internal", 125);
    // nobody's refusal but the client's own: a service that was not reached has no record of it
    assert_eq!(f.audit(), Vec::<Value>::new());
    if is_root() {
        let closed = f.text("closed.sock");
        let _listener = UnixListener::bind(&closed).unwrap();
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o600)).unwrap();
        let (exit, envelope) = answered(&as_other(&f, &OTHER, &["--via", &closed, "Probe", "run"]));
        assert_eq!((exit, envelope["data"]["code"].as_str()), (Some(126), Some("caller_not_allowed")), "{envelope:#}");
        assert!(envelope["data"]["error"].as_str().unwrap().contains("you may not connect"), "{envelope:#}");
    }
}

/// Root may connect to any socket.
#[test]
fn root_connects_to_anyones_socket() {
    let Some(f) = Fixture::probe(Mode::Root, "") else { return };
    let service = Service::start(&f);
    chown(&service.socket, Some(45_678), Some(45_679)).unwrap();
    fs::set_permissions(&service.socket, fs::Permissions::from_mode(0o600)).unwrap();
    let call = ["--via", &service.socket, "Probe", "run", r#"{"args":["echo"]}"#];
    assert_eq!(f.upm(call).run().exit, Some(0));
    // the owner too (the answer says that the configuration does not name it), and nobody else
    for (uid, error) in [(45_678, "is not allowed to call it"), (45_679, "you may not connect")] {
        let (_, envelope) = answered(&as_other(&f, &Other { uid, ..OTHER }, &call));
        assert!(envelope["data"]["error"].as_str().unwrap().contains(error), "{envelope:#}");
    }
}

/// A server that says something else, or nothing: `MaxConnections=` closes at once what is too many.
#[rstest]
#[case(b"", "closed the connection without an answer: it may have too many connections")]
#[case(b"{\"success\":true", "closed the connection before its answer was complete")]
#[case(
    b"{\"type\":\"progress\",\"message\":\"m\",\"fraction\":null}\n",
    "closed the connection before its answer was complete"
)]
#[case(b"what\n", "sent an invalid response")]
#[case(b"{\"success\":true,\"x\":\"\xff\"}\n", "sent an invalid response")]
#[case(b"{\"type\":\"verdict\"}\n", "sent an invalid response")]
#[case(b"{\"success\":true,\"data\":{}}\n{}", "sent more data after its answer")]
fn a_server_that_breaks_off_is_explained(#[case] says: &[u8], #[case] why: &str) {
    let mode = if is_root() { Mode::Root } else { Mode::User };
    let Some(f) = Fixture::bare(mode) else { return };
    let socket = f.text("odd.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let said = says.to_owned();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        if !said.is_empty() {
            let mut line = String::new();
            BufReader::new(stream.try_clone().unwrap()).read_line(&mut line).unwrap();
            stream.write_all(&said).unwrap();
        }
    });
    let data = f.upm(["--via", &socket, "Probe", "run"]).run().failed("internal", 125);
    server.join().unwrap();
    let error = data["error"].as_str().unwrap();
    assert!(error.contains(why) && error.contains("journalctl -u upm.socket -u 'upm@*'"), "{error}");
    assert!(data["details"]["remedy"].as_str().unwrap().contains("journalctl"), "{data:#}");
}

/// A service that hangs keeps nobody beyond `--timeout` and a little, and a signal ends the wait.
#[test]
fn a_server_that_says_nothing_is_left() {
    let mode = if is_root() { Mode::Root } else { Mode::User };
    let Some(f) = Fixture::bare(mode) else { return };
    let socket = f.text("mute.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let at = Instant::now();
    let timed = f.upm(["--via", &socket, "Probe", "run", "--timeout", "100ms"]).start();
    let defaults = ["/usr/bin/env", "--default-signal=INT"];
    let cancelled = f.upm(["--via", &socket, "Probe", "run"]).through(defaults).start();
    let accepted: Vec<_> = (0..2).map(|_| listener.accept().unwrap()).collect();
    std::thread::sleep(Duration::from_millis(300));
    cancelled.signal(Signal::SIGINT);
    cancelled.wait().failed("cancelled", 130);
    assert!((4..8).contains(&at.elapsed().as_secs()), "{:?}", at.elapsed());
    assert!(timed.wait().failed("internal", 125)["error"].as_str().unwrap().contains("did not answer in time"));
    assert!((9..14).contains(&at.elapsed().as_secs()), "{:?}", at.elapsed());
    drop(accepted);
}

/// An unusable configuration is the service's failure and is reported like any other.
#[rstest]
fn a_broken_configuration_is_told_and_fails_the_unit(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "nope = 1") else { return };
    let service = Service::start(&f);
    let answer = f.upm(["--via", &service.socket, "Probe", "run"]).run();
    assert!(answer.failed("config_invalid", 125)["error"].as_str().unwrap().contains("nope"));
    assert_eq!(service.ended(Duration::from_secs(5)), [Some(125)]);
}

/// Stopping the unit cancels the call, and the caller gets `cancelled`.
#[rstest]
fn a_service_that_is_stopped_answers(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "write = [\"{project_root}\"]") else { return };
    let service = Service::start(&f);
    let path = f.path("project/begun");
    let running =
        f.upm(["--via", &service.socket, "Probe", "run", &json!({"args": ["sleep", 30, path]}).to_string()]).start();
    begun(&path);
    let stop = |pid: u32, signal| nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), signal).unwrap();
    stop(service.pids()[0], Signal::SIGTERM);
    running.wait().failed("cancelled", 143);
    // killed: no answer, and nothing left
    fs::remove_file(&path).unwrap();
    let running =
        f.upm(["--via", &service.socket, "Probe", "run", &json!({"args": ["sleep", 30, path]}).to_string()]).start();
    begun(&path);
    stop(service.pids()[1], Signal::SIGKILL);
    assert!(running.wait().failed("internal", 125)["error"].as_str().unwrap().contains("closed the connection"));
    f.assert_clean();
}

#[rstest]
fn check_finds_callers_that_nobody_is(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "callers = [\"user:root\", \"group:upm-test-no-such-group\"]") else { return };
    let found = |f: &Fixture| -> Vec<String> {
        let answer = f.upm(["check", "--json"]).run();
        assert_eq!(answer.exit, Some(0), "a warning: {answer:#?}");
        let checked: Value = serde_json::from_str(&answer.stdout).unwrap();
        let all = checked["findings"].as_array().unwrap().iter().filter(|one| one["severity"] == "warning");
        all.filter_map(|one| one["message"].as_str())
            .filter(|text| text.contains("callers"))
            .map(String::from)
            .collect()
    };
    let warnings = found(&f);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("group:upm-test-no-such-group"), "{warnings:?}");
    let explained = f.upm(["explain", "Probe", "run"]).run().stdout;
    assert!(
        explained.contains(r#"callers = ["user:root","group:upm-test-no-such-group"]  (plugin, line "#),
        "{explained}"
    );
    f.config(&format!("{PROBE}callers = [\"user:root\", \"user:4242\"]\n"));
    assert_eq!(found(&f), Vec::<String>::new());
}

/// `setpriv`'s words for exactly these capabilities.
fn bounding(names: &[String]) -> Vec<String> {
    let list =
        names.iter().map(|name| format!(",+{}", name.trim_start_matches("CAP_").to_lowercase())).collect::<String>();
    ["setpriv".to_owned(), "--bounding-set".to_owned(), format!("-all{list}"), "--".to_owned()].to_vec()
}

/// As root the engine works with what `OF_ROOT` lists, and with nothing less.
#[test]
fn root_needs_the_listed_capabilities_and_no_other() {
    let grant = "write = [\"{project_root}\"]\negress = [\"any\"]\n[egress.any]\nhosts = [\"localhost:80\"]\nallow_private = true";
    let Some(f) = Fixture::probe(Mode::Root, grant) else { return };
    // a project that its owner alone may enter, of another user: opened by root, written as that user
    let head = f
        .config_head()
        .replace("project_root = \"project\"", &format!("project_root = \"{}\"", f.text("private/project")));
    f.mkdir("private");
    f.mkdir("private/project");
    for dir in ["private/project", "private"] {
        chown(f.path(dir), Some(45_678), Some(45_679)).unwrap();
        fs::set_permissions(f.path(dir), fs::Permissions::from_mode(0o700)).unwrap();
    }
    f.write("upm_config.toml", format!("{head}{PROBE}{grant}\n"));
    let all = upm::confine::privileges::OF_ROOT.map(|(name, ..)| name.to_owned()).to_vec();
    let made = f.path("private/project/made");
    let call = |names: &[String]| {
        let _ = fs::remove_file(&made);
        f.upm(["Probe", "run", &json!({"args": ["write", made, "x"]}).to_string()]).through(bounding(names)).run()
    };
    assert_eq!(call(&all).result()["ok"], true);
    let data = fs::metadata(&made).unwrap();
    assert_eq!((data.uid(), data.gid()), (45_678, 45_679));
    for (at, name) in all.iter().enumerate() {
        let fewer: Vec<String> =
            all.iter().enumerate().filter(|(other, _)| *other != at).map(|(_, name)| name.clone()).collect();
        let data = call(&fewer).failed("sandbox_unavailable", 125);
        assert_eq!(
            (&data["details"]["object"], &data["details"]["layer"]),
            (&json!(name), &json!("capabilities")),
            "{data:#}"
        );
        assert!(!made.exists());
    }
    // a larger bounding set that cannot be made smaller
    let more: Vec<String> = all.iter().cloned().chain(["CAP_KILL".to_owned()]).collect();
    assert_eq!(call(&more).failed("sandbox_unavailable", 125)["details"]["object"], "CAP_SETPCAP");
    let more: Vec<String> = more.into_iter().chain(["CAP_SETPCAP".to_owned()]).collect();
    assert_eq!(call(&more).result()["ok"], true, "the control");
    // and the service's unit may have just that
    let words = bounding(&all);
    let service = Service::through(&f, &words.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(f.upm(["--via", &service.socket, "Probe", "run", r#"{"args":["echo"]}"#]).run().exit, Some(0));
}

/// Root's other capabilities are gone before anything is done: a command that only waits shows it.
#[test]
fn root_gives_up_the_rest_at_once() {
    let Some(f) = Fixture::probe(Mode::Root, "") else { return };
    let mut held: u64 = 0;
    for (_, capability, _) in upm::confine::privileges::OF_ROOT {
        held |= capability.bits();
    }
    let service = Service::start(&f);
    let stream = service.connect();
    let end = Instant::now() + Duration::from_secs(4);
    let sets = loop {
        let sets = service.pids().first().map(|pid| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"].map(|name| {
                let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
                u64::from_str_radix(line.trim_start_matches(':').trim(), 16).unwrap_or(u64::MAX)
            })
        });
        // it waits for its request
        if sets == Some([0, held, held, held, 0]) || Instant::now() > end {
            break sets;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    assert_eq!(sets, Some([0, held, held, held, 0]), "{held:x}");
    drop(stream);
}
