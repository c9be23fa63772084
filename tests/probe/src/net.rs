//! Sockets of every kind, names, and connections.

use crate::answer::{Answer, Trouble};
use crate::args::{Args, number};
use crate::frames::unhex;
use crate::sys;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net as unix;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(5);

/// `socket FAMILY TYPE [PROTOCOL]`
pub fn socket(args: Args) -> Answer {
    sys::close(sys::call(libc::SYS_socket, &[args.int(0)?, args.int(1)?, args.int_or(2, 0)?])?);
    Ok(json!({}))
}

/// `socketpair FAMILY TYPE [PROTOCOL]`
pub fn socketpair(args: Args) -> Answer {
    let mut pair = [0_i32; 2];
    let made = [args.int(0)?, args.int(1)?, args.int_or(2, 0)?, pair.as_mut_ptr() as i64];
    sys::call(libc::SYS_socketpair, &made)?;
    pair.into_iter().for_each(|fd| sys::close(i64::from(fd)));
    Ok(json!({}))
}

/// `setsockopt FAMILY TYPE LEVEL NAME [HEX]`: on a fresh socket; the value is 8 bytes of 1 by default.
pub fn setsockopt(args: Args) -> Answer {
    let fd = sys::call(libc::SYS_socket, &[args.int(0)?, args.int(1)?, 0])?;
    let value = unhex(args.text_or(4, "0100000001000000"));
    let set = [fd, args.int(2)?, args.int(3)?, value.as_ptr() as i64, value.len() as i64];
    let done = sys::call(libc::SYS_setsockopt, &set);
    sys::close(fd);
    Ok(json!(done?))
}

/// `resolve NAME`: by getaddrinfo, as programs do. A failure has getaddrinfo's text and `eai`.
pub fn resolve(args: Args) -> Answer {
    let name = sys::c(args.text(0)?)?;
    // SAFETY: all-zero hints are valid.
    let mut hints: libc::addrinfo = unsafe { std::mem::zeroed() };
    hints.ai_socktype = libc::SOCK_STREAM;
    let mut list = std::ptr::null_mut();
    // SAFETY: name, hints and list outlive the call.
    let eai = unsafe { libc::getaddrinfo(name.as_ptr(), std::ptr::null(), &raw const hints, &raw mut list) };
    if eai != 0 {
        // SAFETY: gai_strerror answers a static string.
        let text = unsafe { std::ffi::CStr::from_ptr(libc::gai_strerror(eai)) };
        return Ok(json!({"ok": false, "eai": eai, "message": text.to_string_lossy()}));
    }
    let mut addresses = Vec::new();
    let mut at = list;
    while !at.is_null() {
        // SAFETY: the list is getaddrinfo's own until it is freed below; the family tells the address's type.
        unsafe {
            let entry = &*at;
            if entry.ai_family == libc::AF_INET {
                let address = &*entry.ai_addr.cast::<libc::sockaddr_in>();
                addresses.push(std::net::Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr)).to_string());
            } else if entry.ai_family == libc::AF_INET6 {
                let address = &*entry.ai_addr.cast::<libc::sockaddr_in6>();
                addresses.push(std::net::Ipv6Addr::from(address.sin6_addr.s6_addr).to_string());
            }
            at = entry.ai_next;
        }
    }
    // SAFETY: `list` came from getaddrinfo and is not used after.
    unsafe { libc::freeaddrinfo(list) };
    Ok(json!({ "addresses": addresses }))
}

