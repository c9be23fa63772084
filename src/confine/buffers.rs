//! What sockets of the call may hold: limits of its own network namespace, set while it still has the right to. All of it is
//! memory of the kernel that no limit of a process counts (`net.rst`, `ip-sysctl.rst` of the kernel's documentation).

use super::step::{Step, StepError, Subject};
use std::fs::File;
use std::io::Write;

/// The most bytes that the kernel grows either buffer of a TCP socket to: as large as those of other sockets are by default.
/// Connections on `lo` have no delay that would need a larger one.
pub const TCP_BUFFER: u32 = 212_992;

/// Bytes of options of one socket: what kernels had until 6.8 made it 128 KiB (and let a namespace set it).
const OPTIONS: u32 = 20_480;

/// Connections that have ended and are still remembered, about 300 bytes each.
const TIME_WAIT: u32 = 4096;

/// Sets them. The files are those of the caller's network namespace.
///
/// # Errors
/// `EROFS`, `EACCES` where `/proc/sys` cannot be written.
pub fn bound() -> Result<(), StepError> {
    for (name, value) in [
        ("ipv4/tcp_rmem", format!("4096 131072 {TCP_BUFFER}")),
        ("ipv4/tcp_wmem", format!("4096 16384 {TCP_BUFFER}")),
        ("ipv4/tcp_max_tw_buckets", TIME_WAIT.to_string()),
        ("core/optmem_max", OPTIONS.to_string()),
    ] {
        let path = format!("/proc/sys/net/{name}");
        let written = File::options().write(true).open(&path).and_then(|mut file| file.write_all(value.as_bytes()));
        match written {
            Ok(()) => {}
            // Before Linux 6.8 there is one for all namespaces, which is not shown here. It is small unless root has set it.
            Err(error) if name == "core/optmem_max" && error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(StepError::new(Step::Limits, path, error).of(Subject::ProcFile)),
        }
    }
    Ok(())
}
