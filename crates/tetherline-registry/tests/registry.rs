//! The same tests on SQLite and on a real PostgreSQL.
//!
//! PostgreSQL is found (`initdb` and `pg_ctl` on the path or where Debian puts them), started for the test in a directory of
//! its own on a Unix socket, and stopped. Where it is not, or the feature `postgres` is off, its tests are skipped by name.
#![expect(clippy::unwrap_used, reason = "tests: a panic is the report")]
#![expect(clippy::print_stdout, reason = "a skipped test says so, and a child that waits to be killed")]

#[path = "all/checks.rs"]
mod checks;
#[cfg(all(feature = "postgres", unix))]
#[path = "all/server.rs"]
mod server;

use checks::CHECKS;

#[test]
fn on_sqlite() {
    let dir = tempfile::tempdir().unwrap();
    run("sqlite", &mut |name| dir.path().join(format!("{name}.db")).display().to_string());
}

#[test]
#[cfg(all(feature = "postgres", unix))]
fn on_postgres() {
    match server::Server::start() {
        Ok(server) => run("postgres", &mut |name| server.database(name)),
        Err(why) => skip(&why),
    }
}

#[test]
#[cfg(not(all(feature = "postgres", unix)))]
fn on_postgres() {
    skip("built without the feature `postgres`, or on a system without Unix sockets");
}

fn skip(why: &str) {
    for (name, _) in CHECKS {
        println!("SKIPPED: postgres, {name}: {why}");
    }
}

/// Runs every check on a fresh registry, and tells all that fail.
fn run(backend: &str, fresh: &mut dyn FnMut(&str) -> String) {
    let mut failed = Vec::new();
    for (name, check) in CHECKS {
        let url = fresh(name);
        if std::panic::catch_unwind(|| check(&url)).is_err() {
            failed.push(*name);
        }
    }
    assert!(failed.is_empty(), "on {backend}: {failed:?}");
}

/// Not a test of its own: what `a_crash_in_a_promotion` starts and kills.
#[test]
fn child_that_is_killed() {
    if let Ok(url) = std::env::var("TETHERLINE_REGISTRY_CHILD") {
        checks::child(&url);
    }
}
