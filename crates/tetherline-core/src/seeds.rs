//! Named, counter-based random streams.
//!
//! Every draw in Tetherline names its stream: (root seed, purpose, step, row id, sample index). The
//! five fields are laid out in the 256-bit ChaCha key itself, so two different names can never share a
//! stream, no state has to be saved in a checkpoint, and a sample does not depend on the batch it
//! shares, on the order of rows or on the number of threads.

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

/// What a stream is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Purpose {
    /// Initial weights.
    Init = 1,
    /// Order of prompts in an epoch.
    Prompts = 2,
    /// Sampling a response; row = prompt id.
    Sampling = 3,
    /// Order of minibatches.
    Shuffle = 4,
    /// Generating a data set.
    World = 5,
    /// Sampling during evaluation; row = prompt id.
    Eval = 6,
    /// Bootstrap resampling.
    Bootstrap = 7,
    /// Which prompts measure an update, and sampling responses to them; row = prompt id.
    Trial = 8,
}

/// One stream of random numbers.
#[derive(Clone, Debug)]
pub struct Stream(ChaCha8Rng);

/// Opens the stream with this name.
pub fn stream(seed: u64, purpose: Purpose, step: u64, row: u64, sample: u32) -> Stream {
    let mut key = [0u8; 32];
    key[0..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(&step.to_le_bytes());
    key[16..24].copy_from_slice(&row.to_le_bytes());
    key[24..28].copy_from_slice(&sample.to_le_bytes());
    key[28..32].copy_from_slice(&(purpose as u32).to_le_bytes());
    Stream(ChaCha8Rng::from_seed(key))
}

impl Stream {
    /// The next 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// Uniform in [0, 1), 53 bits.
    pub fn uniform(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// Uniform integer in [0, n).
    ///
    /// # Panics
    /// If `n` is 0.
    pub fn below(&mut self, n: usize) -> usize {
        assert!(n > 0, "below(0)");
        // Lemire's multiply-shift; the bias is under n / 2^64.
        ((u128::from(self.next_u64()) * n as u128) >> 64) as usize
    }

    /// Standard normal (Box–Muller, cosine branch).
    pub fn normal(&mut self) -> f64 {
        let u = 1.0 - self.uniform();
        let v = self.uniform();
        (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    }

    /// Shuffles in place (Fisher–Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }

    /// One element, uniformly.
    ///
    /// # Panics
    /// If `items` is empty.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_depends_on_every_field_of_its_name() {
        let first = |s: u64, p, t, r, k| stream(s, p, t, r, k).next_u64();
        let base = first(1, Purpose::Sampling, 2, 3, 4);
        assert_eq!(base, first(1, Purpose::Sampling, 2, 3, 4));
        for other in [
            first(2, Purpose::Sampling, 2, 3, 4),
            first(1, Purpose::Shuffle, 2, 3, 4),
            first(1, Purpose::Sampling, 3, 3, 4),
            first(1, Purpose::Sampling, 2, 4, 4),
            first(1, Purpose::Sampling, 2, 3, 5),
        ] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn draws_have_the_right_moments() {
        let mut s = stream(7, Purpose::Init, 0, 0, 0);
        let n = 200_000;
        let (mut m, mut v, mut u) = (0.0, 0.0, 0.0);
        for _ in 0..n {
            let x = s.normal();
            m += x;
            v += x * x;
            u += s.uniform();
        }
        let n = f64::from(n);
        assert!((m / n).abs() < 0.01, "mean {}", m / n);
        assert!((v / n - 1.0).abs() < 0.02, "variance {}", v / n);
        assert!((u / n - 0.5).abs() < 0.005, "uniform mean {}", u / n);
    }
}
