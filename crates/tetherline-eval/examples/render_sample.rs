//! Writes a report of made-up numbers: `cargo run -p tetherline-eval --example render_sample -- OUT.html`.
//!
//! Also the picture of what the report can show; give `bare` as a second argument for a run that logged
//! almost nothing.

use std::collections::BTreeMap;
use tetherline_core::{
    Metrics,
    seeds::{Purpose, Stream, stream},
};
use tetherline_eval::{Comparison, ResponseRecord, comparison_table, report::*, sparkline};

const DOMAINS: [&str; 8] =
    ["account", "code", "legal", "medical", "refunds", "shipping", "small talk", "unsafe"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let path = args.next().ok_or("usage: render_sample OUT.html [bare]")?;
    let mut random = stream(1, Purpose::World, 0, 0, 0);
    let mut data = ReportData {
        title: "Tetherline · quickstart".into(),
        run_name: "runs/quickstart-0001".into(),
        ..Default::default()
    };
    if args.next().is_none() {
        fill(&mut data, &mut random)?;
    }
    std::fs::write(&path, render(&data))?;
    if let Some(c) = &data.comparison {
        let kl: Vec<f64> = data.series.iter().map(|m| m["objective/kl_exact"]).collect();
        let text = format!("{}\n{}\nKL {}", c.table(), c.domain_table(), sparkline(&kl, 60));
        std::fs::write(format!("{path}.txt"), text + &comparison_table(&c.baseline, &c.aligned))?;
    }
    Ok(())
}

fn fill(data: &mut ReportData, random: &mut Stream) -> Result<(), Box<dyn std::error::Error>> {
    for (name, detail) in [
        ("sft", "300 steps, 48 s"),
        ("reward", "200 steps, 41 s"),
        ("ppo", "160 steps, 193 s"),
        ("eval", "256 prompts, 9 s"),
    ] {
        data.stages.push(StageNote { name: name.into(), detail: detail.into() });
    }
    data.kl_target = Some(8.0);
    data.series = (1..=160u32).map(|t| step(f64::from(t), random)).collect();
    data.domain_targets.insert("medical".into(), 4.0);
    data.control = data.series.iter().map(decision).collect();
    let (before, after) = (responses(false, random), responses(true, random));
    data.samples = sample_pairs(&before, &after, 2);
    data.comparison = Some(Comparison::paired(&before, &after, 1)?);
    let noise = |r: &mut Stream, s: f64| r.normal() * s;
    data.sft = (0..300)
        .map(|i| {
            let t = f64::from(i);
            let fit = 1.1 + 2.4 * (-t / 60.0).exp();
            LossPoint {
                step: t + 1.0,
                train: fit + noise(random, 0.05),
                held_out: (i % 50 == 49).then_some(fit + 0.06),
            }
        })
        .collect();
    data.reward_loss = (0..200)
        .map(|i| {
            let t = f64::from(i);
            LossPoint {
                step: t + 1.0,
                train: 0.48 + 0.22 * (-t / 40.0).exp() + noise(random, 0.03),
                held_out: None,
            }
        })
        .collect();
    let domain = |(i, d): (usize, &&str)| {
        (
            (*d).to_owned(),
            DomainAccuracy { n: 50 + 7 * i, accuracy: 0.68 + 0.02 * (i as f64 * 2.3).sin() * 4.0 },
        )
    };
    let bin = |i: usize| {
        let confidence = 0.525 + 0.05 * i as f64;
        let n = 130 - 12 * i;
        ReliabilityBin { confidence, accuracy: confidence - 0.02 + 0.03 * (i as f64).sin(), n }
    };
    let group = |g: &str, n: usize, accuracy: f64| GroupAccuracy { group: g.to_owned(), n, accuracy };
    data.reward_model = Some(RewardModelReport {
        n: 600,
        accuracy: 0.713,
        margin: 1.24,
        ece: Some(0.031),
        bins: (0..10).map(bin).collect(),
        domains: DOMAINS.iter().enumerate().map(domain).collect(),
        length_correlation: Some(0.12),
        by_length: ["−96 to −31", "−30 to −8", "−7 to +6", "+7 to +34", "+35 to +120"]
            .iter()
            .enumerate()
            .map(|(i, g)| group(g, 120, 0.63 + 0.04 * i as f64))
            .collect(),
        by_agreement: ["50 to 59 %", "60 to 69 %", "70 to 79 %", "80 to 89 %", "90 to 100 %"]
            .iter()
            .enumerate()
            .map(|(i, g)| group(g, 60 + 30 * i, 0.55 + 0.06 * i as f64))
            .collect(),
        noise_ceiling: Some(0.79),
        length_only: Some((true, 0.561)),
        bag_of_words: Some(0.624),
        members: vec![0.701, 0.694, 0.709],
        disagreement: Some(0.43),
    });
    data.recipe = "title = \"quickstart\"\nseed = 1\n\n[policy]\nmodel = \"frontdesk\"\n\n[kl.adaptive]\ninit = 0.1\n\
                   target = 8.0 # nats per sequence\nhorizon = 2000\n\n[ppo]\nclip_range = 0.2\nppo_epochs = 4\n"
        .into();
    Ok(())
}

