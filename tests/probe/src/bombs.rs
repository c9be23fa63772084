//! Too much of everything.

use crate::answer::{Answer, Trouble};
use crate::args::Args;
use crate::{frames, sys};
use serde_json::json;
use std::fs;
use std::io::Write;
use std::time::{Duration, Instant};

/// `fork_bomb N [HOLD_MS]`: N children that stay; how many were started, and the error that stopped it. Kills them after
/// HOLD_MS (default 0). With N = 0 forks for ever, children too.
pub fn fork_bomb(args: Args) -> Answer {
    let n = args.int_or(0, 0)?;
    if n == 0 {
        loop {
            // every process goes on forking, whatever the answer was
            // SAFETY: one thread; child and parent do the same from here.
            unsafe { libc::fork() };
        }
    }
    let mut children = Vec::new();
    let mut stopped = 0;
    while (children.len() as i64) < n {
        let child = sys::fork(|| {
            std::thread::sleep(Duration::from_secs(60));
            0
        });
        match child {
            Ok(pid) => children.push(pid),
            Err(trouble) => {
                stopped = trouble.errno;
                break;
            }
        }
    }
    std::thread::sleep(Duration::from_millis(args.int_or(1, 0)? as u64));
    let forked = children.len();
    for pid in children {
        let _ = sys::call(libc::SYS_kill, &[i64::from(pid), i64::from(libc::SIGKILL)]);
        sys::wait(pid, Duration::from_secs(1));
    }
    Ok(json!({"forked": forked, "stopped_by": stopped, "stopped_by_name": crate::constants::errno_name(stopped)}))
}

/// `memory_bomb MIB [HOLD_MS]`: touches every page; ends with ENOMEM when the kernel says no.
pub fn memory_bomb(args: Args) -> Answer {
    let mut held = Vec::new();
    for mib in 0..args.int(0)? {
        let mut chunk: Vec<u8> = Vec::new();
        if chunk.try_reserve_exact(1 << 20).is_err() {
            return Err(Trouble { errno: libc::ENOMEM, message: format!("after {mib} MiB") });
        }
        chunk.resize(1 << 20, 1);
        held.push(std::hint::black_box(chunk));
    }
    std::thread::sleep(Duration::from_millis(args.int_or(1, 0)? as u64));
    Ok(json!({ "mib": held.len() }))
}

/// `memory_forked PROCESSES MIB SECONDS`: the memory in many small processes, each within its own limit.
pub fn memory_forked(args: Args) -> Answer {
    let (n, mib, seconds) = (args.int(0)?, args.int(1)?, args.int_or(2, 10)?);
    let mut children = Vec::new();
    for _ in 0..n {
        children.push(sys::fork(|| {
            let held = vec![1_u8; (mib as usize) << 20];
            std::thread::sleep(Duration::from_secs(seconds as u64));
            i32::from(std::hint::black_box(held).is_empty())
        })?);
    }
    let ended: Vec<String> = children
        .into_iter()
        .map(|pid| format!("{:?}", sys::wait(pid, Duration::from_secs(seconds as u64 + 5))))
        .collect();
    Ok(json!({ "ended": ended }))
}

/// `write_big PATH MIB`: bytes written before the error, if there was one. SIGXFSZ is ignored so that EFBIG shows.
pub fn write_big(args: Args) -> Answer {
    // SAFETY: SIG_IGN is not a function.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    let mut file = fs::File::create(args.text(0)?)?;
    let chunk = vec![b'x'; 1 << 20];
    let mut written = 0_u64;
    let mut stopped = None;
    for _ in 0..args.int(1)? {
        match file.write(&chunk) {
            Ok(n) => written += n as u64,
            Err(error) => {
                stopped = error.raw_os_error();
                break;
            }
        }
    }
    let name = stopped.and_then(crate::constants::errno_name);
    Ok(json!({"written": written, "stopped_by": stopped.unwrap_or(0), "stopped_by_name": name}))
}

