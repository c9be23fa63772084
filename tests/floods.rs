//! Too much output, too many processes, too much memory, too much time: bounded, named, cleaned up.

mod common;

use common::{Fixture, Mode, assert_ok};
use rstest::rstest;
use serde_json::{Value, json};
use std::time::Duration;

#[rstest]
fn output_is_kept_to_its_bound(
    #[values(Mode::Root, Mode::User)] mode: Mode,
    #[values("stdout", "stderr")] stream: &str,
) {
    let Some(f) = Fixture::probe(mode, "output = \"64KiB\"") else { return };
    let data = f.run("print", json!([stream, 1_000_000])).data();
    assert_eq!(data["output"][stream].as_str().unwrap().len(), 65536);
    assert_eq!(data["output"]["truncated"], json!({ stream: 1_000_000 - 65536 }), "{}", data["output"]["truncated"]);
    assert!(data["output"].get("encoding").is_none());
    let small = f.run("print", json!([stream, "hello\n"])).data();
    assert_eq!(small["output"][stream], "hello\n");
    assert!(small["output"].get("truncated").is_none());
}

#[rstest]
fn bytes_that_are_no_text_are_replaced(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "") else { return };
    let data = f.run("print", json!(["stdout", {"hex": "41ff00421b5b324a"}])).data();
    assert_eq!(data["output"]["stdout"], "A\u{fffd}\u{0}B\u{1b}[2J");
    assert_eq!(data["output"]["encoding"], "lossy");
}

#[rstest]
fn output_without_end_ends_at_the_deadline(
    #[values(Mode::Root, Mode::User)] mode: Mode,
    #[values("print_forever", "endless_line")] act: &str,
    #[values("stdout", "stderr")] stream: &str,
) {
    let Some(f) = Fixture::probe(mode, "timeout = \"1s\"\noutput = \"64KiB\"") else { return };
    let answer = f.run(act, json!([stream]));
    let data = answer.failed("timeout", 124);
    assert!(answer.took < Duration::from_secs(3), "{:?}", answer.took);
    assert_eq!(data["output"][stream].as_str().unwrap().len(), 65536);
    assert!(data["output"]["truncated"][stream].as_u64().unwrap() > 1 << 20, "{:#}", data["output"]["truncated"]);
    f.assert_clean();
}

#[rstest]
fn a_grandchild_that_keeps_stdout_open_does_not_hold_the_call(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "") else { return };
    for act in ["grandchild_holds", "orphan"] {
        let answer = f.run(act, json!([20]));
        assert_ok(&answer.result());
        assert!(answer.took < Duration::from_secs(5), "{act}: {:?}", answer.took);
        f.assert_clean();
    }
}

#[rstest]
fn sleeping_for_ever_ends_at_the_deadline(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "timeout = \"500ms\"") else { return };
    for (act, args) in [
        ("sleep", json!([60])),
        ("ignore", json!(["SIGTERM", "SIGINT", "SIGHUP"])),
        ("spin", json!([60])),
        ("batch", json!([["orphan", 60], ["sleep", 60]])),
    ] {
        let answer = f.run(act, args);
        let data = answer.failed("timeout", 124);
        assert!(answer.took < Duration::from_millis(2500), "{act}: {:?}", answer.took);
        assert!(data["usage"]["wall_us"].as_u64().unwrap() >= 400_000, "{data:#}");
        f.assert_clean();
    }
}

#[rstest]
fn a_call_may_only_shorten_its_time(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "timeout = \"1s\"") else { return };
    let sleep = r#"{"args":["sleep",20]}"#;
    let short = f.upm(["Probe", "run", sleep, "--timeout", "200ms"]).run();
    short.failed("timeout", 124);
    assert!(short.took < Duration::from_millis(900), "{:?}", short.took);
    let long = f.upm(["Probe", "run", sleep, "--timeout", "20s"]).run();
    assert!(long.took < Duration::from_secs(3), "{:?}", long.took);
}

#[rstest]
fn processor_time_is_bounded(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "cpu_time = \"1s\"\ntimeout = \"3m\"") else { return };
    // by processor time: what the clock says depends on what else runs
    for (act, args) in [
        ("spin", json!([150])),
        // ignoring the warning does not help
        ("ignore", json!(["SIGXCPU", "spin"])),
    ] {
        let data = f.run(act, args).failed("cpu_time_exceeded", 152);
        let spent = data["usage"]["cpu_user_us"].as_u64().unwrap() + data["usage"]["cpu_system_us"].as_u64().unwrap();
        assert!((900_000..4_000_000).contains(&spent), "{act}: {data:#}");
    }
}

#[rstest]
fn processes_are_bounded(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "processes = 16") else { return };
    let bomb = f.act("fork_bomb", json!([200]));
    assert_eq!(bomb["stopped_by_name"], "EAGAIN", "{bomb}");
    let forked = bomb["forked"].as_u64().unwrap();
    assert!((8..16).contains(&forked), "{bomb}");
}

#[rstest]
fn a_fork_bomb_is_bounded_and_cleaned_up(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "processes = 32\ntimeout = \"2s\"\ncpu_time = \"30s\"") else { return };
    let running = f.upm(["Probe", "run", r#"{"args":["fork_bomb"]}"#]).start();
    std::thread::sleep(Duration::from_millis(800));
    let probes = f.leftovers().iter().filter(|line| line.ends_with("exe") || line.ends_with("mountinfo")).count();
    assert!(probes < 100, "{probes} processes");
    let answer = running.wait();
    answer.failed("timeout", 124);
    assert!(answer.took < Duration::from_secs(4), "{:?}", answer.took);
    f.assert_clean();
}

#[rstest]
fn memory_is_bounded(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "memory = \"128MiB\"\ntimeout = \"20s\"") else { return };
    assert_ok(&f.act("memory_bomb", json!([32])));
    let answer = f.run("memory_bomb", json!([1024, 2000]));
    let data = answer.data();
    // a process at its own limit gets ENOMEM; the supervisor's sum, or the cgroup, ends the call
    if answer.exit == Some(0) {
        assert_eq!(data["result"]["errno_name"], "ENOMEM", "{data:#}");
    } else {
        answer.failed("memory_exceeded", 137);
    }
    f.assert_clean();
}

#[rstest]
fn memory_of_many_processes_is_added_up(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "memory = \"128MiB\"\nprocesses = 32\ntimeout = \"20s\"") else { return };
    let answer = f.run("memory_forked", json!([8, 60, 5]));
    answer.failed("memory_exceeded", 137);
    assert!(answer.took < Duration::from_secs(4), "{:?}", answer.took);
    f.assert_clean();
}

#[rstest]
fn descriptors_are_bounded(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "open_files = 32") else { return };
    let many = f.act("open_many", json!([100]));
    assert_eq!((many["opened"].as_u64(), many["stopped_by_name"].as_str()), (Some(28), Some("EMFILE")), "{many}");
}

#[rstest]
fn what_fits_is_not_touched(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "") else { return };
    let usage = f.run("spin", json!([1])).data()["usage"].clone();
    assert!(usage["cpu_user_us"].as_u64().unwrap() > 200_000, "{usage}");
    assert!(usage["wall_us"].as_u64().unwrap() > 1_000_000, "{usage}");
    assert!(usage["max_rss_bytes"].as_u64().unwrap() > 100_000, "{usage}");
    assert_eq!(f.act("fork_bomb", json!([5]))["forked"], 5);
    assert_eq!(f.act("echo", json!([1, "a", null]))["value"], json!([1, "a", Value::Null]));
}
