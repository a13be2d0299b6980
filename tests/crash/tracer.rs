//! Follows every system call of a running process, and kills it at one of them, or lets one of them fail.
//!
//! This is what `strace --inject` does, except for one thing: strace counts the calls of each thread by itself, and an agent
//! does its disk work on whichever thread is free. Here all threads are counted together, so that a call has the same number in
//! each run.
//!
//! ptrace ties a process to the thread that follows it, so a tracer is a thread of its own. While it follows a process, nobody else
//! may wait for that process.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Instant;

use nix::errno::Errno;
use nix::libc::{PTRACE_SYSCALL_INFO_ENTRY, PTRACE_SYSCALL_INFO_EXIT};
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;
use serde_json::Value;

use crate::calls::{Call, Scope, Seen, Window};

/// No call has this number.
const NO_CALL: u64 = u64::MAX;
/// A signal that is ignored unless a process asks for it: it wakes the tracer.
const WAKE: Signal = Signal::SIGURG;
/// The file whose replacement begins a window, below the scope's root.
const JOURNAL: &str = "web-1/srv/.cutover/state.json";

/// What becomes of the call that is aimed at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deed {
    /// The process is killed before the call has any effect.
    Kill,
    /// The call has no effect, and fails with this error.
    Fail(Errno),
}

/// A call, and what becomes of it.
#[derive(Clone, Debug)]
pub(crate) struct Aim {
    pub(crate) call: Call,
    pub(crate) deed: Deed,
}

/// What a tracer has seen so far.
#[derive(Clone, Debug)]
pub(crate) struct Trace {
    pub(crate) calls: Vec<Call>,
    /// Whether the call that is aimed at was made, and the deed was done.
    pub(crate) is_hit: bool,
    /// Whether the process has ended.
    pub(crate) is_over: bool,
    /// The threads that are within a call.
    pub(crate) within: BTreeSet<Pid>,
    /// When the last call began or ended.
    pub(crate) last: Instant,
}

/// A process that is followed.
pub(crate) struct Tracer {
    pid: Pid,
    trace: Arc<Mutex<Trace>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Tracer {
    /// Follows all threads of a process that is running.
    pub(crate) fn attach(scope: Scope, aim: Option<Aim>) -> Self {
        let pid = Pid::from_raw(scope.pid);
        let trace =
            Trace { calls: Vec::new(), is_hit: false, is_over: false, within: BTreeSet::new(), last: Instant::now() };
        let trace = Arc::new(Mutex::new(trace));
        let stop = Arc::new(AtomicBool::new(false));
        let (ready, is_ready) = mpsc::channel();
        let follower = Follower {
            pid,
            scope,
            aim,
            trace: Arc::clone(&trace),
            stop: Arc::clone(&stop),
            window: Window::Prepare,
            counts: BTreeMap::new(),
            threads: BTreeSet::new(),
            fresh: BTreeSet::new(),
            pending: BTreeMap::new(),
            ready: Some(ready),
        };
        let thread = std::thread::Builder::new().name("tracer".to_owned()).spawn(move || follower.follow()).unwrap();
        is_ready.recv().unwrap_or_else(|_| panic!("the process {pid} cannot be traced"));
        Self { pid, trace, stop, thread: Some(thread) }
    }

    pub(crate) fn trace(&self) -> Trace {
        locked(&self.trace).clone()
    }

    /// Lets the process go on by itself, if it has not ended.
    pub(crate) fn finish(mut self) -> Trace {
        self.detach().unwrap();
        self.trace()
    }

    fn detach(&mut self) -> std::thread::Result<()> {
        let Some(thread) = self.thread.take() else { return Ok(()) };
        self.stop.store(true, Ordering::SeqCst);
        // It may have ended.
        _ = kill(self.pid, WAKE);
        thread.join()
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        // A panic of the thread was printed.
        _ = self.detach();
    }
}

fn locked(trace: &Mutex<Trace>) -> MutexGuard<'_, Trace> {
    trace.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is to be done when a call returns.
enum AtReturn {
    Fail(Errno),
    ReadJournal,
}

struct Follower {
    pid: Pid,
    scope: Scope,
    aim: Option<Aim>,
    trace: Arc<Mutex<Trace>>,
    stop: Arc<AtomicBool>,
    window: Window,
    counts: BTreeMap<(Window, &'static str, String), usize>,
    threads: BTreeSet<Pid>,
    /// Threads that have not stopped for the first time.
    fresh: BTreeSet<Pid>,
    pending: BTreeMap<Pid, AtReturn>,
    ready: Option<mpsc::Sender<()>>,
}

impl Follower {
    fn follow(mut self) {
        self.seize();
        let every = WaitPidFlag::WEXITED
            | WaitPidFlag::WSTOPPED
            | WaitPidFlag::WNOWAIT
            | WaitPidFlag::__WALL
            | WaitPidFlag::__WNOTHREAD;
        let mut is_leaving = false;
        while !self.threads.is_empty() {
            let status = match waitid(Id::All, every) {
                Ok(status) => status,
                Err(Errno::EINTR) => continue,
                Err(error) => panic!("waiting for the agent: {error}"),
            };
            let pid = status.pid().unwrap();
            if self.stop.load(Ordering::SeqCst) && !is_leaving {
                is_leaving = true;
                for thread in &self.threads {
                    // It may have ended.
                    _ = ptrace::interrupt(*thread);
                }
            }
            // The end of the process is left to its owner.
            if pid == self.pid && matches!(status, WaitStatus::Exited(..) | WaitStatus::Signaled(..)) {
                locked(&self.trace).is_over = true;
                return;
            }
            match waitpid(pid, Some(WaitPidFlag::__WALL | WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) => {
                    self.threads.remove(&pid);
                    self.pending.remove(&pid);
                    locked(&self.trace).within.remove(&pid);
                }
                Ok(WaitStatus::StillAlive) | Err(_) => {}
                Ok(status) => self.stopped(pid, status, is_leaving),
            }
        }
    }

