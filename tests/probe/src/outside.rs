//! Modes of the probe outside the sandbox: hosts that lack something. Each takes it away from itself and becomes the
//! program behind `--`, which then gets the errors that such a host would give.
//!
//! - `without CALL=ERRNO[,…] -- PROGRAM…`: a filter lets the call fail so. `CALL(N)` means only calls whose first argument is N,
//!   `CALL(N@I)` those whose argument I, counted from 0, is.
//! - `covered PATH[,…] -- PROGRAM…`: other mounts lie over the paths, as a container's do over parts of `/proc`. Needs root.
//! - `limited KIND=N[,…] -- PROGRAM…`: in a user and mount namespace of its own, `user.max_KIND_namespaces` is N there. The
//!   host's own setting is not touched. Needs root.

use crate::answer::Trouble;
use crate::args::number;
use crate::sys::{self, Ended, c, ptr};
use serde_json::Value;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

type TakeAway = fn(&str) -> Result<(), Trouble>;

const MODES: [(&str, TakeAway); 3] = [("without", without), ("covered", covered), ("limited", limited)];

/// Whether the words are one of the modes. Returns only when they are not; else it becomes the program, or ends with 99
/// and says why: no exit status of `upm`, so that no test takes it for one.
pub fn enter(words: &[String]) {
    let [mode, what, dashes, program, rest @ ..] = words else { return };
    let Some((_, take_away)) = MODES.iter().find(|(name, _)| name == mode) else { return };
    if dashes != "--" {
        return;
    }
    let why = match take_away(what) {
        Ok(()) => Command::new(program).args(rest).exec().to_string(),
        Err(trouble) => trouble.message,
    };
    eprintln!("upm-probe {mode} {what}: {why}");
    std::process::exit(99);
}

/// `a=1,b=2`, with the values as numbers.
fn pairs(text: &str) -> Result<Vec<(&str, i64)>, Trouble> {
    let pair = |one| {
        let (name, value) = str::split_once(one, '=')?;
        Some((name, number(&Value::from(value))?))
    };
    text.split(',').map(|one| pair(one).ok_or_else(|| Trouble::usage(format!("{one} is no NAME=NUMBER")))).collect()
}

fn without(text: &str) -> Result<(), Trouble> {
    // linux/bpf_common.h and linux/seccomp.h: load a word, jump if equal, return; offsets in struct seccomp_data
    const LOAD: u64 = 0x20;
    const EQUAL: u64 = 0x15;
    const RETURN: u64 = 0x06;
    const NR: u64 = 0;
    const FIRST: u64 = 16;
    const ALLOW: u64 = 0x7FFF_0000;
    const ERRNO: u64 = 0x0005_0000;
    let insn = |code: u64, if_not: u64, operand: u64| code | (if_not << 24) | (operand << 32);
    let mut program = Vec::new();
    for (call, errno) in pairs(text)? {
        let (name, argument) = match call.strip_suffix(')').and_then(|call| call.split_once('(')) {
            Some((name, value)) => {
                let (value, at) = value.split_once('@').unwrap_or((value, "0"));
                let as_number = |text: &str| number(&Value::from(text)).map(|n| n as u64);
                let both = as_number(value).zip(as_number(at));
                (name, Some(both.ok_or_else(|| Trouble::usage(format!("{value}@{at}: no numbers")))?))
            }
            None => (call, None),
        };
        let nr = number(&Value::from(name)).ok_or_else(|| Trouble::usage(format!("no call is called {name}")))?;
        program.push(insn(LOAD, 0, NR));
        match argument {
            None => program.push(insn(EQUAL, 1, nr as u64)),
            Some((value, at)) => program.extend([
                insn(EQUAL, 3, nr as u64),
                insn(LOAD, 0, FIRST + 8 * at),
                insn(EQUAL, 1, value & 0xFFFF_FFFF),
            ]),
        }
        program.push(insn(RETURN, 0, ERRNO | errno as u64));
    }
    program.push(insn(RETURN, 0, ALLOW));
    let fprog = [program.len() as u64, program.as_ptr() as u64];
    sys::call(libc::SYS_prctl, &[i64::from(libc::PR_SET_NO_NEW_PRIVS), 1, 0, 0, 0])?;
    // SECCOMP_MODE_FILTER
    sys::call(libc::SYS_prctl, &[i64::from(libc::PR_SET_SECCOMP), 2, fprog.as_ptr() as i64]).map(drop)
}

fn covered(text: &str) -> Result<(), Trouble> {
    own_namespaces(false)?;
    for path in text.split(',') {
        let target = c(path)?;
        let (source, kind, flags) = if std::path::Path::new(path).is_dir() {
            (c("none")?, c("tmpfs")?, libc::MS_RDONLY)
        } else {
            (c("/dev/null")?, c("none")?, libc::MS_BIND)
        };
        sys::call(libc::SYS_mount, &[ptr(&source), ptr(&target), ptr(&kind), flags as i64, 0])?;
    }
    Ok(())
}

fn limited(text: &str) -> Result<(), Trouble> {
    own_namespaces(true)?;
    for (kind, most) in pairs(text)? {
        std::fs::write(format!("/proc/sys/user/max_{kind}_namespaces"), most.to_string())?;
    }
    Ok(())
}

/// A mount namespace whose mounts nobody else sees, and with `user` a user namespace with the ids of the host.
fn own_namespaces(user: bool) -> Result<(), Trouble> {
    let flags = libc::CLONE_NEWNS | if user { libc::CLONE_NEWUSER } else { 0 };
    let (reader, writer) = sys::pipe()?;
    let parent = std::process::id();
    // Only root of the namespace outside may map more ids than its own.
    let helper = sys::fork(|| {
        sys::close(i64::from(writer));
        let mut byte = [0_u8; 1];
        if !matches!(sys::call(libc::SYS_read, &[i64::from(reader), byte.as_mut_ptr() as i64, 1]), Ok(1)) {
            return 1;
        }
        let map = |file: &str| std::fs::write(format!("/proc/{parent}/{file}"), "0 0 4294967295");
        i32::from(map("gid_map").and_then(|()| map("uid_map")).is_err())
    })?;
    sys::call(libc::SYS_unshare, &[i64::from(flags)])?;
    if user {
        sys::write_all(writer, b"g")?;
    }
    sys::close(i64::from(writer));
    let ended = sys::wait(helper, Duration::from_secs(5));
    sys::close(i64::from(reader));
    if user && ended != Ended::Exit(0) {
        return Err(Trouble::usage(format!("the id maps could not be written: {ended:?}")));
    }
    let (slash, none) = (c("/")?, c("none")?);
    let private = libc::MS_REC | libc::MS_PRIVATE;
    sys::call(libc::SYS_mount, &[ptr(&none), ptr(&slash), ptr(&none), private as i64, 0]).map(drop)
}
