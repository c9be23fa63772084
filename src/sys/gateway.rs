//! What the gateway process needs from libc and no crate offers safely.

/// Ends the process with `code` at once: no destructors, no `atexit` handlers, no stdio flush. The gateway is a fork
/// of the supervisor, so anything that those would do belongs to the supervisor.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit(2)` takes no pointers, does not return, and is safe to call from any thread.
    unsafe { libc::_exit(code) }
}