    /// Takes every thread, also those that begin meanwhile.
    fn seize(&mut self) {
        let options = Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_TRACECLONE | Options::PTRACE_O_EXITKILL;
        loop {
            let entries = fs::read_dir(format!("/proc/{}/task", self.pid)).unwrap();
            let all: BTreeSet<Pid> =
                entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok().map(Pid::from_raw)).collect();
            let new: Vec<Pid> = all.difference(&self.threads).copied().collect();
            if new.is_empty() {
                break;
            }
            for thread in new {
                match ptrace::seize(thread, options).and_then(|()| ptrace::interrupt(thread)) {
                    Ok(()) => {
                        self.fresh.insert(thread);
                    }
                    // Begun by a thread that is followed.
                    Err(Errno::EPERM) => {}
                    // Over already.
                    Err(Errno::ESRCH) => continue,
                    Err(error) => panic!("thread {thread} cannot be traced: {error}"),
                }
                self.threads.insert(thread);
            }
        }
    }

    fn stopped(&mut self, pid: Pid, status: WaitStatus, is_leaving: bool) {
        self.threads.insert(pid);
        self.fresh.remove(&pid);
        if self.fresh.is_empty()
            && let Some(ready) = self.ready.take()
        {
            // The other end waits.
            _ = ready.send(());
        }
        let mut signal = None;
        match status {
            WaitStatus::PtraceSyscall(_) => self.at_call(pid, is_leaving),
            WaitStatus::Stopped(_, arrived) if arrived != WAKE => signal = Some(arrived),
            _ => {}
        }
        // ESRCH: it was killed meanwhile.
        if is_leaving && !self.pending.contains_key(&pid) {
            self.threads.remove(&pid);
            _ = ptrace::detach(pid, signal);
        } else {
            _ = ptrace::syscall(pid, signal);
        }
    }

    fn at_call(&mut self, pid: Pid, is_leaving: bool) {
        let Ok(info) = ptrace::syscall_info(pid) else { return };
        match info.op {
            PTRACE_SYSCALL_INFO_ENTRY if !is_leaving => self.entering(pid),
            PTRACE_SYSCALL_INFO_EXIT => self.leaving(pid),
            _ => {}
        }
    }

    fn entering(&mut self, pid: Pid) {
        let Ok(mut registers) = ptrace::getregs(pid) else { return };
        let Some(seen) = self.scope.seen(&registers) else { return };
        if seen.path == JOURNAL && seen.name.starts_with("rename") {
            self.pending.insert(pid, AtReturn::ReadJournal);
        }
        let call = self.count(seen);
        let deed = self.aim.as_ref().filter(|aim| aim.call == call).map(|aim| aim.deed);
        {
            let mut trace = locked(&self.trace);
            trace.last = Instant::now();
            trace.within.insert(pid);
            trace.is_hit |= deed.is_some();
            trace.calls.push(call);
        }
        let Some(deed) = deed else { return };
        registers.orig_rax = NO_CALL;
        ptrace::setregs(pid, registers).unwrap();
        match deed {
            Deed::Kill => kill(self.pid, Signal::SIGKILL).unwrap(),
            Deed::Fail(error) => {
                self.pending.insert(pid, AtReturn::Fail(error));
            }
        }
    }

    fn leaving(&mut self, pid: Pid) {
        {
            let mut trace = locked(&self.trace);
            if trace.within.remove(&pid) {
                trace.last = Instant::now();
            }
        }
        match self.pending.remove(&pid) {
            None => {}
            Some(AtReturn::Fail(error)) => {
                let Ok(mut registers) = ptrace::getregs(pid) else { return };
                registers.rax = i64::from(-(error as i32)).cast_unsigned();
                ptrace::setregs(pid, registers).unwrap();
            }
            Some(AtReturn::ReadJournal) => self.read_journal(),
        }
    }

    fn count(&mut self, seen: Seen) -> Call {
        let Seen { name, effect, path } = seen;
        let nth = self.counts.entry((self.window, name, path.clone())).or_default();
        *nth += 1;
        Call { window: self.window, effect, name, path, nth: *nth }
    }

    /// The window that the journal's newest record begins.
    fn read_journal(&mut self) {
        let Ok(bytes) = fs::read(self.scope.root.join(JOURNAL)) else { return };
        let Ok(journal) = serde_json::from_slice::<Value>(&bytes) else { return };
        self.window = match journal["state"]["record"]["phase"].as_str() {
            Some("commit") => Window::Switch,
            Some("revert") => Window::Revert,
            Some("done" | "aborted" | "reverted") => Window::Prune,
            _ => Window::Prepare,
        };
    }
}
