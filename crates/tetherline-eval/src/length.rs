//! What is left of a difference between two policies when their responses are equally long.
//!
//! - Of a difference d of scores: the intercept a of the least-squares line d = a + b·Δ over prompts, Δ the difference in
//!   length in tokens. With no prompt's length changed it is the mean of d.
//! - Of a win rate: σ(a), where wins y (ties ½) follow the logistic regression σ(a + b·tanh(Δ/s)), s the standard deviation
//!   of Δ: the length term of length-controlled AlpacaEval (Dubois, Galambosi, Liang & Hashimoto 2024, eq. 2). A weak penalty
//!   (0.001·n·b²/2, and as much on a) keeps the fit finite where all are wins.
//!
//! A length that changes by the same number everywhere cannot be told from the policy itself: the line is then flat (b = 0).

/// The mean difference at equal length: the intercept of `differences` on `lengths`. `None` if there are none.
///
/// # Panics
/// If the two differ in length.
pub fn controlled_mean(differences: &[f64], lengths: &[f64]) -> Option<f64> {
    assert_eq!(differences.len(), lengths.len(), "one length per difference");
    let n = differences.len() as f64;
    if differences.is_empty() {
        return None;
    }
    let (md, ml) = (differences.iter().sum::<f64>() / n, lengths.iter().sum::<f64>() / n);
    let (mut cross, mut square) = (0.0, 0.0);
    for (d, l) in differences.iter().zip(lengths) {
        cross += (d - md) * (l - ml);
        square += (l - ml) * (l - ml);
    }
    let slope = if square > 0.0 { cross / square } else { 0.0 };
    Some(md - slope * ml)
}

/// The win rate at equal length. `None` if there are no pairs.
///
/// # Panics
/// If the two differ in length.
pub fn controlled_win_rate(wins: &[f64], lengths: &[f64]) -> Option<f64> {
    assert_eq!(wins.len(), lengths.len(), "one length per pair");
    let n = wins.len() as f64;
    if wins.is_empty() {
        return None;
    }
    let mean = lengths.iter().sum::<f64>() / n;
    let sd = (lengths.iter().map(|l| (l - mean) * (l - mean)).sum::<f64>() / n).sqrt();
    let term = |l: f64| if sd > 0.0 { (l / sd).tanh() } else { 0.0 };
    let (mut a, mut b) = (0.0f64, 0.0f64);
    let ridge = 1e-3 * n;
    for _ in 0..50 {
        // Newton on the penalised log-likelihood.
        let (mut ga, mut gb) = (-ridge * a, -ridge * b);
        let (mut haa, mut hab, mut hbb) = (ridge, 0.0, ridge);
        for (y, l) in wins.iter().zip(lengths) {
            let x = term(*l);
            let p = sigmoid(a + b * x);
            let w = p * (1.0 - p);
            ga += y - p;
            gb += (y - p) * x;
            haa += w;
            hab += w * x;
            hbb += w * x * x;
        }
        let det = haa * hbb - hab * hab;
        let (da, db) = ((hbb * ga - hab * gb) / det, (haa * gb - hab * ga) / det);
        // Steps of a concave function stay short where it is nearly flat.
        (a, b) = (a + da.clamp(-2.0, 2.0), b + db.clamp(-2.0, 2.0));
        if da.abs() + db.abs() < 1e-10 {
            break;
        }
    }
    Some(sigmoid(a))
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tetherline_core::seeds::{Purpose, stream};

    #[test]
    fn a_gain_that_is_all_length_is_none_at_equal_length() {
        let lengths = [1.0, 2.0, 3.0, 6.0];
        let all_length: Vec<f64> = lengths.iter().map(|l| 0.5 * l).collect();
        assert!(controlled_mean(&all_length, &lengths).unwrap().abs() < 1e-12);
        let shifted: Vec<f64> = all_length.iter().map(|d| d + 2.0).collect();
        assert!((controlled_mean(&shifted, &lengths).unwrap() - 2.0).abs() < 1e-12);
        assert_eq!(controlled_mean(&[1.0, 3.0], &[5.0, 5.0]), Some(2.0));
        assert_eq!(controlled_mean(&[], &[]), None);
    }

    #[test]
    fn wins_drawn_from_the_model_give_its_intercept_back() {
        let mut r = stream(4, Purpose::World, 0, 0, 0);
        let lengths: Vec<f64> = (0..20_000).map(|_| 20.0 + 20.0 * r.normal()).collect();
        let mean = lengths.iter().sum::<f64>() / lengths.len() as f64;
        let sd = (lengths.iter().map(|l| (l - mean) * (l - mean)).sum::<f64>() / lengths.len() as f64).sqrt();
        let win = |l: &f64| sigmoid(-0.4 + 1.5 * (l / sd).tanh());
        let wins: Vec<f64> = lengths.iter().map(|l| f64::from(u8::from(r.uniform() < win(l)))).collect();
        let raw = wins.iter().sum::<f64>() / wins.len() as f64;
        let controlled = controlled_win_rate(&wins, &lengths).unwrap();
        assert!(raw > 0.55, "longer responses won: {raw}");
        assert!((controlled - sigmoid(-0.4)).abs() < 0.02, "{controlled}");
    }

    #[test]
    fn clear_wins_stay_finite_and_no_change_of_length_is_the_plain_rate() {
        assert!(controlled_win_rate(&[1.0; 30], &[3.0; 30]).unwrap() > 0.95);
        let even = controlled_win_rate(&[1.0, 0.0, 0.5, 0.5], &[0.0; 4]).unwrap();
        assert!((even - 0.5).abs() < 1e-9, "{even}");
    }
}
