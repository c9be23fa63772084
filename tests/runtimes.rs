//! Languages: the programs that run them start, do ordinary things, and reach a granted host with their own resolver. What is not
//! granted looks to each like a name that does not resolve. `cargo test --test runtimes -- --nocapture` prints a line for each.

mod common;

use common::tls::TlsServer;
use common::{Answer, Fixture, Mode, Server, cache, has_program, is_root, repository, skip};
use rstest::rstest;
use serde_json::{Map, Value};
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;

/// A language, and a plugin in it: `tests/runtimes/SOURCE`.
struct Runtime {
    name: &'static str,
    source: &'static str,
    /// What must be on the host.
    needs: &'static [&'static str],
    /// Words that make the program OUT of the source IN, where the source is not a script.
    build: &'static str,
    /// Whether it speaks TLS; otherwise its host is granted without.
    tls: bool,
    /// More variables of its grant.
    env: &'static str,
    /// Paths of its grant, in the fixture or absolute.
    read: &'static [&'static str],
    /// How each act fails on a name that is not granted: as on one that does not resolve.
    unresolved: &'static [(&'static str, &'static str)],
    /// Acts that fail inside and not outside: what is in the message, and why that stays so.
    fails: &'static [(&'static str, &'static str, &'static str)],
}

const SCRIPT: Runtime =
    Runtime { name: "", source: "", needs: &[], build: "", tls: true, env: "", read: &[], unresolved: &[], fails: &[] };
const GLIBC: &str = "Name or service not known";

fn runtimes() -> Vec<Runtime> {
    vec![
        Runtime {
            name: "Node",
            source: "node.js",
            needs: &["node"],
            env: "NODE_EXTRA_CA_CERTS = 'CERT', ",
            unresolved: &[("fetch", "getaddrinfo ENOTFOUND other.test"), ("resolver", "queryA ENOTFOUND other.test")],
            ..SCRIPT
        },
        Runtime {
            name: "Ruby",
            source: "ruby.rb",
            needs: &["ruby"],
            unresolved: &[
                ("fetch", GLIBC),
                ("resolver", "Resolv::ResolvError: DNS result has no information for other.test"),
            ],
            ..SCRIPT
        },
        Runtime {
            name: "Perl",
            source: "perl.pl",
            needs: &["perl"],
            unresolved: &[("fetch", GLIBC), ("resolver", "NXDOMAIN")],
            ..SCRIPT
        },
        Runtime {
            name: "PHP",
            source: "php.php",
            needs: &["php"],
            // its extensions are loaded by files there, which may also hold passwords
            read: &["/etc/php"],
            unresolved: &[("fetch", GLIBC), ("resolver", "no record")],
            ..SCRIPT
        },
        Runtime { name: "Lua", source: "lua.sh", needs: &["lua5.4"], unresolved: &[("fetch", "not known")], ..SCRIPT },
        Runtime {
            name: "bash",
            source: "bash.sh",
            needs: &["bash"],
            tls: false,
            unresolved: &[("fetch", GLIBC)],
            ..SCRIPT
        },
        Runtime {
            name: "Erlang",
            source: "erlang.escript",
            needs: &["escript"],
            unresolved: &[("fetch", "nxdomain"), ("resolver", "nxdomain")],
            ..SCRIPT
        },
        Runtime {
            name: "Java",
            source: "java.sh",
            needs: &["java", "javac", "keytool"],
            read: &["classes"],
            env: "CLASSES = 'CLASSES', JAVA_TOOL_OPTIONS = '-Djavax.net.ssl.trustStore=CERT.p12 -Djavax.net.ssl.trustStorePassword=changeit', ",
            unresolved: &[
                ("fetch", "UnknownHostException: other.test"),
                ("resolver", "NameNotFoundException: DNS name not found"),
            ],
            ..SCRIPT
        },
        Runtime {
            name: "Go",
            source: "plugin.go",
            needs: &["go"],
            build: "CGO_ENABLED=0 go build -o OUT IN",
            unresolved: &[("fetch", "no such host")],
            ..SCRIPT
        },
        Runtime {
            name: "Go with cgo",
            source: "plugin.go",
            needs: &["go"],
            build: "CGO_ENABLED=1 go build -o OUT IN",
            env: "GODEBUG = 'netdns=cgo', ",
            unresolved: &[("fetch", "no such host")],
            ..SCRIPT
        },
        Runtime {
            name: "Rust, static",
            source: "plugin.rs",
            needs: &["rustc"],
            build: "rustc --edition 2021 -C target-feature=+crt-static -o OUT IN",
            tls: false,
            unresolved: &[("fetch", GLIBC)],
            ..SCRIPT
        },
        Runtime {
            name: "C with musl, static",
            source: "plugin.c",
            needs: &["musl-gcc"],
            build: "musl-gcc -static -o OUT IN",
            tls: false,
            unresolved: &[("fetch", "Name does not resolve")],
            ..SCRIPT
        },
    ]
}

