//! A plugin cannot plant a configuration: a search does not accept one from a place where calls may write.

mod common;

use common::{Answer, Fixture, Mode, OWNER, PROBE, assert_ok, is_root, skip};
use rstest::rstest;
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

/// A configuration from a plugin, and the code that it starts.
const POLICY: &str = "plugin_paths = [\".\"]\n[audit]\njournald = \"off\"\nfile = \"AUDIT\"\n\
                      [plugins.Evil]\nmodule = \"evil\"\nallowed_methods = [\"run\"]\n";
const PROGRAM: &str = "class Evil:\n    def run(self): return 'the planted program'\n";

/// A fixture whose plugin may write to the project, which belongs to its caller: for root this needs a key.
fn writable(mode: Mode, more: &str) -> Option<Fixture> {
    let key = if mode == Mode::Root { "as_root_owner = true\n" } else { "" };
    let f = Fixture::probe(mode, &format!("write = [\"{{project_root}}\"]\n{key}{more}"))?;
    if is_root() {
        chown(f.path("project"), Some(f.uid), Some(f.uid)).unwrap();
    }
    Some(f)
}

fn policy(f: &Fixture) -> String {
    POLICY.replace("AUDIT", &f.text("audit/audit.jsonl"))
}

/// The plugin writes its configuration and its program into directories.
fn plant(f: &Fixture, dirs: &[&str]) {
    let mut acts = vec![json!("batch")];
    for dir in dirs {
        acts.push(json!(["mkdir", f.text(dir)]));
        acts.push(json!(["write", f.text(&format!("{dir}/upm_config.toml")), policy(f)]));
        acts.push(json!(["write", f.text(&format!("{dir}/evil.py")), PROGRAM]));
    }
    let words = json!({ "args": acts }).to_string();
    f.upm(["--config", &f.text("upm_config.toml"), "Probe", "run", &words]).run().result();
    for dir in dirs {
        assert_eq!(fs::read_to_string(f.path(dir).join("evil.py")).unwrap(), PROGRAM, "{dir}");
    }
}

fn evil(f: &Fixture, dir: &str) -> Answer {
    f.upm(["Evil", "run"]).cwd(f.path(dir)).run()
}

#[track_caller]
fn assert_refused(answer: &Answer, named: &Path) {
    let data = answer.failed("config_invalid", 125);
    let text = data["error"].as_str().unwrap();
    for words in ["was found, not named", "--config", "UPM_CONFIG_PATH", named.to_str().unwrap()] {
        assert!(text.contains(words), "{words}: {data:#}");
    }
}

/// The attack. `upm`, run there or below, then reports it. Naming the same file works, and the same files where no call may
/// write are a normal configuration.
#[rstest]
fn a_planted_policy_is_not_found(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = writable(mode, "") else { return };
    let dirs = ["project", "project/sub", "project/sub/deep"];
    plant(&f, &dirs);
    for dir in dirs {
        assert_refused(&evil(&f, dir), &f.path(dir).join("upm_config.toml"));
    }
    for words in [&["list"][..], &["check"], &["explain", "Evil", "run"], &["learn", "Evil", "run"]] {
        let answer = f.upm(words).cwd(f.path("project/sub")).run();
        assert_eq!(answer.exit, Some(125), "{words:?}: {answer:#?}");
        assert!(
            format!("{}{}", answer.stdout, answer.stderr).contains("was found, not named"),
            "{words:?}: {answer:#?}"
        );
    }
    let doctor = f.upm(["doctor"]).cwd(f.path("project")).run();
    assert!(doctor.exit == Some(1) && doctor.stdout.contains("was found, not named"), "{doctor:#?}");
    // also as JSON
    fs::remove_file(f.path("project/upm_config.toml")).unwrap();
    let json = r#"{"plugins": {"Evil": {"module": "evil", "allowed_methods": ["run"]}}}"#;
    let words = json!({ "args": ["write", f.text("project/upm_config.json"), json] }).to_string();
    assert_ok(&f.upm(["--config", &f.text("upm_config.toml"), "Probe", "run", &words]).run().result());
    assert_refused(&evil(&f, "project"), &f.path("project/upm_config.json"));

    // the controls
    let sub = f.path("project/sub");
    let named = f.upm(["--config", "upm_config.toml", "Evil", "run"]).cwd(&sub).run();
    assert_eq!(named.result(), "the planted program");
    let named = f.upm(["Evil", "run"]).env("UPM_CONFIG_PATH", sub.join("upm_config.toml")).cwd(&sub).run();
    assert_eq!(named.result(), "the planted program");
    f.mkdir("elsewhere");
    f.write("elsewhere/upm_config.toml", policy(&f));
    f.write("elsewhere/evil.py", PROGRAM);
    assert_eq!(evil(&f, "elsewhere").result(), "the planted program");
    // the configuration beside its project still works
    assert_ok(&f.act("write", json!([f.text("project/more"), "x"])));
}

