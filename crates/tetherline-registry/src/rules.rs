//! The rules of a registry: how many people approve, and which gates count.
//!
//! What makes them stricter (more approvals; a gate file where any counted) holds at once. Whatever else changes them while
//! they ask for N approvals takes those N first, for exactly this change of exactly these rules: otherwise one person would
//! lower the rule, promote alone, and put it back.

use crate::db::values;
use crate::{Actor, Registry, RegistryError, RuleChange, Rules};
use serde_json::json;
use tetherline_audit::sha256;

/// What stands in place of a stage beside an approval of a change of the rules.
const STAGE: &str = "rules";

impl Registry {
    /// The rules in force.
    ///
    /// # Errors
    /// [`RegistryError::Database`].
    pub fn rules(&mut self) -> Result<Rules, RegistryError> {
        let rows = self.db.rows("SELECT name, value FROM setting", &[])?;
        let of = |name: &str| rows.iter().find(|r| r.text(0) == name).map(|r| r.text(1)).unwrap_or_default();
        Ok(Rules { approvals: of("approvals").parse().unwrap_or(0), gates: of("gates") })
    }

    /// Sets the rules. Where that does not make them stricter it notes the approval of the actor, if `approves`, and is done
    /// once as many people have approved as the rules in force ask for.
    ///
    /// # Errors
    /// [`RegistryError::Refused`] for a number of approvals that makes no sense, or where nobody approves.
    pub fn set_rules(
        &mut self,
        rules: &Rules,
        approves: bool,
        actor: &Actor,
    ) -> Result<RuleChange, RegistryError> {
        if !(0..=20).contains(&rules.approvals) {
            return Err(RegistryError::Refused("approvals must be between 0 and 20".into()));
        }
        self.write(|r| {
            let old = r.rules()?;
            if *rules == old {
                return Ok(RuleChange::Done);
            }
            let mut approvers = Vec::new();
            if !rules.only_tighten(&old) && old.approvals > 0 {
                approvers = r.approve_rules(rules, &old, approves, actor)?;
                if (approvers.len() as i64) < old.approvals {
                    return match approves {
                        true => Ok(RuleChange::Waiting { approvers, needed: old.approvals }),
                        false => Err(RegistryError::Refused(format!(
                            "the rules ask for {} approvals, and so does a change that does not make them stricter; {} did so \
                             far: say who you are with --approve-as NAME",
                            old.approvals,
                            approvers.len()
                        ))),
                    };
                }
            }
            // Approvals of other changes were of the rules before.
            r.db.run("DELETE FROM approval WHERE stage = ?1", &values![STAGE])?;
            for (name, value) in [("approvals", rules.approvals.to_string()), ("gates", rules.gates.clone())]
            {
                r.db.run("DELETE FROM setting WHERE name = ?1", &values![name])?;
                r.db.run("INSERT INTO setting (name, value) VALUES (?1, ?2)", &values![name, &value])?;
            }
            let mut event =
                json!({"event": "rules", "approvals": rules.approvals, "gates": rules.gates, "before": old});
            if !approvers.is_empty() {
                event["approvers"] = json!(approvers);
            }
            r.audit(event, actor)?;
            Ok(RuleChange::Done)
        })
    }

    /// Notes the approval of a change, if the actor gives one, and names everyone who has.
    fn approve_rules(
        &mut self,
        rules: &Rules,
        old: &Rules,
        approves: bool,
        actor: &Actor,
    ) -> Result<Vec<String>, RegistryError> {
        let of = |r: &Rules| format!("{} {}", r.approvals, r.gates);
        let change = sha256(format!("rules\n{}\n{}\n", of(old), of(rules)).as_bytes());
        if approves {
            let row = values![&change, STAGE, &actor.person(), &actor.who, &actor.at];
            let added = self.db.run(
                "INSERT INTO approval (policy, stage, person, who, created) VALUES (?1, ?2, ?3, ?4, ?5) \
                 ON CONFLICT DO NOTHING",
                &row,
            )?;
            if added > 0 {
                let event =
                    json!({"event": "approve_rules", "approvals": rules.approvals, "gates": rules.gates});
                self.audit(event, actor)?;
            }
        }
        let sql = "SELECT who FROM approval WHERE policy = ?1 AND stage = ?2 ORDER BY created, who";
        Ok(self.db.rows(sql, &values![&change, STAGE])?.iter().map(|row| row.text(0)).collect())
    }
}