/// A language's plugin `Runtime` in a fixture, with the servers that it may reach.
struct Lab {
    f: Fixture,
    /// Root's shell makes the host so: a script for [`common::Call::mounting_at`], with the made-up `/etc/hosts` as `$0`.
    host: String,
    env: Vec<(String, String)>,
    servers: (TlsServer, Server),
}

impl Lab {
    /// `entry` are the first lines of the plugin's table; CERT and CLASSES in `env` are the fixture's.
    fn new(mode: Mode, tls: bool, entry: &str, env: &str) -> Option<Lab> {
        if !is_root() {
            skip("a made-up /etc/hosts needs root");
            return None;
        }
        if !has_program("openssl") {
            return None;
        }
        let f = Fixture::bare(mode)?;
        let secure = TlsServer::start(&f, &[]);
        let plain = Server::answering(|_| b"HTTP/1.0 200 OK\r\n\r\n".to_vec());
        let port = if tls { secure.port } else { plain.port };
        let cert = f.text("ca.pem");
        let env = format!("{env}PORT = '{port}', SSL_CERT_FILE = 'CERT'");
        let env = env
            .replace("CERT'", &format!("{cert}'"))
            .replace("CERT.", &format!("{cert}."))
            .replace("'CLASSES'", &format!("'{}'", f.text("classes")));
        f.mkdir("classes");
        f.write("ca.pem.p12", "");
        f.config(&format!(
            "[egress.test]\nhosts = [\"good.test:{port}\"]\nallow_private = true\ntls = {tls}\n\
             [plugins.Runtime]\n{entry}\nallowed_methods = [\"local\", \"granted\", \"denied\", \"alone\"]\nenv = {{ {env} }}\n"
        ));
        let own = nix::unistd::gethostname().unwrap();
        f.write("hosts", format!("127.0.0.1 localhost {} good.test other.test\n", own.to_string_lossy()));
        let env = env.split(", ").filter_map(|pair| pair.split_once(" = "));
        let env = env.map(|(key, value)| (key.to_owned(), value.trim_matches('\'').to_owned())).collect();
        let host = "mount --bind \"$0\" /etc/hosts && exec \"$@\"".to_owned();
        Some(Lab { f, host, env, servers: (secure, plain) })
    }

    /// Grants these paths to all methods, and to those that use the network the certificate too: where any path is granted, there may
    /// be no UNIX sockets.
    fn grant(&self, read: &[String]) {
        let mut config = fs::read_to_string(self.f.path("upm_config.toml")).unwrap() + &format!("read = {read:?}\n");
        let read: Vec<_> = read.iter().cloned().chain(["ca.pem", "ca.pem.p12"].map(|name| self.f.text(name))).collect();
        for (method, egress) in [("granted", "[\"test\"]"), ("denied", "[\"test\"]"), ("alone", "[]")] {
            config += &format!("[plugins.Runtime.methods.{method}]\negress = {egress}\nread = {read:?}\n");
        }
        self.f.write("upm_config.toml", config);
    }

    fn end(self) {
        drop(self.servers);
        self.f.assert_clean();
    }

    fn call(&self, method: &str) -> Answer {
        self.f.upm(["Runtime", method]).mounting_at(&self.host, "hosts").run()
    }

