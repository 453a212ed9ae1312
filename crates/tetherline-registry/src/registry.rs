//! The registry: finding, registering, deciding.

use crate::action::check_move;
use crate::db::{Db, Row, values};
use crate::replay::{approval_of, artifact_hash, edge_line};
use crate::schema::migrate;
use crate::sqlite::Sqlite;
use crate::store::{Decided, artifact, decision, head};
use crate::{
    Actor, Artifact, Decision, Details, Edge, Evidence, Kind, Listed, Note, Promotion, Registration,
    RegistryError, Stage,
};
use serde_json::json;
use std::collections::BTreeSet;
use std::path::Path;
use tetherline_audit::{Head, verify};

/// Fewest digits of a hash that name something.
const PREFIX: usize = 4;

/// Called between the statements of a promotion, with what was just done. For tests that end a process there.
type Pause = Box<dyn FnMut(&str) + Send>;

/// An open registry.
pub struct Registry {
    pub(crate) db: Box<dyn Db>,
    pause: Option<Pause>,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry").finish_non_exhaustive()
    }
}

const ARTIFACT: &str = "SELECT kind, id, name, location, detail, created, who FROM artifact";
const DECISION: &str = "SELECT id, policy, line, action, from_stage, to_stage, displaced, who, approvers, gates, \
                        evidence, created FROM decision";

