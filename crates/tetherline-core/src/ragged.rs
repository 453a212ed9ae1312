//! Rows of different length in one allocation.
//!
//! A [`Ragged`] is a flat `Vec` plus the end of each row. It replaces the padded matrix and its mask,
//! and with them the class of bugs where a mask is one position off.

use serde::{Deserialize, Serialize};

/// Rows of different length, stored back to back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ragged<T> {
    flat: Vec<T>,
    ends: Vec<usize>,
}

/// Two ragged arrays that should have had the same row lengths do not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("row lengths differ: {left} has row lengths {left_lens}, {right} has {right_lens}")]
pub struct RaggedMismatch {
    /// Name of the first array.
    pub left: &'static str,
    /// Name of the second array.
    pub right: &'static str,
    /// Row lengths of the first array, shortened for display.
    pub left_lens: String,
    /// Row lengths of the second array, shortened for display.
    pub right_lens: String,
}

impl<T> Default for Ragged<T> {
    fn default() -> Self {
        Self { flat: Vec::new(), ends: Vec::new() }
    }
}

impl<T> Ragged<T> {
    /// No rows.
    pub fn new() -> Self {
        Self::default()
    }

    /// Builds from an iterator of rows.
    pub fn from_rows<R: IntoIterator<Item = T>>(rows: impl IntoIterator<Item = R>) -> Self {
        let mut out = Self::new();
        for row in rows {
            out.push_row(row);
        }
        out
    }

    /// Appends one row.
    pub fn push_row(&mut self, row: impl IntoIterator<Item = T>) {
        self.flat.extend(row);
        self.ends.push(self.flat.len());
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Number of elements over all rows.
    pub fn total(&self) -> usize {
        self.flat.len()
    }

    fn start(&self, i: usize) -> usize {
        if i == 0 { 0 } else { self.ends[i - 1] }
    }

    /// Length of row `i`.
    ///
    /// # Panics
    /// If `i` is not below [`Ragged::len`].
    pub fn row_len(&self, i: usize) -> usize {
        self.ends[i] - self.start(i)
    }

    /// Row `i`.
    ///
    /// # Panics
    /// If `i` is not below [`Ragged::len`].
    pub fn row(&self, i: usize) -> &[T] {
        &self.flat[self.start(i)..self.ends[i]]
    }

    /// Row `i`, mutable.
    ///
    /// # Panics
    /// If `i` is not below [`Ragged::len`].
    pub fn row_mut(&mut self, i: usize) -> &mut [T] {
        let start = self.start(i);
        &mut self.flat[start..self.ends[i]]
    }

    /// All rows in order.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[T]> + Clone {
        (0..self.len()).map(|i| self.row(i))
    }

    /// All elements, row after row.
    pub fn flat(&self) -> &[T] {
        &self.flat
    }

    /// All elements, row after row, mutable.
    pub fn flat_mut(&mut self) -> &mut [T] {
        &mut self.flat
    }

    /// Same rows, every element mapped.
    pub fn map<U>(&self, f: impl FnMut(&T) -> U) -> Ragged<U> {
        Ragged { flat: self.flat.iter().map(f).collect(), ends: self.ends.clone() }
    }

    /// Combines two arrays of equal row lengths element by element.
    ///
    /// # Errors
    /// [`RaggedMismatch`] when the row lengths differ.
    pub fn zip_map<U, V>(
        &self,
        other: &Ragged<U>,
        mut f: impl FnMut(&T, &U) -> V,
    ) -> Result<Ragged<V>, RaggedMismatch> {
        self.check_same_rows("left", other, "right")?;
        let flat = self.flat.iter().zip(&other.flat).map(|(a, b)| f(a, b)).collect();
        Ok(Ragged { flat, ends: self.ends.clone() })
    }

    /// Checks that `other` has the same row lengths.
    ///
    /// # Errors
    /// [`RaggedMismatch`], naming both arrays.
    pub fn check_same_rows<U>(
        &self,
        name: &'static str,
        other: &Ragged<U>,
        other_name: &'static str,
    ) -> Result<(), RaggedMismatch> {
        if self.ends == other.ends {
            return Ok(());
        }
        Err(RaggedMismatch {
            left: name,
            right: other_name,
            left_lens: short(self.lens()),
            right_lens: short(other.lens()),
        })
    }

    fn lens(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.len()).map(|i| self.row_len(i))
    }
}

impl<T: Clone> Ragged<T> {
    /// The rows named by `indices`, in that order.
    ///
    /// # Panics
    /// If an index is not below [`Ragged::len`].
    pub fn select(&self, indices: &[usize]) -> Self {
        Self::from_rows(indices.iter().map(|&i| self.row(i).iter().cloned()))
    }
}

fn short(lens: impl Iterator<Item = usize>) -> String {
    let lens: Vec<_> = lens.collect();
    match lens.len() {
        0..=8 => format!("{lens:?}"),
        n => format!("{:?}… ({n} rows)", &lens[..8]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_keep_their_boundaries() {
        let r = Ragged::from_rows([vec![1, 2, 3], vec![], vec![4]]);
        assert_eq!(r.len(), 3);
        assert_eq!(r.total(), 4);
        assert_eq!(r.row(0), &[1, 2, 3]);
        assert!(r.row(1).is_empty());
        assert_eq!(r.row(2), &[4]);
        assert_eq!(r.select(&[2, 0]), Ragged::from_rows([vec![4], vec![1, 2, 3]]));
    }

    #[test]
    fn a_mismatch_names_both_arrays() {
        let a = Ragged::from_rows([vec![1.0f32; 2], vec![1.0; 3]]);
        let b = Ragged::from_rows([vec![1.0f32; 2], vec![1.0; 2]]);
        let e = a.check_same_rows("logprobs", &b, "values").unwrap_err();
        let text = e.to_string();
        assert!(text.contains("logprobs") && text.contains("[2, 3]") && text.contains("[2, 2]"), "{text}");
    }
}
