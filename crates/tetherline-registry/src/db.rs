//! What the registry needs of a database: statements with numbered parameters, rows of text and whole numbers, and one
//! writing transaction at a time.

use crate::RegistryError;

/// A parameter or a cell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    /// Text.
    Text(String),
    /// A whole number.
    Int(i64),
    /// Nothing.
    Null,
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<&String> for Value {
    fn from(text: &String) -> Self {
        Self::Text(text.clone())
    }
}

impl From<i64> for Value {
    fn from(n: i64) -> Self {
        Self::Int(n)
    }
}

impl From<Option<&str>> for Value {
    fn from(text: Option<&str>) -> Self {
        text.map_or(Self::Null, Self::from)
    }
}

/// A row.
#[derive(Clone, Debug)]
pub(crate) struct Row(pub(crate) Vec<Value>);

impl Row {
    /// The text at a column; empty where there is none.
    pub(crate) fn text(&self, column: usize) -> String {
        self.maybe(column).unwrap_or_default()
    }

    /// The text at a column, where there is one.
    pub(crate) fn maybe(&self, column: usize) -> Option<String> {
        match self.0.get(column) {
            Some(Value::Text(text)) => Some(text.clone()),
            Some(Value::Int(n)) => Some(n.to_string()),
            _ => None,
        }
    }

    /// The number at a column; 0 where there is none.
    pub(crate) fn int(&self, column: usize) -> i64 {
        match self.0.get(column) {
            Some(Value::Int(n)) => *n,
            _ => 0,
        }
    }
}

/// A connection. Parameters are `?1`, `?2`, … in the statements of both databases.
pub(crate) trait Db: Send {
    /// Runs a statement; the number of rows that it changed.
    fn run(&mut self, sql: &str, values: &[Value]) -> Result<u64, RegistryError>;
    /// The rows of a query.
    fn rows(&mut self, sql: &str, values: &[Value]) -> Result<Vec<Row>, RegistryError>;
    /// Begins a transaction that is the only one that writes, waiting for others.
    fn begin(&mut self) -> Result<(), RegistryError>;
    /// Begins a transaction that reads one state of the registry.
    fn begin_reading(&mut self) -> Result<(), RegistryError>;
    /// Makes a transaction last.
    fn commit(&mut self) -> Result<(), RegistryError>;
    /// Undoes a transaction. Without one, or on a broken connection, nothing happens.
    fn undo(&mut self);
}

/// Values from anything that is one.
macro_rules! values {
    ($($value:expr),* $(,)?) => { [$($crate::db::Value::from($value)),*] };
}
pub(crate) use values;
