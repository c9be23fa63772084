//! OpenSSL's own server for `good.test`.

use super::Fixture;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// It serves a page about the connection over HTTP. What it says of each message goes to a file.
pub struct TlsServer {
    child: Child,
    /// Where it listens.
    pub port: u16,
    log: PathBuf,
}

impl TlsServer {
    /// Starts it with more options of `openssl s_server`. What signed its certificate is the fixture's `ca.pem`.
    pub fn start(f: &Fixture, options: &[&str]) -> TlsServer {
        let [key, cert, ca_key, ca] = ["key.pem", "cert.pem", "ca.key", "ca.pem"].map(|name| f.text(name));
        let make = |words: &[&str]| {
            let made = Command::new("openssl")
                .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"])
                .args(words)
                .output()
                .unwrap();
            assert!(made.status.success(), "{made:?}");
        };
        make(&["-subj", "/CN=upm tests", "-addext", "keyUsage=critical,keyCertSign", "-keyout", &ca_key, "-out", &ca]);
        let name = ["-subj", "/CN=good.test", "-addext", "subjectAltName=DNS:good.test"];
        let signed = ["-addext", "basicConstraints=critical,CA:FALSE", "-CA", &ca, "-CAkey", &ca_key];
        make(&[&name[..], &signed, &["-keyout", &key, "-out", &cert]].concat());
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let log = f.path("tls.log");
        let child = Command::new("openssl")
            .args(["s_server", "-accept", &port.to_string(), "-www", "-msg", "-cert", &cert, "-key", &key])
            .args(options)
            .stdin(Stdio::null())
            .stdout(fs::File::create(&log).unwrap())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let end = Instant::now() + Duration::from_secs(10);
        while !fs::read_to_string(&log).unwrap_or_default().contains("ACCEPT") {
            assert!(Instant::now() < end, "the server does not start");
            std::thread::sleep(Duration::from_millis(10));
        }
        TlsServer { child, port, log }
    }

    /// ClientHellos that have arrived.
    pub fn hellos(&self) -> usize {
        // It writes after it has answered.
        std::thread::sleep(Duration::from_millis(200));
        fs::read_to_string(&self.log)
            .unwrap()
            .lines()
            .filter(|line| line.contains("<<<") && line.contains("ClientHello"))
            .count()
    }
}

impl Drop for TlsServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
