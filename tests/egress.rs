//! Egress: granted names, by name alone, and nothing that looks like them.
//!
//! The names are the tests' own: `upm` runs with a made-up `/etc/hosts`, which needs root, also for the user's cases.

mod common;

use common::{Fixture, Mode, Server, assert_errno_in, assert_ok, is_root, skip};
use rstest::rstest;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const HOSTS: &str = "\
127.0.0.1 localhost
127.0.0.1 good.test sub.good.test deep.sub.good.test other.test evilgood.test
10.1.2.3 private.test
192.168.7.7 home.test
172.16.0.9 office.test
169.254.169.254 meta.test
100.64.1.1 cgnat.test
0.0.0.0 zero.test
224.0.0.251 multi.test
::1 six.test
fd00::1 ula.test
fe80::1 link.test
::ffff:127.0.0.1 mapped.test
64:ff9b::7f00:1 nat64.test
2002:7f00:1:: sixtofour.test
";

struct Net {
    f: Fixture,
}

impl Net {
    /// One group `test` with these hosts; `PORT` in it is the server's.
    fn new(mode: Mode, server: &Server, group: &str) -> Option<Net> {
        if !is_root() {
            skip("a made-up /etc/hosts needs root");
            return None;
        }
        let group = group.replace("PORT", &server.port.to_string());
        let f = Fixture::new(
            mode,
            &format!("[egress.test]\n{group}\n{}egress = [\"test\"]\ntimeout = \"20s\"\n", common::PROBE),
        )?;
        f.write("hosts", HOSTS);
        Some(Net { f })
    }

    fn run(&self, act: &str, args: Value) -> common::Answer {
        let mut words = vec![json!(act)];
        words.extend(args.as_array().unwrap().clone());
        self.f.upm(["Probe", "run", &json!({ "args": words }).to_string()]).hosts("hosts").run()
    }

    fn act(&self, act: &str, args: Value) -> Value {
        self.run(act, args).result()
    }
}

const PLAIN: &str = "hosts = [\"good.test:PORT\"]\nallow_private = true\ntls = false";

#[rstest]
fn a_granted_name_is_reached(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let server = Server::start();
    let Some(net) = Net::new(mode, &server, PLAIN) else { return };
    let answer = net.run("connect", json!(["good.test", server.port, "ping"]));
    assert_eq!(answer.result()["text"], "got:ping", "{:#}", answer.data());
    let egress = answer.data()["egress"].clone();
    assert_eq!(egress.as_array().unwrap().len(), 1, "{egress:#}");
    let record = &egress[0];
    assert_eq!((record["host"].as_str(), record["port"].as_u64()), (Some("good.test"), Some(server.port.into())));
    assert_eq!((record["bytes_sent"].as_u64(), record["bytes_received"].as_u64()), (Some(4), Some(8)), "{record}");
    assert_eq!(record["end"], "closed");
    assert_eq!(answer.data()["usage"]["egress_bytes_sent"], 4);
    let peer = answer.result()["peer"].as_str().unwrap().to_owned();
    assert!(peer.starts_with("127."), "the plugin sees no address of the host's: {peer}");
    net.f.assert_clean();
}

#[rstest]
fn the_same_name_however_it_is_written(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let server = Server::start();
    let Some(net) = Net::new(mode, &server, PLAIN) else { return };
    for name in ["GOOD.test", "Good.Test", "good.test."] {
        assert_eq!(net.act("connect", json!([name, server.port, "x"]))["text"], "got:x", "{name}");
    }
}

