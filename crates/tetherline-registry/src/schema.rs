//! The tables, and how an older registry becomes a newer one.
//!
//! One text for both databases: TEXT and BIGINT, no other type. A migration is never changed once it is released; a new one
//! is added.

use crate::RegistryError;
use crate::db::{Db, values};

/// Statements of each version, separated by `;`.
const MIGRATIONS: &[&str] = &["
CREATE TABLE artifact (
  kind TEXT NOT NULL, id TEXT NOT NULL, name TEXT NOT NULL, location TEXT NOT NULL,
  detail TEXT NOT NULL, created TEXT NOT NULL, who TEXT NOT NULL, PRIMARY KEY (kind, id));
CREATE TABLE edge (
  child_kind TEXT NOT NULL, child TEXT NOT NULL, role TEXT NOT NULL, parent_kind TEXT NOT NULL, parent TEXT NOT NULL,
  PRIMARY KEY (child_kind, child, role, parent_kind, parent));
CREATE TABLE policy (
  id TEXT PRIMARY KEY, line TEXT NOT NULL,
  stage TEXT NOT NULL CHECK (stage IN ('base', 'candidate', 'canary', 'production', 'retired')));
CREATE UNIQUE INDEX one_in_production ON policy (line) WHERE stage = 'production';
CREATE UNIQUE INDEX one_in_canary ON policy (line) WHERE stage = 'canary';
CREATE TABLE tag (policy TEXT NOT NULL, tag TEXT NOT NULL, PRIMARY KEY (policy, tag));
CREATE TABLE note (id BIGINT PRIMARY KEY, policy TEXT NOT NULL, who TEXT NOT NULL, words TEXT NOT NULL, created TEXT NOT NULL);
CREATE TABLE decision (
  id BIGINT PRIMARY KEY, policy TEXT NOT NULL, line TEXT NOT NULL, action TEXT NOT NULL, from_stage TEXT NOT NULL,
  to_stage TEXT NOT NULL, displaced TEXT, who TEXT NOT NULL, approvers TEXT NOT NULL, gates TEXT NOT NULL,
  evidence TEXT NOT NULL, created TEXT NOT NULL);
CREATE TABLE approval (
  policy TEXT NOT NULL, stage TEXT NOT NULL, person TEXT NOT NULL, who TEXT NOT NULL, created TEXT NOT NULL,
  PRIMARY KEY (policy, stage, person));
CREATE TABLE audit (seq BIGINT PRIMARY KEY, words TEXT NOT NULL)
"];

/// Brings the tables to the newest version. Within a writing transaction.
pub(crate) fn migrate(db: &mut dyn Db) -> Result<(), RegistryError> {
    db.run("CREATE TABLE IF NOT EXISTS setting (name TEXT PRIMARY KEY, value TEXT NOT NULL)", &[])?;
    let rows = db.rows("SELECT value FROM setting WHERE name = 'schema'", &[])?;
    let found = rows.first().and_then(|r| r.text(0).parse::<i64>().ok()).unwrap_or(0);
    let known = MIGRATIONS.len() as i64;
    if found > known {
        return Err(RegistryError::Newer { found, known });
    }
    for migration in MIGRATIONS.iter().skip(found.max(0) as usize) {
        for statement in migration.split(';').map(str::trim).filter(|s| !s.is_empty()) {
            db.run(statement, &[])?;
        }
    }
    if found < known {
        db.run("DELETE FROM setting WHERE name = 'schema'", &[])?;
        db.run("INSERT INTO setting (name, value) VALUES ('schema', ?1)", &values![&known.to_string()])?;
    }
    Ok(())
}
