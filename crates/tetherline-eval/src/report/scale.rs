//! Axes: a range, round ticks, and the map from data to the page.

/// A linear or logarithmic axis.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Axis {
    low: f64,
    high: f64,
    log: bool,
    /// Tick values.
    pub(super) ticks: Vec<f64>,
    decimals: usize,
    /// Distance of two ticks; 0 on a logarithmic axis.
    step: f64,
}

impl Axis {
    /// An axis with about `count` ticks at 1, 2 or 5 × 10ᵏ; `widen` extends the range to whole ticks.
    pub(super) fn linear(low: f64, high: f64, count: usize, widen: bool) -> Self {
        let (low, high) = if high > low { (low, high) } else { (low - pad(low), low + pad(low)) };
        let rough = (high - low) / count.max(1) as f64;
        let power = 10f64.powf(rough.log10().floor());
        let step =
            power * [1.0, 2.0, 5.0, 10.0].into_iter().find(|m| m * power >= rough * 0.999).unwrap_or(10.0);
        let (first, last) = if widen {
            ((low / step + 1e-9).floor(), (high / step - 1e-9).ceil())
        } else {
            ((low / step - 1e-9).ceil(), (high / step + 1e-9).floor())
        };
        let ticks: Vec<f64> =
            (0..=(last - first).max(0.0) as usize).map(|i| (first + i as f64) * step).collect();
        let decimals = (-(step.log10() + 1e-9).floor()).clamp(0.0, 6.0) as usize;
        let (low, high) = if widen { (first * step, last * step) } else { (low, high) };
        Self { low, high, log: false, ticks, decimals, step }
    }

    /// A base-10 axis over whole 1-2-5 steps; both ends must be positive.
    pub(super) fn log(low: f64, high: f64) -> Self {
        let all = (-12..=12).flat_map(|k| [1.0, 2.0, 5.0].map(|m| m * 10f64.powi(k)));
        let steps: Vec<f64> = all.filter(|t| *t > low / 2.5 && *t < high * 2.5).collect();
        let first = steps.iter().rposition(|t| *t <= low * 1.0001).unwrap_or(0);
        let last = steps.iter().position(|t| *t >= high * 0.9999).unwrap_or(steps.len().saturating_sub(1));
        let range = &steps[first.min(last)..(last + 1).min(steps.len())];
        let many = range.len() > 7;
        let ticks = range.iter().copied().filter(|t| !many || t.log10().fract().abs() < 1e-9).collect();
        let (low, high) = (range.first().copied().unwrap_or(low), range.last().copied().unwrap_or(high));
        Self { low, high, log: true, ticks, decimals: 0, step: 0.0 }
    }

    /// Where `x` lies: 0 at the low end, 1 at the high end.
    pub(super) fn at(&self, x: f64) -> f64 {
        if self.log {
            (x.max(1e-300).ln() - self.low.ln()) / (self.high.ln() - self.low.ln())
        } else {
            (x - self.low) / (self.high - self.low)
        }
    }

    /// The label of a tick.
    pub(super) fn label(&self, tick: f64) -> String {
        let text = match tick {
            _ if self.log => format!("{tick}"),
            // Ticks that differ in no decimal that is shown.
            _ if self.step < 1e-6 && tick == 0.0 => "0".to_owned(),
            _ if self.step < 1e-6 => format!("{tick:.1e}"),
            _ => crate::format::fixed(tick, self.decimals),
        };
        super::html::minus(text)
    }
}

fn pad(x: f64) -> f64 {
    if x == 0.0 { 1.0 } else { x.abs() * 0.1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_cover_the_data() {
        let a = Axis::linear(0.13, 8.7, 4, true);
        assert_eq!(a.ticks, [0.0, 5.0, 10.0]);
        let a = Axis::linear(-0.02, 0.05, 4, true);
        let labels: Vec<_> = a.ticks.iter().map(|t| a.label(*t)).collect();
        assert_eq!(labels, ["−0.02", "0.00", "0.02", "0.04", "0.06"]);
        assert_eq!((a.at(-0.02), a.at(0.06)), (0.0, 1.0));
        let a = Axis::linear(1.0, 150.0, 5, false);
        assert_eq!(a.ticks, [50.0, 100.0, 150.0]);
        assert_eq!(a.at(1.0), 0.0);
    }

    #[test]
    fn a_constant_still_has_an_axis() {
        for x in [0.0, 3.0, -1e-5, 1e9] {
            let a = Axis::linear(x, x, 4, true);
            assert!(a.ticks.len() >= 2 && (0.0..=1.0).contains(&a.at(x)), "{x}: {a:?}");
        }
    }

    #[test]
    fn ticks_of_tiny_numbers_differ() {
        let a = Axis::linear(0.0, 3.1e-8, 4, true);
        let labels: Vec<_> = a.ticks.iter().map(|t| a.label(*t)).collect();
        assert_eq!(labels, ["0", "1.0e−8", "2.0e−8", "3.0e−8", "4.0e−8"]);
    }

    #[test]
    fn log_axes() {
        let a = Axis::log(0.03, 4.0);
        assert_eq!(
            a.ticks,
            [0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0]
                .map(|x: f64| x)
                .into_iter()
                .filter(|t| t.log10().fract().abs() < 1e-9)
                .collect::<Vec<_>>()
        );
        assert!(a.at(0.03) > 0.0 && a.at(4.0) < 1.0);
        assert!((a.at(1.0) - a.at(0.1) - (a.at(0.5) - a.at(0.05))).abs() < 1e-9);
    }
}