/// All users can look up root's record: a user gets an error for a place where root's calls may write.
#[test]
fn a_user_is_told_of_what_roots_calls_may_write() {
    let Some(f) = Fixture::probe(Mode::Root, "write = [\"{project_root}\"]") else { return };
    f.mkdir_writable("apart");
    f.write("apart/upm_config.toml", policy(&f));
    f.write("apart/evil.py", PROGRAM);
    plant(&f, &["project"]);
    for path in ["home", "audit"] {
        chown(f.path(path), Some(OWNER), Some(OWNER)).unwrap();
    }
    fs::remove_file(f.path("audit/audit.jsonl")).unwrap();
    let as_owner = |dir: &str| {
        let id = OWNER.to_string();
        let output = Command::new("setpriv")
            .args(["--reuid", &id, "--regid", &id, "--clear-groups"])
            .arg(f.path("bin/upm"))
            .args(["Evil", "run"])
            .current_dir(f.path(dir))
            .env_clear()
            .env("HOME", f.path("home"))
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let told = as_owner("project");
    assert!(told.contains("was found, not named") && told.contains("/var/lib/upm/writable/"), "{told}");
    assert!(as_owner("apart").contains("the planted program"), "the control: {}", as_owner("apart"));
    // root itself uses only its own files
    assert_eq!(evil(&f, "apart").failed("config_invalid", 125)["details"]["path"], f.text("apart"));
}

/// The same if a link leads to a place where a plugin may write, or through it.
#[rstest]
fn no_link_leads_to_a_planted_policy(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = writable(mode, "") else { return };
    plant(&f, &["project", "project/sub"]);
    for dir in ["to", "through", "fine", "real"] {
        f.mkdir(dir);
    }
    f.write("real/upm_config.toml", policy(&f));
    f.write("real/evil.py", PROGRAM);
    f.write("fine/evil.py", PROGRAM);
    symlink("../project/sub/upm_config.toml", f.path("to/upm_config.toml")).unwrap();
    symlink(f.path("real"), f.path("project/turn")).unwrap();
    symlink(f.path("project/turn/upm_config.toml"), f.path("through/upm_config.toml")).unwrap();
    symlink(f.path("real/upm_config.toml"), f.path("fine/upm_config.toml")).unwrap();
    for dir in ["to", "through"] {
        assert_refused(&evil(&f, dir), &f.path(dir).join("upm_config.toml"));
    }
    assert_eq!(evil(&f, "fine").result(), "the planted program");
}

/// A single writable file, wherever it is found.
#[rstest]
fn a_writable_file_is_no_policy(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = writable(mode, "") else { return };
    f.mkdir("shared");
    f.write("shared/upm_config.toml", policy(&f));
    f.write("shared/evil.py", PROGRAM);
    assert_eq!(evil(&f, "shared").result(), "the planted program", "the control");
    let key = if mode == Mode::Root { "as_root_owner = true" } else { "" };
    f.config(&format!("{PROBE}write = [\"{}\"]\n{key}\n", f.text("shared/upm_config.toml")));
    assert_ok(&f.act("echo", Value::Null));
    assert_refused(&evil(&f, "shared"), &f.path("shared/upm_config.toml"));
}

/// A user's configuration folder is searched like the working directory.
#[test]
fn a_planted_policy_in_the_configuration_folder_is_not_found() {
    let Some(f) = writable(Mode::User, "") else { return };
    f.mkdir("home/config");
    f.mkdir("home/config/upm");
    f.write("home/config/upm/upm_config.toml", policy(&f));
    f.write("home/config/upm/evil.py", PROGRAM);
    let elsewhere = f.mkdir("elsewhere");
    assert_eq!(f.upm(["Evil", "run"]).cwd(&elsewhere).run().result(), "the planted program", "the control");
    f.config(&format!("{PROBE}write = [\"{}\"]\n", f.text("home/config")));
    assert_ok(&f.act("echo", Value::Null));
    let answer = f.upm(["Evil", "run"]).cwd(&elsewhere).run();
    assert_refused(&answer, &f.path("home/config/upm/upm_config.toml"));
}

/// A mount that shows a part of a writable directory elsewhere, and one inside a writable directory.
#[rstest]
fn no_mount_hides_where_a_policy_lies(#[values(Mode::Root, Mode::User)] mode: Mode) {
    if !is_root() {
        return skip("needs root, to mount");
    }
    let Some(f) = writable(mode, "") else { return };
    plant(&f, &["project", "project/sub", "project/sub/deep"]);
    for dir in ["alias", "other", "project/mounted", "apart"] {
        f.mkdir(dir);
    }
    let run = |script: String| f.upm(["Evil", "run"]).mounting_script(&format!("{script} && exec \"$@\"")).run();
    let (part, alias) = (f.text("project/sub"), f.text("alias"));
    assert_refused(&run(format!("mount --bind {part} {alias} && cd {alias}/deep")), &f.path("alias/deep"));
    f.write("apart/upm_config.toml", policy(&f));
    f.write("apart/evil.py", PROGRAM);
    let control = run(format!("mount --bind {} {alias} && cd {alias}", f.text("apart")));
    assert_eq!(control.result(), "the planted program");

    // a single file that is mounted
    f.write("apart/mounted.toml", policy(&f));
    f.write("alias/upm_config.toml", "");
    f.write("alias/evil.py", PROGRAM);
    let of_file = |file: &str| run(format!("mount --bind {} {alias}/upm_config.toml && cd {alias}", f.text(file)));
    assert_refused(&of_file("project/sub/upm_config.toml"), &f.path("alias/upm_config.toml"));
    assert_eq!(of_file("apart/mounted.toml").result(), "the planted program", "the control");

    // A mount inside a grant is granted too, and has its own record.
    let (other, below) = (f.text("other"), f.text("project/mounted"));
    f.write("other/upm_config.toml", policy(&f));
    f.write("other/evil.py", PROGRAM);
    assert_eq!(evil(&f, "other").result(), "the planted program", "the control");
    let words = json!({ "args": ["append", format!("{below}/evil.py"), "# mine"] }).to_string();
    let call = f.upm(["Probe", "run", &words]).mounting_script(&format!("mount --bind {other} {below} && exec \"$@\""));
    assert_ok(&call.run().result());
    assert!(fs::read_to_string(f.path("other/evil.py")).unwrap().ends_with("# mine"));
    assert_refused(&evil(&f, "other"), &f.path("other/upm_config.toml"));
}

/// A removed directory has no record under its old name or its old inode number.
#[rstest]
fn a_new_directory_is_not_the_old_one(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = writable(mode, "") else { return };
    plant(&f, &["project"]);
    assert_refused(&evil(&f, "project"), &f.path("project/upm_config.toml"));
    fs::remove_dir_all(f.path("project")).unwrap();
    f.mkdir("project");
    f.write("project/upm_config.toml", policy(&f));
    f.write("project/evil.py", PROGRAM);
    assert_eq!(evil(&f, "project").result(), "the planted program");
    // and a moved directory keeps its record
    plant(&f, &["project/sub"]);
    fs::rename(f.path("project"), f.path("moved")).unwrap();
    assert_refused(&evil(&f, "moved/sub"), &f.path("moved/sub/upm_config.toml"));
}

/// Without a record there is no grant.
#[rstest]
fn without_a_record_there_is_no_call(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = writable(mode, "") else { return };
    let words = json!({ "args": ["write", f.text("project/made"), "x"] }).to_string();
    let call = || f.upm(["Probe", "run", &words]);
    let answer = match mode {
        Mode::Root => {
            let script = "mkdir -p /var/lib/upm && mount -t tmpfs -o ro none /var/lib/upm && exec \"$@\"";
            call().mounting_script(script).run()
        }
        Mode::User => {
            f.mkdir("home/state");
            fs::set_permissions(f.path("home/state"), fs::Permissions::from_mode(0o777)).unwrap();
            call().run()
        }
    };
    let data = answer.failed("sandbox_unavailable", 125);
    assert!(data["error"].as_str().unwrap().contains("cannot record which paths plugins may write to"), "{data:#}");
    assert!(data["details"]["remedy"].as_str().unwrap().len() > 10, "{data:#}");
    assert!(!f.path("project/made").exists());
    if mode == Mode::User {
        // `check` and `doctor` report it beforehand
        let (check, doctor) = (f.upm(["check"]).run(), f.upm(["doctor"]).run());
        assert!(
            check.exit == Some(1) && check.stdout.contains("cannot record which paths plugins may write to"),
            "{check:#?}"
        );
        assert!(
            doctor.exit == Some(1) && doctor.stdout.contains("cannot record which paths plugins may write to"),
            "{doctor:#?}"
        );
    }
    // nothing to write, nothing to record; and the control
    if mode == Mode::User {
        f.config(&format!("{PROBE}read = [\"{{project_root}}\"]\n"));
        assert_ok(&f.act("echo", Value::Null));
        f.config(&format!("{PROBE}write = [\"{{project_root}}\"]\n"));
        fs::set_permissions(f.path("home/state"), fs::Permissions::from_mode(0o755)).unwrap();
    }
    assert_ok(&call().run().result());
    assert!(f.path("project/made").exists());
    f.assert_clean();
}

/// A plugin may not write to the record itself.
#[rstest]
fn no_plugin_may_write_the_record(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let state = if mode == Mode::Root { "/var/lib/upm/writable" } else { "{home}/state/upm/writable" };
    let Some(f) = writable(mode, "") else { return };
    assert_ok(&f.act("echo", Value::Null));
    let state = state.replace("{home}", &f.text("home"));
    assert!(fs::read_dir(&state).unwrap().count() > 0, "{state}");
    for path in [state.as_str(), Path::new(&state).parent().unwrap().to_str().unwrap()] {
        f.config(&format!("{PROBE}write = [\"{path}\"]\n"));
        let data = f.run("echo", Value::Null).failed("config_invalid", 125);
        assert!(data["error"].as_str().unwrap().contains("the record of what plugins may write"), "{data:#}");
    }
}

/// Overlayfs copies a directory at the first write to it, and the copy has a later birth time.
#[test]
fn a_copy_made_by_overlayfs_is_on_record() {
    if !is_root() {
        return skip("needs root to mount");
    }
    let Some(f) = writable(Mode::User, "") else { return };
    for dir in ["low", "up", "low/sub", "low/apart"] {
        f.mkdir_writable(dir);
        chown(f.path(dir), Some(f.uid), Some(f.uid)).unwrap();
    }
    f.mkdir("work");
    fs::write(f.path("low/apart/upm_config.toml"), policy(&f)).unwrap();
    fs::write(f.path("low/apart/evil.py"), PROGRAM).unwrap();
    for file in ["low/apart/upm_config.toml", "low/apart/evil.py"] {
        chown(f.path(file), Some(f.uid), Some(f.uid)).unwrap();
    }
    // file times have the resolution of the kernel's tick
    std::thread::sleep(std::time::Duration::from_millis(20));
    f.config(&format!("{PROBE}write = [\"project/sub\"]\n"));
    let overlay = |words: &[&str], cwd: &str| {
        let script = format!(
            "cd {} && mount -t overlay -o lowerdir=low,upperdir=up,workdir=work none project && cd {cwd} && exec \"$@\"",
            f.dir().display()
        );
        f.upm(words).mounting_script(&script).run()
    };
    let sub = f.text("project/sub");
    let policy = json!(["write", format!("{sub}/upm_config.toml"), policy(&f)]);
    let acts = json!({ "args": ["batch", policy, ["write", format!("{sub}/evil.py"), PROGRAM]] });
    let config = f.text("upm_config.toml");
    overlay(&["--config", &config, "Probe", "run", &acts.to_string()], "/").result();
    assert!(f.path("up/sub/evil.py").exists(), "it was copied and written");
    assert_refused(&overlay(&["Evil", "run"], "project/sub"), &f.path("project/sub/upm_config.toml"));
    let control = overlay(&["Evil", "run"], "project/apart");
    assert_eq!(control.result(), "the planted program", "the control: not granted");
}

/// Another user moves the caller's file, with contents of that user's choice, to a directory where all users may add files.
#[rstest]
fn a_policy_in_a_shared_directory_is_not_found(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = writable(mode, "") else { return };
    if !is_root() {
        return skip("needs root to be two users");
    }
    for dir in ["shared", "shared/own", "links"] {
        f.mkdir(dir);
        f.write(&format!("{dir}/evil.py"), PROGRAM);
    }
    let sticky = fs::Permissions::from_mode(0o1777);
    chown(f.path("shared"), Some(0), Some(0)).unwrap();
    fs::set_permissions(f.path("shared"), sticky).unwrap();
    f.write("shared/own/upm_config.toml", policy(&f));
    // It belongs to the caller, but is in a directory of the other user, who moves it.
    let theirs = f.mkdir("theirs");
    f.write("theirs/left", policy(&f));
    chown(f.path("theirs/left"), Some(f.uid), Some(f.uid)).unwrap();
    chown(&theirs, Some(45_678), Some(45_678)).unwrap();
    let planted = f.path("shared/upm_config.toml");
    let moved = Command::new("setpriv")
        .args(["--reuid", "45678", "--regid", "45678", "--clear-groups", "mv"])
        .args([f.path("theirs/left"), planted.clone()])
        .status()
        .unwrap();
    assert!(moved.success());
    symlink(&planted, f.path("links/upm_config.toml")).unwrap();
    for dir in ["shared", "links"] {
        assert_refused(&evil(&f, dir), &f.path(dir).join("upm_config.toml"));
    }
    // the controls: below it, and named
    assert_eq!(evil(&f, "shared/own").result(), "the planted program");
    let text = policy(&f).replace("[\".\"]", "[\"own\"]");
    fs::remove_file(&planted).unwrap();
    fs::write(&planted, text).unwrap();
    chown(&planted, Some(f.uid), Some(f.uid)).unwrap();
    let named = f.upm(["--config", "upm_config.toml", "Evil", "run"]).cwd(f.path("shared")).run();
    assert_eq!(named.result(), "the planted program");
}

/// A login has `XDG_STATE_HOME`, a timer only `HOME`: each knows where the other's calls may write.
#[rstest]
fn other_variables_find_the_record() {
    let Some(f) = writable(Mode::User, "") else { return };
    plant(&f, &["project/sub"]);
    let refused = f.upm(["Evil", "run"]).through(["env", "-u", "XDG_STATE_HOME"]).cwd(f.path("project/sub")).run();
    assert_refused(&refused, &f.path("project/sub/upm_config.toml"));
    // the control: without any record it is found
    fs::remove_dir_all(f.path("home")).unwrap();
    f.mkdir("home");
    let found = f.upm(["Evil", "run"]).through(["env", "-u", "XDG_STATE_HOME"]).cwd(f.path("project/sub")).run();
    assert_eq!(found.result(), "the planted program");
}

/// Switches between states of names until `stop`.
fn exchange(steps: &[(PathBuf, PathBuf)], stop: &AtomicBool) -> u32 {
    let mut rounds = 0;
    while !stop.load(Ordering::Relaxed) {
        for (from, to) in steps {
            fs::rename(from, to).unwrap();
        }
        rounds += 1;
    }
    rounds
}

/// Ends the switching even if an assertion fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Makes calls while directories that a plugin may write to are moved, as a running call's plugin can do.
fn while_moved(steps: &[(PathBuf, PathBuf)], mut make: impl FnMut()) {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let mover = scope.spawn(|| exchange(steps, &stop));
        let running = Stop(&stop);
        make();
        drop(running);
        assert!(mover.join().unwrap() > 10, "the attack was made");
    });
}

