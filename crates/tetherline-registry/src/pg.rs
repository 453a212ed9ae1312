//! PostgreSQL by URL. A writing transaction holds an advisory lock of the database, so that writers follow each other as in
//! SQLite; it ends with the connection, however that ends. No TLS: for a server elsewhere, go through a tunnel or a proxy
//! that encrypts.

use crate::RegistryError;
use crate::db::{Db, Row, Value};
use postgres::types::{ToSql, Type};
use postgres::{Client, NoTls};

/// The lock of the writers: any number that no other program takes.
const LOCK: i64 = 0x7465_7468_6572;

/// A connection to a server.
pub(crate) struct Postgres(Client);

fn failed(e: postgres::Error) -> RegistryError {
    let text = e.as_db_error().map_or_else(|| chain(&e), |db| db.message().to_owned());
    RegistryError::Database(text)
}

/// An error with its causes.
fn chain(e: &dyn std::error::Error) -> String {
    e.source().map_or_else(|| e.to_string(), |cause| format!("{e}: {}", chain(cause)))
}

impl Postgres {
    pub(crate) fn open(url: &str, place: &str) -> Result<Self, RegistryError> {
        let client = Client::connect(url, NoTls);
        client.map(Self).map_err(|e| RegistryError::Open { place: place.to_owned(), why: chain(&e) })
    }

    /// `?1` as PostgreSQL writes it. No statement has a `?` of another kind.
    fn own(sql: &str) -> String {
        sql.replace('?', "$")
    }
}

/// Parameters as the driver takes them.
fn cells(values: &[Value]) -> Vec<&(dyn ToSql + Sync)> {
    static NULL: Option<String> = None;
    values
        .iter()
        .map(|v| match v {
            Value::Text(text) => text as &(dyn ToSql + Sync),
            Value::Int(n) => n as &(dyn ToSql + Sync),
            Value::Null => &NULL as &(dyn ToSql + Sync),
        })
        .collect()
}

impl Db for Postgres {
    fn run(&mut self, sql: &str, values: &[Value]) -> Result<u64, RegistryError> {
        self.0.execute(&Self::own(sql), &cells(values)).map_err(failed)
    }

    fn rows(&mut self, sql: &str, values: &[Value]) -> Result<Vec<Row>, RegistryError> {
        let rows = self.0.query(&Self::own(sql), &cells(values)).map_err(failed)?;
        let cell = |row: &postgres::Row, i: usize| -> Result<Value, RegistryError> {
            let value = if *row.columns()[i].type_() == Type::INT8 {
                row.try_get::<_, Option<i64>>(i).map_err(failed)?.map(Value::Int)
            } else {
                row.try_get::<_, Option<String>>(i).map_err(failed)?.map(Value::Text)
            };
            Ok(value.unwrap_or(Value::Null))
        };
        rows.iter()
            .map(|row| Ok(Row((0..row.len()).map(|i| cell(row, i)).collect::<Result<_, _>>()?)))
            .collect()
    }

    fn begin(&mut self) -> Result<(), RegistryError> {
        self.0.batch_execute(&format!("BEGIN; SELECT pg_advisory_xact_lock({LOCK})")).map_err(failed)
    }

    fn begin_reading(&mut self) -> Result<(), RegistryError> {
        self.0.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").map_err(failed)
    }

    fn commit(&mut self) -> Result<(), RegistryError> {
        self.0.batch_execute("COMMIT").map_err(failed)
    }

    fn undo(&mut self) {
        let _ = self.0.batch_execute("ROLLBACK");
    }
}
