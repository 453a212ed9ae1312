//! The audit replayed: what the tables should hold, and where they hold something else.
//!
//! The chain shows what was done to it. A table that was edited beside it shows here: every record is followed from the
//! first one on, and artifacts, edges, stages, decisions, approvals, tags, notes and rules are compared with what comes out.

use crate::action::person;
use crate::db::Row;
use crate::registry::Registry;
use crate::rules::change_of;
use crate::store::head as short;
use crate::{RegistryError, Rules, Stage};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use tetherline_audit::{Head, sha256, verify};

/// A registry's audit, verified and replayed.
#[derive(Clone, Debug)]
pub struct CheckedAudit {
    /// The chain as JSON lines.
    pub text: String,
    /// Its end.
    pub head: Head,
    /// Where the tables are not what the chain says, one sentence each.
    pub differences: Vec<String>,
}

/// What the audit says of an artifact: the SHA-256 of everything that its row has.
pub(crate) fn artifact_hash(cells: [&str; 7]) -> String {
    sha256(json!(cells).to_string().as_bytes())
}

/// An edge as the audit has it.
pub(crate) fn edge_line(cells: [&str; 5]) -> String {
    cells.join(" ")
}

/// The approvals of a promotion: of this move, under these gates, in place of this policy.
pub(crate) fn approval_of(to: &str, gates: &str, against: Option<&str>) -> String {
    format!("{to} {gates} {}", against.unwrap_or("nothing"))
}

/// Columns of `decision` in the order in which a record is compared with them.
const DECISION: [&str; 11] = [
    "policy",
    "line",
    "action",
    "from_stage",
    "to_stage",
    "displaced",
    "who",
    "approvers",
    "gates",
    "evidence",
    "created",
];

/// The tables as they come out of the records. Each maps a key to what stands there, as text.
#[derive(Default)]
struct Tables {
    artifacts: BTreeMap<String, String>,
    edges: BTreeSet<String>,
    /// Policy: line and stage.
    stages: BTreeMap<String, (String, String)>,
    decisions: BTreeMap<i64, [String; 11]>,
    /// (policy or change, what of, person): name and time.
    approvals: BTreeMap<(String, String, String), String>,
    tags: BTreeSet<(String, String)>,
    /// Policy, writer, time and SHA-256 of the text, in order.
    notes: Vec<[String; 4]>,
    rules: Rules,
}

fn text<'a>(body: &'a Map<String, Value>, key: &str) -> &'a str {
    body.get(key).and_then(Value::as_str).unwrap_or_default()
}

impl Tables {
    fn follow(&mut self, body: &Map<String, Value>) {
        let (event, policy) = (text(body, "event"), text(body, "policy").to_owned());
        let (who, at) = (text(body, "who").to_owned(), text(body, "at").to_owned());
        match event {
            "artifacts" => {
                for (key, hash) in body.get("sha256").and_then(Value::as_object).into_iter().flatten() {
                    self.artifacts.insert(key.clone(), hash.as_str().unwrap_or_default().to_owned());
                }
                let edges = body.get("edges").and_then(Value::as_array).into_iter().flatten();
                self.edges.extend(edges.filter_map(Value::as_str).map(str::to_owned));
            }
            "approve" => {
                let against = body.get("against").and_then(Value::as_str);
                let of = approval_of(text(body, "to"), text(body, "gates"), against);
                self.approvals.insert((policy, of, person(&who)), format!("{who}, {at}"));
            }
            "approve_rules" => {
                let change = change_of(&self.rules, &Rules::of(body));
                self.approvals.insert((change, "rules".into(), person(&who)), format!("{who}, {at}"));
            }
            "rules" => {
                self.rules = Rules::of(body);
                self.approvals.retain(|(_, of, _), _| of != "rules");
            }
            "tag" => {
                self.tags.insert((policy, text(body, "tag").to_owned()));
            }
            "untag" => {
                self.tags.remove(&(policy, text(body, "tag").to_owned()));
            }
            "note" => self.notes.push([policy, who, at, text(body, "sha256").to_owned()]),
            _ => self.decide(event, &policy, body),
        }
    }