#[rstest]
fn other_names_are_refused(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let server = Server::start();
    let Some(net) = Net::new(mode, &server, PLAIN) else { return };
    let labels = [
        json!("other.test"),
        json!("evilgood.test"),
        json!("sub.good.test"),
        json!("good.test.other.test"),
        json!("good-test"),
        json!("test"),
        json!(["good.test"]),
        json!([{"hex": "676f6f6400"}, "test"]),
        json!(["good\n", "test"]),
        json!(["good", "test\n"]),
        json!(["good", "test", "\u{0}"]),
        json!([" good", "test"]),
        json!(["gооd", "test"]),
        json!(["x".repeat(63), "good", "test"]),
        json!([{"hex": "1b5b324a"}, "test"]),
    ];
    let acts: Vec<Value> = labels.iter().map(|name| json!(["query", name])).collect();
    let answers = net.act("batch", json!(acts))["answers"].clone();
    for (name, answer) in labels.iter().zip(answers.as_array().unwrap()) {
        let refused = answer["ok"] == json!(false) || (answer["answers"] == json!([]) && answer["rcode"] != 0);
        assert!(refused, "{name}: {answer}");
    }
    // the twin
    for kind in ["udp", "tcp"] {
        let found = net.act("query", json!(["good.test", 1, null, kind]));
        let address = found["answers"][0].as_str().unwrap_or_else(|| panic!("{found}"));
        let octets: Vec<u8> = address.split('.').map(|part| part.parse().unwrap()).collect();
        assert!(octets[0] == 127 && (64..128).contains(&octets[1]), "127.64.0.0/10: {address}");
    }
    assert!(server.seen().is_empty());
}

#[rstest]
fn a_refused_name_is_a_denial(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let server = Server::start();
    let Some(net) = Net::new(mode, &server, PLAIN) else { return };
    let answer = net.run("resolve", json!(["other.test"]));
    let denials = answer.denials("egress", "resolve");
    assert!(!denials.is_empty(), "{:#}", answer.data());
    assert!(denials[0]["object"].to_string().contains("other.test"), "{denials:#?}");
    assert!(denials[0]["remedy"].as_str().unwrap().contains("other.test"), "{denials:#?}");
}

#[rstest]
fn an_address_is_not_a_name(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let server = Server::start();
    let Some(net) = Net::new(mode, &server, PLAIN) else { return };
    for address in ["192.0.2.1", "1.1.1.1", "10.1.2.3", "169.254.169.254", "2001:db8::1"] {
        let begun = Instant::now();
        assert_errno_in(&net.act("connect", json!([address, server.port])), &["ENETUNREACH", "EACCES"]);
        assert!(begun.elapsed() < Duration::from_secs(4), "it fails at once");
    }
    // loopback inside is not the host's: what listens there names no granted host
    let answer = net.act("connect", json!(["127.0.0.1", server.port, "x"]));
    assert_ne!(answer["text"], "got:x", "{answer}");
    assert_ok(&net.f.control("connect", json!(["127.0.0.1", server.port])));
}

#[rstest]
fn only_the_granted_port(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let (server, other) = (Server::start(), Server::start());
    let Some(net) = Net::new(mode, &server, PLAIN) else { return };
    let answer = net.act("connect", json!(["good.test", other.port, "x"]));
    assert_errno_in(&answer, &["EACCES", "ECONNREFUSED"]);
    assert!(other.seen().is_empty());
}

#[rstest]
fn a_wildcard_is_one_or_more_labels(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let server = Server::start();
    let Some(net) = Net::new(mode, &server, "hosts = [\"*.good.test:PORT\"]\nallow_private = true\ntls = false") else {
        return;
    };
    for name in ["sub.good.test", "deep.sub.good.test"] {
        assert_eq!(net.act("connect", json!([name, server.port, "x"]))["text"], "got:x", "{name}");
    }
    for name in ["good.test", "evilgood.test", "other.test"] {
        assert_eq!(net.act("resolve", json!([name]))["ok"], false, "{name}");
    }
}

/// A name that ends as granted, and that a resolver in C would cut at its NUL.
#[rstest]
fn a_nul_hides_no_other_name(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let server = Server::start();
    let Some(net) = Net::new(mode, &server, "hosts = [\"*.good.test:PORT\"]\nallow_private = true\ntls = false") else {
        return;
    };
    let names = [
        json!(["other", "test\u{0}", "good", "test"]),
        json!(["other.test\u{0}", "good", "test"]),
        json!(["other", "test", "\u{0}", "good", "test"]),
        json!(["\u{0}", "good", "test"]),
        json!(["sub", "good", "test\u{0}"]),
    ];
    for name in names {
        let answer = net.act("query", json!([name]));
        let refused = answer["ok"] == json!(false) || (answer["answers"] == json!([]) && answer["rcode"] != 0);
        assert!(refused, "{name}: {answer}");
    }
    assert!(server.seen().is_empty());
    assert_eq!(net.act("connect", json!(["sub.good.test", server.port, "x"]))["text"], "got:x");
    assert_eq!(net.act("query", json!([["sub", "good", "test"]]))["answers"].as_array().unwrap().len(), 1);
}

