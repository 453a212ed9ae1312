//! Threads for one piece of work.

/// Numbers that each thread should have to itself when there is little to do with each: to start one takes a tenth of a
/// millisecond, in which another goes through as many.
const EACH: usize = 1 << 19;

/// How many of `threads` threads are worth their start for a pass over `numbers` numbers.
pub fn worth(threads: usize, numbers: usize) -> usize {
    threads.min(numbers / EACH).max(1)
}

/// Runs `job` on every part, each on a thread of its own and the first on the calling one.
pub fn on_threads<T: Send>(parts: impl IntoIterator<Item = T>, job: impl Fn(T) + Sync) {
    let mut parts = parts.into_iter();
    let Some(first) = parts.next() else { return };
    let job = &job;
    std::thread::scope(|s| {
        for part in parts {
            s.spawn(move || job(part));
        }
        job(first);
    });
}
