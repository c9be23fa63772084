//! What a sandbox uses: looked at every 100 ms unless the kernel counts it, when the plugin answers, and at the end.

use super::child::{Child, Ending};
use super::denials::Denials;
use super::effort::Effort;
use super::limits::{InMemory, Peaks};
use super::sockets::Sockets;
use super::unroutable::Counters;
use super::{lost, memory};
use crate::decide::plan::IN_MEMORY;
use crate::types::{Denied, Layer};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// How often memory is added up if no cgroup counts it, and how often a watcher is called.
pub(super) const TICK: Duration = Duration::from_millis(100);

/// The account of one sandbox.
pub(super) struct Watch {
    next: Instant,
    /// What the supervisor spends on it, from exec on.
    pub effort: Effort,
    pub sockets: Sockets,
    peaks: Peaks,
    in_memory: InMemory,
    unroutable: Counters,
}

impl Watch {
    pub fn new() -> Self {
        Watch {
            next: Instant::now(),
            effort: Effort::begin(),
            sockets: Sockets::default(),
            peaks: Peaks::default(),
            in_memory: InMemory::default(),
            unroutable: Counters::default(),
        }
    }

    /// Takes the descriptors that the sandbox sends once it is verified.
    pub fn open(&mut self, fds: Vec<OwnedFd>) {
        let mut fds = fds.into_iter();
        self.in_memory = InMemory::new(fds.by_ref().take(IN_MEMORY.len()).collect());
        if let Some(counts) = fds.next() {
            self.sockets.watch(counts);
        }
        self.unroutable = Counters::new(fds);
    }

    /// Whether the sandbox has cost so much that what it sends has to wait.
    pub fn holds(&mut self, child: &mut Child) -> bool {
        if let (Ok(cgroup), true) = (&mut child.cgroup, self.effort.is_large()) {
            cgroup.count_supervisor();
        }
        self.effort.is_over(|| child.spent())
    }

    /// Whether it is time for the next look.
    pub fn is_due(&mut self) -> bool {
        let now = Instant::now();
        let due = now >= self.next;
        if due {
            self.next = now + TICK;
        }
        due
    }

    /// Looks at what the sandbox uses now, and ends it if that is more than `memory`.
    pub fn look(&mut self, child: &Child, memory: u64) -> Result<(), Ending> {
        let mark = Effort::mark();
        self.in_memory.look();
        let looked = self.look_at_memory(child, memory);
        self.effort.leave_out(mark);
        looked
    }

    fn look_at_memory(&mut self, child: &Child, limit: u64) -> Result<(), Ending> {
        // `None`: it has ended just now.
        let resident = memory::resident(child.pid, &mut self.peaks);
        let Some(resident) = resident.filter(|_| !child.is_counted()) else { return Ok(()) };
        let sockets = self
            .sockets
            .look()
            .map_err(|error| lost(Layer::Limits, format!("limits: the call's sockets cannot be counted: {error}")))?;
        let used = resident.saturating_add(sockets.bytes);
        if used > limit { Err(Ending::Memory(used, sockets)) } else { Ok(()) }
    }

    /// What was seen; connections without a route are denials.
    pub fn finish(self, denials: &mut Denials) -> (Peaks, InMemory) {
        match self.unroutable.count() {
            0 => {}
            count => denials.add(Denied::Unroutable, count),
        }
        (self.peaks, self.in_memory)
    }
}
