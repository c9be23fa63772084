//! A server that asks for a second ClientHello (HelloRetryRequest): the second must name the same host.

mod common;

use common::tls::TlsServer;
use common::{Fixture, Mode, has_program, is_root, skip};
use rstest::rstest;
use serde_json::{Value, json};
use std::process::Command;

/// Speaks TLS 1.3 by hand, with OpenSSL's own bytes: the client offers a key of X25519, and the server takes P-384 alone.
const PLUGIN: &str = r#"
import socket, ssl

class Retry:
    def run(self, host, port, how):
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        if how == "library":
            with socket.create_connection((host, port), 10) as plain, context.wrap_socket(plain, server_hostname="good.test") as tls:
                tls.sendall(b"GET / HTTP/1.0\r\n\r\n")
                received = 0
                while piece := tls.recv(65536):
                    received += len(piece)
                return {"version": tls.version(), "received": received}
        came, sent = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(came, sent, server_hostname="good.test")
        def step():
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                pass
            return sent.read()
        first = step()
        assert first.count(b"good.test") == 1
        other = lambda hello: hello.replace(b"good.test", b"evil.test")
        with socket.create_connection((host, port), 10) as plain:
            if how == "at once":
                plain.sendall(first + other(first))
            elif how == "at once, ended":
                plain.sendall(first + other(first))
                plain.shutdown(socket.SHUT_WR)
            else:
                plain.sendall(first)
                retry = plain.recv(65536)
                came.write(retry)
                second = step()
                assert second.count(b"good.test") == 1, (retry, second)
                plain.sendall(second if how == "same" else other(second))
            answer = b""
            try:
                while len(answer) < 50:
                    piece = plain.recv(65536)
                    if not piece: break
                    answer += piece
            except OSError:
                pass
            return {"kind": answer[0] if answer else None, "received": len(answer)}
"#;

#[rstest]
fn the_second_hello_must_name_the_host(#[values(Mode::Root, Mode::User)] mode: Mode) {
    if !is_root() {
        return skip("a made-up /etc/hosts needs root");
    }
    if !has_program("openssl") {
        return;
    }
    let Some(f) = Fixture::bare(mode) else { return };
    let server = TlsServer::start(&f, &["-groups", "P-384", "-tls1_3"]);
    let port = server.port;
    f.config(&format!(
        "[egress.test]\nhosts = [\"good.test:{port}\"]\nallow_private = true\n[plugins.Retry]\nmodule = \"retry_plugin\"\n\
         allowed_methods = [\"run\"]\negress = [\"test\"]\ntimeout = \"20s\"\n"
    ));
    f.python("retry_plugin", PLUGIN);
    f.write("hosts", "127.0.0.1 localhost good.test\n");
    let run = |how: &str| {
        let words = json!({"args": ["good.test", port, how]}).to_string();
        let before = server.hellos();
        let answer = f.upm(["Retry", "run", &words]).hosts("hosts").run();
        let end = answer.data()["egress"][0]["end"].as_str().unwrap_or_default().to_owned();
        (answer.result(), end, server.hellos() - before, answer)
    };
    // the twins: what a client does that means well, and the same by hand
    let (result, end, hellos, _) = run("library");
    assert_eq!((&result["version"], end.as_str(), hellos), (&json!("TLSv1.3"), "closed", 2), "{result}");
    assert!(result["received"].as_u64().unwrap() > 100, "a page came back: {result}");
    let (result, _, hellos, _) = run("same");
    assert_eq!((&result["kind"], hellos), (&json!(22), 2), "the server goes on: {result}");
    // a second name: after the server asked, with the first, and with nothing behind it
    for how in ["other", "at once", "at once, ended"] {
        let (result, end, hellos, answer) = run(how);
        assert_eq!((end.as_str(), hellos), ("tls_name", 1), "{how}: {result} {:#}", answer.data());
        let denials = answer.denials("egress", "tls_name");
        assert!(
            denials.iter().any(|one: &Value| one["object"].to_string().contains("evil.test")),
            "{how}: {denials:#?}"
        );
    }
    // and the same act works where nobody looks: the server itself takes the other name
    let script = format!("{PLUGIN}\nimport json\nprint(json.dumps(Retry().run('127.0.0.1', {port}, 'other')))");
    let before = server.hellos();
    let output = Command::new("/usr/bin/python3").args(["-c", &script]).output().unwrap();
    let outside: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"));
    assert_eq!((server.hellos() - before, outside["received"].as_u64() > Some(0)), (2, true), "{outside}");
    drop(server);
    f.assert_clean();
}
