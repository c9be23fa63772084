//! Inter-process communication that outlives a process: System V, POSIX queues, keyrings.

use crate::answer::{Answer, Trouble};
use crate::args::Args;
use crate::sys::{self, c, ptr};
use serde_json::json;

/// `shmget KEY [FLAGS]`: a segment of 4096 bytes; FLAGS 0 only finds one.
pub fn shmget(args: Args) -> Answer {
    Ok(json!(sys::call(libc::SYS_shmget, &[args.int(0)?, 4096, args.int_or(1, 0o600)?])?))
}

/// `msgget KEY [FLAGS]`
pub fn msgget(args: Args) -> Answer {
    Ok(json!(sys::call(libc::SYS_msgget, &[args.int(0)?, args.int_or(1, 0o600)?])?))
}

/// `semget KEY [FLAGS]`: a set of one.
pub fn semget(args: Args) -> Answer {
    Ok(json!(sys::call(libc::SYS_semget, &[args.int(0)?, 1, args.int_or(1, 0o600)?])?))
}

/// `mq_open NAME [FLAGS]`: NAME without the leading slash, as the system call wants it.
pub fn mq_open(args: Args) -> Answer {
    let name = c(args.text(0)?)?;
    let fd = sys::call(libc::SYS_mq_open, &[ptr(&name), args.int_or(1, 0)?, 0o600, 0])?;
    sys::close(fd);
    Ok(json!({}))
}

fn ring(args: Args, at: usize) -> Result<i64, Trouble> {
    Ok(match args.text_or(at, "session") {
        "thread" => -1,
        "process" => -2,
        "session" => -3,
        "user" => -4,
        "user_session" => -5,
        _ => args.int(at)?,
    })
}

/// `add_key DESCRIPTION SECRET [RING]`
pub fn add_key(args: Args) -> Answer {
    let (kind, description, secret) = (c("user")?, c(args.text(0)?)?, args.text(1)?);
    let payload = secret.as_ptr() as i64;
    let key = [ptr(&kind), ptr(&description), payload, secret.len() as i64, ring(args, 2)?];
    Ok(json!(sys::call(libc::SYS_add_key, &key)?))
}

/// `find_key DESCRIPTION`: by `request_key`, then its content.
pub fn find_key(args: Args) -> Answer {
    let (kind, description) = (c("user")?, c(args.text(0)?)?);
    let key = sys::call(libc::SYS_request_key, &[ptr(&kind), ptr(&description), 0, 0])?;
    let mut content = [0_u8; 256];
    let n = sys::call(libc::SYS_keyctl, &[11, key, content.as_mut_ptr() as i64, content.len() as i64])?;
    Ok(json!({"key": key, "text": String::from_utf8_lossy(&content[..(n as usize).min(256)])}))
}

/// `keyring [RING]`: serial numbers of what it holds (`KEYCTL_READ`).
pub fn keyring(args: Args) -> Answer {
    let mut keys = [0_i32; 64];
    let n = sys::call(libc::SYS_keyctl, &[11, ring(args, 0)?, keys.as_mut_ptr() as i64, 256])?;
    Ok(json!({"keys": keys[..(n as usize / 4).min(64)]}))
}
