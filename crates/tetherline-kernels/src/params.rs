//! The flat parameters and the flat gradient: the leading ones may be frozen, shared between models and without a
//! gradient.

/// All parameters of a decoder in one order: frozen ones, then trained ones. No tensor straddles the border.
#[derive(Clone, Copy, Debug)]
pub struct Params<'a> {
    /// Those that never change.
    pub frozen: &'a [f32],
    /// The rest.
    pub trained: &'a [f32],
}

impl<'a> Params<'a> {
    /// Parameters all of which are trained.
    pub fn trained(all: &'a [f32]) -> Self {
        Self { frozen: &[], trained: all }
    }

    /// The parameters from `offset` on, as far as they lie together.
    pub fn from(&self, offset: usize) -> &'a [f32] {
        match offset.checked_sub(self.frozen.len()) {
            Some(offset) => &self.trained[offset..],
            None => &self.frozen[offset..],
        }
    }

    /// `n` parameters from `offset` on.
    pub fn at(&self, offset: usize, n: usize) -> &'a [f32] {
        &self.from(offset)[..n]
    }
}

/// The gradient of the parameters after the frozen ones.
pub(crate) struct Grad<'a> {
    frozen: usize,
    values: &'a mut [f32],
}

impl<'a> Grad<'a> {
    pub(crate) fn new(frozen: usize, values: &'a mut [f32]) -> Self {
        Self { frozen, values }
    }

    /// Of the parameters from `offset` on; none if they are frozen.
    pub(crate) fn from(&mut self, offset: usize) -> Option<&mut [f32]> {
        offset.checked_sub(self.frozen).map(|at| &mut self.values[at..])
    }

    /// Of `n` parameters from `offset` on; none if they are frozen.
    pub(crate) fn at(&mut self, offset: usize, n: usize) -> Option<&mut [f32]> {
        self.from(offset).map(|g| &mut g[..n])
    }
}