/// A plugin swaps the working directory of a caller with the one above: the way up from there returns to its start,
/// without passing the recorded directory.
#[rstest]
fn a_directory_that_is_moved_meanwhile_is_still_below(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = writable(mode, "") else { return };
    // many levels between the two, so that there is time for it
    let deep = "x/1/2/3/4/5/6/7/8";
    f.mkdir_writable("project/x");
    fs::create_dir_all(f.path("project").join(deep)).unwrap();
    for above in Path::new(deep).ancestors().filter(|above| !above.as_os_str().is_empty()) {
        let owner = fs::metadata(f.path("project")).unwrap();
        chown(f.path("project").join(above), Some(owner.uid()), Some(owner.gid())).unwrap();
    }
    plant(&f, &[&format!("project/{deep}/y")]);
    let below_x = f.path("project").join(deep).join("y");
    let here = fs::File::open(&below_x).unwrap();
    let cwd = format!("/proc/{}/fd/{}", std::process::id(), here.as_raw_fd());
    let [x, y, below_y] = ["x", "y", "y/x"].map(|name| f.path("project").join(name));
    let there = [(below_x.clone(), y.clone()), (x.clone(), below_y.clone())];
    let back = [(below_y, x), (y, below_x.clone())];
    while_moved(&[there, back].concat(), || {
        for _ in 0..300 {
            let answer = f.upm(["Evil", "run"]).cwd(&cwd).run();
            let data = answer.failed("config_invalid", 125);
            assert!(data["error"].as_str().unwrap().contains("was found, not named"), "{data:#}");
        }
    });
    // the control: the same directory after it was moved out
    fs::rename(&below_x, f.path("out")).unwrap();
    assert_eq!(evil(&f, "out").result(), "the planted program");
}

