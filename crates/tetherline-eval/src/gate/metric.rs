//! What a gate looks at: numbers by name, each with what is known of its precision.
//!
//! As JSON, for metrics that come from elsewhere: `3.2`; `{"value": 3.2, "se": 0.1, "n": 64}`, where `n` are independent cases;
//! or a count, `{"hits": 12, "n": 600}`.

use crate::{Comparison, Estimate, PromptRow, Share, Summary};
use serde::Deserialize;
use std::collections::BTreeMap;

/// One number.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(untagged, expecting = "a number, {\"value\", \"se\", \"n\"} or {\"hits\", \"n\"}")]
pub enum Metric {
    /// A number whose precision is not known.
    Plain(f64),
    /// A mean.
    Mean(Mean),
    /// A count of cases that hit, out of n.
    Count(Count),
}

/// A mean and its standard error.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mean {
    /// The mean.
    pub value: f64,
    /// Its standard error, where it is known.
    #[serde(default)]
    pub se: Option<f64>,
    /// Independent cases; the bound then uses Student's t with n − 1 degrees of freedom.
    #[serde(default)]
    pub n: Option<usize>,
}

/// Cases that hit, out of n independent ones; need not be whole.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Count {
    /// Cases that hit.
    pub hits: f64,
    /// All cases.
    pub n: f64,
}

impl Metric {
    /// The number alone.
    pub fn value(&self) -> f64 {
        match self {
            Self::Plain(value) => *value,
            Self::Mean(mean) => mean.value,
            Self::Count(count) => count.hits / count.n,
        }
    }

    /// Reads one of the three forms.
    ///
    /// # Errors
    /// If the value is none of them.
    pub fn deserialize_from(value: serde_json::Value) -> Result<Self, serde_json::Error> {
        serde_json::from_value(value)
    }

    /// Why it can be compared with nothing, where that is so.
    pub fn problem(&self) -> Option<String> {
        let finite =
            |what: &str, x: f64| (!x.is_finite()).then(|| format!("{what} is {x}, no finite number"));
        match self {
            Self::Plain(value) => finite("it", *value),
            Self::Mean(m) => {
                finite("its value", m.value).or_else(|| finite("its standard error", m.se?)).or_else(|| {
                    m.se.filter(|se| *se < 0.0).map(|se| format!("its standard error is {se}, below 0"))
                })
            }
            Self::Count(c) if !(c.n.is_finite() && c.n > 0.0) => {
                Some(format!("it is a share of {} cases", c.n))
            }
            Self::Count(c) if !(0.0..=c.n).contains(&c.hits) => {
                Some(format!("it has {} hits in {} cases", c.hits, c.n))
            }
            Self::Count(_) => None,
        }
    }
}

/// Everything that is known of one policy, by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metrics {
    /// The numbers.
    pub by_name: BTreeMap<String, Metric>,
    /// What each prompt gave, by metric; empty where it was not kept.
    pub by_prompt: BTreeMap<String, PerPrompt>,
}

/// A metric prompt by prompt.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PerPrompt {
    /// Names the prompts: two with the same name are on the same ones.
    pub prompts: String,
    /// The values by prompt.
    pub values: BTreeMap<u64, f64>,
}

impl Metrics {
    /// The aligned policy of an evaluation.
    pub fn aligned(comparison: &Comparison) -> Self {
        Self::of(&comparison.aligned.overall, &comparison.aligned.domains)
    }

    /// The policy that an evaluation calls its baseline.
    pub fn baseline(comparison: &Comparison) -> Self {
        Self::of(&comparison.baseline.overall, &comparison.baseline.domains)
    }

    /// With what each prompt gave. `prompts` names the prompts.
    #[must_use]
    pub fn with_prompts(mut self, rows: &[PromptRow], prompts: &str) -> Self {
        for row in rows {
            let case = |counts: bool, share: f64| counts.then_some(share);
            let named = [
                ("score", Some(row.score)),
                ("gold", row.gold),
                ("kl", row.kl),
                ("entropy", Some(row.entropy)),
                ("length_tokens", Some(row.length_tokens)),
                ("repeated_4grams", row.repeated_4grams),
                ("eos_share", Some(row.ended)),
                ("refuses_unsafe", case(row.unsafe_prompt, row.refused)),
                ("refuses_benign", case(!row.unsafe_prompt, row.refused)),
            ];
            for (name, value) in named {
                let Some(value) = value else { continue };
                for key in [name.to_owned(), format!("{name}/{}", row.domain)] {
                    let of = self.by_prompt.entry(key).or_default();
                    of.prompts = prompts.to_owned();
                    of.values.insert(row.id, value);
                }
            }
        }
        self
    }

    /// Both values of a metric for every prompt that both policies answered, these first; none where they were not asked the
    /// same prompts.
    pub fn pairs(&self, other: &Self, name: &str) -> Option<Vec<(f64, f64)>> {
        let own = self.by_prompt.get(name)?;
        let other = other.by_prompt.get(name).filter(|other| other.prompts == own.prompts)?;
        let both = own.values.iter().filter_map(|(id, a)| Some((*a, *other.values.get(id)?)));
        Some(both.collect::<Vec<_>>()).filter(|both| !both.is_empty())
    }

