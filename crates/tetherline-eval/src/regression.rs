//! Least squares with an intercept, over all rows or within groups.
//!
//! y ≈ α_g + Σ_j b_j x_j, with one intercept α for all rows or one per group g (fixed effects, Wooldridge 2010,
//! chapter 10: the same as a regression of what is centred within its group). R² = 1 − SSE / SST with both sums of
//! squares about the (group) means, so that a group's own level explains nothing. Solved by modified Gram–Schmidt; a
//! column that is constant or a combination of those before it is left out and named. Standard errors are the
//! classical ones, for equal variances.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One explaining column.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Term {
    /// Name of the column.
    pub name: String,
    /// Its coefficient, units of y per unit of the column.
    pub coefficient: f64,
    /// Standard error of it; `None` without degrees of freedom.
    pub stderr: Option<f64>,
    /// By how much R² falls without the column: what it alone explains.
    pub r_squared_alone: f64,
}

/// A fit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Regression {
    /// Rows.
    pub n: usize,
    /// Groups with an intercept of their own; 1 without groups.
    pub groups: usize,
    /// Columns, in the order given.
    pub terms: Vec<Term>,
    /// Columns left out: constant, or a combination of others.
    pub left_out: Vec<String>,
    /// Share of the variance of y that is explained, 0 to 1.
    pub r_squared: f64,
    /// R² adjusted for the number of columns; `None` without degrees of freedom.
    pub r_squared_adjusted: Option<f64>,
}

/// What is left of a column after those before it, relative to its size, to count as one of its own.
const RANK: f64 = 1e-8;

fn centred(values: &[f64], groups: &[u64]) -> Vec<f64> {
    let mut sums: BTreeMap<u64, (f64, f64)> = BTreeMap::new();
    for (v, g) in values.iter().zip(groups) {
        let sum = sums.entry(*g).or_default();
        *sum = (sum.0 + v, sum.1 + 1.0);
    }
    values.iter().zip(groups).map(|(v, g)| v - sums[g].0 / sums[g].1).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

/// Orthonormal columns, and the triangle R (row by row) that makes the columns of them; and which were kept.
struct Basis {
    q: Vec<Vec<f64>>,
    r: Vec<Vec<f64>>,
    kept: Vec<usize>,
}

impl Basis {
    fn of<'a>(columns: impl Iterator<Item = (usize, &'a Vec<f64>)>, sizes: &[f64]) -> Self {
        let mut basis = Self { q: Vec::new(), r: Vec::new(), kept: Vec::new() };
        for (j, column) in columns {
            let mut rest = column.clone();
            let mut along = vec![0.0; basis.q.len()];
            // Twice, as once leaves rounding of the order of what is taken away.
            for _ in 0..2 {
                for (q, a) in basis.q.iter().zip(&mut along) {
                    let x = dot(q, &rest);
                    *a += x;
                    rest.iter_mut().zip(q).for_each(|(r, q)| *r -= x * q);
                }
            }
            let norm = dot(&rest, &rest).sqrt();
            if norm <= RANK * sizes[j] || norm == 0.0 {
                continue;
            }
            rest.iter_mut().for_each(|x| *x /= norm);
            along.push(norm);
            basis.q.push(rest);
            basis.r.push(along);
            basis.kept.push(j);
        }
        basis
    }

    fn explained(&self, y: &[f64]) -> f64 {
        self.q.iter().map(|q| dot(q, y).powi(2)).sum()
    }
}

/// Fits `y` by the named columns, with an intercept for each value of `groups` (one for all where it is `None`).
///
/// `None` where there are fewer than three rows, a column has another length, a value is not finite, or y does not
/// vary (within its groups).
pub fn least_squares(
    y: &[f64],
    columns: &[(String, Vec<f64>)],
    groups: Option<&[u64]>,
) -> Option<Regression> {
    let n = y.len();
    let finite = |v: &[f64]| v.len() == n && v.iter().all(|x| x.is_finite());
    if n < 3 || !finite(y) || !columns.iter().all(|c| finite(&c.1)) || groups.is_some_and(|g| g.len() != n) {
        return None;
    }
    let one = vec![0; n];
    let groups = groups.unwrap_or(&one);
    let count = groups.iter().collect::<std::collections::BTreeSet<_>>().len();
    let size = |v: &[f64]| dot(v, v).sqrt();
    let original = size(y);
    let y = centred(y, groups);
    let total = dot(&y, &y);
    if total.sqrt() <= RANK * original || total == 0.0 {
        return None;
    }
    let sizes: Vec<f64> = columns.iter().map(|c| size(&c.1)).collect();
    let x: Vec<Vec<f64>> = columns.iter().map(|c| centred(&c.1, groups)).collect();
    let all = || x.iter().enumerate();
    let basis = Basis::of(all(), &sizes);
    let p = basis.kept.len();
    let explained = basis.explained(&y);
    let free = n.checked_sub(count + p).filter(|d| *d > 0);
    let residual = (total - explained).max(0.0);
    // R b = Qᵀy from the last row up; column k of R is r[k].
    let mut b = vec![0.0; p];
    for k in (0..p).rev() {
        let later: f64 = (k + 1..p).map(|j| basis.r[j][k] * b[j]).sum();
        b[k] = (dot(&basis.q[k], &y) - later) / basis.r[k][k];
    }
    let term = |k: usize| {
        let j = basis.kept[k];
        let without = Basis::of(all().filter(|(i, _)| *i != j), &sizes).explained(&y);
        let inverse = inverse_row(&basis.r, k);
        Term {
            name: columns[j].0.clone(),
            coefficient: b[k],
            stderr: free.map(|d| (residual / d as f64 * dot(&inverse, &inverse)).sqrt()),
            r_squared_alone: ((explained - without) / total).max(0.0),
        }
    };
    let left_out = (0..x.len()).filter(|j| !basis.kept.contains(j)).map(|j| columns[j].0.clone());
    Some(Regression {
        n,
        groups: count,
        terms: (0..p).map(term).collect(),
        left_out: left_out.collect(),
        r_squared: (explained / total).min(1.0),
        r_squared_adjusted: free.map(|d| 1.0 - residual / total * (n - count) as f64 / d as f64),
    })
}