    fn decide(&mut self, action: &str, policy: &str, body: &Map<String, Value>) {
        let Some(id) = body.get("decision").and_then(Value::as_i64) else { return };
        let (line, to) = (text(body, "line"), text(body, "to"));
        let displaced = text(body, "displaced");
        self.decisions.insert(
            id,
            [
                policy.to_owned(),
                line.to_owned(),
                action.to_owned(),
                text(body, "from").to_owned(),
                to.to_owned(),
                displaced.to_owned(),
                text(body, "who").to_owned(),
                body.get("approvers").unwrap_or(&Value::Null).to_string(),
                text(body, "gates").to_owned(),
                text(body, "evidence").to_owned(),
                text(body, "at").to_owned(),
            ],
        );
        if action == "refuse" {
            return;
        }
        if !displaced.is_empty() {
            let canary = to == Stage::Canary.name();
            let gone = if canary { Stage::Candidate } else { Stage::Retired };
            self.stages.insert(displaced.to_owned(), (line.to_owned(), gone.name().to_owned()));
        }
        self.stages.insert(policy.to_owned(), (line.to_owned(), to.to_owned()));
        let used = |of: &str| match action {
            "promote" => of.starts_with(&format!("{to} ")),
            "retire" => true,
            _ => false,
        };
        self.approvals.retain(|(of_policy, of, _), _| of_policy != policy || !used(of));
    }
}

impl Registry {
    /// Verifies the audit, and replays it against the tables.
    ///
    /// # Errors
    /// [`RegistryError::Audit`] where the chain is broken, or lacks the head that was kept.
    pub fn checked_audit(&mut self, kept: Option<&Head>) -> Result<CheckedAudit, RegistryError> {
        self.read(|r| {
            let rows = r.db.rows("SELECT words FROM audit ORDER BY seq", &[])?;
            let text: String = rows.iter().map(|row| row.text(0) + "\n").collect();
            let (head, records) = verify(text.as_bytes(), kept)?;
            let mut should = Tables::default();
            records.iter().for_each(|record| should.follow(&record.body));
            Ok(CheckedAudit { text, head, differences: r.differences(&should)? })
        })
    }

