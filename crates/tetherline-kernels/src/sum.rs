//! The gradient of a step: shards that threads add up in the order of the shards, whichever ends first.
//!
//! The first shard is computed in the gradient itself. Each of the others is computed in a buffer of its thread and then added,
//! stripe by stripe: a thread may add to a stripe as soon as the shard before it has been there, while that is still being
//! added to the stripes after it. So there are as many buffers as threads and not as many as shards, and a thread that ends
//! early waits for no more than a stripe or two of the others, since shards are alike.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

/// Stripes of a gradient.
const STRIPES: usize = 16;

/// A gradient under way.
pub(crate) struct Sum<'g> {
    /// All of it, until the first shard takes it.
    whole: Mutex<Option<&'g mut [f32]>>,
    /// All of it, from the end of the first shard on.
    stripes: OnceLock<Vec<Stripe<'g>>>,
    /// Whether a shard was given up, by a panic: nobody waits for it then.
    given_up: AtomicBool,
}

struct Stripe<'g> {
    /// The shard that is to be added next, and the sum of those before it.
    sum: Mutex<(usize, &'g mut [f32])>,
    passed: Condvar,
}

impl<'g> Sum<'g> {
    /// Adds to `gradient`.
    pub(crate) fn new(gradient: &'g mut [f32]) -> Self {
        Self { whole: Mutex::new(Some(gradient)), stripes: OnceLock::new(), given_up: AtomicBool::new(false) }
    }

    /// Computes shard 0 in the gradient.
    pub(crate) fn first<R>(&self, compute: impl FnOnce(&mut [f32]) -> R) -> R {
        let guard = GiveUp(self);
        let whole = lock(&self.whole).take().unwrap_or_default();
        let out = compute(whole);
        std::mem::forget(guard);
        let size = whole.len().div_ceil(STRIPES).max(1);
        let stripe = |part| Stripe { sum: Mutex::new((1, part)), passed: Condvar::new() };
        self.stripes.get_or_init(|| whole.chunks_mut(size).map(stripe).collect());
        out
    }

    /// Computes a shard after the first in a buffer of as many zeros, and adds it when its turn has come.
    pub(crate) fn add<R>(
        &self,
        shard: usize,
        buffer: &mut [f32],
        compute: impl FnOnce(&mut [f32]) -> R,
    ) -> R {
        let guard = GiveUp(self);
        let out = compute(buffer);
        std::mem::forget(guard);
        let size = buffer.len().div_ceil(STRIPES).max(1);
        for (stripe, part) in self.stripes.wait().iter().zip(buffer.chunks(size)) {
            let mut sum = lock(&stripe.sum);
            while sum.0 != shard && !self.given_up.load(Ordering::Relaxed) {
                sum = stripe.passed.wait(sum).unwrap_or_else(PoisonError::into_inner);
            }
            crate::simd::add_assign(sum.1, part);
            sum.0 += 1;
            drop(sum);
            stripe.passed.notify_all();
        }
        out
    }
}

/// Lets the others go when a shard panics: the step panics as a whole once they have ended.
struct GiveUp<'s, 'g>(&'s Sum<'g>);

impl Drop for GiveUp<'_, '_> {
    fn drop(&mut self) {
        let Self(sum) = self;
        sum.given_up.store(true, Ordering::Relaxed);
        // With its lock held, so that nobody is between looking and waiting.
        for stripe in sum.stripes.get_or_init(Vec::new) {
            let _held = lock(&stripe.sum);
            stripe.passed.notify_all();
        }
    }
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// 1 − 1 + 2⁻²⁴ is 2⁻²⁴, and 1 + 2⁻²⁴ − 1 is 0: the order of the sum shows in its bits.
    #[test]
    fn shards_are_added_in_their_order_whichever_ends_first() {
        let tiny = (-24.0_f32).exp2();
        let of = [1.0, -1.0, tiny];
        for n in [0, 1, 5, STRIPES + 1, 1000] {
            for late in 0..3 {
                let mut gradient = vec![0.0; n];
                let sum = Sum::new(&mut gradient);
                let wait = |shard: u64| {
                    std::thread::sleep(Duration::from_millis(if shard == late { 20 } else { 0 }));
                };
                std::thread::scope(|s| {
                    for shard in [2, 1] {
                        let (sum, wait) = (&sum, &wait);
                        s.spawn(move || {
                            sum.add(shard, &mut vec![0.0; n], |b| {
                                wait(shard as u64);
                                b.fill(of[shard]);
                            });
                        });
                    }
                    sum.first(|g| {
                        wait(0);
                        g.fill(of[0]);
                    });
                });
                assert_eq!(gradient, vec![tiny; n], "{n} numbers, shard {late} late");
            }
        }
    }

    /// A panic of any shard ends the others.
    #[test]
    fn nobody_waits_for_a_shard_that_panicked() {
        for bad in 0..3 {
            let mut gradient = vec![0.0; 100];
            let sum = Sum::new(&mut gradient);
            let compute = |shard: usize| {
                std::thread::sleep(Duration::from_millis(5));
                assert!(shard != bad, "as it should");
            };
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                std::thread::scope(|s| {
                    for shard in 1..3 {
                        let (sum, compute) = (&sum, &compute);
                        s.spawn(move || sum.add(shard, &mut vec![0.0; 100], |_| compute(shard)));
                    }
                    sum.first(|_| compute(0));
                });
            }));
            assert!(outcome.is_err(), "shard {bad}");
        }
    }
}
