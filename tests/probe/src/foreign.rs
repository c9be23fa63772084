//! System calls of foreign architectures: i386 by `int 0x80`, x32 by bit 30 of the number. Each in a child, as the
//! kernel may answer with a signal.

use crate::answer::{Answer, Trouble};
use crate::args::Args;
use crate::sys::{self, Ended};
use serde_json::json;
use std::time::Duration;

/// `int80 NUMBER [A] [B] [C]`: default number 20, i386's `getpid`.
pub fn int80(args: Args) -> Answer {
    let (nr, a, b, c) = (args.int_or(0, 20)?, args.int_or(1, 0)?, args.int_or(2, 0)?, args.int_or(3, 0)?);
    in_child(move || i386(nr as i32, a as i32, b as i32, c as i32))
}

/// `x32 NUMBER [A] [B] [C]`: default number 39, `getpid`; the x32 bit is added.
pub fn x32(args: Args) -> Answer {
    let (nr, a, b, c) = (args.int_or(0, 39)?, args.int_or(1, 0)?, args.int_or(2, 0)?, args.int_or(3, 0)?);
    in_child(move || sys::call(nr | 0x4000_0000, &[a, b, c]).unwrap_or_else(|t| -i64::from(t.errno)))
}

fn in_child(act: impl FnOnce() -> i64) -> Answer {
    let (reader, writer) = sys::pipe()?;
    let pid = sys::fork(|| {
        let got = act();
        let _ = sys::write_all(writer, &got.to_ne_bytes());
        0
    })?;
    sys::close(i64::from(writer));
    let ended = sys::wait(pid, Duration::from_secs(2));
    let mut got = [0_u8; 8];
    let n = sys::call(libc::SYS_read, &[i64::from(reader), got.as_mut_ptr() as i64, 8]);
    sys::close(i64::from(reader));
    match ended {
        Ended::Exit(0) if n? == 8 => match i64::from_ne_bytes(got) {
            value @ -4095..=-1 => Err(Trouble::errno((-value) as i32)),
            value => Ok(json!(value)),
        },
        Ended::Signal(signal) => Err(Trouble { errno: 0, message: format!("signal {signal}") }),
        other => Err(Trouble::usage(format!("the child ended as {other:?}"))),
    }
}

#[cfg(target_arch = "x86_64")]
fn i386(nr: i32, a: i32, b: i32, c: i32) -> i64 {
    let got: i32;
    // SAFETY: rbx is saved by hand because LLVM keeps it for itself; the i386 entry clobbers r8 to r11 alone. The
    // callers pass numbers, no pointers.
    unsafe {
        std::arch::asm!(
            "xchg {b:r}, rbx", "int 0x80", "xchg {b:r}, rbx",
            b = inout(reg) i64::from(a) => _,
            inlateout("eax") nr => got,
            in("ecx") b, in("edx") c,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
        );
    }
    i64::from(got)
}

#[cfg(not(target_arch = "x86_64"))]
fn i386(_: i32, _: i32, _: i32, _: i32) -> i64 {
    -i64::from(libc::ENOSYS)
}
