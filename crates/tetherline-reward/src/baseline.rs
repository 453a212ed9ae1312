//! A bag of words: what a reward model should beat.
//!
//! ```text
//! P(a better than b) = σ(w·(x_a − x_b))      x_v = ln(1 + occurrences of word v)
//! w = argmin ½|w|² + Σ_pairs −log P(label)
//! ```
//!
//! Words are runs of letters and digits in lower case, those that at least [`MIN_ANSWERS`] training answers have. The
//! penalty is scikit-learn's (`LogisticRegression`, C = 1, no intercept). Minimised by accelerated gradient descent
//! (Nesterov 1983, restarted where it rises) with a step from the largest curvature; everything in a fixed order.

use std::collections::BTreeMap;

/// Training answers that a word has to be in.
pub const MIN_ANSWERS: usize = 3;
/// Most pairs that are used; more say little more about words, and take time.
const MOST_PAIRS: usize = 20_000;
const STEPS: usize = 400;

/// Two answers and the probability that the first is the better.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TextPair<'a> {
    /// One answer.
    pub a: &'a str,
    /// The other.
    pub b: &'a str,
    /// Probability that `a` is better.
    pub label: f64,
}

/// Weights of words.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BagOfWords {
    weights: BTreeMap<String, f64>,
}

/// word → ln(1 + occurrences).
fn words(text: &str) -> BTreeMap<String, f64> {
    let mut out: BTreeMap<String, f64> = BTreeMap::new();
    for word in text.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()) {
        *out.entry(word.to_lowercase()).or_default() += 1.0;
    }
    out.values_mut().for_each(|n| *n = n.ln_1p());
    out
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// Sparse rows x_a − x_b with their labels.
struct Data {
    rows: Vec<(Vec<(usize, f64)>, f64)>,
    words: usize,
}

impl Data {
    fn dot(row: &[(usize, f64)], w: &[f64]) -> f64 {
        row.iter().map(|&(v, x)| w[v] * x).sum()
    }

    fn gradient(&self, w: &[f64]) -> Vec<f64> {
        let mut grad = w.to_vec();
        for (row, label) in &self.rows {
            let d = sigmoid(Self::dot(row, w)) - label;
            row.iter().for_each(|&(v, x)| grad[v] += d * x);
        }
        grad
    }

    /// An upper bound of the curvature: 1 + λ_max(XᵀX)/4, by power iteration, and a tenth more.
    fn curvature(&self) -> f64 {
        let mut v: Vec<f64> = (0..self.words).map(|i| 1.0 + (i % 7) as f64).collect();
        let mut norm = 0.0;
        for _ in 0..30 {
            let length = v.iter().map(|x| x * x).sum::<f64>().sqrt().max(1e-300);
            let mut next = vec![0.0; self.words];
            for (row, _) in &self.rows {
                let d = Self::dot(row, &v) / length;
                row.iter().for_each(|&(j, x)| next[j] += d * x);
            }
            norm = next.iter().map(|x| x * x).sum::<f64>().sqrt();
            v = next;
        }
        1.0 + 1.1 * norm / 4.0
    }

    fn fit(&self) -> Vec<f64> {
        let step = 1.0 / self.curvature();
        let (mut w, mut ahead, mut t) = (vec![0.0; self.words], vec![0.0; self.words], 1.0_f64);
        for _ in 0..STEPS {
            let grad = self.gradient(&ahead);
            let next: Vec<f64> = ahead.iter().zip(&grad).map(|(a, g)| a - step * g).collect();
            let uphill: f64 = grad.iter().zip(next.iter().zip(&w)).map(|(g, (n, w))| g * (n - w)).sum();
            let t_next = if uphill > 0.0 { 1.0 } else { (1.0 + (1.0 + 4.0 * t * t).sqrt()) / 2.0 };
            let momentum = if uphill > 0.0 { 0.0 } else { (t - 1.0) / t_next };
            ahead = next.iter().zip(&w).map(|(n, w)| n + momentum * (n - w)).collect();
            (w, t) = (next, t_next);
            if grad.iter().all(|g| g.abs() < 1e-6) {
                break;
            }
        }
        w
    }
}