impl Registry {
    /// Opens a registry, or makes one: `postgres://…`, `postgresql://…`, `sqlite:PATH`, or a path.
    ///
    /// # Errors
    /// [`RegistryError::Open`], [`RegistryError::Newer`].
    pub fn open(url: &str) -> Result<Self, RegistryError> {
        let db: Box<dyn Db> = if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            postgres(url)?
        } else {
            Box::new(Sqlite::open(Path::new(url.strip_prefix("sqlite:").unwrap_or(url)))?)
        };
        let mut registry = Self { db, pause: None };
        registry.write(|r| migrate(&mut *r.db))?;
        Ok(registry)
    }

    /// Sets what is called between the statements of a promotion.
    #[doc(hidden)]
    pub fn set_pause(&mut self, pause: Pause) {
        self.pause = Some(pause);
    }

    /// Runs a statement beside the audit. For tests of what then shows.
    #[doc(hidden)]
    pub fn edit(&mut self, sql: &str) -> Result<u64, RegistryError> {
        self.db.run(sql, &[])
    }

    fn paused(&mut self, done: &str) {
        if let Some(pause) = &mut self.pause {
            pause(done);
        }
    }

    /// Runs `f` as one writing transaction.
    pub(crate) fn write<T>(
        &mut self,
        f: impl FnOnce(&mut Self) -> Result<T, RegistryError>,
    ) -> Result<T, RegistryError> {
        self.db.begin()?;
        self.finish(f)
    }

    /// Runs `f` on one state of the registry.
    pub(crate) fn read<T>(
        &mut self,
        f: impl FnOnce(&mut Self) -> Result<T, RegistryError>,
    ) -> Result<T, RegistryError> {
        self.db.begin_reading()?;
        self.finish(f)
    }

    fn finish<T>(
        &mut self,
        f: impl FnOnce(&mut Self) -> Result<T, RegistryError>,
    ) -> Result<T, RegistryError> {
        let done = f(self).and_then(|out| self.db.commit().map(|()| out));
        if done.is_err() {
            self.db.undo();
        }
        done
    }

    /// Registers things that belong together. What is known already stays as it is; new edges are added. Returns the policies
    /// that became candidates.
    ///
    /// # Errors
    /// [`RegistryError::Database`].
    pub fn register(&mut self, what: &Registration, actor: &Actor) -> Result<Vec<String>, RegistryError> {
        self.write(|r| {
            let mut hashes = serde_json::Map::new();
            let mut edges = Vec::new();
            for a in &what.artifacts {
                let detail = a.detail.to_string();
                let added = r.db.run(
                    "INSERT INTO artifact (kind, id, name, location, detail, created, who) \
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT DO NOTHING",
                    &values![
                        a.kind.name(),
                        &a.id,
                        &a.name,
                        &a.location,
                        &detail,
                        &actor.at,
                        &actor.who
                    ],
                )?;
                if added > 0 {
                    let cells = [a.kind.name(), &a.id, &a.name, &a.location, &detail, &actor.at, &actor.who];
                    hashes.insert(format!("{} {}", a.kind.name(), a.id), json!(artifact_hash(cells)));
                }
            }
            for e in &what.edges {
                let added = r.db.run(
                    "INSERT INTO edge (child_kind, child, role, parent_kind, parent) VALUES (?1, ?2, ?3, ?4, ?5) \
                     ON CONFLICT DO NOTHING",
                    &values![e.child.0.name(), &e.child.1, &e.role, e.parent.0.name(), &e.parent.1],
                )?;
                if added > 0 {
                    let cells = [e.child.0.name(), &e.child.1, &e.role, e.parent.0.name(), &e.parent.1];
                    edges.push(edge_line(cells));
                }
            }
            if !hashes.is_empty() || !edges.is_empty() {
                r.audit(json!({"event": "artifacts", "sha256": hashes, "edges": edges}), actor)?;
            }
            let mut new = Vec::new();
            for a in what.artifacts.iter().filter(|a| a.kind == Kind::Policy) {
                let stage = if what.bases.contains(&a.id) { Stage::Base } else { Stage::Candidate };
                let known = r.db.rows("SELECT stage FROM policy WHERE id = ?1", &values![&a.id])?;
                match known.first().map(|row| row.text(0)) {
                    None => {
                        let row = values![&a.id, &what.line, stage.name()];
                        r.db.run("INSERT INTO policy (id, line, stage) VALUES (?1, ?2, ?3)", &row)?;
                    }
                    // A base that is registered for itself.
                    Some(old) if old == Stage::Base.name() && stage == Stage::Candidate => {
                        let row = values![&what.line, stage.name(), &a.id];
                        r.db.run("UPDATE policy SET line = ?1, stage = ?2 WHERE id = ?3", &row)?;
                    }
                    Some(_) => continue,
                }
                if stage == Stage::Candidate {
                    let decision = Decided { action: "register", from: "", to: stage.name(), ..Decided::of(&a.id, &what.line) };
                    r.decide(&decision, actor)?;
                    new.push(a.id.clone());
                }
            }
            Ok(new)
        })
    }

    /// The policy that a person means: a stage that only one policy of the line can have (`production`, `canary`), a name, a
    /// tag, or the first digits of the hash.
    ///
    /// # Errors
    /// [`RegistryError::Unknown`] where there is none, or more than one.
    pub fn find(&mut self, text: &str, line: &str) -> Result<Listed, RegistryError> {
        let all = self.list()?;
        let stage = Stage::of(text).filter(|s| matches!(s, Stage::Production | Stage::Canary));
        let unknown = |text: String| Err(RegistryError::Unknown(text));
        if let Some(stage) = stage {
            let found = all.into_iter().find(|p| p.stage == stage && p.line == line);
            return found.ok_or_else(|| {
                RegistryError::Unknown(format!("no policy of the line {line:?} is in {stage}"))
            });
        }
        let is_prefix = text.len() >= PREFIX && text.bytes().all(|b| b.is_ascii_hexdigit());
        let matching: [&dyn Fn(&Listed) -> bool; 3] =
            [&|p| p.artifact.name == text, &|p| p.tags.iter().any(|t| t == text), &|p| {
                is_prefix && p.artifact.id.starts_with(&text.to_lowercase())
            }];
        for is in matching {
            let mut found: Vec<_> = all.iter().filter(|p| is(p)).cloned().collect();
            match found.len() {
                0 => {}
                1 => return Ok(found.remove(0)),
                n => {
                    let ids: Vec<_> = found.iter().map(|p| p.artifact.id[..12].to_owned()).collect();
                    return unknown(format!(
                        "{n} policies are called {text:?}: name one by its hash ({})",
                        ids.join(", ")
                    ));
                }
            }
        }
        unknown(format!("no policy is called {text:?}, has it as a tag, or has a hash that begins so"))
    }

    /// Every policy, oldest first.
    ///
    /// # Errors
    /// [`RegistryError::Database`].
    pub fn list(&mut self) -> Result<Vec<Listed>, RegistryError> {
        self.read(|r| {
            let tags = r.db.rows("SELECT policy, tag FROM tag ORDER BY tag", &[])?;
            let rows = r.db.rows(
                "SELECT a.kind, a.id, a.name, a.location, a.detail, a.created, a.who, p.line, p.stage FROM policy p \
                 JOIN artifact a ON a.kind = 'policy' AND a.id = p.id ORDER BY a.created, a.id",
                &[],
            )?;
            let listed = |row: &Row| {
                let artifact = artifact(row);
                let own = tags.iter().filter(|t| t.text(0) == artifact.id).map(|t| t.text(1)).collect();
                Listed { line: row.text(7), stage: Stage::of(&row.text(8)).unwrap_or(Stage::Retired), tags: own, artifact }
            };
            Ok(rows.iter().map(listed).collect())
        })
    }

    /// Everything on a policy.
    ///
    /// # Errors
    /// [`RegistryError::Database`].
    pub fn details(&mut self, listed: Listed) -> Result<Details, RegistryError> {
        let id = listed.artifact.id.clone();
        let decisions = self.decisions(Some(&id))?;
        self.read(|r| {
            let sql = "SELECT stage, who, created FROM approval WHERE policy = ?1 ORDER BY created, who";
            let approvals = r.db.rows(sql, &values![&id])?;
            let sql = "SELECT who, words, created FROM note WHERE policy = ?1 ORDER BY id";
            let notes = r.db.rows(sql, &values![&id])?;
            Ok(Details {
                listed,
                decisions,
                // The stage, without the gates that the approval is of.
                approvals: approvals
                    .iter()
                    .map(|a| {
                        (a.text(0).split(' ').next().unwrap_or_default().to_owned(), a.text(1), a.text(2))
                    })
                    .collect(),
                notes: notes
                    .iter()
                    .map(|n| Note { who: n.text(0), text: n.text(1), created: n.text(2) })
                    .collect(),
            })
        })
    }

    /// Decisions on one policy or on all, oldest first.
    ///
    /// # Errors
    /// [`RegistryError::Database`].
    pub fn decisions(&mut self, policy: Option<&str>) -> Result<Vec<Decision>, RegistryError> {
        let rows = match policy {
            Some(id) => self
                .db
                .rows(&format!("{DECISION} WHERE policy = ?1 OR displaced = ?1 ORDER BY id"), &values![id])?,
            None => self.db.rows(&format!("{DECISION} ORDER BY id"), &[])?,
        };
        Ok(rows.iter().map(decision).collect())
    }

    /// An artifact by kind and hash.
    ///
    /// # Errors
    /// [`RegistryError::Database`].
    pub fn artifact(&mut self, kind: Kind, id: &str) -> Result<Option<Artifact>, RegistryError> {
        let rows =
            self.db.rows(&format!("{ARTIFACT} WHERE kind = ?1 AND id = ?2"), &values![kind.name(), id])?;
        Ok(rows.first().map(artifact))
    }

    /// What something came from, directly: role and parent.
    ///
    /// # Errors
    /// [`RegistryError::Database`].
    pub fn parents(&mut self, kind: Kind, id: &str) -> Result<Vec<(String, Artifact)>, RegistryError> {
        let sql = "SELECT a.kind, a.id, a.name, a.location, a.detail, a.created, a.who, e.role FROM edge e \
                   JOIN artifact a ON a.kind = e.parent_kind AND a.id = e.parent \
                   WHERE e.child_kind = ?1 AND e.child = ?2 ORDER BY e.role, a.name, a.id";
        let rows = self.db.rows(sql, &values![kind.name(), id])?;
        Ok(rows.iter().map(|row| (row.text(7), artifact(row))).collect())
    }

    /// Every edge between an artifact and all that it came from, the nearest first.
    ///
    /// # Errors
    /// [`RegistryError::Database`].
    pub fn lineage(&mut self, kind: Kind, id: &str) -> Result<Vec<(Edge, Artifact)>, RegistryError> {
        let mut out = Vec::new();
        let mut seen = BTreeSet::from([(kind, id.to_owned())]);
        let mut open = std::collections::VecDeque::from([(kind, id.to_owned())]);
        while let Some(child) = open.pop_front() {
            for (role, parent) in self.parents(child.0, &child.1)? {
                let key = (parent.kind, parent.id.clone());
                out.push((Edge { child: child.clone(), role, parent: key.clone() }, parent));
                if seen.insert(key.clone()) {
                    open.push_back(key);
                }
            }
        }
        Ok(out)
    }

    /// Promotes a policy, on the evidence of the gates; evidence that did not pass is recorded and refused. With a rule of N approvals, a promotion to production notes the
    /// approval of the actor, if `approves`, and is done once N people have approved.
    ///
    /// # Errors
    /// [`RegistryError::Refused`]: the gates did not pass or are not those of the rules, the stage does not allow it, the
    /// policy in production is no longer the one that it was judged against, or nobody approves.
    pub fn promote(
        &mut self,
        id: &str,
        to: Stage,
        evidence: &Evidence,
        approves: bool,
        actor: &Actor,
    ) -> Result<Promotion, RegistryError> {
        if !evidence.passed {
            self.write(|r| {
                let (line, from) = r.place(id)?;
                let decision = Decided {
                    action: "refuse",
                    from: from.name(),
                    to: from.name(),
                    gates: &evidence.gates,
                    evidence: evidence.verdict.clone(),
                    ..Decided::of(id, &line)
                };
                r.decide(&decision, actor)
            })?;
            return Err(RegistryError::Refused("the gates did not pass".into()));
        }
        self.write(|r| {
            let (line, from) = r.place(id)?;
            check_move(from, to)?;
            let rules = r.rules()?;
            if !rules.gates.is_empty() && rules.gates != evidence.gates {
                return Err(RegistryError::Refused(format!(
                    "these are not the gates that the rules ask for (SHA-256 {}…, not {}…)",
                    head(&rules.gates),
                    head(&evidence.gates)
                )));
            }
            if r.holder(&line, Stage::Production)? != evidence.against {
                let problem = "the policy in production is another one since the gates were run: run them again";
                return Err(RegistryError::Refused(problem.into()));
            }
            // An approval is of these gates and of this move: with others, or in place of another policy, it does not count.
            let of = approval_of(to.name(), &evidence.gates, evidence.against.as_deref());
            let mut approvers = Vec::new();
            if approves {
                let row = values![id, &of, &actor.person(), &actor.who, &actor.at];
                let added = r.db.run(
                    "INSERT INTO approval (policy, stage, person, who, created) VALUES (?1, ?2, ?3, ?4, ?5) \
                     ON CONFLICT DO NOTHING",
                    &row,
                )?;
                if added > 0 {
                    let record = json!({"event": "approve", "policy": id, "to": to.name(), "gates": evidence.gates,
                        "against": evidence.against});
                    r.audit(record, actor)?;
                }
            }
            let sql = "SELECT who FROM approval WHERE policy = ?1 AND stage = ?2 ORDER BY created, who";
            approvers.extend(r.db.rows(sql, &values![id, &of])?.iter().map(|row| row.text(0)));
            let needed = if to == Stage::Production { rules.approvals } else { 0 };
            if (approvers.len() as i64) < needed {
                if !approves {
                    return Err(RegistryError::Refused(format!(
                        "it takes {needed} people who approve, and {} did: say who you are with --approve-as NAME",
                        approvers.len()
                    )));
                }
                return Ok(Promotion::Waiting { approvers, needed });
            }
            let displaced = r.holder(&line, to)?;
            let gone = if to == Stage::Production { Stage::Retired } else { Stage::Candidate };
            if let Some(old) = &displaced {
                r.move_to(old, gone)?;
                r.paused("the old one has left its stage");
            }
            r.move_to(id, to)?;
            r.paused("the new one has its stage");
            let any = format!("{} %", to.name());
            r.db.run("DELETE FROM approval WHERE policy = ?1 AND stage LIKE ?2", &values![id, &any])?;
            let decision = Decided {
                action: "promote",
                from: from.name(),
                to: to.name(),
                displaced: displaced.as_deref(),
                approvers: &approvers,
                gates: &evidence.gates,
                evidence: evidence.verdict.clone(),
                ..Decided::of(id, &line)
            };
            r.decide(&decision, actor)?;
            r.paused("everything is written");
            Ok(Promotion::Done { displaced })
        })
    }

    /// What a rollback would bring back.
    ///
    /// # Errors
    /// As [`Registry::roll_back`].
    pub fn before_production(&mut self, line: &str) -> Result<String, RegistryError> {
        self.read(|r| r.displaced(line).map(|(back, _)| back))
    }

    /// The policy that the one in production displaced, and that one.
    fn displaced(&mut self, line: &str) -> Result<(String, String), RegistryError> {
        let Some(now) = self.holder(line, Stage::Production)? else {
            return Err(RegistryError::Refused(format!("no policy of the line {line:?} is in production")));
        };
        let sql = format!(
            "{DECISION} WHERE policy = ?1 AND action = 'promote' AND to_stage = 'production' ORDER BY id DESC"
        );
        let before = self.db.rows(&sql, &values![&now])?.first().and_then(|row| row.maybe(6));
        let nothing = "nothing was in production before the policy that is there now";
        before.map(|back| (back, now)).ok_or_else(|| RegistryError::Refused(nothing.into()))
    }

    /// Brings back the policy that the one in production displaced. Returns both: back, gone.
    ///
    /// # Errors
    /// [`RegistryError::Refused`] where there is nothing in production, or nothing to go back to.
    pub fn roll_back(
        &mut self,
        line: &str,
        reason: &str,
        actor: &Actor,
    ) -> Result<(String, String), RegistryError> {
        self.write(|r| {
            let (back, now) = r.displaced(line)?;
            r.move_to(&now, Stage::Retired)?;
            r.paused("the old one has left its stage");
            r.move_to(&back, Stage::Production)?;
            let decision = Decided {
                action: "rollback",
                from: Stage::Retired.name(),
                to: Stage::Production.name(),
                displaced: Some(&now),
                evidence: json!({"reason": reason}),
                ..Decided::of(&back, line)
            };
            r.decide(&decision, actor)?;
            Ok((back, now))
        })
    }

    /// Takes a policy out of use. The one in production has to be replaced instead.
    ///
    /// # Errors
    /// [`RegistryError::Refused`] for the policy in production, or one that is retired already.
    pub fn retire(&mut self, id: &str, reason: &str, actor: &Actor) -> Result<(), RegistryError> {
        self.write(|r| {
            let (line, from) = r.place(id)?;
            if matches!(from, Stage::Production | Stage::Retired | Stage::Base) {
                let hint = match from {
                    Stage::Production => ": promote another one, or roll back",
                    _ => "",
                };
                return Err(RegistryError::Refused(format!(
                    "a policy that is {from} cannot be retired{hint}"
                )));
            }
            r.move_to(id, Stage::Retired)?;
            r.db.run("DELETE FROM approval WHERE policy = ?1", &values![id])?;
            let decision = Decided {
                action: "retire",
                from: from.name(),
                to: Stage::Retired.name(),
                evidence: json!({"reason": reason}),
                ..Decided::of(id, &line)
            };
            r.decide(&decision, actor)
        })
    }

    /// Adds or removes a tag.
    ///
    /// # Errors
    /// [`RegistryError::Refused`] for a tag that is empty or reads like a stage.
    pub fn tag(&mut self, id: &str, tag: &str, add: bool, actor: &Actor) -> Result<(), RegistryError> {
        if tag.trim().is_empty() || tag.chars().any(char::is_control) || Stage::of(tag).is_some() {
            return Err(RegistryError::Refused(format!(
                "{tag:?} is no tag: it is empty, or the name of a stage"
            )));
        }
        self.write(|r| {
            let sql = match add {
                true => "INSERT INTO tag (policy, tag) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
                false => "DELETE FROM tag WHERE policy = ?1 AND tag = ?2",
            };
            r.db.run(sql, &values![id, tag])?;
            let event = if add { "tag" } else { "untag" };
            r.audit(json!({"event": event, "policy": id, "tag": tag}), actor)
        })
    }

    /// Adds a note. The audit has its SHA-256, not its text.
    ///
    /// # Errors
    /// [`RegistryError::Database`].
    pub fn note(&mut self, id: &str, text: &str, actor: &Actor) -> Result<(), RegistryError> {
        self.write(|r| {
            let number = r.next("note")?;
            let row = values![number, id, &actor.who, text, &actor.at];
            r.db.run("INSERT INTO note (id, policy, who, words, created) VALUES (?1, ?2, ?3, ?4, ?5)", &row)?;
            let hash = tetherline_audit::sha256(text.as_bytes());
            r.audit(json!({"event": "note", "policy": id, "sha256": hash}), actor)
        })
    }

    /// The audit as JSON lines, and its head, verified.
    ///
    /// # Errors
    /// [`RegistryError::Audit`] where the chain is broken, or lacks the head that was kept.
    pub fn verified_audit(&mut self, kept: Option<&Head>) -> Result<(String, Head), RegistryError> {
        let rows = self.db.rows("SELECT words FROM audit ORDER BY seq", &[])?;
        let text: String = rows.iter().map(|row| row.text(0) + "\n").collect();
        let (head, _) = verify(text.as_bytes(), kept)?;
        Ok((text, head))
    }
}