/// Row `k` of R⁻¹: Var(b_k) = σ² times the sum of its squares.
fn inverse_row(r: &[Vec<f64>], k: usize) -> Vec<f64> {
    let mut row = vec![0.0; r.len()];
    row[k] = 1.0 / r[k][k];
    for j in k + 1..r.len() {
        let known: f64 = (k..j).map(|i| row[i] * r[j][i]).sum();
        row[j] = -known / r[j][j];
    }
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(columns: &[(&str, &[f64])]) -> Vec<(String, Vec<f64>)> {
        columns.iter().map(|(n, v)| ((*n).to_owned(), v.to_vec())).collect()
    }

    #[test]
    fn agrees_with_certified_values() {
        // Anscombe (1973), first set: slope 0.500091, its error 0.117906, R² 0.666542.
        let x = [10.0, 8.0, 13.0, 9.0, 11.0, 14.0, 6.0, 4.0, 12.0, 7.0, 5.0];
        let y = [8.04, 6.95, 7.58, 8.81, 8.33, 9.96, 7.24, 4.26, 10.84, 4.82, 5.68];
        let f = least_squares(&y, &named(&[("x", &x)]), None).unwrap();
        assert!((f.terms[0].coefficient - 0.500_091).abs() < 1e-6);
        assert!((f.terms[0].stderr.unwrap() - 0.117_906).abs() < 1e-6);
        assert!((f.r_squared - 0.666_542).abs() < 1e-6);
        assert!((f.r_squared_adjusted.unwrap() - 0.629_492).abs() < 1e-6);
        assert!((f.terms[0].r_squared_alone - f.r_squared).abs() < 1e-12);
    }

    #[test]
    fn an_exact_plane_is_found_and_a_copy_is_left_out() {
        let a = [1.0, 2.0, 3.0, 4.0, 5.0, 7.0];
        let b = [2.0, -1.0, 0.5, 3.0, -2.0, 1.0];
        let y: Vec<f64> = a.iter().zip(&b).map(|(a, b)| 10.0 + 3.0 * a - 2.0 * b).collect();
        let twice: Vec<f64> = a.iter().map(|a| 2.0 * a).collect();
        let f =
            least_squares(&y, &named(&[("a", &a), ("flat", &[4.0; 6]), ("twice", &twice), ("b", &b)]), None)
                .unwrap();
        assert_eq!(f.left_out, ["flat", "twice"]);
        let found: Vec<_> = f.terms.iter().map(|t| (t.name.as_str(), t.coefficient)).collect();
        assert!((found[0].1 - 3.0).abs() < 1e-10 && (found[1].1 + 2.0).abs() < 1e-10, "{found:?}");
        assert!((f.r_squared - 1.0).abs() < 1e-12);
        // Without `a` its copy stands in: alone it explains nothing.
        assert!(f.terms[0].r_squared_alone < 1e-12 && f.terms[1].r_squared_alone > 0.01);
    }

    #[test]
    fn a_groups_level_is_its_own() {
        // Within each prompt y = 2x, the prompts lie 100 apart against the trend (Simpson).
        let groups = [1, 1, 1, 2, 2, 2];
        let x = [10.0, 11.0, 12.0, 0.0, 1.0, 2.0];
        let y = [20.0, 22.0, 24.0, 100.0, 102.0, 104.0];
        let within = least_squares(&y, &named(&[("x", &x)]), Some(&groups)).unwrap();
        assert!((within.terms[0].coefficient - 2.0).abs() < 1e-12 && (within.r_squared - 1.0).abs() < 1e-12);
        assert_eq!(within.groups, 2);
        let pooled = least_squares(&y, &named(&[("x", &x)]), None).unwrap();
        assert!(pooled.terms[0].coefficient < -7.0);
    }

    #[test]
    fn what_cannot_be_fitted_is_none() {
        assert!(least_squares(&[1.0, 1.0, 1.0], &named(&[("x", &[1.0, 2.0, 3.0])]), None).is_none());
        assert!(least_squares(&[1.0, 2.0], &[], None).is_none());
        assert!(least_squares(&[1.0, 2.0, f64::NAN], &[], None).is_none());
        let none = least_squares(&[1.0, 2.0, 4.0], &[], None).unwrap();
        assert_eq!((none.r_squared, none.terms.len()), (0.0, 0));
    }
}
