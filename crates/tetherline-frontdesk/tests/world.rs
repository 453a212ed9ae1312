//! The data: reproducible, disjoint, ASCII, and rated as documented.

use std::collections::{HashMap, HashSet};
use tetherline_core::seeds::{Purpose, stream};
use tetherline_core::{Score, TextSample};
use tetherline_frontdesk::{
    ANYONE, DEMONSTRATORS, Domain, FILES, GoldScorer, GoldStats, Moments, PARTS, Prompt, RATED, RatedPair,
    SEED, SHIPPED, Split, World, best_response, embedded_text, gold, intent, is_refusal, prefer,
    pretrain_dialogues, rate, respond, spam_response, split_of,
};

fn rated(world: &World, n: usize) -> Vec<RatedPair> {
    (0..n)
        .map(|i| rate(&world.train[i % world.train.len()], &mut stream(9, Purpose::World, 50, i as u64, 0)))
        .collect()
}

#[test]
fn the_generator_reproduces_the_shipped_files() {
    let world = World::generate(SEED, SHIPPED);
    for ((name, text), (file, _)) in world.to_texts().unwrap().iter().zip(FILES) {
        assert_eq!(*name, file);
        let shipped = embedded_text(name).unwrap().unwrap();
        let line = text.lines().zip(shipped.lines()).position(|(a, b)| a != b);
        assert!(
            *text == shipped,
            "{name} differs from line {:?} on; run `cargo xtask fixtures --text`",
            line.map(|l| l + 1)
        );
    }
    assert_eq!(world, World::embedded().unwrap());
    let total: usize = FILES.iter().map(|(_, bytes)| bytes.len()).sum();
    assert!(total < 1_500_000, "{total} bytes are shipped");
}

#[test]
fn written_files_are_the_shipped_ones() {
    let dir = tempfile::tempdir().unwrap();
    World::embedded().unwrap().write_all(&dir.path().join("new")).unwrap();
    for (name, bytes) in FILES {
        let written = std::fs::read(dir.path().join("new").join(name)).unwrap();
        if name.ends_with(".gz") {
            // How deflate packs may change with its version; that no name and no time is in the header may not.
            assert_eq!(written[..8], bytes[..8], "{name}");
        } else {
            assert!(written == bytes, "{name}");
        }
    }
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = World::embedded().unwrap().write_all(&file).unwrap_err().to_string();
    assert!(error.contains("file"), "{error}");
}

#[test]
fn a_row_does_not_depend_on_how_many_there_are() {
    let small =
        World::generate(SEED, tetherline_frontdesk::Sizes { demonstrations: 7, pairs_train: 5, ..SHIPPED });
    let world = World::embedded().unwrap();
    assert_eq!(small.demonstrations, world.demonstrations[..7]);
    assert_eq!(small.pairs_train, world.pairs_train[..5]);
    assert_ne!(World::generate(SEED + 1, SHIPPED).train, world.train);
    let first: Vec<_> = pretrain_dialogues(SEED, 20).collect();
    assert_eq!(first[..], pretrain_dialogues(SEED, 40).take(20).collect::<Vec<_>>()[..]);
}

#[test]
fn splits_are_disjoint_in_prompts() {
    let world = World::embedded().unwrap();
    let all: Vec<_> = world.prompts().map(|p| p.text.as_str()).collect();
    assert_eq!(all.len(), 2520);
    assert_eq!(all.iter().collect::<HashSet<_>>().len(), all.len(), "a prompt occurs twice");
    let train: HashSet<_> = world.train.iter().map(|p| p.text.as_str()).collect();
    let validation: HashSet<_> = world.validation.iter().map(|p| p.text.as_str()).collect();
    assert!(world.demonstrations.iter().all(|d| train.contains(d.prompt.as_str())));
    assert!(world.pairs_train.iter().all(|p| train.contains(p.prompt.as_str())));
    assert!(world.pairs_validation.iter().all(|p| validation.contains(p.prompt.as_str())));
    assert!(pretrain_dialogues(SEED, 5000).all(|(p, _)| split_of(&p) == Split::Train));
}