#[cfg(feature = "postgres")]
fn postgres(url: &str) -> Result<Box<dyn Db>, RegistryError> {
    Ok(Box::new(crate::pg::Postgres::open(url, &without_password(url))?))
}

#[cfg(not(feature = "postgres"))]
fn postgres(url: &str) -> Result<Box<dyn Db>, RegistryError> {
    let why = "this build has no PostgreSQL (feature `postgres`); a path opens SQLite".to_owned();
    Err(RegistryError::Open { place: without_password(url), why })
}

/// The address without what stands between `://` and `@`, and without parameters, either of which may hold a password.
fn without_password(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let rest = rest.split('?').next().unwrap_or_default();
    let rest = rest.rsplit_once('@').map_or(rest, |(_, place)| place);
    format!("{scheme}://{rest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_in_no_message() {
        let url = "postgres://ann:s@cret@db.example/registry?password=s@cret";
        assert_eq!(without_password(url), "postgres://db.example/registry");
        let error = Registry::open("postgres://ann:secret@localhost:1/registry").unwrap_err().to_string();
        assert!(error.contains("postgres://localhost:1/registry") && !error.contains("secret"), "{error}");
    }

    #[test]
    fn a_registry_of_a_newer_version_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let url = dir.path().join("r.db").display().to_string();
        let mut r = Registry::open(&url).unwrap();
        r.db.run("UPDATE setting SET value = '99' WHERE name = 'schema'", &[]).unwrap();
        drop(r);
        let error = Registry::open(&url).unwrap_err().to_string();
        assert!(error.contains("schema 99") && error.contains("newer"), "{error}");
    }
}
