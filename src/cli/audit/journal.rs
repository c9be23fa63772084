//! Records from the journal, read by journalctl.

use crate::audit::trail::{Records, Wanted};
use crate::sys::poll::poll;
use crate::text::shorten;
use rustix::event::{PollFd, PollFlags};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// journalctl may be silent for so long.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes of its complaints.
const COMPLAINT: usize = 4096;

/// Runs journalctl without anything of the caller's environment.
pub(super) fn journalctl(program: &Path, wanted: &Wanted, records: &mut Records) -> Result<(), String> {
    let mut command = Command::new(program);
    // `--all`: without it long fields are left out.
    command.args(["-t", "upm", "-o", "json", "--no-pager", "--all", "--quiet"]);
    if let Some(since) = wanted.since {
        command.arg(format!("--since=@{}", since.timestamp()));
    }
    // Matches of the journal's own index. Neither name nor id can be taken for an option: both stand behind a `=`.
    command.args(wanted.request_id.iter().map(|id| format!("UPM_REQUEST_ID={id}")));
    command.args(wanted.plugin.iter().map(|plugin| format!("UPM_PLUGIN={plugin}")));
    let mut child = command
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("LANG", "C.UTF-8")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("{}: {error}", program.display()))?;
    let mut complaint = Vec::new();
    let read = drain(&mut child, wanted, records, &mut complaint);
    if read.is_err() {
        // It may have ended by itself meanwhile.
        let _gone = child.kill();
    }
    let status = child.wait().map_err(|error| format!("{}: {error}", program.display()))?;
    read.map_err(|error| format!("{}: {error}", program.display()))?;
    if status.success() {
        return Ok(());
    }
    let complaint = String::from_utf8_lossy(&complaint).trim().to_owned();
    // With `--quiet` it says by this status that there is nothing to show, and nothing else.
    if complaint.is_empty() && status.code() == Some(1) {
        return Ok(());
    }
    Err(format!("{}: {status}: {}", program.display(), shorten(&complaint, 400)))
}

/// Reads both pipes to their ends, so that neither can fill up while the other is read.
fn drain(
    child: &mut std::process::Child,
    wanted: &Wanted,
    records: &mut Records,
    complaint: &mut Vec<u8>,
) -> io::Result<()> {
    let (mut stdout, mut stderr) = (child.stdout.take(), child.stderr.take());
    let mut buffer = vec![0; 64 << 10];
    while stdout.is_some() || stderr.is_some() {
        let ready = {
            let mut fds: Vec<PollFd<'_>> = Vec::new();
            fds.extend(stdout.as_ref().map(|pipe| PollFd::from_borrowed_fd(pipe.as_fd(), PollFlags::IN)));
            fds.extend(stderr.as_ref().map(|pipe| PollFd::from_borrowed_fd(pipe.as_fd(), PollFlags::IN)));
            if poll(&mut fds, Some(PATIENCE))? == 0 {
                return Err(io::Error::other("said nothing for 30 s"));
            }
            let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
            (stdout.is_some() && ready.next().unwrap_or(false), stderr.is_some() && ready.next().unwrap_or(false))
        };
        if let (true, Some(pipe)) = (ready.0, &mut stdout) {
            match pipe.read(&mut buffer)? {
                0 => stdout = None,
                count => records.push(&buffer[..count], wanted)?,
            }
        }
        if let (true, Some(pipe)) = (ready.1, &mut stderr) {
            match pipe.read(&mut buffer)? {
                0 => stderr = None,
                count => {
                    let room = COMPLAINT.saturating_sub(complaint.len());
                    complaint.extend_from_slice(&buffer[..count.min(room)]);
                }
            }
        }
    }
    records.finish(wanted)
}
