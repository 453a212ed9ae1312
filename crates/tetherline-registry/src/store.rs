//! What the registry's actions share: a policy's place, a decision with its record of the audit, rows as what they stand for.

use crate::db::{Row, values};
use crate::{Actor, Artifact, Decision, Kind, Registry, RegistryError, Stage};
use serde_json::{Map, Value, json};
use tetherline_audit::{Head, seal};

impl Registry {
    /// Line and stage of a policy.
    pub(crate) fn place(&mut self, id: &str) -> Result<(String, Stage), RegistryError> {
        let rows = self.db.rows("SELECT line, stage FROM policy WHERE id = ?1", &values![id])?;
        let row =
            rows.first().ok_or_else(|| RegistryError::Unknown(format!("no policy has the hash {id}")))?;
        let stage = row.text(1);
        let stage =
            Stage::of(&stage).ok_or_else(|| RegistryError::Database(format!("unknown stage {stage:?}")))?;
        Ok((row.text(0), stage))
    }

    /// The policy of a line that is in a stage which only one can have.
    pub(crate) fn holder(&mut self, line: &str, stage: Stage) -> Result<Option<String>, RegistryError> {
        let sql = "SELECT id FROM policy WHERE line = ?1 AND stage = ?2";
        let rows = self.db.rows(sql, &values![line, stage.name()])?;
        Ok(rows.first().map(|row| row.text(0)))
    }

    pub(crate) fn move_to(&mut self, id: &str, stage: Stage) -> Result<(), RegistryError> {
        self.db.run("UPDATE policy SET stage = ?1 WHERE id = ?2", &values![stage.name(), id]).map(drop)
    }

    /// The next number of a table.
    pub(crate) fn next(&mut self, table: &str) -> Result<i64, RegistryError> {
        let rows = self.db.rows(&format!("SELECT COALESCE(MAX(id), 0) + 1 FROM {table}"), &[])?;
        Ok(rows.first().map_or(1, |row| row.int(0)))
    }

    /// Writes a decision, and its record of the audit.
    pub(crate) fn decide(&mut self, d: &Decided<'_>, actor: &Actor) -> Result<(), RegistryError> {
        let id = self.next("decision")?;
        let row = values![
            id,
            d.policy,
            d.line,
            d.action,
            d.from,
            d.to,
            d.displaced,
            &actor.who,
            &json!(d.approvers).to_string(),
            d.gates,
            &d.evidence.to_string(),
            &actor.at
        ];
        self.db.run(
            "INSERT INTO decision (id, policy, line, action, from_stage, to_stage, displaced, who, approvers, gates, \
             evidence, created) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
            &row,
        )?;
        let evidence = tetherline_audit::sha256(d.evidence.to_string().as_bytes());
        let body = json!({"event": d.action, "decision": id, "policy": d.policy, "line": d.line, "from": d.from,
            "to": d.to, "displaced": d.displaced, "approvers": d.approvers, "gates": d.gates, "evidence": evidence});
        self.audit(body, actor)
    }

    /// Appends to the audit.
    pub(crate) fn audit(&mut self, mut body: Value, actor: &Actor) -> Result<(), RegistryError> {
        body["who"] = json!(actor.who);
        body["at"] = json!(actor.at);
        let rows = self.db.rows("SELECT seq, words FROM audit ORDER BY seq DESC LIMIT 1", &[])?;
        let head = match rows.first() {
            None => Head::default(),
            Some(row) => {
                let last: Map<String, Value> = serde_json::from_str(&row.text(1))
                    .map_err(|e| RegistryError::Database(format!("the audit's last record: {e}")))?;
                let hash = last.get("hash").and_then(Value::as_str).unwrap_or_default().to_owned();
                Head { records: row.int(0) as u64 + 1, hash }
            }
        };
        let body = match body {
            Value::Object(body) => body,
            _ => Map::new(),
        };
        let (line, _) = seal(&head, &body).map_err(RegistryError::Database)?;
        self.db
            .run("INSERT INTO audit (seq, words) VALUES (?1, ?2)", &values![head.records as i64, &line])
            .map(drop)
    }
}

/// A decision to be written.
pub(crate) struct Decided<'a> {
    pub(crate) policy: &'a str,
    pub(crate) line: &'a str,
    pub(crate) action: &'a str,
    pub(crate) from: &'a str,
    pub(crate) to: &'a str,
    pub(crate) displaced: Option<&'a str>,
    pub(crate) approvers: &'a [String],
    pub(crate) gates: &'a str,
    pub(crate) evidence: Value,
}

impl<'a> Decided<'a> {
    pub(crate) fn of(policy: &'a str, line: &'a str) -> Self {
        let evidence = json!({});
        Self {
            policy,
            line,
            action: "",
            from: "",
            to: "",
            displaced: None,
            approvers: &[],
            gates: "",
            evidence,
        }
    }
}

pub(crate) fn head(hash: &str) -> &str {
    hash.get(..12).unwrap_or(hash)
}

pub(crate) fn json_of(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| json!({}))
}

pub(crate) fn artifact(row: &Row) -> Artifact {
    Artifact {
        kind: Kind::of(&row.text(0)).unwrap_or(Kind::Run),
        id: row.text(1),
        name: row.text(2),
        location: row.text(3),
        detail: json_of(&row.text(4)),
        created: row.text(5),
        who: row.text(6),
    }
}

pub(crate) fn decision(row: &Row) -> Decision {
    let approvers = json_of(&row.text(8));
    let names = approvers.as_array().into_iter().flatten().filter_map(Value::as_str);
    Decision {
        id: row.int(0),
        policy: row.text(1),
        line: row.text(2),
        action: row.text(3),
        from: row.text(4),
        to: row.text(5),
        displaced: row.maybe(6),
        who: row.text(7),
        approvers: names.map(str::to_owned).collect(),
        gates: row.text(9),
        evidence: json_of(&row.text(10)),
        created: row.text(11),
    }
}