#[test]
fn everything_is_ascii_and_of_the_promised_length() {
    for (name, _) in FILES {
        assert!(embedded_text(name).unwrap().unwrap().is_ascii(), "{name}");
    }
    for (prompt, response) in pretrain_dialogues(SEED, 3000) {
        assert!(prompt.is_ascii() && response.is_ascii());
        assert!((5..=30).contains(&prompt.split(' ').count()), "{prompt:?}");
        assert!(response.split(' ').count() < 120, "{response:?}");
        assert!(!prompt.contains('{') && !response.contains('{'), "{prompt:?} {response:?}");
    }
}

#[test]
fn domains_have_their_shares_and_lookalikes_exist() {
    let world = World::embedded().unwrap();
    for prompts in [&world.train, &world.validation, &world.heldout] {
        let mut shares: HashMap<Domain, f64> = HashMap::new();
        for p in prompts {
            *shares.entry(p.domain).or_default() += 1.0 / prompts.len() as f64;
        }
        assert!(Domain::ALL.iter().all(|d| shares[d] > 0.04), "{shares:?}");
        assert!((0.09..0.19).contains(&shares[&Domain::Unsafe]), "{shares:?}");
        let lookalike = |p: &&Prompt| intent(&p.facts["intent"]).is_some_and(|i| i.lookalike);
        assert!(prompts.iter().filter(lookalike).count() > prompts.len() / 20);
    }
}

#[test]
fn the_rater_is_bradley_terry_with_flips() {
    // sigmoid(0), sigmoid(1), sigmoid(ln 3).
    assert!((prefer(0.0) - 0.5).abs() < 1e-12);
    assert!((prefer(1.0) - 0.731_058_578_630_004_9).abs() < 1e-12);
    assert!((prefer(3f64.ln()) - 0.75).abs() < 1e-12);

    let pairs = rated(&World::embedded().unwrap(), 20_000);
    let n = pairs.len() as f64;
    let flips = pairs.iter().filter(|p| p.flipped).count() as f64 / n;
    assert!((flips - 0.15).abs() < 4.0 * (0.15f64 * 0.85 / n).sqrt(), "flipped {flips}");
    // How often the better response wins, by gap: 0.15 + 0.7 x sigmoid(gap), averaged over the bin by
    // trapezoid from its edges; within four standard errors plus the bend of the curve over the bin.
    for (from, to, at_from, at_to) in [
        (0.0, 0.5, 0.500, 0.5857),
        (0.5, 1.0, 0.5857, 0.6617),
        (1.0, 2.0, 0.6617, 0.7666),
        (2.0, 4.0, 0.7666, 0.8374),
        (4.0, 9.0, 0.8374, 0.8499),
    ] {
        let gaps: Vec<f64> = pairs.iter().map(|p| p.gold_chosen - p.gold_rejected).collect();
        let bin: Vec<_> = gaps.iter().filter(|g| (from..to).contains(&g.abs()) && **g != 0.0).collect();
        let wins = bin.iter().filter(|g| ***g > 0.0).count() as f64 / bin.len() as f64;
        let error = 4.0 * (0.25 / bin.len() as f64).sqrt();
        assert!(wins > at_from - error && wins < at_to + error, "gap {from}..{to}: {wins} of {}", bin.len());
    }
}

#[test]
fn the_numbers_of_the_readme() {
    let world = World::embedded().unwrap();
    let by_text: HashMap<_, _> = world.prompts().map(|p| (p.text.as_str(), p)).collect();
    let demos: Vec<_> =
        world.demonstrations.iter().map(|d| gold(by_text[d.prompt.as_str()], &d.response)).collect();
    let demos = GoldStats::of(&demos);
    let best = GoldStats::of(&world.heldout.iter().map(|p| gold(p, &best_response(p))).collect::<Vec<_>>());
    let mut s = stream(4, Purpose::World, 60, 0, 0);
    let spam =
        GoldStats::of(&world.heldout.iter().map(|p| gold(p, &spam_response(p, &mut s))).collect::<Vec<_>>());
    let gap = (best.total.mean - demos.total.mean) / demos.total.sd;
    assert!(gap > 1.5, "the best response is {gap} SDs above the demonstrations");
    assert!(spam.total.mean < demos.total.mean - demos.total.sd, "spam {:?}", spam.total);
    assert!((0.45..0.7).contains(&demos.slots_right), "slots {}", demos.slots_right);
    assert_eq!((demos.count, demos.parts.len()), (2000, PARTS.len()));

    let agree = |pairs: &[tetherline_frontdesk::Preference]| {
        let better = |p: &&tetherline_frontdesk::Preference| {
            let prompt = by_text[p.prompt.as_str()];
            gold(prompt, &p.chosen).total > gold(prompt, &p.rejected).total
        };
        pairs.iter().filter(better).count() as f64 / pairs.len() as f64
    };
    for pairs in [&world.pairs_train, &world.pairs_validation] {
        assert!((0.68..0.80).contains(&agree(pairs)), "agreement {}", agree(pairs));
    }
}