/// `query NAME-OR-LABELS [TYPE] [SERVER] [TRANSPORT]`: a DNS query made by hand, so that names which getaddrinfo would
/// refuse reach the server. A string is split at dots; a list gives labels as they stand (`{"hex":…}` for bytes).
/// TYPE is 1 (A) or 28 (AAAA); SERVER defaults to the first of `/etc/resolv.conf`.
pub fn query(args: Args) -> Answer {
    let labels: Vec<Vec<u8>> = match args.get(0) {
        Some(Value::String(name)) => {
            name.trim_end_matches('.').split('.').map(|label| label.as_bytes().to_vec()).collect()
        }
        Some(Value::Array(list)) => list
            .iter()
            .map(|label| {
                label
                    .as_str()
                    .map_or_else(|| unhex(label["hex"].as_str().unwrap_or("")), |text| text.as_bytes().to_vec())
            })
            .collect(),
        _ => return Err(Trouble::usage("query wants a name or a list of labels")),
    };
    let mut packet = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in labels {
        packet.push(label.len() as u8);
        packet.extend(label);
    }
    packet.extend([0, 0, args.int_or(1, 1)? as u8, 0, 1]);
    let server = match args.get(2).and_then(Value::as_str) {
        Some(server) => server.to_owned(),
        None => std::fs::read_to_string("/etc/resolv.conf")?
            .lines()
            .find_map(|line| line.strip_prefix("nameserver ").map(|address| address.trim().to_owned()))
            .ok_or_else(|| Trouble::usage("no name server in resolv.conf"))?,
    };
    let mut reply = vec![0_u8; 4096];
    let n = if args.text_or(3, "udp") == "tcp" {
        let mut stream = TcpStream::connect_timeout(&address(&server, 53)?, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(&(packet.len() as u16).to_be_bytes())?;
        stream.write_all(&packet)?;
        let mut length = [0_u8; 2];
        stream.read_exact(&mut length)?;
        let n = usize::from(u16::from_be_bytes(length)).min(reply.len());
        stream.read_exact(&mut reply[..n])?;
        n
    } else {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.connect(address(&server, 53)?)?;
        socket.send(&packet)?;
        socket.recv(&mut reply)?
    };
    let reply = &reply[..n];
    let rcode = reply.get(3).map_or(-1, |flags| i64::from(flags & 15));
    Ok(
        json!({"rcode": rcode, "answers": answers(reply), "hex": reply.iter().map(|b| format!("{b:02x}")).collect::<String>()}),
    )
}

/// Addresses of the answer section; the question is skipped, names may be pointers.
fn answers(reply: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    let word = |at: usize| reply.get(at..at + 2).map_or(0, |b| usize::from(u16::from_be_bytes([b[0], b[1]])));
    let skip_name = |mut at: usize| {
        while let Some(length) = reply.get(at).copied() {
            if length & 0xC0 == 0xC0 {
                return at + 2;
            }
            if length == 0 {
                return at + 1;
            }
            at += 1 + usize::from(length);
        }
        at
    };
    let mut at = 12;
    for _ in 0..word(4) {
        at = skip_name(at) + 4;
    }
    for _ in 0..word(6) {
        at = skip_name(at);
        let (kind, length) = (word(at), word(at + 8));
        let data = reply.get(at + 10..at + 10 + length).unwrap_or(&[]);
        match (kind, data) {
            (1, &[a, b, c, d]) => found.push(std::net::Ipv4Addr::new(a, b, c, d).to_string()),
            (28, data) => {
                if let Ok(bytes) = <[u8; 16]>::try_from(data) {
                    found.push(std::net::Ipv6Addr::from(bytes).to_string());
                }
            }
            _ => {}
        }
        at += 10 + length;
    }
    found
}

fn address(host: &str, port: u16) -> Result<SocketAddr, Trouble> {
    Ok(SocketAddr::new(host.parse().map_err(|_| Trouble::usage(format!("{host} is no address")))?, port))
}

/// `connect HOST PORT [SEND] [READ]`: HOST is a name or an address; sends text (`{"hex":…}` for bytes), then reads up
/// to READ bytes until the end or 5 s. Without SEND it only connects.
pub fn connect(args: Args) -> Answer {
    let (host, port) = (args.text(0)?, args.int(1)? as u16);
    let target = match host.parse() {
        Ok(ip) => SocketAddr::new(ip, port),
        Err(_) => {
            let resolved = resolve(args)?;
            let Some(first) = resolved["addresses"][0].as_str() else {
                return Ok(
                    json!({"ok": false, "stage": "resolve", "eai": resolved["eai"], "message": resolved["message"]}),
                );
            };
            address(first, port)?
        }
    };
    let mut stream = TcpStream::connect_timeout(&target, PATIENCE)?;
    let Some(send) = args.get(2) else { return Ok(json!({"peer": target.to_string()})) };
    let bytes =
        send.as_str().map_or_else(|| unhex(send["hex"].as_str().unwrap_or("")), |text| text.as_bytes().to_vec());
    Ok(exchange(&mut stream, &target, &bytes, args.int_or(3, 65536)?))
}

fn exchange(stream: &mut TcpStream, target: &SocketAddr, bytes: &[u8], limit: i64) -> Value {
    let _ = stream.set_read_timeout(Some(PATIENCE));
    let sent = stream.write_all(bytes);
    let mut got = Vec::new();
    let read = stream.take(limit as u64).read_to_end(&mut got);
    let errno = |error: std::io::Error| error.raw_os_error().unwrap_or(-1);
    json!({"peer": target.to_string(), "sent": sent.map_or_else(errno, |()| 0), "read_errno": read.map_or_else(errno, |_| 0),
           "received": got.len(), "text": String::from_utf8_lossy(&got),
           "hex": got.iter().take(64).map(|b| format!("{b:02x}")).collect::<String>()})
}

/// `hello HOST PORT SNI [TEXT]`: connects and sends a TLS 1.3 ClientHello that names SNI (null: none), then reads.
pub fn hello(args: Args) -> Answer {
    let bytes = client_hello(args.get(2).and_then(Value::as_str));
    let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    let mut words = args.0.to_vec();
    words.truncate(2);
    words.push(json!({ "hex": hex }));
    words.push(json!(4096));
    connect(Args(&words))
}

/// The smallest ClientHello that parsers take: one cipher suite, `server_name` and `supported_versions`.
fn client_hello(name: Option<&str>) -> Vec<u8> {
    let u16s = |n: usize| (n as u16).to_be_bytes();
    let mut extensions = Vec::new();
    if let Some(name) = name {
        extensions.extend([0, 0]);
        extensions.extend(u16s(name.len() + 5));
        extensions.extend(u16s(name.len() + 3));
        extensions.push(0);
        extensions.extend(u16s(name.len()));
        extensions.extend(name.as_bytes());
    }
    extensions.extend([0, 43, 0, 3, 2, 3, 4]);
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0x13, 0x01, 1, 0]);
    body.extend(u16s(extensions.len()));
    body.extend(extensions);
    let mut handshake = vec![1, 0];
    handshake.extend(u16s(body.len()));
    handshake.extend(body);
    let mut record = vec![22, 3, 1];
    record.extend(u16s(handshake.len()));
    record.extend(handshake);
    record
}