    /// Where the tables are not as they should be.
    fn differences(&mut self, should: &Tables) -> Result<Vec<String>, RegistryError> {
        let mut out = Vec::new();
        let cells = |row: &Row, n: usize| -> Vec<String> { (0..n).map(|i| row.text(i)).collect() };

        let sql = "SELECT kind, id, name, location, detail, created, who FROM artifact";
        let mut artifacts = BTreeMap::new();
        let mut names = BTreeMap::new();
        for row in self.db.rows(sql, &[])? {
            let c = cells(&row, 7);
            let hash = artifact_hash([&c[0], &c[1], &c[2], &c[3], &c[4], &c[5], &c[6]]);
            artifacts.insert(format!("{} {}", c[0], c[1]), hash);
            names.insert(format!("{} {}", c[0], c[1]), c[2].clone());
        }
        let called = |key: &str| match names.get(key) {
            Some(name) => format!("{name} ({key})"),
            None => key.to_owned(),
        };
        for key in keys(&should.artifacts, &artifacts) {
            let what = match (should.artifacts.get(key), artifacts.get(key)) {
                (Some(was), Some(is)) if was == is => continue,
                (Some(_), Some(_)) => {
                    "name, location, details, time or registrar are not those that were registered"
                }
                (Some(_), None) => "it was registered, and is gone",
                _ => "nothing in the audit registered it",
            };
            out.push(format!("artifact {}: {what}", called(key)));
        }

        let sql = "SELECT child_kind, child, role, parent_kind, parent FROM edge";
        let rows = self.db.rows(sql, &[])?;
        let edges: BTreeSet<String> = rows
            .iter()
            .map(|row| cells(row, 5))
            .map(|c| edge_line([&c[0], &c[1], &c[2], &c[3], &c[4]]))
            .collect();
        out.extend(
            should.edges.difference(&edges).map(|e| format!("lineage: {e}: it was registered, and is gone")),
        );
        out.extend(
            edges
                .difference(&should.edges)
                .map(|e| format!("lineage: {e}: nothing in the audit registered it")),
        );

        let base = Stage::Base.name();
        let mut stages = BTreeMap::new();
        for row in self.db.rows("SELECT id, line, stage FROM policy", &[])? {
            stages.insert(row.text(0), (row.text(1), row.text(2)));
        }
        for id in keys(&should.stages, &stages) {
            let name = called(&format!("policy {id}"));
            let say = |(line, stage): &(String, String)| format!("{stage} of the line {line:?}");
            match (should.stages.get(id), stages.get(id)) {
                (Some(was), Some(is)) if was == is => {}
                // A base stands in no decision.
                (None, Some((_, stage))) if stage == base => {}
                (Some(was), Some(is)) => {
                    out.push(format!("{name}: it is {}, and by the audit {}", say(is), say(was)));
                }
                (Some(was), None) => out.push(format!("{name}: it is gone, and by the audit {}", say(was))),
                (None, Some(is)) => {
                    out.push(format!("{name}: it is {}, and no decision in the audit put it there", say(is)));
                }
                (None, None) => {}
            }
        }

        let sql = format!("SELECT id, {} FROM decision", DECISION.join(", "));
        let mut decisions = BTreeMap::new();
        for row in self.db.rows(&sql, &[])? {
            let mut c: [String; 11] = std::array::from_fn(|i| row.text(i + 1));
            c[9] = sha256(c[9].as_bytes());
            decisions.insert(row.int(0), c);
        }
        for id in keys(&should.decisions, &decisions) {
            match (should.decisions.get(id), decisions.get(id)) {
                (Some(was), Some(is)) => {
                    for (i, column) in DECISION.iter().enumerate().filter(|(i, _)| was[*i] != is[*i]) {
                        let (is, was) = match *column {
                            "evidence" => ("not what was judged", "SHA-256 ".to_owned() + short(&was[i])),
                            _ => (is[i].as_str(), was[i].clone()),
                        };
                        out.push(format!("decision {id}: {column} is {is}, and by the audit {was}"));
                    }
                }
                (Some(was), None) => {
                    out.push(format!("decision {id} ({} of {}) is gone", was[2], short(&was[0])));
                }
                (_, is) => {
                    let of = is.map(|is| format!(" ({} of {})", is[2], short(&is[0]))).unwrap_or_default();
                    out.push(format!("decision {id}{of}: the audit has no such decision"));
                }
            }
        }

        let mut approvals = BTreeMap::new();
        for row in self.db.rows("SELECT policy, stage, person, who, created FROM approval", &[])? {
            let key = (row.text(0), row.text(1), row.text(2));
            approvals.insert(key, format!("{}, {}", row.text(3), row.text(4)));
        }
        for key in keys(&should.approvals, &approvals) {
            let (policy, of, person) = key;
            let stage = of.split(' ').next().unwrap_or_default();
            let of = if stage == "rules" {
                "a change of the rules".into()
            } else {
                format!("{} for {stage}", short(policy))
            };
            let what = match (should.approvals.get(key), approvals.get(key)) {
                (Some(was), Some(is)) if was == is => continue,
                (Some(was), Some(is)) => format!("it is by {is}, and by the audit {was}"),
                (Some(_), None) => "it was given, and is gone".to_owned(),
                _ => "nobody gave it in the audit, or it was used up".to_owned(),
            };
            out.push(format!("approval of {of} by {person}: {what}"));
        }

        let rows = self.db.rows("SELECT policy, tag FROM tag", &[])?;
        let tags: BTreeSet<(String, String)> = rows.iter().map(|row| (row.text(0), row.text(1))).collect();
        for (policy, tag) in should.tags.symmetric_difference(&tags) {
            let is = if tags.contains(&(policy.clone(), tag.clone())) { "has" } else { "lacks" };
            out.push(format!(
                "tag {tag:?}: {} {is} it, and by the audit not so",
                called(&format!("policy {policy}"))
            ));
        }

        let mut notes = Vec::new();
        for row in self.db.rows("SELECT policy, who, created, words FROM note ORDER BY id", &[])? {
            notes.push([row.text(0), row.text(1), row.text(2), sha256(row.text(3).as_bytes())]);
        }
        let missing = |all: &[[String; 4]], of: &[[String; 4]]| -> Vec<[String; 4]> {
            of.iter().filter(|note| !all.contains(note)).cloned().collect()
        };
        for [policy, who, at, _] in missing(&notes, &should.notes) {
            out.push(format!("note on {} by {who}, {at}: it is gone, or was edited", short(&policy)));
        }
        for [policy, who, at, _] in missing(&should.notes, &notes) {
            out.push(format!("note on {} by {who}, {at}: the audit has no such note", short(&policy)));
        }

        let rules = self.rules()?;
        if rules != should.rules {
            out.push(format!(
                "rules: they ask for {} approvals and {}, and by the audit for {} and {}",
                rules.approvals,
                gates(&rules),
                should.rules.approvals,
                gates(&should.rules)
            ));
        }
        Ok(out)
    }
}

fn gates(rules: &Rules) -> String {
    if rules.gates.is_empty() { "any gates".into() } else { format!("the gates {}", short(&rules.gates)) }
}

/// The keys of both, sorted.
fn keys<'a, K: Ord, V, W>(a: &'a BTreeMap<K, V>, b: &'a BTreeMap<K, W>) -> BTreeSet<&'a K> {
    a.keys().chain(b.keys()).collect()
}

impl Rules {
    /// Those of a record.
    fn of(body: &Map<String, Value>) -> Self {
        let approvals = body.get("approvals").and_then(Value::as_i64).unwrap_or_default();
        Self { approvals, gates: text(body, "gates").to_owned() }
    }
}