/// The same for a mount that shows a part of it: its path in there changes all the time.
#[rstest]
fn a_part_that_is_moved_meanwhile_is_still_a_part(#[values(Mode::Root, Mode::User)] mode: Mode) {
    if !is_root() {
        return skip("needs root, to mount");
    }
    let Some(f) = writable(mode, "") else { return };
    plant(&f, &["project/sub"]);
    f.mkdir("alias");
    let [sub, other] = ["project/sub", "project/other"].map(|name| f.path(name));
    let (part, alias) = (f.text("project/sub"), f.text("alias"));
    let script = format!("until mount --bind {part} {alias} 2>/dev/null; do :; done; cd {alias} && exec \"$@\"");
    while_moved(&[(sub.clone(), other.clone()), (other, sub)], || {
        for _ in 0..60 {
            let answer = f.upm(["Evil", "run"]).mounting_script(&script).run();
            assert_refused(&answer, &f.path("alias/upm_config.toml"));
        }
    });
}

/// A call that is recorded after the records were checked, and writes before the configuration is read. A program that approves
/// the opening of the file (fanotify(7)) makes the call at that moment.
#[rstest]
fn a_policy_written_while_it_is_looked_at_is_not_found(#[values(Mode::Root, Mode::User)] mode: Mode) {
    const HOLD: &str = "import ctypes, os, struct, sys\n\
        libc = ctypes.CDLL(None, use_errno=True)\n\
        group = libc.fanotify_init(4, os.O_RDWR)\n\
        if group < 0 or libc.fanotify_mark(group, 1, ctypes.c_uint64(0x10000), -100, sys.argv[1].encode()) != 0:\n\
        \x20   print('none', ctypes.get_errno(), flush=True); sys.exit()\n\
        print('ready', flush=True)\n\
        fd = struct.unpack('=IBBHQii', os.read(group, 4096)[:24])[5]\n\
        print('opened', flush=True)\n\
        text = sys.stdin.readline().encode().decode('unicode_escape').encode()\n\
        os.ftruncate(fd, 0); os.pwrite(fd, text, 0)\n\
        os.write(group, struct.pack('=iI', fd, 1))\n";
    let Some(f) = writable(mode, "") else { return };
    if !is_root() {
        return skip("needs root, for fanotify");
    }
    f.mkdir("project/own");
    f.write("project/own/upm_config.toml", policy(&f));
    f.write("project/own/evil.py", PROGRAM.replace("planted", "own"));
    f.write("project/own/planted.py", PROGRAM);
    for below in ["own", "own/upm_config.toml", "own/evil.py", "own/planted.py"] {
        chown(f.path("project").join(below), Some(f.uid), Some(f.uid)).unwrap();
    }
    assert_eq!(evil(&f, "project/own").result(), "the own program", "the control: no call may write here yet");
    let mut hold = Command::new("/usr/bin/python3")
        .args(["-c", HOLD, &f.text("project/own/upm_config.toml")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut told = BufReader::new(hold.stdout.take().unwrap());
    let mut line = || {
        let mut line = String::new();
        told.read_line(&mut line).unwrap();
        line
    };
    let first = line();
    if first != "ready\n" {
        hold.wait().unwrap();
        return skip(&format!("no fanotify that decides: {first}"));
    }
    let running = f.upm(["Evil", "run"]).cwd(f.path("project/own")).start();
    assert_eq!(line(), "opened\n");
    f.upm(["--config", &f.text("upm_config.toml"), "Probe", "run", r#"{"args":["echo"]}"#]).run().result();
    let planted = policy(&f).replace("module = \"evil\"", "module = \"planted\"").escape_default().to_string();
    hold.stdin.take().unwrap().write_all(format!("{planted}\n").as_bytes()).unwrap();
    assert_refused(&running.wait(), &f.path("project/own/upm_config.toml"));
    assert!(hold.wait().unwrap().success());
}

/// A file system without birth times gets another device number at each mount: its objects are identified by the mounted source
/// or by their path.
#[rstest]
fn without_a_time_of_birth_it_is_known_after_another_mount(#[values(Mode::Root, Mode::User)] mode: Mode) {
    if !is_root() {
        return skip("needs root, to mount");
    }
    let Some(f) = writable(mode, "") else { return };
    f.mkdir("elsewhere");
    let owner = fs::metadata(f.path("project")).unwrap().uid();
    let disk = f.write("disk", "");
    fs::File::options().write(true).open(&disk).unwrap().set_len(4 << 20).unwrap();
    // inodes of 128 bytes have no room for a birth time
    let made = Command::new("mke2fs")
        .args(["-q", "-t", "ext4", "-I", "128", "-O", "^metadata_csum", "-E", &format!("root_owner={owner}:{owner}")])
        .arg(&disk)
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    // mounted under another name, with `more` loop devices already in use
    let mounted = |words: &[&str], name: &str, more: usize, at: &str, cwd: &str| {
        let script = format!(
            "cd {dir} && for n in $(seq {more}); do cp disk other$n; TAKEN=\"$TAKEN $(losetup -f --show other$n)\"; done; \
             L=$(losetup -f --show disk) && rm -f {name} && mknod {name} b 7 ${{L#/dev/loop}} && \
             mount $PWD/{name} {at} && losetup -d $L $TAKEN && cd {cwd} && exec \"$@\"",
            dir = f.dir().display()
        );
        f.upm(words).mounting_script(&script).run()
    };
    let files = [("upm_config.toml", policy(&f)), ("evil.py", PROGRAM.to_owned())];
    let acts: Vec<Value> = std::iter::once(json!("batch"))
        .chain(files.map(|(name, text)| json!(["write", f.text(&format!("project/{name}")), text])))
        .collect();
    let config = f.text("upm_config.toml");
    let words = json!({ "args": acts }).to_string();
    let planted = mounted(&["--config", &config, "Probe", "run", &words], "one", 0, "project", "/");
    planted.result();
    let search = ["Evil", "run"];
    assert_refused(&mounted(&search, "one", 0, "project", "project"), &f.path("project/upm_config.toml"));
    let found = |answer: &Answer, at: &str| assert_refused(answer, &f.path(at).join("upm_config.toml"));
    found(&mounted(&search, "two", 1, "project", "project"), "project");
    found(&mounted(&search, "one", 1, "elsewhere", "elsewhere"), "elsewhere");
    let control = mounted(&search, "two", 1, "elsewhere", "elsewhere");
    assert_eq!(control.result(), "the planted program", "the control: neither its source nor its path is recorded");
}

/// If root's record is not accessible, users do not know where root's calls may write.
#[test]
fn a_record_that_is_shut_is_told() {
    if !is_root() {
        return skip("needs root to mount");
    }
    let Some(f) = writable(Mode::User, "") else { return };
    f.mkdir("elsewhere");
    f.write("elsewhere/upm_config.toml", policy(&f));
    f.write("elsewhere/evil.py", PROGRAM);
    let run = |words: &[&str], mode: &str| {
        let script = format!(
            "mkdir -p /var/lib/upm && mount -t tmpfs -o mode={mode} none /var/lib/upm && mkdir -m 711 /var/lib/upm/writable && \
             exec \"$@\""
        );
        f.upm(words).mounting_script(&script).cwd(f.path("elsewhere")).run()
    };
    let shut = run(&["Evil", "run"], "700");
    assert_refused(&shut, &f.path("elsewhere/upm_config.toml"));
    let text = shut.data()["error"].as_str().unwrap().to_owned();
    assert!(text.contains("chmod a+x /var/lib/upm"), "{text}");
    // the controls: named, and with an accessible record
    assert_eq!(run(&["--config", "upm_config.toml", "Evil", "run"], "700").result(), "the planted program");
    assert_eq!(run(&["Evil", "run"], "755").result(), "the planted program");
}

/// All users can look up root's records but not list them, with any umask. `check` and `doctor` report a closed directory.
#[test]
fn roots_record_is_for_looking_up() {
    let Some(f) = Fixture::probe(Mode::Root, "write = [\"{project_root}\"]") else { return };
    let modes = |umask: &str| {
        let file = f.text("modes");
        let script = format!(
            "mount -t tmpfs -o mode=755 none /var/lib && umask {umask} && \"$@\" && stat -c %a /var/lib/upm /var/lib/upm/writable > {file}"
        );
        f.upm(["Probe", "run", r#"{"args":["echo"]}"#]).mounting_script(&script).run().result();
        fs::read_to_string(f.path("modes")).unwrap()
    };
    for umask in ["022", "077"] {
        assert_eq!(modes(umask), "755\n711\n", "umask {umask}");
    }
    let look = |words: &str, mode: &str| {
        let script = format!("mount -t tmpfs -o mode=755 none /var/lib && mkdir -m {mode} /var/lib/upm && exec \"$@\"");
        f.upm([words]).mounting_script(&script).run()
    };
    for words in ["check", "doctor"] {
        let shut = look(words, "700");
        assert!(shut.exit == Some(1) && shut.stdout.contains("chmod a+x /var/lib/upm"), "{words}: {shut:#?}");
        assert!(!look(words, "755").stdout.contains("chmod a+x"), "the control: {words}");
    }
}
