//! Names and numbers of this architecture's system calls, from `seccomp/syscalls.tbl` by `build.rs`.

include!(concat!(env!("OUT_DIR"), "/syscalls.rs"));

/// Why no configuration can add this call; `None` when `syscalls` can.
pub fn fixed_reason(name: &str) -> Option<&'static str> {
    FIXED.iter().find(|(fixed, _)| *fixed == name).map(|(_, reason)| *reason)
}

/// The name of a number on this architecture.
pub fn syscall_name(nr: i32) -> Option<&'static str> {
    let nr = u32::try_from(nr).ok()?;
    BY_NUMBER.binary_search_by_key(&nr, |(n, _)| *n).ok().map(|i| BY_NUMBER[i].1)
}

/// The number of a name on this architecture.
pub fn syscall_number(name: &str) -> Option<u32> {
    BY_NAME.binary_search_by_key(&name, |(n, _)| n).ok().map(|i| BY_NAME[i].1)
}

/// Numbers and names, by number.
pub fn all() -> impl Iterator<Item = (u32, &'static str)> {
    BY_NUMBER.iter().copied()
}
