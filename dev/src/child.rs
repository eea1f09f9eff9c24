//! Child processes that never outlive us.
//!
//! Every child has a keeper: a thread that spawns it, waits for it and ends with it. The kernel's `PR_SET_PDEATHSIG` is
//! tied to the *thread* that spawned the child, so it fires whenever this process ends (even by `kill -9`), and never
//! merely because some test's thread has ended. Children are in a process group of their own: a terminal's Ctrl-C
//! reaches only us, and we stop them in order.

use std::{
    io::{self, Read as _},
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    process::{Command, ExitStatus},
    sync::{Arc, Condvar, Mutex, PoisonError, mpsc},
    thread,
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::{
        prctl,
        signal::{self, Signal},
        wait::{Id, WaitPidFlag, waitid},
    },
    unistd::{Pid, getpid, getppid},
};
use tokio::sync::watch;

/// Determines whether a child shares our terminal's signals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Ctrl-C in the terminal doesn't reach it.
    Own,
    /// The program that the user asked for: Ctrl-C reaches it as well as us.
    Ours,
}

/// A running child. Dropping it kills it (`SIGKILL`, without waiting).
#[derive(Debug)]
pub struct Child {
    pid: Pid,
    group: Group,
    ended: watch::Receiver<Option<ExitStatus>>,
    reaped: Arc<Reaped>,
}

/// True once the pid is no longer the child's. Signals are sent under the lock, so that they never reach another
/// process with the same pid.
#[derive(Debug, Default)]
struct Reaped {
    flag: Mutex<bool>,
    changed: Condvar,
}

impl Child {
    /// Starts `command`; the kernel sends it `on_our_death` when this process ends.
    pub fn spawn(mut command: Command, on_our_death: Signal, group: Group) -> io::Result<Self> {
        if group == Group::Own {
            command.process_group(0);
        }
        tie_to_us(&mut command, on_our_death);
        let (started, start) = mpsc::sync_channel(1);
        let (end, ended) = watch::channel(None);
        let reaped = Arc::new(Reaped::default());
        let shared = Arc::clone(&reaped);
        thread::Builder::new().name("child-keeper".into()).spawn(move || {
            let spawned = command.spawn();
            // The command holds our copies of the child's pipes.
            drop(command);
            match spawned {
                Ok(child) => {
                    let _ = started.send(Ok(pid_of(&child)));
                    keep(child, &shared, &end);
                }
                Err(error) => {
                    let _ = started.send(Err(error));
                }
            }
        })?;
        let pid = start.recv().map_err(|_| io::Error::other("the keeper thread ended"))??;
        Ok(Self { pid, group, ended, reaped })
    }

    /// Its process id, which may be another process's once it has ended: see [`Self::signal`].
    pub fn pid(&self) -> u32 {
        self.pid.as_raw().unsigned_abs()
    }

    /// Sends a signal, unless the child has ended already; to its whole group if it has one of its own.
    pub fn signal(&self, signal: Signal) {
        let reaped = lock(&self.reaped.flag);
        if !*reaped {
            // It can't fail: it is our child, and not reaped yet.
            let _ = match self.group {
                Group::Own => signal::killpg(self.pid, signal),
                Group::Ours => signal::kill(self.pid, signal),
            };
        }
    }

    /// The exit status, if it has ended.
    pub fn status(&self) -> Option<ExitStatus> {
        *self.ended.borrow()
    }

    /// Waits until it has ended, for any reason.
    pub async fn wait(&self) -> ExitStatus {
        let mut ended = self.ended.clone();
        loop {
            if let Some(status) = *ended.borrow_and_update() {
                return status;
            }
            if ended.changed().await.is_err() {
                // The keeper is gone without reporting; the kernel has killed the child.
                return ExitStatus::from_raw(Signal::SIGKILL as i32);
            }
        }
    }

    /// Waits for at most `limit`. None if it is still running.
    pub async fn wait_for(&self, limit: Duration) -> Option<ExitStatus> {
        tokio::time::timeout(limit, self.wait()).await.ok()
    }

    /// Blocks; for `Drop` implementations, which can't await. True if it has ended.
    pub fn block_for(&self, limit: Duration) -> bool {
        let reaped = lock(&self.reaped.flag);
        let waited = self.reaped.changed.wait_timeout_while(reaped, limit, |reaped| !*reaped);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
    }
}

/// The output of a tool (stdout and stderr interleaved) and its exit status.
#[derive(Debug)]
pub struct Finished {
    /// Its exit status.
    pub status: ExitStatus,
    /// Its output.
    pub output: String,
}

/// Runs a short-lived tool to its end. It is killed when the future is dropped.
pub async fn run(mut command: Command) -> io::Result<Finished> {
    let (mut reader, writer) = io::pipe()?;
    command.stdin(std::process::Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
    let child = Child::spawn(command, Signal::SIGKILL, Group::Own)?;
    let reading = tokio::task::spawn_blocking(move || {
        let mut bytes = Vec::new();
        let _ = reader.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    });
    let status = child.wait().await;
    let output = reading.await.unwrap_or_default();
    Ok(Finished { status, output })
}

#[expect(unsafe_code, reason = "code between fork and exec is inherently unsafe; it is limited to these lines")]
fn tie_to_us(command: &mut Command, on_our_death: Signal) {
    let us = getpid();
    let tie = move || {
        prctl::set_pdeathsig(on_our_death)?;
        // We may have died before the line above: then nothing would ever be sent.
        if getppid() == us { Ok(()) } else { Err(Errno::ESRCH.into()) }
    };
    // SAFETY: the closure makes two system calls, which are async-signal-safe; it neither allocates
    // nor takes a lock. The standard library runs it after setuid, which would clear the setting.
    unsafe {
        command.pre_exec(tie);
    }
}

fn pid_of(child: &std::process::Child) -> Pid {
    Pid::from_raw(child.id().cast_signed())
}

/// Waits without reaping, then reaps under the lock that guards signals.
fn keep(mut child: std::process::Child, reaped: &Reaped, end: &watch::Sender<Option<ExitStatus>>) {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
    while waitid(Id::Pid(pid_of(&child)), flags) == Err(Errno::EINTR) {}
    let mut flag = lock(&reaped.flag);
    let status = child.wait().unwrap_or_else(|_| ExitStatus::from_raw(Signal::SIGKILL as i32));
    end.send_replace(Some(status));
    *flag = true;
    reaped.changed.notify_all();
}

fn lock(flag: &Mutex<bool>) -> std::sync::MutexGuard<'_, bool> {
    flag.lock().unwrap_or_else(PoisonError::into_inner)
}
