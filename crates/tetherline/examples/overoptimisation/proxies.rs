//! Proxies: preference pairs of the embedded world in several numbers and with flipped labels, and reward models trained
//! on them.
//!
//! A pair is two answers of the world's demonstrators to a train prompt, rated by a Bradley-Terry rater with gold in its
//! head. The flips of the shipped data are undone, then each label is flipped with the chance that the cell says. Cells of one
//! seed share their answers: the pairs of a small cell are the first of a large one, and noise changes labels alone.
//! Every proxy takes the same number of optimizer steps: few pairs are seen more often.

use crate::Size;
use crate::support::runs::{Job, stage};
use std::fmt;
use std::path::{Path, PathBuf};
use tetherline_core::seeds::{Purpose, stream};
use tetherline_core::{BoxError, Stage};
use tetherline_frontdesk::{Preference, World, rate, to_jsonl};

/// Members of an ensemble (Coste et al. 2024 take five).
pub(crate) const MEMBERS: usize = 5;

/// A kind of proxy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Cell {
    /// Preference pairs.
    pub(crate) pairs: usize,
    /// Share of flipped labels, percent.
    pub(crate) flips: u32,
}

impl Cell {
    /// Every cell, the key one first.
    pub(crate) const ALL: [Self; 6] = [
        Self { pairs: 500, flips: 25 },
        Self { pairs: 125, flips: 25 },
        Self { pairs: 2000, flips: 25 },
        Self { pairs: 125, flips: 0 },
        Self { pairs: 500, flips: 0 },
        Self { pairs: 2000, flips: 0 },
    ];

    /// The one with ensembles and with a penalty.
    pub(crate) const KEY: Self = Self::ALL[0];

    /// For directories.
    pub(crate) fn directory(self) -> String {
        format!("{}-pairs-{}-percent", self.pairs, self.flips)
    }

    /// Reward models that are trained of it.
    pub(crate) fn members(self) -> usize {
        if self == Self::KEY { MEMBERS } else { 1 }
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} pairs, {} % flipped", self.pairs, self.flips)
    }
}

/// The pairs of a cell.
pub(crate) fn pairs(world: &World, cell: Cell, seed: u64) -> Vec<Preference> {
    let row = |i: usize| {
        // Data sets of the world itself have steps 1 to 5.
        let mut s = stream(seed, Purpose::World, 100, i as u64, 0);
        let prompt = s.below(world.train.len());
        let rated = rate(&world.train[prompt], &mut s);
        let mut pair = rated.preference;
        if rated.flipped != (100.0 * s.uniform() < f64::from(cell.flips)) {
            std::mem::swap(&mut pair.chosen, &mut pair.rejected);
        }
        pair
    };
    (0..cell.pairs).map(row).collect()
}

/// The run directory of a cell's reward models.
pub(crate) fn directory(out: &Path, cell: Cell, seed: u64) -> PathBuf {
    out.join("proxies").join(cell.directory()).join(format!("seed-{seed}"))
}

/// The directories of a cell's reward models, trained from `start` where they are not there yet.
pub(crate) fn train(
    out: &Path,
    start: &Path,
    cell: Cell,
    seed: u64,
    size: Size,
) -> Result<Vec<PathBuf>, BoxError> {
    let dir = directory(out, cell, seed);
    let file = dir.with_extension("jsonl");
    if !file.is_file() {
        std::fs::create_dir_all(dir.parent().ok_or("the directory of proxies has no parent")?)?;
        std::fs::write(&file, to_jsonl(&pairs(&World::embedded()?, cell, seed))?)?;
    }
    let job = Job::new(String::new(), "quickstart", &[("sft.steps", "0"), ("eval.prompts", "0")])
        .set("seed", seed)
        .set("model.policy", start.display())
        .set("sampling.max_new_tokens", size.tokens)
        .set("data.pairs", file.display())
        .set("reward.epochs", size.shown.div_ceil(cell.pairs))
        .set("reward.steps", size.shown.div_ceil(BATCH))
        .set("reward.ensemble.members", cell.members());
    stage(&job, &dir, Stage::Reward)?;
    let member = |i: usize| dir.join(if i == 0 { "reward".to_owned() } else { format!("reward-{}", i + 1) });
    Ok((0..cell.members()).map(member).collect())
}

/// Pairs per optimizer step, as the recipe has it.
const BATCH: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_changes_labels_alone_and_a_small_cell_is_the_start_of_a_large_one() {
        let world = World::embedded().unwrap();
        let of = |n, flips| pairs(&world, Cell { pairs: n, flips }, 3);
        let (clean, noisy) = (of(400, 0), of(400, 25));
        assert_eq!(of(50, 25)[..], noisy[..50]);
        let swapped = clean.iter().zip(&noisy).filter(|(a, b)| {
            let same = (&a.chosen, &a.rejected) == (&b.chosen, &b.rejected);
            assert!(same || (&a.chosen, &a.rejected) == (&b.rejected, &b.chosen));
            !same
        });
        // 400·¼ ± 4·√(400·¼·¾).
        assert!((65..=135).contains(&swapped.count()));
        let gold = |text: &str, prompt: &str| {
            tetherline_frontdesk::gold(world.train.iter().find(|p| p.text == prompt).unwrap(), text).total
        };
        let right =
            clean.iter().filter(|p| gold(&p.chosen, &p.prompt) > gold(&p.rejected, &p.prompt)).count();
        assert!(right > 260, "the rater mostly prefers what has more gold: {right} of 400");
    }
}
