//! The `PgPool` resource: what a person writes (`raw`), what the code uses, and its status.