impl BagOfWords {
    /// Fits weights; none where no word is common enough.
    pub fn fit(pairs: &[TextPair<'_>]) -> Self {
        let pairs = &pairs[..pairs.len().min(MOST_PAIRS)];
        let bags: Vec<_> = pairs.iter().map(|p| (words(p.a), words(p.b))).collect();
        let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
        for word in bags.iter().flat_map(|(a, b)| a.keys().chain(b.keys())) {
            *seen.entry(word).or_default() += 1;
        }
        let known: BTreeMap<&str, usize> =
            seen.into_iter().filter(|(_, n)| *n >= MIN_ANSWERS).map(|(w, _)| w).zip(0..).collect();
        let row = |(a, b): &(BTreeMap<String, f64>, BTreeMap<String, f64>)| {
            let mut row: BTreeMap<usize, f64> = BTreeMap::new();
            for (bag, sign) in [(a, 1.0), (b, -1.0)] {
                for (word, x) in bag {
                    if let Some(&v) = known.get(word.as_str()) {
                        *row.entry(v).or_default() += sign * x;
                    }
                }
            }
            row.into_iter().filter(|(_, x)| *x != 0.0).collect::<Vec<_>>()
        };
        let rows = bags.iter().map(row).zip(pairs).map(|(row, p)| (row, p.label)).collect();
        let weights = Data { rows, words: known.len() }.fit();
        Self { weights: known.keys().map(|w| (*w).to_owned()).zip(weights).collect() }
    }

    /// w·x of one answer.
    pub fn score(&self, text: &str) -> f64 {
        words(text).iter().map(|(w, x)| self.weights.get(w).copied().unwrap_or(0.0) * x).sum()
    }

    /// Share of pairs whose better answer scores higher, equal scores ½; ties of the label left out. None where no pair
    /// is left.
    pub fn accuracy(&self, pairs: &[TextPair<'_>]) -> Option<f64> {
        let mut right = Vec::new();
        for p in pairs.iter().filter(|p| p.label != 0.5) {
            let (a, b) = (self.score(p.a), self.score(p.b));
            let (better, other) = if p.label > 0.5 { (a, b) } else { (b, a) };
            right.push(if better == other { 0.5 } else { f64::from(u8::from(better > other)) });
        }
        (!right.is_empty()).then(|| right.iter().sum::<f64>() / right.len() as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair<'a>(a: &'a str, b: &'a str, label: f64) -> TextPair<'a> {
        TextPair { a, b, label }
    }

    /// One word, once in the better answer of n pairs, and in the worse of m: w solves w + ln 2·(n·(σ − 1) + m·σ) = 0
    /// with σ = σ(w·ln 2). For n = 4, m = 2 that is w = 0.46083 (bisection, in Python).
    #[test]
    fn one_word_by_hand() {
        let pairs = [vec![pair("Good!", "", 1.0); 4], vec![pair("", "good", 1.0); 2]].concat();
        let bag = BagOfWords::fit(&pairs);
        let sigma = |w: f64| 1.0 / (1.0 + (-w * 2f64.ln()).exp());
        let slope = |w: f64| w + 2f64.ln() * (6.0 * sigma(w) - 4.0);
        let w = bag.weights["good"];
        assert!(slope(w).abs() < 1e-5 && slope(w - 0.01) < 0.0 && slope(w + 0.01) > 0.0, "{w}");
        assert_eq!(bag.accuracy(&pairs), Some(4.0 / 6.0));
    }

    #[test]
    fn words_that_matter_are_found_among_those_that_do_not() {
        let text = |i: usize, good: bool| {
            format!(
                "the answer number{} is {} {}",
                i % 9,
                ["so", "thus", "hence"][i % 3],
                if good { "please" } else { "rude" }
            )
        };
        let texts: Vec<_> = (0..90).map(|i| (text(i * 7, true), text(i * 5 + 1, false))).collect();
        let pairs: Vec<_> = texts.iter().map(|(a, b)| pair(a, b, 1.0)).collect();
        let bag = BagOfWords::fit(&pairs[..60]);
        assert_eq!(bag.accuracy(&pairs[60..]), Some(1.0));
        assert!(bag.score("please") > 0.5 && bag.score("rude") < -0.5 && bag.score("unknown words") == 0.0);
        // Turned round by the label.
        let swapped: Vec<_> = pairs.iter().map(|p| pair(p.b, p.a, 0.0)).collect();
        assert_eq!(bag.accuracy(&swapped), Some(1.0));
        assert_eq!(BagOfWords::fit(&[]).accuracy(&[]), None);
    }
}
