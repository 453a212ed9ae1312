//! One way to print numbers, for the terminal and for the report.
//!
//! A number alone shows three significant digits. With an interval it shows as many decimals as give the
//! interval's half-width two digits, and no more than three significant ones: `8.12 [7.90, 8.34]`.

/// Decimals for a number alone: three significant digits, at most four decimals.
pub(crate) fn decimals_alone(x: f64) -> usize {
    decimals(x.abs(), 3)
}

/// Decimals for a number in a sentence: two significant digits.
pub(crate) fn decimals_brief(x: f64) -> usize {
    decimals(x.abs(), 2).min(2)
}

/// Decimals for numbers known to within `half`: two significant digits of it.
fn decimals_within(half: f64) -> usize {
    decimals(half.abs(), 2)
}

fn decimals(x: f64, digits: i32) -> usize {
    if x == 0.0 || !x.is_finite() {
        return 2;
    }
    (digits - 1 - x.log10().floor() as i32).clamp(0, 4) as usize
}

/// `x` with this many decimals; scientific from 10⁶ on; `n/a` where it is no number; no negative zero.
pub(crate) fn fixed(x: f64, decimals: usize) -> String {
    if !x.is_finite() {
        return "n/a".into();
    }
    if x.abs() >= 1e6 {
        return format!("{x:.1e}");
    }
    let text = format!("{x:.decimals$}");
    match text.strip_prefix('-') {
        Some(rest) if rest.chars().all(|c| matches!(c, '0' | '.')) => rest.into(),
        _ => text,
    }
}

/// As [`fixed`] with a plus sign where positive.
pub(crate) fn signed(x: f64, decimals: usize) -> String {
    let text = fixed(x, decimals);
    let shows_something = text.chars().any(|c| matches!(c, '1'..='9'));
    if x > 0.0 && shows_something && x.is_finite() { format!("+{text}") } else { text }
}

/// Decimals that [`interval`] uses.
pub(crate) fn interval_decimals(mean: f64, ci: Option<(f64, f64)>) -> usize {
    match ci {
        Some((low, high)) if high > low => {
            let largest = mean.abs().max(low.abs()).max(high.abs());
            decimals_within((high - low) / 2.0).min(decimals_alone(largest))
        }
        _ => decimals_alone(mean),
    }
}

/// `mean [low, high]`, or the mean alone, with this many decimals.
pub(crate) fn interval_with(decimals: usize, mean: f64, ci: Option<(f64, f64)>, plus: bool) -> String {
    let show = |x| if plus { signed(x, decimals) } else { fixed(x, decimals) };
    match ci {
        Some((low, high)) => format!("{} [{}, {}]", show(mean), show(low), show(high)),
        None => show(mean),
    }
}

/// `mean [low, high]`, or the mean alone.
pub fn interval(mean: f64, ci: Option<(f64, f64)>, plus: bool) -> String {
    interval_with(interval_decimals(mean, ci), mean, ci, plus)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_follow_the_precision() {
        assert_eq!(interval(8.1234, Some((7.9, 8.341)), false), "8.12 [7.90, 8.34]");
        assert_eq!(interval(123.4, Some((100.0, 146.8)), true), "+123 [+100, +147]");
        assert_eq!(interval(-0.5, None, true), "-0.500");
        assert_eq!(fixed(-0.0001, 2), "0.00");
        assert_eq!(signed(0.0001, 2), "0.00");
        assert_eq!(fixed(f64::NAN, 2), "n/a");
        assert_eq!(fixed(12_345_678.0, 2), "1.2e7");
        assert_eq!(decimals_alone(0.0123), 4);
        assert_eq!(decimals_alone(41.2), 1);
    }
}
