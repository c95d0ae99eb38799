//! One rule in the form of `pg_hba.conf`.