#[rstest]
fn private_answers_are_refused(
    #[values(Mode::Root, Mode::User)] mode: Mode,
    #[values(
        "good.test",
        "private.test",
        "home.test",
        "office.test",
        "meta.test",
        "cgnat.test",
        "zero.test",
        "multi.test",
        "six.test",
        "ula.test",
        "link.test",
        "mapped.test",
        "nat64.test",
        "sixtofour.test"
    )]
    name: &str,
) {
    let server = Server::start();
    let Some(net) = Net::new(mode, &server, &format!("hosts = [\"{name}:PORT\"]\ntls = false")) else { return };
    let answer = net.run("connect", json!([name, server.port, "x"]));
    let result = answer.result();
    assert!(result["ok"] == json!(false) || result["received"] == 0, "{result}");
    let egress = answer.data()["egress"].clone();
    assert_eq!(egress[0]["end"], "address_refused", "{:#}", answer.data());
    assert!(server.seen().is_empty(), "{name} was dialled");
}

/// The name stub's answer says nothing of the host's: each connection resolves the name and checks what it dials.
#[rstest]
fn a_name_that_resolves_to_something_else_is_checked_again(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let server = Server::start();
    let Some(net) = Net::new(mode, &server, PLAIN) else { return };
    let connect = json!(["connect", "good.test", server.port, "ping"]);
    let args = json!({"args": ["batch", connect, ["sleep", 2], connect]});
    let running = net.f.upm(["Probe", "run", &args.to_string()]).hosts("hosts").start();
    let begun = Instant::now();
    while server.seen().is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(10), "the first connection is allowed");
        std::thread::sleep(Duration::from_millis(5));
    }
    // no grant allows a multicast address, `allow_private` neither
    net.f.write("hosts", "224.0.0.251 good.test\n");
    let answer = running.wait();
    let answers = answer.result()["answers"].clone();
    assert_eq!(answers[0]["text"], "got:ping", "{answers:#}");
    assert_ne!(answers[2]["text"], "got:ping", "{answers:#}");
    let egress = answer.data()["egress"].clone();
    let ends: Vec<&str> = egress.as_array().unwrap().iter().filter_map(|r| r["end"].as_str()).collect();
    assert_eq!(ends, ["closed", "address_refused"], "{:#}", answer.data());
}

#[rstest]
fn tls_must_name_the_host(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let server = Server::start();
    let Some(net) = Net::new(mode, &server, "hosts = [\"good.test:PORT\"]\nallow_private = true") else { return };
    let ended = |answer: &common::Answer| answer.data()["egress"][0]["end"].as_str().unwrap_or("none").to_owned();
    let good = net.run("hello", json!(["good.test", server.port, "good.test"]));
    assert!(good.result()["text"].as_str().unwrap().starts_with("got:"), "{:#}", good.data());
    for foreign in ["other.test", "good.test.other.test", "xgood.test", "127.0.0.1"] {
        let answer = net.run("hello", json!(["good.test", server.port, foreign]));
        // at most a TLS alert of the gateway's own
        assert!(answer.result()["received"].as_u64().unwrap() <= 7, "{foreign}: {:#}", answer.data());
        assert_eq!(ended(&answer), "tls_name", "{foreign}");
    }
    let nameless = net.run("hello", json!(["good.test", server.port, null]));
    assert!(nameless.result()["received"].as_u64().unwrap() <= 7);
    assert!(["tls_name", "tls_missing"].contains(&ended(&nameless).as_str()), "{}", ended(&nameless));
    let plain = net.run("connect", json!(["good.test", server.port, "GET / HTTP/1.0\r\nHost: good.test\r\n\r\n"]));
    assert!(plain.result()["received"].as_u64().unwrap() <= 7, "{:#}", plain.data());
    assert_eq!(ended(&plain), "tls_missing");
    assert_eq!(server.seen().len(), 1, "only the good hello arrived");
}

