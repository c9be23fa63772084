//! Rust, static with glibc: glibc's resolver. It speaks no TLS here.
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::FromRawFd;

type Act = (&'static str, Box<dyn Fn() -> io::Result<()>>);

fn local() -> Vec<Act> {
    vec![
        ("threads", Box::new(|| {
            let all: Vec<_> = (0..8).map(|n| std::thread::spawn(move || n)).collect();
            all.into_iter().try_for_each(|one| one.join().map(drop).map_err(|_| io::Error::other("join")))
        })),
        ("child", Box::new(|| std::process::Command::new("/bin/true").status().map(drop))),
        ("file", Box::new(|| {
            let path = std::env::temp_dir().join(format!("t-{}", std::process::id()));
            std::fs::write(&path, "x")?;
            std::fs::remove_file(path)
        })),
        ("loopback", Box::new(|| {
            let server = TcpListener::bind(("localhost", 0))?;
            TcpStream::connect(server.local_addr()?)?.write_all(b"x")?;
            server.accept()?.0.read_exact(&mut [0])
        })),
        ("names", Box::new(|| {
            let own = String::from_utf8_lossy(&std::process::Command::new("uname").arg("-n").output()?.stdout).into_owned();
            ("localhost", 1).to_socket_addrs()?;
            (own.trim(), 1).to_socket_addrs().map(drop)
        })),
    ]
}

fn remote(host: &'static str) -> Vec<Act> {
    vec![("fetch", Box::new(move || {
        let port = std::env::var("PORT").unwrap().parse().unwrap();
        let mut page = TcpStream::connect((host, port))?;
        page.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        let mut text = String::new();
        page.read_to_string(&mut text)?;
        if text.contains(" 200 ") { Ok(()) } else { Err(io::Error::other("no page")) }
    }))]
}

fn main() {
    // SAFETY: descriptor 3 is this program's alone.
    let mut frames = unsafe { std::fs::File::from_raw_fd(3) };
    let mut call = String::new();
    BufReader::new(&frames).read_line(&mut call).unwrap();
    let denied = call.contains("\"method\":\"denied\"");
    let acts = if call.contains("\"method\":\"local\"") { local() } else { remote(if denied { "other.test" } else { "good.test" }) };
    let mut result = String::from("\"version\":\"1\"");
    for (name, act) in acts {
        let end = act().map_or_else(|e| e.to_string().replace(['"', '\\'], " "), |()| "ok".to_owned());
        result += &format!(",\"{name}\":\"{end}\"");
    }
    writeln!(frames, "{{\"type\":\"result\",\"result\":{{{result}}}}}").unwrap();
}