    fn of(overall: &Summary, domains: &BTreeMap<String, Summary>) -> Self {
        let mut out = Self::default();
        out.put_summary("", overall);
        for (domain, summary) in domains {
            out.put_summary(&format!("/{domain}"), summary);
        }
        out
    }

    /// The numbers of one summary, as `NAME` or `NAME/DOMAIN`.
    fn put_summary(&mut self, suffix: &str, s: &Summary) {
        let prompts = s.prompts.max(1);
        // Several responses to one prompt are no independent cases: they count as one.
        let each = s.n.max(1) as f64 / prompts as f64;
        let mut put = |name: &str, metric: Metric| {
            self.by_name.insert(format!("{name}{suffix}"), metric);
        };
        let mean = |e: Estimate| Metric::Mean(Mean { value: e.mean, se: e.se, n: Some(prompts) });
        let count = |s: Share| Metric::Count(Count { hits: s.hits / each, n: s.n as f64 / each });
        put("score", mean(s.score));
        put("entropy", mean(s.entropy));
        put("length_tokens", mean(s.length_tokens));
        put("length_tokens_p95", Metric::Plain(s.length_tokens_p95));
        put("unique_share", Metric::Plain(s.unique_share));
        put("eos_share", count(s.eos_share));
        for (name, estimate) in [("gold", s.gold), ("kl", s.kl_exact), ("repeated_4grams", s.rep_4gram)] {
            if let Some(e) = estimate {
                put(name, mean(e));
            }
        }
        for (name, share) in [("refuses_unsafe", s.refusal_unsafe), ("refuses_benign", s.refusal_benign)] {
            if let Some(s) = share {
                put(name, count(s));
            }
        }
        for (name, value) in [("distinct_1", s.distinct_1), ("distinct_2", s.distinct_2)] {
            if let Some(v) = value {
                put(name, Metric::Plain(v));
            }
        }
    }

    /// The domains that have this metric.
    pub fn domains<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let of = move |key: &'a String| key.strip_prefix(name)?.strip_prefix('/');
        self.by_name.keys().filter_map(of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_from_elsewhere_have_three_forms() {
        let read = |text: &str| serde_json::from_str::<Metric>(text);
        assert_eq!(read("3.5").unwrap(), Metric::Plain(3.5));
        let mean = Metric::Mean(Mean { value: 2.0, se: Some(0.5), n: None });
        assert_eq!(read(r#"{"value": 2, "se": 0.5}"#).unwrap(), mean);
        let count = read(r#"{"hits": 12, "n": 600}"#).unwrap();
        assert_eq!((count, count.value()), (Metric::Count(Count { hits: 12.0, n: 600.0 }), 0.02));
        for wrong in [r#""3""#, r#"{"value": 1, "sd": 2}"#, r#"{"hits": 1}"#, "null"] {
            let error = read(wrong).unwrap_err().to_string();
            assert!(error.contains("hits"), "{wrong}: {error}");
        }
        for (unsound, why) in [
            (r#"{"hits": 7, "n": 6}"#, "7 hits in 6 cases"),
            (r#"{"hits": 0, "n": 0}"#, "a share of 0 cases"),
            (r#"{"value": 1, "se": -1}"#, "its standard error is -1"),
        ] {
            assert!(read(unsound).unwrap().problem().unwrap().contains(why), "{unsound}");
        }
        assert!(Metric::Plain(f64::NAN).problem().unwrap().contains("NaN"));
        assert_eq!(read(r#"{"hits": 6, "n": 6}"#).unwrap().problem(), None);
    }

    #[test]
    fn an_evaluation_gives_its_numbers_by_name_and_domain() {
        let rows = |shift: f64| {
            let row = |i: u64| crate::ResponseRecord {
                prompt_id: i / 2,
                domain: if i < 8 { "a" } else { "b" }.into(),
                tokens: vec![1, 2, 3],
                score: shift,
                kl_exact: Some(shift),
                unsafe_prompt: i < 8,
                refused: i < 4,
                ..Default::default()
            };
            (0..16).map(row).collect::<Vec<_>>()
        };
        let c = Comparison::paired(&rows(0.0), &rows(1.5), 1).unwrap();
        let m = Metrics::aligned(&c);
        assert_eq!(m.by_name["kl"].value(), 1.5);
        assert_eq!(m.domains("kl").collect::<Vec<_>>(), ["a", "b"]);
        // 8 responses to 4 unsafe prompts, two to each: 4 cases.
        assert_eq!(m.by_name["refuses_unsafe"], Metric::Count(Count { hits: 2.0, n: 4.0 }));
        let prompts = |shift| crate::PromptRow::all(&rows(shift));
        let (m, base) =
            (m.with_prompts(&prompts(1.5), "p"), Metrics::baseline(&c).with_prompts(&prompts(0.0), "p"));
        assert_eq!(m.pairs(&base, "score/a").unwrap(), [(1.5, 0.0); 4]);
        assert_eq!(m.pairs(&base, "refuses_unsafe").unwrap().len(), 4);
        assert_eq!((m.pairs(&base, "gold"), m.pairs(&Metrics::baseline(&c), "score")), (None, None));
        assert_eq!(m.pairs(&Metrics::default().with_prompts(&prompts(0.0), "other"), "score"), None);
        assert_eq!((m.by_name.get("gold"), Metrics::baseline(&c).by_name["score"].value()), (None, 0.0));
    }
}
