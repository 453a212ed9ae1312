//! Threads that share the work of every layer of a decode step.
//!
//! A step of a few rows reads every weight of the model once, and does little with it: what bounds it is memory. Threads
//! with rows of their own read the same weights once each; a team reads them once, each thread its columns. A job lasts
//! some microseconds, too short to wake a thread for: the members of a team wait for the next one in a loop.

use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// A number of threads that work together.
#[derive(Debug)]
pub struct Team<'s> {
    shared: &'s Shared,
    threads: usize,
}

type Job = dyn Fn(usize) + Sync;

#[derive(Debug)]
struct Shared {
    /// The job that is open, and its number of tasks.
    job: UnsafeCell<Option<(*const Job, usize)>>,
    /// Odd while a job is open.
    epoch: AtomicUsize,
    next: AtomicUsize,
    /// Members that look at the job.
    inside: AtomicUsize,
    panicked: AtomicBool,
    over: AtomicBool,
    /// A job is being run: there is one at a time.
    busy: AtomicBool,
}

// SAFETY: `job` is written by one leader alone (`busy`), while no job is open and no member is inside; a member reads it
// after it entered an open one. Entering and closing are ordered by sequentially consistent operations: either the
// leader sees the member inside and waits, or the member sees that the job is closed.
unsafe impl Sync for Shared {}

impl Team<'_> {
    /// Runs `f` with a team of `threads` threads, the calling one among them.
    pub fn with<R>(threads: usize, f: impl FnOnce(&Team<'_>) -> R) -> R {
        let shared = Shared {
            job: UnsafeCell::new(None),
            epoch: AtomicUsize::new(0),
            next: AtomicUsize::new(0),
            inside: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
            over: AtomicBool::new(false),
            busy: AtomicBool::new(false),
        };
        std::thread::scope(|s| {
            // Before the first of them starts: one that cannot start must not leave the others waiting.
            let _end = End(&shared);
            for _ in 1..threads {
                s.spawn(|| shared.member());
            }
            f(&Team { shared: &shared, threads: threads.max(1) })
        })
    }

    /// Threads of the team.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Runs `job(i)` for every i below `tasks`, each once, on any thread; returns when all are done.
    ///
    /// # Panics
    /// If the job panics, or runs a job of the same team.
    pub fn run(&self, tasks: usize, job: &(dyn Fn(usize) + Sync)) {
        let s = self.shared;
        if self.threads == 1 || tasks <= 1 {
            (0..tasks).for_each(job);
            return;
        }
        let free = !s.busy.swap(true, Ordering::SeqCst);
        assert!(free, "a team runs one job at a time");
        // SAFETY: the lifetime is cut off here and held by `Open`, which outlasts every use of the job.
        let lasting: *const Job =
            unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), &'static Job>(job) };
        // SAFETY: `busy` was ours to take, so no job is open, and no member is inside: `Open` waited for that.
        unsafe { *s.job.get() = Some((lasting, tasks)) };
        s.next.store(0, Ordering::SeqCst);
        s.epoch.fetch_add(1, Ordering::SeqCst);
        {
            let _open = Open(s);
            s.take(tasks, job);
        }
        assert!(!s.panicked.load(Ordering::SeqCst), "a thread of the team panicked");
    }
}

/// Closes the job and waits until no member looks at it, also when the leader panics.
struct Open<'s>(&'s Shared);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.epoch.fetch_add(1, Ordering::SeqCst);
        let mut wait = Wait::default();
        while self.0.inside.load(Ordering::SeqCst) > 0 {
            wait.a_little();
        }
        self.0.busy.store(false, Ordering::SeqCst);
    }
}

/// Sends the members home.
struct End<'s>(&'s Shared);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::SeqCst);
    }
}

impl Shared {
    fn take(&self, tasks: usize, job: &(dyn Fn(usize) + Sync)) {
        loop {
            let i = self.next.fetch_add(1, Ordering::SeqCst);
            if i >= tasks {
                return;
            }
            job(i);
        }
    }

