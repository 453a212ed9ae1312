//! KL over time as a line of blocks for a terminal.

use super::Trace;

const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// KL of domain `k` in `columns` slices of equal length, of each the value furthest from the target: ▄ is within
/// an eighth around the target, █ at 1.9 times it and above. `target` stands in where the trace has none.
#[must_use]
pub fn sparkline(trace: &Trace, k: usize, target: f64, columns: usize) -> String {
    let len = trace.kl.len();
    (0..columns.min(len))
        .map(|i| {
            let slice = i * len / columns.min(len)..(i + 1) * len / columns.min(len);
            let target = |t: usize| trace.target.get(t).map_or(target, |row| row[k]);
            let deviations = slice.map(|t| trace.kl[t][k] / target(t) - 1.0);
            let furthest = deviations.fold(0.0, |a: f64, b| if b.abs() > a.abs() { b } else { a });
            // A quarter of the target per block, the fourth one centred on the target.
            let level = (3.5 + 4.0 * furthest).clamp(0.0, 7.0);
            BLOCKS[level as usize]
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_target_is_the_fourth_block() {
        let kl = [0.0, 3.0, 6.0, 6.6, 9.0, 60.0].map(|k| vec![k]).to_vec();
        let trace = Trace { kl, ..Trace::default() };
        assert_eq!(sparkline(&trace, 0, 6.0, 6), "▁▂▄▄▆█");
        assert_eq!(sparkline(&trace, 0, 6.0, 100).chars().count(), 6, "no more columns than updates");
        let slices = Trace { kl: [5.0, 9.0, 6.0, 3.0].map(|k| vec![k]).to_vec(), ..Trace::default() };
        assert_eq!(sparkline(&slices, 0, 6.0, 2), "▆▂");
        let followed = Trace { target: [5.0, 9.0, 6.0, 3.0].map(|k| vec![k]).to_vec(), ..slices };
        assert_eq!(sparkline(&followed, 0, 6.0, 4), "▄▄▄▄", "the target moves with it");
        assert_eq!(sparkline(&Trace::default(), 0, 6.0, 8), "");
    }
}
