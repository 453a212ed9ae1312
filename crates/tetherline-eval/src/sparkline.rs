//! A line of block characters for terminals: `▁▂▃▅▇`.

const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// `values` in at most `width` characters, the lowest as `▁`, the highest as `█`; more values than
/// characters are averaged in equal groups. Non-finite groups are blanks; a constant line is `▄`.
pub fn sparkline(values: &[f64], width: usize) -> String {
    let columns = width.min(values.len());
    let groups: Vec<f64> = (0..columns)
        .map(|c| {
            let part = &values[c * values.len() / columns..(c + 1) * values.len() / columns];
            let finite: Vec<f64> = part.iter().copied().filter(|v| v.is_finite()).collect();
            finite.iter().sum::<f64>() / finite.len() as f64
        })
        .collect();
    let finite = || groups.iter().copied().filter(|v| v.is_finite());
    let (low, high) = (finite().fold(f64::INFINITY, f64::min), finite().fold(f64::NEG_INFINITY, f64::max));
    let block = |v: f64| match v {
        v if !v.is_finite() => ' ',
        _ if high <= low => BLOCKS[3],
        v => BLOCKS[(((v - low) / (high - low) * 8.0) as usize).min(7)],
    };
    groups.into_iter().map(block).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        assert_eq!(sparkline(&[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], 8), "▁▂▃▄▅▆▇█");
        assert_eq!(sparkline(&[0.0, 0.0, 7.0, 7.0], 2), "▁█");
        assert_eq!(sparkline(&[1.0, f64::NAN, 2.0], 9), "▁ █");
        assert_eq!(sparkline(&[3.0, 3.0], 9), "▄▄");
        assert_eq!(sparkline(&[], 9), "");
    }
}