    /// All that is promised of a language; gives the line of the table. `outside` are the ends of its local acts on the host.
    fn holds(&self, runtime: &Runtime, outside: &Map<String, Value>) -> String {
        let mut wrong = Vec::new();
        let local = self.call("local");
        let ended = ends(&local);
        let mut line = format!("{} {}", runtime.name, ended["version"].as_str().unwrap());
        for (act, end) in ended.iter().filter(|(act, _)| *act != "version") {
            let end = end.as_str().unwrap();
            line += &format!(", {act} {end}");
            // a name server of the host's may not know the host
            if outside[act] != "ok" && act != "resolver" {
                wrong.push(format!("{act}: it does not work on this host: {}", outside[act]));
            }
            match runtime.fails.iter().find(|(name, ..)| name == act) {
                Some((_, with, why)) if !end.contains(with) => {
                    wrong.push(format!("{act}: expected {with} ({why}), got {end}"))
                }
                None if end != "ok" => wrong.push(format!("{act}: {end}")),
                _ => {}
            }
        }
        if let Some((act, ..)) = runtime.fails.iter().find(|(act, ..)| !ended.contains_key(*act)) {
            wrong.push(format!("{act}: there is no such act"));
        }
        let granted = self.call("granted");
        for (act, end) in ends(&granted).iter().filter(|(act, end)| *act != "version" && *end != "ok") {
            wrong.push(format!("{act} of a granted host: {end}"));
        }
        let record = &granted.data()["egress"][0];
        if record["host"] != "good.test" || record["bytes_received"].as_u64() == Some(0) {
            wrong.push(format!("nothing came through the gateway: {record}"));
        }
        for (method, host) in [("denied", "other.test"), ("alone", "good.test")] {
            let answer = self.call(method);
            let ended = ends(&answer);
            for (act, with) in runtime.unresolved {
                let end = ended[*act].as_str().unwrap();
                line += &format!(", {method} {act}: {end}");
                if !end.contains(&with.replace("other.test", host)) {
                    wrong.push(format!("{method}: {act}: expected {with}, got {end}"));
                }
            }
            let named = |denial: &Value| denial["object"]["name"] == host;
            if !answer.denials("egress", "resolve").iter().any(named) {
                wrong.push(format!("{method}: no denial names {host}: {:#}", answer.data()["denials"]));
            }
        }
        assert!(wrong.is_empty(), "{}:\n{}\n{:#}", runtime.name, wrong.join("\n"), local.data()["denials"]);
        line
    }
}

fn ends(answer: &Answer) -> Map<String, Value> {
    answer.result().as_object().unwrap().clone()
}

impl Runtime {
    /// The plugin in its fixture; `None` where something is missing on this host.
    fn lab(&self, mode: Mode) -> Option<Lab> {
        if !self.needs.iter().all(|program| has_program(program)) {
            return None;
        }
        let lab = Lab::new(mode, self.tls, "exec = \"plugins/runtime\"", self.env)?;
        let f = &lab.f;
        let source = repository().join("tests/runtimes").join(self.source);
        let run = |script: &str| {
            let script = script.replace("IN", source.to_str().unwrap()).replace("OUT", &f.text("built"));
            let caches = cache().join("go");
            let done =
                Command::new("sh").args(["-ec", &script]).env("GOCACHE", caches).current_dir(f.dir()).output().unwrap();
            assert!(done.status.success(), "{script}: {}", String::from_utf8_lossy(&done.stderr));
        };
        let read: Vec<String> = self.read.iter().map(|path| f.text(path)).collect();
        if self.name == "Java" {
            run(&format!("javac -d classes {}", repository().join("tests/runtimes/Plugin.java").display()));
            run(
                "rm ca.pem.p12; keytool -importcert -noprompt -alias test -file ca.pem -keystore ca.pem.p12 -storepass changeit",
            );
        }
        let program = if self.build.is_empty() {
            fs::read(&source).unwrap()
        } else {
            run(self.build);
            fs::read(f.path("built")).unwrap()
        };
        let plugin = f.write("plugins/runtime", program);
        fs::set_permissions(plugin, fs::Permissions::from_mode(0o755)).unwrap();
        lab.grant(&read);
        Some(lab)
    }

    /// How the local acts end on the host, as the same user.
    fn outside(&self, lab: &Lab) -> Map<String, Value> {
        let (mut frames, theirs) = UnixStream::pair().unwrap();
        let mut command = lab.f.as_caller(Path::new("/bin/sh"));
        command.args(["-c", "exec \"$0\" 3<&0 </dev/null >&2", &lab.f.text("plugins/runtime")]);
        command.envs(lab.env.iter().cloned()).stdin(OwnedFd::from(theirs));
        let child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
        drop(command);
        frames.write_all(b"{\"type\":\"call\",\"method\":\"local\",\"args\":[]}\n").unwrap();
        let mut answer = String::new();
        BufReader::new(frames).read_line(&mut answer).unwrap();
        let output = child.wait_with_output().unwrap();
        let answer: Value = serde_json::from_str(&answer).unwrap_or_else(|e| panic!("{}: {e}: {output:?}", self.name));
        answer["result"].as_object().unwrap().clone()
    }
}

