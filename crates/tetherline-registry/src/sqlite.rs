//! SQLite in a file: write-ahead log, so that readers see the old state while one writes; writers wait for each other; a
//! transaction is on disk when it is done (`synchronous = FULL`).

use crate::RegistryError;
use crate::db::{Db, Row, Value};
use rusqlite::types::{Value as Cell, ValueRef};
use rusqlite::{Connection, params_from_iter};
use std::path::Path;
use std::time::Duration;

/// How long a process waits for the others.
const PATIENCE: Duration = Duration::from_secs(30);

/// A connection to a file.
pub(crate) struct Sqlite(Connection);

fn failed(e: rusqlite::Error) -> RegistryError {
    RegistryError::Database(e.to_string())
}

impl Sqlite {
    pub(crate) fn open(path: &Path) -> Result<Self, RegistryError> {
        let open = |why: String| RegistryError::Open { place: path.display().to_string(), why };
        if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
            std::fs::create_dir_all(parent).map_err(|e| open(e.to_string()))?;
        }
        let connection = Connection::open(path).map_err(|e| open(e.to_string()))?;
        connection.busy_timeout(PATIENCE).map_err(failed)?;
        // Two processes that create the file at once: the change of the mode does not wait for the other.
        let mut tries = 0;
        loop {
            match connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get::<_, String>(0)) {
                Ok(_) => break,
                Err(e) if tries < 200 && e.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy) => {
                    tries += 1;
                    std::thread::sleep(Duration::from_millis(25));
                }
                Err(e) => return Err(open(e.to_string())),
            }
        }
        connection.execute_batch("PRAGMA synchronous = FULL").map_err(failed)?;
        Ok(Self(connection))
    }
}

fn cells(values: &[Value]) -> impl Iterator<Item = Cell> {
    values.iter().map(|v| match v {
        Value::Text(text) => Cell::Text(text.clone()),
        Value::Int(n) => Cell::Integer(*n),
        Value::Null => Cell::Null,
    })
}

impl Db for Sqlite {
    fn run(&mut self, sql: &str, values: &[Value]) -> Result<u64, RegistryError> {
        let changed = self.0.execute(sql, params_from_iter(cells(values)));
        changed.map(|n| n as u64).map_err(failed)
    }

    fn rows(&mut self, sql: &str, values: &[Value]) -> Result<Vec<Row>, RegistryError> {
        let mut statement = self.0.prepare(sql).map_err(failed)?;
        let columns = statement.column_count();
        let mut rows = statement.query(params_from_iter(cells(values))).map_err(failed)?;
        let mut out = Vec::new();
        while let Some(row) = rows.next().map_err(failed)? {
            let cell = |i| match row.get_ref(i) {
                Ok(ValueRef::Text(text)) => Ok(Value::Text(String::from_utf8_lossy(text).into_owned())),
                Ok(ValueRef::Integer(n)) => Ok(Value::Int(n)),
                Ok(_) => Ok(Value::Null),
                Err(e) => Err(failed(e)),
            };
            out.push(Row((0..columns).map(cell).collect::<Result<_, _>>()?));
        }
        Ok(out)
    }

    fn begin(&mut self) -> Result<(), RegistryError> {
        self.0.execute_batch("BEGIN IMMEDIATE").map_err(failed)
    }

    fn begin_reading(&mut self) -> Result<(), RegistryError> {
        self.0.execute_batch("BEGIN").map_err(failed)
    }

    fn commit(&mut self) -> Result<(), RegistryError> {
        self.0.execute_batch("COMMIT").map_err(failed)
    }

    fn undo(&mut self) {
        let _ = self.0.execute_batch("ROLLBACK");
    }
}
