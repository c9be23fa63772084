//! Paths: every ordinary thing a program does to one.

use crate::answer::{Answer, Trouble};
use crate::args::Args;
use crate::sys::{self, c, ptr};
use serde_json::{Value, json};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;

const CWD: i64 = libc::AT_FDCWD as i64;

/// `open PATH [FLAGS] [MODE]`
pub fn open(args: Args) -> Answer {
    let path = c(args.text(0)?)?;
    let fd = sys::call(libc::SYS_openat, &[CWD, ptr(&path), args.int_or(1, 0)?, args.int_or(2, 0o644)?])?;
    sys::close(fd);
    Ok(json!({}))
}

/// `read PATH [MAX]`: the text, lossy.
pub fn read(args: Args) -> Answer {
    let mut bytes = Vec::new();
    fs::File::open(args.text(0)?)?.take(args.int_or(1, 65536)? as u64).read_to_end(&mut bytes)?;
    Ok(json!({"text": String::from_utf8_lossy(&bytes), "bytes": bytes.len()}))
}

/// `write PATH TEXT`: creates or truncates.
pub fn write(args: Args) -> Answer {
    fs::write(args.text(0)?, args.text(1)?)?;
    Ok(json!({}))
}

/// `append PATH TEXT`: only an existing file.
pub fn append(args: Args) -> Answer {
    fs::OpenOptions::new().append(true).open(args.text(0)?)?.write_all(args.text(1)?.as_bytes())?;
    Ok(json!({}))
}

/// `create PATH`: must not exist before.
pub fn create(args: Args) -> Answer {
    fs::File::create_new(args.text(0)?)?;
    Ok(json!({}))
}

/// `list PATH`: sorted names.
pub fn list(args: Args) -> Answer {
    let mut names: Vec<String> = fs::read_dir(args.text(0)?)?
        .map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_, _>>()?;
    names.sort();
    Ok(json!({ "names": names }))
}

/// `stat PATH`: without following a last symlink.
pub fn stat(args: Args) -> Answer {
    let data = fs::symlink_metadata(args.text(0)?)?;
    Ok(json!({"mode": data.mode(), "permissions": data.mode() & 0o7777, "uid": data.uid(), "gid": data.gid(),
              "size": data.size(), "dev": data.dev(), "ino": data.ino(), "rdev": data.rdev(), "nlink": data.nlink()}))
}

/// `mkdir PATH [MODE]`
pub fn mkdir(args: Args) -> Answer {
    let path = c(args.text(0)?)?;
    Ok(json!(sys::call(libc::SYS_mkdirat, &[CWD, ptr(&path), args.int_or(1, 0o755)?])?))
}

/// `rmdir PATH`
pub fn rmdir(args: Args) -> Answer {
    fs::remove_dir(args.text(0)?)?;
    Ok(json!({}))
}

/// `unlink PATH`
pub fn unlink(args: Args) -> Answer {
    fs::remove_file(args.text(0)?)?;
    Ok(json!({}))
}

/// `rename FROM TO`
pub fn rename(args: Args) -> Answer {
    fs::rename(args.text(0)?, args.text(1)?)?;
    Ok(json!({}))
}

/// `link FROM TO`: a hard link.
pub fn link(args: Args) -> Answer {
    fs::hard_link(args.text(0)?, args.text(1)?)?;
    Ok(json!({}))
}

/// `symlink TARGET PATH`
pub fn symlink(args: Args) -> Answer {
    std::os::unix::fs::symlink(args.text(0)?, args.text(1)?)?;
    Ok(json!({}))
}

/// `readlink PATH`
pub fn readlink(args: Args) -> Answer {
    Ok(json!(fs::read_link(args.text(0)?)?.to_string_lossy()))
}

/// `chown PATH UID GID`
pub fn chown(args: Args) -> Answer {
    let path = c(args.text(0)?)?;
    Ok(json!(sys::call(libc::SYS_fchownat, &[CWD, ptr(&path), args.int(1)?, args.int(2)?, 0])?))
}

/// `truncate PATH BYTES`
pub fn truncate(args: Args) -> Answer {
    let path = c(args.text(0)?)?;
    Ok(json!(sys::call(libc::SYS_truncate, &[ptr(&path), args.int(1)?])?))
}

/// `chdir PATH`
pub fn chdir(args: Args) -> Answer {
    std::env::set_current_dir(args.text(0)?)?;
    Ok(json!(std::env::current_dir()?))
}

/// `statfs PATH`: bytes and inodes, all and free.
pub fn statfs(args: Args) -> Answer {
    let path = c(args.text(0)?)?;
    // SAFETY: all-zero is a valid statfs.
    let mut data: libc::statfs = unsafe { std::mem::zeroed() };
    sys::call(libc::SYS_statfs, &[ptr(&path), &raw mut data as i64])?;
    Ok(json!({"type": data.f_type, "bytes": data.f_blocks * data.f_bsize as u64, "files": data.f_files,
              "free_bytes": data.f_bfree * data.f_bsize as u64, "free_files": data.f_ffree}))
}

/// `exec PATH [ARG…]`: runs a program, bounded output.
pub fn exec(args: Args) -> Answer {
    let words: Vec<&str> = args.rest(1).0.iter().filter_map(Value::as_str).collect();
    let output = std::process::Command::new(args.text(0)?).args(words).stdin(std::process::Stdio::null()).output()?;
    let cut = |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(65536)]).into_owned();
    Ok(json!({"exit": output.status.code(), "stdout": cut(&output.stdout), "stderr": cut(&output.stderr)}))
}

/// `run_copy PROGRAM PATH [ARG…]`: copies a program to PATH, makes it executable, runs it there.
pub fn run_copy(args: Args) -> Answer {
    use std::os::unix::fs::PermissionsExt;
    let to = args.text(1)?;
    fs::copy(args.text(0)?, to)?;
    fs::set_permissions(to, fs::Permissions::from_mode(0o755))?;
    exec(args.rest(1))
}

/// From every open descriptor, and from cwd, upwards with `..`: what the topmost directory holds, and whether a
/// descriptor was a directory at all.
pub fn climb(_: Args) -> Answer {
    let mut tops = serde_json::Map::new();
    for fd in std::iter::once(CWD).chain(0..1024) {
        let up = c(&"../".repeat(40))?;
        let flags = i64::from(libc::O_DIRECTORY | libc::O_PATH);
        if let Ok(top) = sys::call(libc::SYS_openat, &[fd, ptr(&up), flags, 0]) {
            // an O_PATH descriptor is read through /proc, which the act needs anyhow
            let names = list(Args(&[json!(format!("/proc/self/fd/{top}"))]));
            tops.insert(fd.to_string(), names.map_or_else(|t| json!(t.errno), |v| v["names"].clone()));
            sys::close(top);
        }
    }
    Ok(json!({ "tops": tops }))
}

/// `file_capability PATH`: `security.capability` with CAP_NET_RAW effective, version 2.
pub fn file_capability(args: Args) -> Answer {
    let path = c(args.text(0)?)?;
    let name = c("security.capability")?;
    let value: [u32; 5] = [0x0200_0001, 1 << 13, 0, 0, 0];
    let done = sys::call(libc::SYS_setxattr, &[ptr(&path), ptr(&name), value.as_ptr() as i64, 20, 0]);
    done.map(|_| json!({})).map_err(|t| Trouble::errno(t.errno))
}