#[rstest]
fn languages_run_and_resolve(
    #[values(Mode::Root, Mode::User)] mode: Mode,
    #[values(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11)] which: usize,
) {
    let runtime = &runtimes()[which];
    let Some(lab) = runtime.lab(mode) else { return };
    println!("{mode:?}: {}", lab.holds(runtime, &runtime.outside(&lab)));
    lab.end();
}

/// Where CPython of this version is, and what root's shell does to the host so that each user can reach it there.
struct Python {
    program: String,
    host: String,
}

/// `None` where it is not on this host.
fn python(version: &str) -> Option<Python> {
    let hosts = "mount --bind \"$0\" /etc/hosts";
    let own = Command::new("/usr/bin/python3").arg("--version").output().unwrap().stdout;
    if String::from_utf8_lossy(&own).starts_with(&format!("Python {version}.")) {
        return Some(Python { program: "/usr/bin/python3".into(), host: format!("{hosts} && exec \"$@\"") });
    }
    let versions = std::env::home_dir().unwrap().join(".pyenv/versions");
    let found = fs::read_dir(&versions).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut found =
        found.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with(&format!("{version}.")));
    let prefix = found.next()?;
    // a program that was built for a directory of root's own: the same place, and others may go there
    let home = std::env::home_dir().unwrap();
    let host = format!(
        "{hosts} && mkdir -p ${{0%/*}}/python && mount --bind {prefix} ${{0%/*}}/python && mount -t tmpfs -o mode=755 none {home} && \
         mkdir -p {prefix} && mount --move ${{0%/*}}/python {prefix} && exec \"$@\"",
        prefix = prefix.display(),
        home = home.display()
    );
    Some(Python { program: format!("{}/bin/python{version}", prefix.display()), host })
}

/// Debian's unstable suite as the host.
fn unstable() -> Option<Python> {
    if !has_program("mmdebstrap") {
        return None;
    }
    let made = Command::new(repository().join("tests/runtimes/unstable")).output().unwrap();
    if !made.status.success() {
        // it is not always there, so this is not a failure
        println!("skipped: Debian's unstable suite: {}", String::from_utf8_lossy(&made.stderr));
        return None;
    }
    let tree = String::from_utf8(made.stdout).unwrap();
    let host = format!(
        "mount --bind {0} {0} && cd {0} && mount --bind \"$0\" etc/hosts && mount -t tmpfs none var/tmp && mkdir -p .${{0%/*}} && \
         mount --bind ${{0%/*}} .${{0%/*}} && for d in proc sys dev; do mount --rbind /$d $d; done && mount -t tmpfs none run && \
         pivot_root . . && umount -l . && cd ${{0%/*}} && exec \"$@\"",
        tree.trim()
    );
    Some(Python { program: "/usr/bin/python3.14".into(), host })
}

#[rstest]
fn python_runs_and_resolves(
    #[values(Mode::Root, Mode::User)] mode: Mode,
    #[values("3.9", "3.10", "3.11", "3.12", "3.13", "3.14")] version: &str,
) {
    if !is_root() {
        return skip("making another host needs root");
    }
    let found = python(version).or_else(|| (version == "3.14").then(unstable).flatten());
    let Some(Python { program, host }) = found else {
        return if version == "3.14" {
            println!("skipped: CPython 3.14")
        } else {
            skip(&format!("CPython {version} is not here"))
        };
    };
    let Some(mut lab) = Lab::new(mode, true, &format!("module = \"python\"\ninterpreter = \"{program}\""), "") else {
        return;
    };
    lab.host = host;
    lab.grant(&[]);
    let f = &lab.f;
    f.python("python", &fs::read_to_string(repository().join("tests/runtimes/python.py")).unwrap());
    let script =
        "import json, sys; sys.path.insert(0, 'plugins'); import python; print(json.dumps(python.Runtime().local()))";
    let words = ["--mount", "--", "sh", "-c", &lab.host, &f.text("hosts"), &program, "-B", "-c", script];
    let output = Command::new("unshare").args(words).current_dir(f.dir()).output().unwrap();
    let outside: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"));
    let runtime = Runtime { name: "CPython", unresolved: &[("fetch", GLIBC)], ..SCRIPT };
    println!("{mode:?}: {}", lab.holds(&runtime, outside.as_object().unwrap()));
    lab.end();
}
