//! Threads that share the work of every layer of a decode step.
//!
//! A step of a few rows reads every weight of the model once, and does little with it: what bounds it is memory. Threads
//! with rows of their own read the same weights once each; a team reads them once, each thread its columns. A job lasts
//! some microseconds, too short to wake a thread for: the members of a team wait for the next one in a loop.

use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

/// A number of threads that work together.
#[derive(Debug)]
pub struct Team<'s> {
    shared: &'s Shared,
    threads: usize,
}

type Job = dyn Fn(usize) + Sync;

/// Of one cache line each, what the leader and the members write: a job costs a few transfers of lines.
#[derive(Debug)]
struct Shared {
    /// The number of the job, how many tasks it has, and the next of them to be taken: one number, so that a thread that
    /// takes one knows of which job it is.
    ticket: OnALine<AtomicU64>,
    /// Tasks of the job that have ended.
    done: OnALine<AtomicUsize>,
    /// Read by those who have taken a task, which the leader waits for.
    job: UnsafeCell<Option<*const Job>>,
    panicked: AtomicBool,
    over: AtomicBool,
    /// A job is being run: there is one at a time.
    busy: AtomicBool,
}

#[derive(Debug, Default)]
#[repr(align(128))]
struct OnALine<T>(T);

// SAFETY: `job` is written by one leader alone (`busy`), after all tasks that were taken of the last job have ended and
// before the next ticket; it is read by threads that hold a task of that ticket.
unsafe impl Sync for Shared {}

/// Bits of a ticket for the next task, and for the number of tasks; the rest is the number of the job.
const BITS: u32 = 16;

/// Tasks of a job at most: each thread may ask once more than there are tasks without reaching the next field.
const MOST: usize = 1 << (BITS - 1);

/// Job, tasks and next task of a ticket.
fn parts(ticket: u64) -> (u64, usize, usize) {
    let field = |shift: u32| (ticket >> shift) as usize & ((1 << BITS) - 1);
    (ticket >> (2 * BITS), field(BITS), field(0))
}

impl Team<'_> {
    /// Runs `f` with a team of `threads` threads, the calling one among them.
    pub fn with<R>(threads: usize, f: impl FnOnce(&Team<'_>) -> R) -> R {
        let shared = Shared {
            ticket: OnALine::default(),
            done: OnALine::default(),
            job: UnsafeCell::new(None),
            panicked: AtomicBool::new(false),
            over: AtomicBool::new(false),
            busy: AtomicBool::new(false),
        };
        let threads = threads.clamp(1, MOST / 2);
        std::thread::scope(|s| {
            // Before the first of them starts: one that cannot start must not leave the others waiting.
            let _end = End(&shared);
            for _ in 1..threads {
                s.spawn(|| shared.member());
            }
            f(&Team { shared: &shared, threads })
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
        if tasks > MOST / 2 {
            // A task of several, of which a ticket can count as many.
            let each = tasks.div_ceil(MOST / 2);
            self.run(tasks.div_ceil(each), &|i| (i * each..((i + 1) * each).min(tasks)).for_each(job));
            return;
        }
        let free = !s.busy.swap(true, Ordering::Acquire);
        assert!(free, "a team runs one job at a time");
        // SAFETY: the lifetime is cut off here and held by `Open`, which outlasts every use of the job.
        let lasting: *const Job =
            unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), &'static Job>(job) };
        // SAFETY: `busy` was ours to take, and `Open` waited for all who had a task of the last job.
        unsafe { *s.job.get() = Some(lasting) };
        s.done.0.store(0, Ordering::Relaxed);
        let (number, ..) = parts(s.ticket.0.load(Ordering::Relaxed));
        s.ticket.0.store((number + 1) << (2 * BITS) | (tasks as u64) << BITS, Ordering::Release);
        {
            let _open = Open(s, tasks);
            s.take(job);
        }
        assert!(!s.panicked.load(Ordering::Relaxed), "a thread of the team panicked");
    }
}

/// Closes the job and waits until all tasks that were taken have ended, also when the leader panics.
struct Open<'s>(&'s Shared, usize);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        let Self(s, tasks) = *self;
        // What is left is taken, by nobody.
        let (_, _, next) = parts(s.ticket.0.fetch_add(tasks as u64, Ordering::Relaxed));
        let mut wait = Wait::default();
        while s.done.0.load(Ordering::Acquire) < next.min(tasks) {
            wait.a_little();
        }
        s.busy.store(false, Ordering::Release);
    }
}

/// A task that was taken: it has ended when this is dropped, also by a panic.
struct Taken<'s>(&'s Shared);

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.0.done.0.fetch_add(1, Ordering::Release);
    }
}

/// Sends the members home.
struct End<'s>(&'s Shared);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::Release);
    }
}

impl Shared {
    /// Does the leader's part.
    fn take(&self, job: &(dyn Fn(usize) + Sync)) {
        loop {
            let (_, tasks, i) = parts(self.ticket.0.fetch_add(1, Ordering::Relaxed));
            if i >= tasks {
                return;
            }
            let _taken = Taken(self);
            job(i);
        }
    }

    fn member(&self) {
        let (mut seen, mut wait) = (0, Wait::default());
        while !self.over.load(Ordering::Relaxed) {
            if parts(self.ticket.0.load(Ordering::Relaxed)).0 == seen {
                wait.a_little();
                continue;
            }
            wait = Wait::default();
            let (number, tasks, i) = parts(self.ticket.0.fetch_add(1, Ordering::Acquire));
            if i >= tasks {
                seen = number;
                continue;
            }
            let _taken = Taken(self);
            // SAFETY: a task of this job was taken and has not ended, so the leader waits and the job lives.
            if let Some(job) = unsafe { *self.job.get() } {
                // SAFETY: as above.
                let job = unsafe { &*job };
                if catch_unwind(AssertUnwindSafe(|| job(i))).is_err() {
                    self.panicked.store(true, Ordering::Relaxed);
                }
            }
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
