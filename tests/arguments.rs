//! Names and arguments: invalid ones are refused before anything runs.

mod common;

use common::{Fixture, Mode};
use rstest::rstest;
use serde_json::{Value, json};

fn bad_names() -> Vec<String> {
    let mut names: Vec<String> = [
        "..",
        ".",
        "../Probe",
        "/Probe",
        "Probe/",
        "./Probe",
        "Probe\n",
        "\nProbe",
        "Probe ",
        " Probe",
        "Pro be",
        "Probe;id",
        "$(id)",
        "`id`",
        "Probe\u{1b}[2J",
        "Probé",
        "Ρrobe",
        "РrоЬе",
        "ПРОБА",
        "插件",
        "_Probe",
        "9Probe",
        "Probe.run",
        "Probe::run",
        "probe\u{200b}",
        "Probe\u{202e}",
        "%50robe",
        "Probe%00",
        "*",
        "?",
        "",
        "'",
        "\"",
        "\\",
        "~",
        "-Probe",
        "--Probe",
        "-",
        "__class__",
        "Probe\r",
    ]
    .iter()
    .map(|name| (*name).to_owned())
    .collect();
    names.push("P".repeat(10_000));
    names.push("P".repeat(65));
    names
}

#[rstest]
fn bad_plugin_names(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "") else { return };
    for name in bad_names() {
        let answer = f.upm([name.as_str(), "run", "{}"]).run();
        let envelope = answer.envelope();
        let code = envelope["data"]["code"].as_str().unwrap().to_owned();
        assert!(["usage", "plugin_not_allowed"].contains(&code.as_str()), "{name:?}: {envelope:#}");
        let exit = if code == "usage" { 2 } else { 126 };
        assert_eq!(answer.exit, Some(exit), "{name:?}");
        assert!(answer.stdout.len() < 10_000, "{name:?}: a bounded answer");
        assert!(!answer.stdout.contains('\u{1b}') && !answer.stderr.contains('\u{1b}'), "{name:?}: {answer:?}");
    }
    assert_eq!(f.upm(["Probe", "run", r#"{"args":["echo"]}"#]).run().exit, Some(0));
}

#[rstest]
fn bad_method_names(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "") else { return };
    for name in bad_names().into_iter().chain(["_run", "__init__", "__reduce__", "run.run", "Run"].map(str::to_owned)) {
        let answer = f.upm(["Probe", name.as_str(), "{}"]).run();
        let code = answer.data()["code"].as_str().unwrap().to_owned();
        assert!(["usage", "method_not_allowed"].contains(&code.as_str()), "{name:?}: {:#}", answer.data());
    }
}

#[cfg(unix)]
#[rstest]
fn names_that_are_not_utf8(#[values(Mode::Root, Mode::User)] mode: Mode) {
    use std::os::unix::ffi::OsStringExt as _;
    let Some(f) = Fixture::probe(mode, "") else { return };
    let bad = std::ffi::OsString::from_vec(b"Prob\xff".to_vec());
    for args in [
        vec![bad.clone(), "run".into(), "{}".into()],
        vec!["Probe".into(), bad.clone(), "{}".into()],
        vec!["Probe".into(), "run".into(), bad],
    ] {
        let answer = f.upm(args).run();
        assert!([Some(2), Some(126)].contains(&answer.exit), "{answer:#?}");
        answer.envelope();
    }
}

#[rstest]
#[case::no_json("{")]
#[case::plain_text("hello")]
#[case::empty("")]
#[case::array("[]")]
#[case::number("1")]
#[case::null("null")]
#[case::string("\"x\"")]
#[case::unknown_member(r#"{"args":[],"other":1}"#)]
#[case::args_no_list(r#"{"args":{}}"#)]
#[case::args_text(r#"{"args":"x"}"#)]
#[case::kwargs_no_object(r#"{"kwargs":[]}"#)]
#[case::nan(r#"{"args":[NaN]}"#)]
#[case::infinity(r#"{"args":[Infinity]}"#)]
#[case::negative_infinity(r#"{"args":[-Infinity]}"#)]
#[case::too_large_number(r#"{"args":[1e999]}"#)]
#[case::duplicate(r#"{"args":[],"args":[]}"#)]
#[case::duplicate_kwargs(r#"{"kwargs":{"a":1,"a":2}}"#)]
#[case::duplicate_nested(r#"{"args":[{"a":1,"a":2}]}"#)]
#[case::duplicate_escaped(r#"{"args":[{"a":1,"\u0061":2}]}"#)]
#[case::trailing("{} {}")]
#[case::trailing_comma(r#"{"args":[1,]}"#)]
#[case::comment("{/* */}")]
#[case::lone_surrogate(r#"{"args":["\ud800"]}"#)]
#[case::control_character("{\"args\":[\"\u{1}\"]}")]
#[case::bom("\u{feff}{}")]
fn arguments_that_do_not_fit(#[case] arguments: &str, #[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "") else { return };
    let answer = f.upm(["Probe", "run", arguments]).run();
    answer.failed("arguments_invalid", 2);
    let by_stdin = f.upm(["Probe", "run", "-"]).stdin(arguments).run();
    by_stdin.failed("arguments_invalid", 2);
    assert!(f.audit().iter().all(|r| r["UPM_EVENT"] == "call_refused"), "{:#?}", f.audit());
}

#[rstest]
fn depth_and_size_are_bounded(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "arguments = \"64KiB\"") else { return };
    let nested = |depth: usize| format!(r#"{{"args":["echo",{}1{}]}}"#, "[".repeat(depth), "]".repeat(depth));
    // the object and the list of args are two levels of the 64
    assert_eq!(f.upm(["Probe", "run", &nested(62)]).run().exit, Some(0));
    f.upm(["Probe", "run", &nested(63)]).run().failed("arguments_invalid", 2);
    f.upm(["Probe", "run", "-"]).stdin(nested(30_000)).run().failed("arguments_invalid", 2);
    let sized = |bytes: usize| {
        let empty = r#"{"args":["echo",""]}"#.len();
        format!(r#"{{"args":["echo","{}"]}}"#, "x".repeat(bytes - empty))
    };
    assert_eq!(f.upm(["Probe", "run", "-"]).stdin(sized(65_536)).run().exit, Some(0));
    f.upm(["Probe", "run", "-"]).stdin(sized(65_537)).run().failed("arguments_invalid", 2);
}

/// An endless stdin is read only up to the limit.
#[rstest]
fn endless_stdin_is_refused(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "") else { return };
    let script = r#"tr '\0' ' ' </dev/zero | "$0" "$@""#;
    let answer = f.upm(["Probe", "run", "-"]).through(["/bin/sh", "-c", script]).run();
    answer.failed("arguments_invalid", 2);
}

#[rstest]
fn no_arguments_are_empty_ones(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::new(mode, "[plugins.Probe]\nexec = \"plugins/upm-probe\"\nallowed_methods = [\"report\"]\n")
    else {
        return;
    };
    for args in
        [vec!["Probe", "report"], vec!["Probe", "report", "{}"], vec!["Probe", "report", r#"{"args":[],"kwargs":{}}"#]]
    {
        assert_eq!(f.upm(args).run().result()["ok"], true);
    }
}

const SCHEMA: &str = r##"{
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {
        "args": {"type": "array", "prefixItems": [{"const": "echo"}, {"$ref": "#/$defs/name"}], "maxItems": 2, "minItems": 2}
    },
    "$defs": {"name": {"type": "string", "pattern": "^[a-z]+$"}}
}"##;

fn with_schema(mode: Mode, schema: &str) -> Option<Fixture> {
    let f = Fixture::bare(mode)?;
    f.mkdir("schemas");
    f.write("schemas/run.json", schema);
    f.config(&format!("{}schemas = \"schemas\"\n", common::PROBE));
    Some(f)
}

#[rstest]
fn the_methods_schema_decides(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = with_schema(mode, SCHEMA) else { return };
    assert_eq!(f.act("echo", json!(["good"]))["value"], json!(["good"]));
    let data = f.run("echo", json!(["Not Good"])).failed("arguments_invalid", 2);
    let text = data.to_string();
    assert!(text.contains("/args/1") && text.contains("Not Good") && text.contains("pattern"), "{data:#}");
    f.run("echo", json!(["good", "more"])).failed("arguments_invalid", 2);
    assert!(f.audit().iter().filter(|r| r["UPM_EVENT"] == "call_started").count() == 1);
}

#[rstest]
#[case::no_json("{")]
#[case::no_schema(r#"{"type": "nothing"}"#)]
#[case::out_of_the_folder(r#"{"$ref": "../upm_config.json"}"#)]
#[case::a_file_url(r#"{"$ref": "file:///etc/passwd"}"#)]
#[case::a_remote_one(r#"{"$ref": "https://schema.test/x.json"}"#)]
fn a_bad_schema_is_an_error_of_the_config(#[case] schema: &str, #[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = with_schema(mode, schema) else { return };
    f.write("upm_config.json", "{}");
    f.run("echo", json!(["good"])).failed("config_invalid", 125);
}

#[rstest]
fn a_schema_may_refer_within_its_folder(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = with_schema(mode, r#"{"properties": {"args": {"items": {"$ref": "name.json"}}}}"#) else { return };
    f.write("schemas/name.json", r#"{"type": "string"}"#);
    assert_eq!(f.act("echo", json!(["good"]))["ok"], true);
    f.run("echo", json!([7])).failed("arguments_invalid", 2);
}

/// A Python plugin gets hostile arguments of every form exactly as they were sent.
#[rstest]
fn hostile_values_arrive_as_they_are(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::new(mode, "[plugins.Echo]\nmodule = \"echo\"\nallowed_methods = [\"back\"]\n") else {
        return;
    };
    f.python("echo", "class Echo:\n    def back(self, *args, **kwargs): return [list(args), kwargs]\n");
    let args = json!([
        "; rm -rf /",
        "$(id)",
        "../../etc/passwd",
        "\u{0}",
        "\u{1b}[2J",
        "\n",
        1.5,
        -0.0,
        9_007_199_254_740_993_u64,
        true,
        Value::Null,
        "日本語",
        [[[]]]
    ]);
    let kwargs = json!({"self_": 1, "with space": 2, "é": 3, "": 4});
    let result = f.upm(["Echo", "back", &json!({"args": args, "kwargs": kwargs}).to_string()]).run().result();
    assert_eq!(result, json!([args, kwargs]));
}

/// A plugin's author also wrote its schema: an endless check is ended, and small schemas are not delayed.
#[rstest]
fn a_schema_that_takes_for_ever_is_ended(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::bare(mode) else { return };
    f.mkdir("schemas");
    let allowed = |timeout: &str| {
        let table = common::PROBE.replace("[\"run\"]", "[\"run\"]\nschemas = \"schemas\"");
        f.config(&format!("{table}timeout = \"{timeout}\"\n"));
    };
    // definitions that each refer to the next one twice
    let doubling = |levels: usize| {
        let next = |n: usize| json!({"$ref": format!("#/$defs/d{n}")});
        let mut all: serde_json::Map<String, Value> =
            (0..levels).map(|n| (format!("d{n}"), json!({"allOf": [next(n + 1), next(n + 1)]}))).collect();
        all.insert(format!("d{levels}"), json!({"properties": {"args": {"items": {"maxLength": 100}}}}));
        json!({"$defs": all, "$ref": "#/$defs/d0"})
    };
    // repetitions that each compile to almost the limit of a pattern
    let patterns: Vec<Value> = (0..20_000).map(|n| json!({"pattern": format!("(?:[a-z{n}]{{90}}){{30}}")})).collect();
    for (name, schema) in [("references", doubling(60)), ("patterns", json!({"anyOf": patterns}))] {
        let out_of_memory = |data: &Value| data["error"].as_str().unwrap().contains("MiB of memory");
        f.write("schemas/run.json", schema.to_string());
        allowed("2s");
        let start = std::time::Instant::now();
        let answer = f.run("echo", json!(["x"]));
        assert!(start.elapsed() < std::time::Duration::from_secs(8), "{name}: {:?}", start.elapsed());
        // the first limit reached depends on the host
        match answer.exit {
            Some(2) => assert!(out_of_memory(&answer.failed("arguments_invalid", 2)), "{name}"),
            _ => drop(answer.failed("timeout", 124)),
        }
    }
    // a longer timeout does not apply to the schema, and `check` does not wait forever either
    allowed("60s");
    f.write("schemas/run.json", doubling(60).to_string());
    let data = f.run("echo", json!(["x"])).failed("arguments_invalid", 2);
    assert!(data["error"].as_str().unwrap().contains("10 s of processor time"), "{data:#}");
    // a direct recursion gets an answer
    f.write("schemas/run.json", r##"{"$ref": "#"}"##);
    let answer = f.run("echo", json!(["x"]));
    assert!(answer.exit.is_some(), "{answer:#?}");
    // the controls: few levels, and recursion through the arguments
    f.write("schemas/run.json", doubling(5).to_string());
    assert_eq!(f.run("echo", json!(["x"])).exit, Some(0));
    f.run("echo", json!(["x".repeat(200)])).failed("arguments_invalid", 2);
    let tree = json!({"properties": {"args": {"items": {"$ref": "#/$defs/tree"}}},
        "$defs": {"tree": {"type": ["string", "array"], "maxItems": 2, "items": {"$ref": "#/$defs/tree"}}}});
    f.write("schemas/run.json", tree.to_string());
    assert_eq!(f.run("echo", json!([[["x"], "y"]])).exit, Some(0));
    f.run("echo", json!([["x", "y", "z"]])).failed("arguments_invalid", 2);
}

/// A compiled schema can be large, and so can the errors of arguments that do not match: below `anyOf` there is one for each part and
/// each value, with the path to both. Neither is kept in the caller's process.
#[rstest]
fn a_schema_takes_little_of_its_callers_memory(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = with_schema(mode, "{}") else { return };
    let call = |schema: &Value, arguments: &Value| {
        f.write("schemas/run.json", schema.to_string());
        let call = f.upm(["Probe", "run", "-"]).stdin(arguments.to_string());
        call.through(["prlimit", "--data=400000000", "--"]).run()
    };
    let (long, never) = ("k".repeat(200_000), json!({"anyOf": [false, false]}));
    let strings = json!({"allOf": vec![json!({"type": "string"}); 10_000]});
    let copies = (0..90).fold(
        json!({"enum": (0..20_000).map(|n| json!({n.to_string(): n})).collect::<Vec<_>>()}),
        |of, _| json!({"not": of}),
    );
    for (name, schema, arguments) in [
        (
            "errors",
            json!({"anyOf": [{"properties": {"args": {"items": {"anyOf": vec![false; 20]}}}}, false]}),
            json!({"args": vec![1; 80_000]}),
        ),
        (
            "paths of errors",
            json!({"anyOf": [{"properties": {"kwargs": {"additionalProperties": {"items": never}}}}, false]}),
            json!({"kwargs": {long.clone(): vec![1; 20_000]}}),
        ),
        ("places", json!({"properties": {long.clone(): strings}}), json!({})),
        ("places behind a reference", json!({"$ref": format!("#/$defs/{long}"), "$defs": {long: strings}}), json!({})),
        ("copies", copies, json!({"args": ["echo"]})),
    ] {
        let data = call(&schema, &arguments).failed("arguments_invalid", 2);
        assert!(data["error"].as_str().unwrap().contains("MiB of memory"), "{name}: {data:#}");
    }
    // the controls: a few errors below `anyOf` are reported, and arguments that match are passed on
    let few = json!({"properties": {"args": {"items": {"anyOf": [{"type": "integer"}, {"const": "echo"}]}}}});
    let data = call(&few, &json!({"args": ["echo", "x"]})).failed("arguments_invalid", 2);
    assert!(data["error"].as_str().unwrap().starts_with("/args/1: "), "{data:#}");
    assert_eq!(call(&few, &json!({"args": ["echo", 1]})).result()["value"], json!([1]));
    // `check` looks at the schema alone
    f.write("schemas/run.json", json!({"properties": {"k".repeat(200_000): strings}}).to_string());
    let answer = f.upm(["check"]).run();
    let said = format!("{}{}", answer.stdout, answer.stderr);
    assert!(answer.exit != Some(0) && said.contains("and 512 MiB of memory"), "{answer:#?}");
}
