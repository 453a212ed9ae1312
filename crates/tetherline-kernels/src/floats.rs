//! Floats that begin on a cache line.
//!
//! A vector of sixteen floats that straddles two lines takes two reads. Parameters are read in such vectors where they
//! are, and most matrices of a decoder have rows of whole lines, so that all of them are whole if the first is.

use std::ops::{Deref, DerefMut};

/// Floats of a line.
pub(crate) const LINE: usize = 16;

/// A cache line.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(crate) struct Line(pub(crate) [f32; LINE]);

/// The floats of `lines`.
pub(crate) fn floats(lines: &[Line]) -> &[f32] {
    // SAFETY: lines are arrays of floats without anything between them.
    unsafe { std::slice::from_raw_parts(lines.as_ptr().cast(), lines.len() * LINE) }
}

/// A vector of floats that begins on a cache line.
#[derive(Clone, Debug, Default)]
pub struct Floats {
    lines: Vec<Line>,
    len: usize,
}

impl Floats {
    /// `len` zeros.
    pub fn zeros(len: usize) -> Self {
        Self { lines: vec![Line([0.0; LINE]); len.div_ceil(LINE)], len }
    }

    /// `len` zeros, or none if there is no memory for them.
    pub fn try_zeros(len: usize) -> Option<Self> {
        let (mut lines, n) = (Vec::new(), len.div_ceil(LINE));
        lines.try_reserve_exact(n).ok()?;
        lines.resize(n, Line([0.0; LINE]));
        Some(Self { lines, len })
    }

    /// The parts, one after the other.
    pub fn of(parts: &[&[f32]]) -> Self {
        let mut all = Self::zeros(parts.iter().map(|p| p.len()).sum());
        let mut rest = &mut all[..];
        for part in parts {
            let (here, after) = rest.split_at_mut(part.len());
            here.copy_from_slice(part);
            rest = after;
        }
        all
    }
}

impl Deref for Floats {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &floats(&self.lines)[..self.len]
    }
}

impl DerefMut for Floats {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as in `floats`; `len` is at most as many as the lines have.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_stand_one_after_the_other_on_a_line() {
        let all = Floats::of(&[&[1.0, 2.0], &[], &[3.0; 17]]);
        assert_eq!((all.len(), all[1], all[2], all[18]), (19, 2.0, 3.0, 3.0));
        assert_eq!(all.as_ptr() as usize % 64, 0);
        assert!(Floats::try_zeros(usize::MAX / 8).is_none() && Floats::zeros(0).is_empty());
    }
}