#[rstest]
fn a_proxy_is_asked_to_connect(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let proxy = Server::answering(|_| b"HTTP/1.1 200 Connection established\r\n\r\nthrough".to_vec());
    let Some(net) = Net::new(
        mode,
        &proxy,
        "hosts = [\"good.test:8443\"]\ntls = false\nproxy = \"http://user:word@127.0.0.1:PORT\"",
    ) else {
        return;
    };
    let answer = net.run("connect", json!(["good.test", 8443, "x"]));
    assert_eq!(answer.result()["text"], "through", "{:#}", answer.data());
    let asked = String::from_utf8_lossy(&proxy.seen()[0]).into_owned();
    assert!(asked.starts_with("CONNECT good.test:8443 HTTP/1.1\r\n"), "{asked}");
    assert!(asked.contains("Proxy-Authorization: Basic dXNlcjp3b3Jk"), "{asked}");
    assert!(
        !answer.stdout.contains("dXNlcjp3b3Jk") && !answer.stdout.contains(":word@"),
        "the password is in the answer"
    );
}

#[rstest]
fn bytes_are_bounded(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let server = Server::answering(|_| vec![b'x'; 4 << 20]);
    let Some(net) = Net::new(mode, &server, PLAIN) else { return };
    let config = std::fs::read_to_string(net.f.path("upm_config.toml")).unwrap();
    net.f.write("upm_config.toml", config.replace("timeout = \"20s\"", "timeout = \"20s\"\negress_bytes = \"1MiB\""));
    let answer = net.run("connect", json!(["good.test", server.port, "x", 8_000_000]));
    let data = answer.data();
    assert_eq!(data["egress"][0]["end"], "limit", "{data:#}");
    let carried = data["egress"][0]["bytes_received"].as_u64().unwrap();
    assert!(carried <= (1 << 20) + 65536, "{carried}");
}

#[rstest]
fn without_a_grant_there_is_no_gateway(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let server = Server::start();
    let Some(net) = Net::new(mode, &server, PLAIN) else { return };
    let config = std::fs::read_to_string(net.f.path("upm_config.toml")).unwrap();
    net.f.write("upm_config.toml", config.replace("egress = [\"test\"]", "egress = []"));
    assert_eq!(net.act("resolve", json!(["good.test"]))["ok"], false);
    assert!(server.seen().is_empty());
}

/// A group that names no host opens none; it is not the same as no group.
#[rstest]
fn a_group_without_hosts_opens_nothing(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let server = Server::start();
    let Some(net) = Net::new(mode, &server, "hosts = []\nallow_private = true\ntls = false") else { return };
    let answer = net.run("resolve", json!(["good.test"]));
    assert_eq!(answer.result()["ok"], false);
    assert_eq!(answer.denials("egress", "resolve").len(), 1, "{:#}", answer.data());
    assert!(server.seen().is_empty());
    let config = std::fs::read_to_string(net.f.path("upm_config.toml")).unwrap();
    let host = format!("hosts = [\"good.test:{}\"]", server.port);
    net.f.write("upm_config.toml", config.replace("hosts = []", &host));
    assert_eq!(net.act("connect", json!(["good.test", server.port, "x"]))["text"], "got:x");
}

#[rstest]
#[case::unknown_group("egress = [\"nope\"]", "")]
#[case::bad_port("egress = [\"g\"]", "[egress.g]\nhosts = [\"a.test:0\"]\n")]
#[case::dns_port("egress = [\"g\"]", "[egress.g]\nhosts = [\"a.test:53\"]\n")]
#[case::no_port("egress = [\"g\"]", "[egress.g]\nhosts = [\"a.test\"]\n")]
#[case::newline("egress = [\"g\"]", "[egress.g]\nhosts = [\"a\\n.test:443\"]\n")]
#[case::star("egress = [\"g\"]", "[egress.g]\nhosts = [\"*:443\"]\n")]
#[case::inner_star("egress = [\"g\"]", "[egress.g]\nhosts = [\"a.*.test:443\"]\n")]
fn bad_groups_are_errors(#[case] grant: &str, #[case] group: &str, #[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::new(mode, &format!("{group}{}{grant}\n", common::PROBE)) else { return };
    f.run("echo", Value::Null).failed("config_invalid", 125);
}