#[test]
fn politeness_pays_in_the_pairs_and_excess_is_rare_there() {
    let world = World::embedded().unwrap();
    let draw = |mix, set| -> Vec<_> {
        let response = |(i, p)| respond(p, mix, &mut stream(8, Purpose::World, set, i as u64, 0));
        world.train.iter().enumerate().map(|(i, p)| gold(p, &response((i, p)))).collect()
    };
    let golds = draw(&RATED, 70);
    let mean = |keep: &dyn Fn(usize, usize) -> bool| {
        let kept: Vec<f64> =
            golds.iter().filter(|g| keep(g.counts.courtesies, g.counts.fillers)).map(|g| g.total).collect();
        Moments::of(&kept).mean
    };
    assert!(mean(&|c, _| c == 1) > mean(&|c, _| c == 0) + 0.5);
    assert!(mean(&|c, _| c == 2) > mean(&|c, _| c == 1));
    assert!(mean(&|_, f| f == 1) > mean(&|_, f| f == 0) + 0.5);
    let excess = |golds: &[tetherline_frontdesk::GoldBreakdown]| {
        golds.iter().filter(|g| g.counts.courtesies > 2 || g.counts.fillers > 2).count() as f64
            / golds.len() as f64
    };
    assert!(excess(&golds) < 0.01, "{}", excess(&golds));
    let demos = excess(&draw(&DEMONSTRATORS, 71));
    assert!((0.008..0.05).contains(&demos), "{demos}");
    let anyone = excess(&draw(&ANYONE, 72));
    assert!((0.04..0.12).contains(&anyone), "{anyone}");
}

#[test]
fn refusals_leave_room_on_both_sides() {
    let world = World::embedded().unwrap();
    let rate = |keep: &dyn Fn(&Prompt) -> bool| {
        let kept: Vec<_> = world.train.iter().zip(&world.demonstrations).filter(|(p, _)| keep(p)).collect();
        kept.iter().filter(|(_, d)| is_refusal(&d.response)).count() as f64 / kept.len() as f64
    };
    let lookalike = |p: &Prompt| intent(&p.facts["intent"]).is_some_and(|i| i.lookalike);
    let unsafe_rate = rate(&|p| p.domain == Domain::Unsafe);
    let benign = rate(&|p| p.domain != Domain::Unsafe && !lookalike(p));
    let alike = rate(&|p| lookalike(p));
    assert!((0.35..0.65).contains(&unsafe_rate), "unsafe {unsafe_rate}");
    assert!(benign < 0.08 && alike > 0.12 && alike < 0.35, "benign {benign}, look-alikes {alike}");
}

#[test]
fn the_scorer_finds_prompts_by_text() {
    let world = World::embedded().unwrap();
    let mut scorer = GoldScorer::new(world.prompts());
    let p = &world.heldout[3];
    let response = best_response(p);
    let padded = format!("\n{} ", p.text);
    let sample = TextSample {
        prompt: &padded,
        messages: &[],
        response: &response,
        prompt_tokens: &[],
        response_tokens: &[],
        domain: p.domain.name(),
        answer: "",
        rendered: "",
    };
    let parts = scorer.score(&[sample]).unwrap();
    assert_eq!(parts.len(), PARTS.len());
    let sum: f32 = parts.iter().map(|p| p.values[0]).sum();
    assert!((f64::from(sum) - gold(p, &response).total).abs() < 1e-5);
    let unknown = scorer.score(&[TextSample { prompt: "Who are you?", ..sample }]).unwrap_err().to_string();
    assert!(unknown.contains("Who are you?"), "{unknown}");
}
