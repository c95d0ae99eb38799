//! What a statement gave (PC-10).

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use super::value::{FromValue, ValueError};
use crate::backend::{Field, RowDescription};
use crate::wire::Values;

/// A column of a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// The table it is of, or 0.
    pub table_oid: u32,
    /// Its number in that table, or 0.
    pub column: i16,
    /// Its type.
    pub type_oid: u32,
    /// `pg_type.typlen`.
    pub type_size: i16,
    /// `pg_attribute.atttypmod`.
    pub type_modifier: i32,
    /// 0 is text, 1 is binary.
    pub format: i16,
}

impl From<Field<'_>> for Column {
    fn from(field: Field<'_>) -> Self {
        let Field {
            name,
            table_oid,
            column,
            type_oid,
            type_size,
            type_modifier,
            format,
        } = field;
        let name = String::from_utf8_lossy(name).into_owned();
        Self {
            name,
            table_oid,
            column,
            type_oid,
            type_size,
            type_modifier,
            format,
        }
    }
}

/// The columns of a result; cheap to clone.
pub(super) type Columns = Arc<[Column]>;

pub(super) fn columns(view: RowDescription<'_>) -> Columns {
    view.iter().map(Column::from).collect()
}

/// Names a column: by its number from 0, or by its name (the first of that name).
pub trait ColumnIndex: fmt::Display {
    /// The number.
    fn find(&self, columns: &[Column]) -> Option<usize>;
}

impl ColumnIndex for usize {
    fn find(&self, columns: &[Column]) -> Option<usize> {
        (*self < columns.len()).then_some(*self)
    }
}

impl ColumnIndex for &str {
    fn find(&self, columns: &[Column]) -> Option<usize> {
        columns.iter().position(|column| column.name == *self)
    }
}

/// A row; it keeps a share of the buffer it was read into.
#[derive(Clone)]
pub struct Row {
    columns: Columns,
    values: Box<[Option<Bytes>]>,
}

impl Row {
    pub(super) fn new(columns: Columns, body: &Bytes, values: Values<'_>) -> Self {
        let values = values
            .iter()
            .map(|value| value.map(|bytes| body.slice_ref(bytes)))
            .collect();
        Self { columns, values }
    }

    /// The columns.
    #[must_use]
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// How many columns there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The bytes of a value. `None`: NULL, or no such column.
    pub fn bytes(&self, index: impl ColumnIndex) -> Option<&[u8]> {
        self.values.get(index.find(&self.columns)?)?.as_deref()
    }

    /// The text of a value. `None`: NULL, no such column, or not text.
    pub fn get(&self, index: impl ColumnIndex) -> Option<&str> {
        std::str::from_utf8(self.bytes(index)?).ok()
    }

    /// A value as another type; its own may be text or binary (PC-14). `None` is NULL.
    ///
    /// # Errors
    /// [`ValueError`] where there is no such column, or the value is none of that type.
    pub fn value<T: FromValue>(&self, index: impl ColumnIndex) -> Result<Option<T>, ValueError> {
        let at = index
            .find(&self.columns)
            .ok_or_else(|| ValueError::NoColumn(index.to_string()))?;
        match (self.columns.get(at), self.values.get(at)) {
            (Some(column), Some(Some(bytes))) if column.format == 1 => T::from_binary(bytes).map(Some),
            (_, Some(Some(bytes))) => {
                T::from_text(std::str::from_utf8(bytes).map_err(|_| ValueError::NotText)?).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// As [`Row::value`] for what must not be NULL.
    ///
    /// # Errors
    /// [`ValueError`] also for NULL.
    pub fn required<T: FromValue>(&self, index: impl ColumnIndex) -> Result<T, ValueError> {
        let name = index.to_string();
        self.value(index)?.ok_or(ValueError::Null(name))
    }
}

impl fmt::Debug for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pairs = self.columns.iter().zip(&self.values);
        f.debug_map()
            .entries(
                pairs.map(|(column, value)| {
                    (&column.name, value.as_ref().map(|v| String::from_utf8_lossy(v)))
                }),
            )
            .finish()
    }
}

/// What one statement gave.
#[derive(Debug, Clone, Default)]
pub struct QueryResult {
    pub(super) columns: Option<Columns>,
    pub(super) rows: Vec<Row>,
    pub(super) tag: String,
}

impl QueryResult {
    /// The columns; `None` for a statement that gives no rows at all, which is not the same as none of them.
    #[must_use]
    pub fn columns(&self) -> Option<&[Column]> {
        self.columns.as_deref()
    }

    /// The rows.
    #[must_use]
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// The rows, for good.
    #[must_use]
    pub fn into_rows(self) -> Vec<Row> {
        self.rows
    }

    /// The first row.
    #[must_use]
    pub fn first(&self) -> Option<&Row> {
        self.rows.first()
    }

    /// The text of a value, by row and column. `None`: NULL, or no such thing.
    pub fn get(&self, row: usize, column: impl ColumnIndex) -> Option<&str> {
        self.rows.get(row)?.get(column)
    }

    /// The command tag, such as `INSERT 0 1`; empty for an empty statement.
    #[must_use]
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// The count in the command tag. `None` for a command that has none.
    #[must_use]
    pub fn rows_affected(&self) -> Option<u64> {
        self.tag.rsplit(' ').next()?.parse().ok()
    }
}

impl IntoIterator for QueryResult {
    type Item = Row;
    type IntoIter = std::vec::IntoIter<Row>;

    fn into_iter(self) -> Self::IntoIter {
        self.rows.into_iter()
    }
}
