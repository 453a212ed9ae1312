//! Prints the numbers of the README: `cargo run -p tetherline-frontdesk --example numbers`.
#![expect(clippy::print_stdout, reason = "an example that prints a table")]

use tetherline_core::seeds::{Purpose, stream};
use tetherline_frontdesk::{
    DEMONSTRATORS, Domain, FLIP_SHARE, FrontdeskError, GoldBreakdown, GoldStats, RATED, World, best_response,
    gold, prefer, rate, respond, spam_response,
};

fn main() -> Result<(), FrontdeskError> {
    let world = World::embedded()?;
    let draw = |set, row: usize, k| stream(1, Purpose::World, set, row as u64, k);
    let all = |f: &dyn Fn(usize, &tetherline_frontdesk::Prompt) -> String| -> Vec<(Domain, GoldBreakdown)> {
        world.train.iter().enumerate().map(|(i, p)| (p.domain, gold(p, &f(i, p)))).collect()
    };
    let kinds = [
        ("demonstrations", all(&|i, p| respond(p, &DEMONSTRATORS, &mut draw(90, i, 0)))),
        ("rated", all(&|i, p| respond(p, &RATED, &mut draw(91, i, 0)))),
        ("best", all(&|_, p| best_response(p))),
        ("spam", all(&|i, p| spam_response(p, &mut draw(92, i, 0)))),
    ];
    for (name, golds) in &kinds {
        let only: Vec<_> = golds.iter().map(|(_, g)| g.clone()).collect();
        let s = GoldStats::of(&only);
        println!(
            "{name}: gold {:.2} sd {:.2}  words {:.1} sd {:.1}  courtesies {:.2}  fillers {:.2}  slots {:.2}",
            s.total.mean,
            s.total.sd,
            s.words.mean,
            s.words.sd,
            s.courtesies.mean,
            s.fillers.mean,
            s.slots_right
        );
        for d in Domain::ALL {
            let part: Vec<_> = golds.iter().filter(|(x, _)| *x == d).map(|(_, g)| g.clone()).collect();
            let s = GoldStats::of(&part);
            println!(
                "    {:<10} {:>5.2} sd {:.2} refusals {:.2}",
                d.name(),
                s.total.mean,
                s.total.sd,
                s.refusals
            );
        }
        if *name == "rated" {
            let y: Vec<f64> = only.iter().map(|g| g.total).collect();
            for (what, x) in [
                ("words", only.iter().map(|g| g.counts.words as f64).collect::<Vec<_>>()),
                ("courtesies", only.iter().map(|g| g.counts.courtesies as f64).collect()),
                ("fillers", only.iter().map(|g| g.counts.fillers as f64).collect()),
            ] {
                println!("    corr(gold, {what}) = {:.3}", correlation(&x, &y));
            }
            for n in 0..6 {
                let share = |f: &dyn Fn(&GoldBreakdown) -> usize| {
                    only.iter().filter(|g| f(g) == n).count() as f64 / only.len() as f64
                };
                println!(
                    "    {n}: courtesies {:.3} fillers {:.3}",
                    share(&|g| g.counts.courtesies),
                    share(&|g| g.counts.fillers)
                );
            }
        }
    }
    let (mut agree, mut flips, mut bayes, mut clean) = (0.0, 0.0, 0.0, 0.0);
    let n = 20_000;
    for i in 0..n {
        let pair = rate(&world.train[i % world.train.len()], &mut draw(93, i, 0));
        let p = prefer((pair.gold_chosen - pair.gold_rejected).abs());
        agree += f64::from(u8::from(pair.gold_chosen > pair.gold_rejected));
        flips += f64::from(u8::from(pair.flipped));
        clean += p;
        bayes += FLIP_SHARE + (1.0 - 2.0 * FLIP_SHARE) * p;
    }
    let n = n as f64;
    println!(
        "pairs: agree with gold {:.3}, flipped {:.3}, BT clean {:.3}, Bayes {:.3}",
        agree / n,
        flips / n,
        clean / n,
        bayes / n
    );
    Ok(())
}

fn correlation(x: &[f64], y: &[f64]) -> f64 {
    let n = x.len() as f64;
    let (mx, my) = (x.iter().sum::<f64>() / n, y.iter().sum::<f64>() / n);
    let cov: f64 = x.iter().zip(y).map(|(a, b)| (a - mx) * (b - my)).sum();
    let var = |v: &[f64], m: f64| v.iter().map(|a| (a - m) * (a - m)).sum::<f64>();
    cov / (var(x, mx) * var(y, my)).sqrt()
}
