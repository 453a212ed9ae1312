//! The promise of the always-valid tests, by simulation: looked at after every prompt, they seldom reject what is true.

use tetherline_core::seeds::{Purpose, Stream, stream};
use tetherline_eval::ab::{AbTest, Metric, Pair};
use tetherline_eval::sequential::{BoundedMean, EFFECT, TTest};

const RUNS: u64 = 600;
const ALPHA: f64 = 0.05;

/// Most rejections of a true hypothesis: α and three standard errors.
fn most() -> usize {
    let n = RUNS as f64;
    (n * ALPHA + 3.0 * (n * ALPHA * (1.0 - ALPHA)).sqrt()) as usize
}

fn count(one: impl Fn(&mut Stream) -> bool) -> usize {
    (0..RUNS).filter(|&i| one(&mut stream(11, Purpose::World, 0, i, 0))).count()
}

#[test]
fn differences_without_a_mean_are_seldom_rejected_whenever_one_looks() {
    let ever = |draw: fn(&mut Stream) -> f64| {
        count(|r| {
            let mut test = TTest::new(EFFECT);
            (0..300).for_each(|_| test.push(draw(r)));
            test.p() <= ALPHA
        })
    };
    let skewed = |r: &mut Stream| -(1.0 - r.uniform()).ln() - 1.0;
    let (normal, skew) = (ever(|r| r.normal()), ever(skewed));
    assert!(normal <= most() && skew <= most(), "{normal} and {skew} of {RUNS}");
    // It is a test all the same.
    let power = ever(|r| r.normal() + 0.3);
    assert!(power > RUNS as usize * 9 / 10, "{power} of {RUNS}");
}

#[test]
fn even_wins_are_seldom_rejected_whenever_one_looks() {
    let ever = |rate: f64, ties: f64| {
        count(|r| {
            let mut test = BoundedMean::new(0.5);
            for _ in 0..300 {
                let win = if r.uniform() < rate { 1.0 } else { 0.0 };
                test.push(if r.uniform() < ties { 0.5 } else { win });
            }
            test.p() <= ALPHA
        })
    };
    let (clear, tied) = (ever(0.5, 0.0), ever(0.5, 0.6));
    assert!(clear <= most() && tied <= most(), "{clear} and {tied} of {RUNS}");
    let power = ever(0.65, 0.0);
    assert!(power > RUNS as usize * 9 / 10, "{power} of {RUNS}");
}

#[test]
fn confidence_sequences_cover_the_truth_at_every_look() {
    let missed = count(|r| {
        let (mut mean, mut rate) = (TTest::new(EFFECT), BoundedMean::new(0.5));
        (1..=200).any(|n| {
            mean.push(0.7 + r.normal());
            rate.push(if r.uniform() < 0.8 { 1.0 } else { 0.0 });
            let outside = |(low, high): (f64, f64), truth: f64| truth < low || truth > high;
            // The grid of the second is looked at now and then: at every prompt it would take long.
            mean.interval(ALPHA / 2.0).is_some_and(|ci| outside(ci, 0.7))
                || (n % 50 == 0 && outside(rate.interval(ALPHA / 2.0), 0.8))
        })
    });
    assert!(missed <= most(), "{missed} of {RUNS}");
}

#[test]
fn of_many_metrics_and_candidates_any_false_claim_is_as_rare() {
    let names: Vec<String> = ["b", "c", "d"].map(String::from).to_vec();
    let claims = count(|r| {
        let mut test = AbTest::new(&names, ALPHA, Metric::Score);
        for i in 0..200 {
            for side in 0..3 {
                let score = r.normal();
                let win = if r.uniform() < 0.5 { 1.0 } else { 0.0 };
                let gold = Some(r.normal());
                test.push(side, Pair { prompt_id: i, win, score, gold, length: 0.0, kl: 0.0 });
            }
        }
        test.p_values_holm().iter().any(|p| *p <= ALPHA)
    });
    assert!(claims <= most(), "{claims} of {RUNS}");
}
