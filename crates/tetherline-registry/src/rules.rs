//! The rules of a registry: how many people approve, and which gates count.
//!
//! A gate file where any counted holds at once. Another number of approvals takes as many people as the larger of the two
//! numbers, for exactly this change of exactly these rules: to lower it, as otherwise one person would do so, promote alone
//! and put it back; to raise it, as otherwise one person could ask for more than there are, and lock everyone out. Whatever
//! else changes the rules while they ask for N approvals takes N.

use crate::db::values;
use crate::{Actor, Registry, RegistryError, RuleChange, Rules};
use serde_json::json;
use tetherline_audit::sha256;

/// What stands in place of a stage beside an approval of a change of the rules.
const STAGE: &str = "rules";

/// What names a change of the rules beside its approvals.
pub(crate) fn change_of(old: &Rules, new: &Rules) -> String {
    let of = |r: &Rules| format!("{} {}", r.approvals, r.gates);
    sha256(format!("rules\n{}\n{}\n", of(old), of(new)).as_bytes())
}

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

    /// Sets the rules. Where that takes people ([`Rules::people`]) it notes the approval of the actor, if `approves`, and is
    /// done once as many have approved.
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
            let needed = rules.people(&old);
            if needed > 0 {
                approvers = r.approve_rules(rules, &old, approves, actor)?;
                if (approvers.len() as i64) < needed {
                    return match approves {
                        true => Ok(RuleChange::Waiting { approvers, needed }),
                        false => Err(RegistryError::Refused(format!(
                            "from {} to {} approvals, this change takes {needed} people who approve it, and {} did so far: \
                             say who you are with --approve-as NAME",
                            old.approvals,
                            rules.approvals,
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
        let change = change_of(old, rules);
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
