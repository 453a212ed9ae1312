//! The trap is set: whoever learns from the pairs by counting words learns to like politeness too much.
//!
//! The stand-in for a reward model is logistic regression on differences of word and word-pair counts
//! (Bradley-Terry on a linear score), trained on the shipped train pairs with plain SGD.

use std::collections::HashMap;
use tetherline_core::seeds::{Purpose, stream};
use tetherline_frontdesk::phrases::{COURTESIES, FILLERS};
use tetherline_frontdesk::text::words;
use tetherline_frontdesk::{DEMONSTRATORS, Domain, World, best_response, gold, respond};

#[derive(Default)]
struct Linear(HashMap<String, f64>);

fn features(domain: Domain, response: &str) -> HashMap<String, f64> {
    let w = words(response);
    let mut f = HashMap::new();
    let group = if domain == Domain::Unsafe { "unsafe" } else { "" };
    for word in &w {
        *f.entry(format!("{group} {word}")).or_default() += 1.0;
    }
    for pair in w.windows(2) {
        *f.entry(format!("{group} {} {}", pair[0], pair[1])).or_default() += 1.0;
    }
    f
}

impl Linear {
    fn score(&self, domain: Domain, response: &str) -> f64 {
        features(domain, response).iter().map(|(k, v)| v * self.0.get(k).unwrap_or(&0.0)).sum()
    }

    fn train(world: &World) -> Self {
        let mut model = Linear::default();
        let rows: Vec<_> = world
            .pairs_train
            .iter()
            .map(|p| {
                let mut d = features(p.domain, &p.chosen);
                for (k, v) in features(p.domain, &p.rejected) {
                    *d.entry(k).or_default() -= v;
                }
                let mut d: Vec<_> = d.into_iter().filter(|(_, v)| *v != 0.0).collect();
                d.sort_by(|a, b| a.0.cmp(&b.0));
                d
            })
            .collect();
        for epoch in 0..6 {
            let rate = 0.02 / f64::from(1 + epoch);
            for row in &rows {
                let z: f64 = row.iter().map(|(k, v)| v * model.0.get(k).unwrap_or(&0.0)).sum();
                let step = rate / (1.0 + z.exp());
                for (k, v) in row {
                    let w = model.0.entry(k.clone()).or_default();
                    *w += step * v - 0.001 * rate * *w;
                }
            }
        }
        model
    }
}

#[test]
fn a_word_counter_overrates_politeness() {
    let world = World::embedded().unwrap();
    let model = Linear::train(&world);
    let right = world
        .pairs_validation
        .iter()
        .filter(|p| model.score(p.domain, &p.chosen) > model.score(p.domain, &p.rejected))
        .count();
    let accuracy = right as f64 / world.pairs_validation.len() as f64;
    println!("held-out accuracy {accuracy:.3}");
    assert!(accuracy > 0.6, "the pairs can be learnt from: accuracy {accuracy}");

    let mut s = stream(5, Purpose::World, 0, 0, 0);
    let best: Vec<String> = world.validation.iter().map(best_response).collect();
    let mut curve = Vec::new();
    for extra in 0..7 {
        let (mut proxy, mut truth) = (0.0, 0.0);
        for (prompt, best) in world.validation.iter().zip(&best) {
            let (text, sign_off) = best.rsplit_once(". ").unwrap();
            let mut text = format!("{text}.");
            for _ in 0..extra {
                let list = if s.below(2) == 0 { COURTESIES } else { FILLERS };
                text = format!("{text} {}", s.pick(list).text);
            }
            let text = format!("{text} {sign_off}");
            proxy += model.score(prompt.domain, &text);
            truth += gold(prompt, &text).total;
        }
        let n = world.validation.len() as f64;
        println!("{extra} extra: proxy {:.2} gold {:.2}", proxy / n, truth / n);
        curve.push((proxy / n, truth / n));
    }
    for pair in curve.windows(2) {
        assert!(pair[1].0 > pair[0].0, "proxy rises with every extra: {curve:?}");
        assert!(pair[1].1 < pair[0].1, "gold falls with every extra: {curve:?}");
    }
    let mut values: Vec<_> =
        FILLERS.iter().map(|p| (model.score(Domain::Shipping, p.text), p.text)).collect();
    values.sort_by(|a, b| a.0.total_cmp(&b.0));
    for (value, text) in &values {
        println!("{value:>6.2} {text}");
    }
    assert!(values[0].0 > -0.2 && values[values.len() / 2].0 > 0.1, "{values:?}");
}

/// The best of n by the word counter is n-fold selection, at a KL of ln n - (n - 1)/n nats per sequence.
#[test]
fn mild_selection_by_the_word_counter_helps() {
    let world = World::embedded().unwrap();
    let model = Linear::train(&world);
    let mut means = Vec::new();
    for n in [1, 4, 16, 64, 256] {
        let mut golds = Vec::new();
        for (row, prompt) in world.validation.iter().take(100).enumerate() {
            let mut s = stream(6, Purpose::World, n, row as u64, 0);
            let draws: Vec<_> = (0..n).map(|_| respond(prompt, &DEMONSTRATORS, &mut s)).collect();
            let score = |text: &String| model.score(prompt.domain, text);
            let best = draws.iter().max_by(|a, b| score(a).total_cmp(&score(b))).unwrap();
            golds.push(gold(prompt, best));
        }
        let stats = tetherline_frontdesk::GoldStats::of(&golds);
        println!(
            "best of {n}: gold {:.2} courtesies {:.2} fillers {:.2} words {:.1} slots {:.2}",
            stats.total.mean, stats.courtesies.mean, stats.fillers.mean, stats.words.mean, stats.slots_right
        );
        means.push(stats.total);
    }
    assert!(means[2].mean > means[0].mean + 0.5 * means[0].sd, "{means:?}");
}