/// `many_files DIR N`: empty files made before the error.
pub fn many_files(args: Args) -> Answer {
    let dir = args.text(0)?;
    for n in 0..args.int(1)? {
        if let Err(error) = fs::File::create(format!("{dir}/file-{n}")) {
            let name = error.raw_os_error().and_then(crate::constants::errno_name);
            return Ok(json!({"made": n, "stopped_by": error.raw_os_error(), "stopped_by_name": name}));
        }
    }
    Ok(json!({"made": args.int(1)?, "stopped_by": 0, "stopped_by_name": null}))
}

/// `open_many N`: descriptors opened before the error.
pub fn open_many(args: Args) -> Answer {
    let mut held = Vec::new();
    for _ in 0..args.int(0)? {
        match fs::File::open("/dev/null") {
            Ok(file) => held.push(file),
            Err(error) => {
                let name = error.raw_os_error().and_then(crate::constants::errno_name);
                return Ok(json!({"opened": held.len(), "stopped_by": error.raw_os_error(), "stopped_by_name": name}));
            }
        }
    }
    Ok(json!({"opened": held.len(), "stopped_by": 0, "stopped_by_name": null}))
}

/// `sleep SECONDS [TOUCH]`: makes the file TOUCH first, so that a test sees when it has begun.
pub fn sleep(args: Args) -> Answer {
    if args.get(1).is_some() {
        fs::write(args.text(1)?, std::process::id().to_string())?;
    }
    std::thread::sleep(Duration::from_secs(args.int(0)? as u64));
    Ok(json!({}))
}

/// `spin SECONDS`: of wall time, burning processor time.
pub fn spin(args: Args) -> Answer {
    let end = Instant::now() + Duration::from_secs(args.int(0)? as u64);
    let mut turns = 0_u64;
    while Instant::now() < end {
        turns += 1;
    }
    Ok(json!({ "turns": turns }))
}

fn stream(args: Args, at: usize) -> Result<i32, Trouble> {
    match args.text_or(at, "stdout") {
        "stdout" => Ok(1),
        "stderr" => Ok(2),
        "channel" => Ok(frames::CHANNEL),
        other => Err(Trouble::usage(format!("no stream is called {other}"))),
    }
}

/// `print STREAM BYTES-OR-TEXT`: that many `x`, or the text as it stands; `{"hex":"…"}` raw bytes.
pub fn print(args: Args) -> Answer {
    let to = stream(args, 0)?;
    let bytes = match args.get(1) {
        Some(serde_json::Value::String(text)) => text.clone().into_bytes(),
        Some(value) if value.get("hex").is_some() => frames::unhex(value["hex"].as_str().unwrap_or("")),
        _ => vec![b'x'; args.int(1)? as usize],
    };
    sys::write_all(to, &bytes)?;
    Ok(json!({ "bytes": bytes.len() }))
}

/// `print_forever STREAM`: lines without end.
pub fn print_forever(args: Args) -> Answer {
    let to = stream(args, 0)?;
    let chunk = b"a line of output\n".repeat(4096);
    loop {
        sys::write_all(to, &chunk)?;
    }
}

/// `endless_line STREAM`: one line without end.
pub fn endless_line(args: Args) -> Answer {
    let to = stream(args, 0)?;
    let chunk = vec![b'x'; 1 << 16];
    loop {
        sys::write_all(to, &chunk)?;
    }
}

/// `grandchild_holds SECONDS`: a process that keeps all streams open while the plugin returns.
pub fn grandchild_holds(args: Args) -> Answer {
    let seconds = args.int(0)? as u64;
    sys::fork(|| {
        let _ = sys::call(libc::SYS_setsid, &[]);
        std::thread::sleep(Duration::from_secs(seconds));
        let _ = sys::write_all(1, b"from the grandchild\n");
        0
    })?;
    Ok(json!({}))
}