    fn member(&self) {
        let (mut seen, mut wait) = (0, Wait::default());
        while !self.over.load(Ordering::SeqCst) {
            let epoch = self.epoch.load(Ordering::SeqCst);
            if epoch == seen || epoch.is_multiple_of(2) {
                wait.a_little();
                continue;
            }
            (seen, wait) = (epoch, Wait::default());
            self.inside.fetch_add(1, Ordering::SeqCst);
            if self.epoch.load(Ordering::SeqCst) == epoch {
                // SAFETY: the job is open, and stays alive until `inside` goes down.
                if let Some((job, tasks)) = unsafe { *self.job.get() } {
                    // SAFETY: as above.
                    let job = unsafe { &*job };
                    if catch_unwind(AssertUnwindSafe(|| self.take(tasks, job))).is_err() {
                        self.panicked.store(true, Ordering::SeqCst);
                    }
                }
            }
            self.inside.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

/// Waiting for microseconds without letting the processor go, for milliseconds with.
#[derive(Default)]
struct Wait(u32);

impl Wait {
    fn a_little(&mut self) {
        self.0 = self.0.saturating_add(1);
        match self.0 {
            0..4096 => std::hint::spin_loop(),
            4096..65536 => std::thread::yield_now(),
            _ => std::thread::sleep(std::time::Duration::from_micros(100)),
        }
    }
}

/// Runs `job(i)` for every i below `tasks`: by the team, or one after the other without one.
pub(crate) fn each(team: Option<&Team<'_>>, tasks: usize, job: &(dyn Fn(usize) + Sync)) {
    match team {
        Some(team) => team.run(tasks, job),
        None => (0..tasks).for_each(job),
    }
}

/// A slice whose elements different tasks change.
#[derive(Clone, Copy)]
pub(crate) struct Shares<T>(*mut T, usize);

// SAFETY: used for elements that one task alone touches, which is the caller's promise in `at`.
unsafe impl<T: Send> Sync for Shares<T> {}

impl<T> Shares<T> {
    pub(crate) fn new(all: &mut [T]) -> Self {
        Self(all.as_mut_ptr(), all.len())
    }

    /// Elements that are only given out by their address.
    pub(crate) fn new_at(all: *mut T, n: usize) -> Self {
        Self(all, n)
    }

    pub(crate) fn is_null(&self) -> bool {
        self.0.is_null()
    }

    /// `n` elements from `at` on.
    ///
    /// # Safety
    /// No other task touches them meanwhile, and the slice is still borrowed.
    ///
    /// # Panics
    /// If there are not that many.
    #[expect(clippy::mut_from_ref, reason = "that is what it is for")]
    pub(crate) unsafe fn at(&self, at: usize, n: usize) -> &mut [T] {
        assert!(at.checked_add(n).is_some_and(|end| end <= self.1), "a share outside of the whole");
        // SAFETY: inside by the check; alone by the caller.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(at), n) }
    }

    /// Where the elements from `at` on stand, and how many there are.
    pub(crate) fn from(&self, at: usize) -> (*mut T, usize) {
        assert!(at <= self.1, "a share outside of the whole");
        (self.0.wrapping_add(at), self.1 - at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once_and_before_run_returns() {
        for threads in [1, 2, 3, 5] {
            Team::with(threads, |team| {
                for round in 0..2000 {
                    let tasks = round % 7;
                    let mut counts = vec![0u32; tasks];
                    let shares = Shares::new(&mut counts);
                    // SAFETY: a task has its own element.
                    team.run(tasks, &|i| unsafe { shares.at(i, 1)[0] += 1 });
                    assert_eq!(counts, vec![1; tasks], "{threads} threads, round {round}");
                }
            });
        }
    }

    #[test]
    fn a_job_within_a_job_is_refused() {
        let ended = catch_unwind(|| Team::with(2, |team| team.run(4, &|_| team.run(2, &|_| {}))));
        assert!(ended.is_err());
    }

    #[test]
    fn a_job_that_panics_ends_the_team() {
        for threads in [1, 2, 4] {
            let ended = catch_unwind(|| {
                Team::with(threads, |team| {
                    for _ in 0..100 {
                        team.run(8, &|i| assert!(i != 5, "as it should"));
                    }
                });
            });
            assert!(ended.is_err(), "{threads} threads");
        }
    }
}
