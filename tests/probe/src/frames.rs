//! Descriptor 3: the call frame in, result frames out, and every way to break that.

use crate::acts;
use crate::args::Args;
use crate::sys;
use serde_json::{Value, json};
use std::io::Read;
use std::time::Duration;

/// The channel to the supervisor.
pub const CHANNEL: i32 = 3;

/// Runs as a plugin. `PROBE_BEFORE=sleep` never reads the call frame, `=close` closes the channel unread.
pub fn plugin() -> ! {
    match std::env::var("PROBE_BEFORE").as_deref() {
        Ok("sleep") => loop {
            std::thread::sleep(Duration::from_secs(60));
        },
        Ok("close") => {
            sys::close(i64::from(CHANNEL));
            std::thread::sleep(Duration::from_secs(2));
            std::process::exit(0);
        }
        _ => {}
    }
    let call = read_call();
    let method = call["method"].as_str().unwrap_or_default().to_owned();
    let args = call["args"].as_array().cloned().unwrap_or_default();
    let (act, args) = match (method.as_str(), args.split_first()) {
        ("run", Some((Value::String(act), rest))) => (act.clone(), rest.to_vec()),
        _ => (method, args),
    };
    if act == "call_frame" {
        send_line(&json!({"type": "result", "result": call}).to_string());
        std::process::exit(0);
    }
    if let Some(name) = act.strip_prefix("frame_") {
        misbehave(name, Args(&args));
    }
    let result = acts::run(&act, &args);
    send_line(&json!({"type": "result", "result": result, "plugin_version": "probe-1"}).to_string());
    std::process::exit(0);
}

/// One line from the channel, without reading past it.
fn read_call() -> Value {
    let mut line = Vec::new();
    let mut chunk = vec![0_u8; 65536];
    loop {
        match sys::call(libc::SYS_read, &[i64::from(CHANNEL), chunk.as_mut_ptr() as i64, chunk.len() as i64]) {
            Ok(0) | Err(_) => break,
            Ok(n) => line.extend_from_slice(&chunk[..n as usize]),
        }
        if line.contains(&b'\n') {
            break;
        }
    }
    serde_json::from_slice(&line).unwrap_or(Value::Null)
}

fn send(bytes: &[u8]) {
    // The supervisor may have gone or stopped reading: that is then the end of this process's part too.
    let _ = sys::write_all(CHANNEL, bytes);
}

fn send_line(text: &str) {
    send(format!("{text}\n").as_bytes());
}

const GOOD: &str = r#"{"type":"result","result":"good"}"#;