/// `udp_send ADDRESS PORT TEXT [REPLY]`: with REPLY true waits 2 s for an answer.
pub fn udp_send(args: Args) -> Answer {
    let target = address(args.text(0)?, args.int(1)? as u16)?;
    let socket = UdpSocket::bind(if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
    let sent = socket.send_to(args.text_or(2, "x").as_bytes(), target)?;
    if args.get(3).and_then(number).unwrap_or(0) == 0 {
        return Ok(json!({ "sent": sent }));
    }
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut reply = [0_u8; 2048];
    let (n, from) = socket.recv_from(&mut reply)?;
    Ok(json!({"sent": sent, "from": from.to_string(), "text": String::from_utf8_lossy(&reply[..n])}))
}

/// `bind ADDRESS PORT [udp]`: listens too when TCP.
pub fn bind(args: Args) -> Answer {
    let target = address(args.text(0)?, args.int(1)? as u16)?;
    let bound = if args.text_or(2, "tcp") == "udp" {
        UdpSocket::bind(target)?.local_addr()?
    } else {
        std::net::TcpListener::bind(target)?.local_addr()?
    };
    Ok(json!(bound.to_string()))
}

fn unix_address(text: &str) -> Result<unix::SocketAddr, Trouble> {
    Ok(match text.strip_prefix('@') {
        Some(name) => unix::SocketAddr::from_abstract_name(name)?,
        None => unix::SocketAddr::from_pathname(text)?,
    })
}

/// `unix_connect PATH|@ABSTRACT [dgram]`
pub fn unix_connect(args: Args) -> Answer {
    let address = unix_address(args.text(0)?)?;
    if args.text_or(1, "stream") == "dgram" {
        unix::UnixDatagram::unbound()?.connect_addr(&address)?;
    } else {
        unix::UnixStream::connect_addr(&address)?;
    }
    Ok(json!({}))
}

/// `unix_bind PATH|@ABSTRACT [HOLD_MS]`
pub fn unix_bind(args: Args) -> Answer {
    let listener = unix::UnixListener::bind_addr(&unix_address(args.text(0)?)?)?;
    std::thread::sleep(Duration::from_millis(args.int_or(1, 0)? as u64));
    drop(listener);
    Ok(json!({}))
}
