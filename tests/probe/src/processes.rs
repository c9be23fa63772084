//! What one process does to another, and to its own standing.

use crate::answer::{Answer, Trouble};
use crate::args::Args;
use crate::sys;
use serde_json::{Value, json};
use std::time::Duration;

/// `kill PID SIGNAL`
pub fn kill(args: Args) -> Answer {
    Ok(json!(sys::call(libc::SYS_kill, &[args.int(0)?, args.int(1)?])?))
}

/// `ptrace_attach PID`: attaches by `PTRACE_SEIZE`, and lets go again. PID 0 means an own child.
pub fn ptrace_attach(args: Args) -> Answer {
    on_process(args, |pid| {
        sys::call(libc::SYS_ptrace, &[i64::from(libc::PTRACE_SEIZE), pid, 0, 0])?;
        Ok(json!({}))
    })
}

/// `process_vm_readv PID`: 8 bytes at an address that is mapped in this program (the answer for a foreign process is
/// about permission first, then the address). PID 0 means an own child.
pub fn process_vm_readv(args: Args) -> Answer {
    vm(args, libc::SYS_process_vm_readv)
}

/// The same, writing.
pub fn process_vm_writev(args: Args) -> Answer {
    vm(args, libc::SYS_process_vm_writev)
}

fn vm(args: Args, nr: i64) -> Answer {
    let mut here = [0_u64; 1];
    let mut there = [7_u64; 1];
    let local = [here.as_mut_ptr() as u64, 8];
    let remote = [there.as_mut_ptr() as u64, 8];
    on_process(args, |pid| {
        let n = sys::call(nr, &[pid, local.as_ptr() as i64, 1, remote.as_ptr() as i64, 1, 0])?;
        Ok(json!({ "bytes": n }))
    })
}

/// `pidfd_getfd PID FD`. PID 0 means an own child.
pub fn pidfd_getfd(args: Args) -> Answer {
    let fd = args.int_or(1, 0)?;
    on_process(args, |pid| {
        let pidfd = sys::call(libc::SYS_pidfd_open, &[pid, 0])?;
        let got = sys::call(libc::SYS_pidfd_getfd, &[pidfd, fd, 0]);
        sys::close(pidfd);
        sys::close(got?);
        Ok(json!({}))
    })
}

fn on_process(args: Args, act: impl FnOnce(i64) -> Answer) -> Answer {
    let pid = args.int(0)?;
    if pid != 0 {
        return act(pid);
    }
    let child = sys::fork(|| {
        std::thread::sleep(Duration::from_secs(5));
        0
    })?;
    let answer = act(i64::from(child));
    let _ = sys::call(libc::SYS_kill, &[i64::from(child), i64::from(libc::SIGKILL)]);
    sys::wait(child, Duration::from_secs(1));
    answer
}

/// `raise SIGNAL`: with the default action, to this process.
pub fn raise(args: Args) -> Answer {
    let signal = args.int(0)?;
    // SAFETY: SIG_DFL is not a function; numbers that don't exist are refused by the kernel.
    unsafe { libc::signal(signal as i32, libc::SIG_DFL) };
    let pid = sys::call(libc::SYS_getpid, &[])?;
    sys::call(libc::SYS_kill, &[pid, signal])?;
    Ok(json!({}))
}

/// `ignore SIGNAL… ` then sleeps or, with a last word `spin`, burns processor time, for a minute.
pub fn ignore(args: Args) -> Answer {
    let mut spin = false;
    for (at, value) in args.0.iter().enumerate() {
        if value.as_str() == Some("spin") {
            spin = true;
            continue;
        }
        // SAFETY: SIG_IGN is not a function.
        unsafe { libc::signal(args.int(at)? as i32, libc::SIG_IGN) };
    }
    let end = std::time::Instant::now() + Duration::from_secs(60);
    while std::time::Instant::now() < end {
        if !spin {
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    Ok(json!({}))
}

/// `exit CODE [STDERR]`: at once, without a frame.
pub fn exit(args: Args) -> Answer {
    let code = args.int(0)?;
    eprint!("{}", args.text_or(1, ""));
    std::process::exit(code as i32)
}

/// `setrlimit NAME SOFT HARD`
pub fn setrlimit(args: Args) -> Answer {
    let limit = [args.int(1)?, args.int(2)?];
    Ok(json!(sys::call(libc::SYS_prlimit64, &[0, args.int(0)?, limit.as_ptr() as i64, 0])?))
}

/// `setgroups GID…`
pub fn setgroups(args: Args) -> Answer {
    let groups: Vec<u32> =
        (0..args.0.len()).map(|at| args.int(at).map(|g| g as u32)).collect::<Result<_, Trouble>>()?;
    Ok(json!(sys::call(libc::SYS_setgroups, &[groups.len() as i64, groups.as_ptr() as i64])?))
}

/// Asks for every capability, in all three sets.
pub fn capset_all(_: Args) -> Answer {
    let header = [0x2008_0522_u32, 0];
    let data = [u32::MAX; 6];
    // only those that exist may be asked for: the kernel cuts the rest
    Ok(json!(sys::call(libc::SYS_capset, &[header.as_ptr() as i64, data.as_ptr() as i64])?))
}

/// `sched_setscheduler POLICY PRIORITY`
pub fn sched_setscheduler(args: Args) -> Answer {
    let param = [args.int_or(1, 0)? as i32, 0];
    Ok(json!(sys::call(libc::SYS_sched_setscheduler, &[0, args.int(0)?, param.as_ptr() as i64])?))
}

/// `orphan SECONDS [MARKER]`: a grandchild in its own session with all descriptors closed, its parent gone.
pub fn orphan(args: Args) -> Answer {
    let seconds = args.int(0)? as u64;
    let marker = args.0.get(1).and_then(Value::as_str).unwrap_or("").to_owned();
    let child = sys::fork(|| {
        let _ = sys::call(libc::SYS_setsid, &[]);
        let grandchild = sys::fork(|| {
            for fd in 0..64 {
                sys::close(fd);
            }
            let marker = std::hint::black_box(marker);
            std::thread::sleep(Duration::from_secs(seconds));
            i32::from(marker.is_empty())
        });
        i32::from(grandchild.is_err())
    })?;
    Ok(json!({"ended": format!("{:?}", sys::wait(child, Duration::from_secs(2)))}))
}