/// Breaks the protocol in the named way and exits.
fn misbehave(how: &str, args: Args) -> ! {
    let n = args.int_or(0, 100).unwrap_or(100);
    match how {
        "none" => {}
        "raw" => send(args.text_or(0, "").as_bytes()),
        "raw_hex" => send(&unhex(args.text_or(0, ""))),
        "garbage" => send_line("\u{1b}[2Jthis is no JSON"),
        "not_utf8" => send(b"{\"type\":\"result\",\"result\":\"\xff\xfe\"}\n"),
        "unfinished" => send(GOOD.as_bytes()),
        "duplicate" => send_line(r#"{"type":"result","result":1,"result":2}"#),
        "duplicate_nested" => send_line(r#"{"type":"result","result":{"a":1,"a":2}}"#),
        "duplicate_type" => send_line(r#"{"type":"progress","type":"result","result":1}"#),
        "deep" => send_line(&format!(
            r#"{{"type":"result","result":{}1{}}}"#,
            "[".repeat(n as usize),
            "]".repeat(n as usize)
        )),
        "nan" => send_line(r#"{"type":"result","result":NaN}"#),
        "unknown_type" => send_line(r#"{"type":"verdict","result":1}"#),
        "missing_type" => send_line(r#"{"result":1}"#),
        "array" => send_line("[1,2,3]"),
        "empty_line" => send_line(""),
        "two" => {
            send_line(GOOD);
            send_line(r#"{"type":"result","result":"second"}"#);
        }
        "trailing" => {
            send_line(GOOD);
            send(b"x");
        }
        "good_then_sleep" => {
            send_line(GOOD);
            std::thread::sleep(Duration::from_secs(n as u64));
        }
        // a line of n bytes all together
        "sized" => {
            let frame = r#"{"type":"result","result":""}"#.len();
            let filling = "x".repeat((n as usize).saturating_sub(frame));
            send_line(&format!(r#"{{"type":"result","result":"{filling}"}}"#));
        }
        "endless" => {
            let chunk = vec![b'x'; 1 << 16];
            send(br#"{"type":"result","result":""#);
            while sys::write_all(CHANNEL, &chunk).is_ok() {}
        }
        "progress" => {
            for at in 0..n {
                let fraction = (at + 1) as f64 / n as f64;
                send_line(&json!({"type": "progress", "message": format!("step {at}"), "fraction": fraction}).to_string());
            }
            send_line(GOOD);
        }
        "progress_forever" => while sys::write_all(CHANNEL, b"{\"type\":\"progress\",\"message\":\"m\",\"fraction\":0.5}\n").is_ok() {},
        "progress_bad" => {
            send_line(r#"{"type":"progress","message":7,"fraction":"x"}"#);
            send_line(GOOD);
        }
        "error" => send_line(
            &json!({"type": "error", "kind": args.text_or(0, "raised"), "message": args.text_or(1, "m"), "traceback": args.text_or(2, "t")})
                .to_string(),
        ),
        // a grandchild writes after the plugin's own process has gone
        "after_exit" => {
            let _ = sys::fork(|| {
                std::thread::sleep(Duration::from_millis(300));
                send_line(r#"{"type":"result","result":"late"}"#);
                0
            });
        }
        "result_then_after_exit" => {
            send_line(GOOD);
            let _ = sys::fork(|| {
                std::thread::sleep(Duration::from_millis(300));
                send_line(r#"{"type":"result","result":"late"}"#);
                0
            });
        }
        // a descriptor comes along with the frame
        "with_descriptor" => send_descriptor(args.text_or(0, "file")),
        "closed" => sys::close(i64::from(CHANNEL)),
        "closed_sleep" => {
            sys::close(i64::from(CHANNEL));
            std::thread::sleep(Duration::from_secs(n as u64));
        }
        _ => send_line(r#"{"type":"error","kind":"usage","message":"the probe knows no such frame"}"#),
    }
    std::process::exit(0);
}

/// Bytes of a hexadecimal string.
pub fn unhex(text: &str) -> Vec<u8> {
    text.as_bytes().chunks(2).filter_map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

/// A good result frame with a descriptor attached: an open file, or a TCP socket that lingers for 30 s over unsent
/// data, whose last close would block the receiver.
fn send_descriptor(what: &str) {
    let fd = match what {
        "linger" => lingering_socket().unwrap_or(-1),
        _ => sys::call(libc::SYS_openat, &[i64::from(libc::AT_FDCWD), c"/".as_ptr() as i64, 0, 0]).unwrap_or(-1),
    };
    let payload = format!("{GOOD}\n");
    let mut io = libc::iovec { iov_base: payload.as_ptr() as *mut libc::c_void, iov_len: payload.len() };
    // cmsghdr (16 bytes on 64-bit machines), then the descriptor, padded to 8
    let mut control = [0_u64; 3];
    control[0] = 20;
    control[1] = (libc::SOL_SOCKET as u64) | ((libc::SCM_RIGHTS as u64) << 32);
    control[2] = fd as u32 as u64;
    // SAFETY: all-zero is a valid msghdr.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &raw mut io;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = 24;
    let sent = sys::call(libc::SYS_sendmsg, &[i64::from(CHANNEL), &raw const header as i64, 0]);
    if let Err(trouble) = sent {
        send_line(&json!({"type": "result", "result": {"sendmsg": trouble.errno}}).to_string());
    }
}

fn lingering_socket() -> Option<i64> {
    use std::os::fd::IntoRawFd;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").ok()?;
    let stream = std::net::TcpStream::connect(listener.local_addr().ok()?).ok()?;
    let (mut peer, _) = listener.accept().ok()?;
    let _ = peer.set_nonblocking(true);
    let fd = stream.into_raw_fd();
    let linger = libc::linger { l_onoff: 1, l_linger: 30 };
    let set = sys::call(
        libc::SYS_setsockopt,
        &[i64::from(fd), i64::from(libc::SOL_SOCKET), i64::from(libc::SO_LINGER), &raw const linger as i64, 8],
    );
    let _ = set;
    // fill the connection so that closing has something to wait for; the peer never reads, and outlives us in a child
    let chunk = vec![0_u8; 1 << 16];
    for _ in 0..256 {
        let flags = i64::from(libc::MSG_DONTWAIT);
        if sys::call(libc::SYS_sendto, &[i64::from(fd), chunk.as_ptr() as i64, chunk.len() as i64, flags]).is_err() {
            break;
        }
    }
    let mut byte = [0_u8; 1];
    let _ = peer.read(&mut byte);
    let _ = sys::fork(|| {
        std::thread::sleep(Duration::from_secs(60));
        0
    });
    Some(i64::from(fd))
}
