//! Wiping what `/proc/PID/environ` and `/proc/PID/cmdline` show.

use std::io;

/// Overwrites the process's original arguments and environment strings with zeros. What Rust has already copied out of
/// them stays on the heap: the caller is not dumpable, so only these pages, which `/proc` exposes, matter here.
///
/// # Errors
/// When `/proc/self/stat` cannot be read or lacks fields 48–51 (`proc_pid_stat(5)`).
pub fn wipe_arguments_and_environment() -> io::Result<()> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // The command name may hold anything, its closing parenthesis is the last one; the next field is number 3.
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let field = |number: usize| -> io::Result<usize> {
        fields
            .get(number - 3)
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "/proc/self/stat: too few fields"))
    };
    for (start, end) in [(field(48)?, field(49)?), (field(50)?, field(51)?)] {
        if start != 0 && end > start {
            // SAFETY: the kernel names this range of the process's own stack as its argument (environment) strings. It is
            // mapped and writable, the process has one thread, and no reference into it is used afterwards: the
            // caller reads neither arguments nor environment again.
            unsafe { std::ptr::write_bytes(start as *mut u8, 0, end - start) };
        }
    }
    Ok(())
}