fn step(t: f64, random: &mut Stream) -> Metrics {
    let kl = 8.0 * (1.0 - (-t / 22.0).exp()) * (1.0 + 0.22 * (t / 9.0).sin() * (-t / 45.0).exp());
    let exact = (kl + 0.15 * random.normal()).max(0.0);
    let score = 1.9 * (1.0 - (-t / 45.0).exp());
    let mut m: Metrics = BTreeMap::new();
    let mut put = |key: &str, value: f64| m.insert(key.to_owned(), value);
    put("step", t);
    put("objective/kl_exact", exact);
    put("objective/kl", kl + 0.45 * random.normal());
    put("objective/kl_stderr", 0.02 + 0.35 * (kl / 8.0).sqrt());
    put("objective/kl_coef", 0.01 * (1.0 + 30.0 * (1.0 - (-t / 30.0).exp())) * (1.0 + 0.1 * (t / 8.0).sin()));
    put("objective/scores", score + 0.07 * random.normal());
    put("objective/rlhf_reward", score - 0.12 * kl + 0.07 * random.normal());
    put("eval/gold", 5.0 + 1.2 * (1.0 - (-t / 40.0).exp()) - 0.0012 * t + 0.07 * random.normal());
    put("policy/entropy_avg", 1.6 - 0.5 * (1.0 - (-t / 60.0).exp()) + 0.02 * random.normal());
    put("policy/clipfrac_avg", 0.11 * (-t / 80.0).exp() + 0.012 * random.normal().abs());
    put("policy/approxkl_avg", 0.008 * (-t / 100.0).exp() + 0.0008 * random.normal().abs());
    put("val/ratio", 1.0 + 0.0008 * random.normal());
    put("val/ratio_max", 1.6 + 0.3 * random.normal().abs());
    put("loss/policy_avg", -0.02 + 0.004 * random.normal());
    put("loss/value_avg", 0.9 * (-t / 30.0).exp() + 0.12 + 0.02 * random.normal().abs());
    put("grad_norm", 0.9 + 0.2 * random.normal().abs());
    put("response/length", 27.0 + 6.0 * (1.0 - (-t / 50.0).exp()) + 0.6 * random.normal());
    for (i, d) in DOMAINS.iter().enumerate() {
        let share = 0.6 + 0.12 * i as f64;
        put(
            &format!("domain/{d}/kl"),
            if *d == "medical" { 0.5 * kl } else { share * kl } + 0.4 * random.normal(),
        );
        put(&format!("domain/{d}/score"), share * score + 0.15 * random.normal());
        put(&format!("domain/{d}/kl_coef"), 0.1 + 0.02 * share * kl);
    }
    m
}

fn decision(m: &Metrics) -> serde_json::Value {
    let (t, kl, beta) = (m["step"], m["objective/kl_exact"], m["objective/kl_coef"]);
    let scaled = [12.0, 14.0, 31.0].contains(&t);
    let (verdict, code) = if scaled { ("scale", "trust_region") } else { ("accept", "law") };
    let text = if scaled {
        format!(
            "KL to the old policy was 0.081 nats per sequence, above the cap of 0.05: the step was scaled by 0.6 (KL {kl:.2})"
        )
    } else {
        format!("KL {kl:.2} against a target of 8 nats per sequence: β set to {beta:.3}")
    };
    serde_json::json!({"step": t, "beta": {"all": beta}, "verdict": verdict, "scale": 0.6, "lr_factor": 1.0,
        "reason": {"code": code, "text": text}})
}

fn responses(aligned: bool, random: &mut Stream) -> Vec<ResponseRecord> {
    (0..256u64)
        .map(|id| {
            let domain = DOMAINS[id as usize % 8];
            let unsafe_prompt = domain == "unsafe";
            let gain = if aligned { 1.0 } else { 0.0 };
            let n = 20 + random.below(14) + if aligned { 5 } else { 0 };
            let mut hard = stream(2, Purpose::World, 0, id, 0);
            let answer = if aligned {
                "Hello! Your order 48213 left our warehouse on Tuesday and should reach you by Friday. Is there anything else I can do?"
            } else {
                "your order. It is is on the way, we think <b>maybe</b> it is on the way."
            };
            ResponseRecord {
                prompt_id: id,
                domain: domain.into(),
                user: "guest".into(),
                prompt: format!("Where is my order {}? I have waited since <Monday> & nobody answers.", 48000 + id),
                response: answer.into(),
                tokens: (0..n).map(|_| (random.uniform().powi(2) * 300.0) as u32).collect(),
                score: 1.8 * gain + hard.normal() + 0.4 * random.normal(),
                gold: Some(5.0 + 1.0 * gain + 1.2 * hard.normal() + 0.5 * random.normal()),
                kl_exact: Some(gain * (8.1 + 2.6 * random.normal()).max(0.3)),
                entropy: 1.6 - 0.5 * gain + 0.1 * random.normal(),
                stopped_by_eos: random.uniform() < 0.93 + 0.05 * gain,
                refused: random.uniform() < if unsafe_prompt { 0.4 + 0.55 * gain } else { 0.03 },
                unsafe_prompt,
            }
        })
        .collect()
}
