//! Session state that shows in the names a text uses, whether they are called, quoted or written as a field.

use super::kind::Touches;
use super::lexer::{Lexer, TokenKind};
use super::words::name_of;

/// The longest name worth looking up.
const NAME_MAX: usize = 40;

/// What the names in `canonical`, a statement's canonical form, touch. `set_config` is left to the caller.
pub(crate) fn of(canonical: &[u8]) -> Touches {
    let mut touches = Touches::NONE;
    let mut lexer = Lexer::new(canonical, 0);
    loop {
        let token = lexer.token();
        let text = canonical.get(token.start..token.end).unwrap_or_default();
        match token.kind {
            TokenKind::End => return touches,
            TokenKind::Word if text.len() <= NAME_MAX => touches |= of_name(text),
            TokenKind::QuotedName if text.len() <= NAME_MAX + 2 => {
                touches |= name_of(token.kind, text).map_or(Touches::NONE, |name| of_name(&name));
            }
            _ => {}
        }
    }
}

/// Whether calling the built-in function `name` leaves nothing but what [`of`] says.
pub(crate) fn is_visible(name: &str) -> bool {
    !of_name(name.as_bytes())
        .without(Touches::SHOWS_SESSION)
        .is_empty()
}

fn of_name(name: &[u8]) -> Touches {
    match name {
        b"nextval" | b"setval" | b"currval" | b"lastval" => Touches::SEQUENCE,
        b"setseed" => Touches::SETSEED,
        b"loread" | b"lowrite" => Touches::LARGE_OBJECT,
        b"txid_current" => Touches::NOT_REPEATABLE,
        b"set_config" => Touches::SETTINGS,
        _ if name.starts_with(b"pg_") => of_system_name(name),
        _ if name.starts_with(b"lo_") && is_large_object(name) => Touches::LARGE_OBJECT,
        _ if name.starts_with(b"dblink") => Touches::DBLINK,
        _ => Touches::NONE,
    }
}

fn is_large_object(name: &[u8]) -> bool {
    matches!(
        name,
        b"lo_open"
            | b"lo_close"
            | b"lo_creat"
            | b"lo_create"
            | b"lo_from_bytea"
            | b"lo_get"
            | b"lo_put"
            | b"lo_import"
            | b"lo_export"
            | b"lo_lseek"
            | b"lo_lseek64"
            | b"lo_tell"
            | b"lo_tell64"
            | b"lo_truncate"
            | b"lo_truncate64"
            | b"lo_unlink"
    )
}

fn of_system_name(name: &[u8]) -> Touches {
    match name {
        b"pg_advisory_lock"
        | b"pg_advisory_lock_shared"
        | b"pg_try_advisory_lock"
        | b"pg_try_advisory_lock_shared" => Touches::ADVISORY_LOCK,
        b"pg_advisory_unlock" | b"pg_advisory_unlock_shared" => Touches::ADVISORY_UNLOCK,
        b"pg_advisory_unlock_all" => Touches::ADVISORY_UNLOCK_ALL,
        b"pg_backup_start" | b"pg_start_backup" | b"pg_backup_stop" | b"pg_stop_backup" => Touches::BACKUP,
        b"pg_export_snapshot" => Touches::SLOT,
        b"pg_prepared_statement"
        | b"pg_prepared_statements"
        | b"pg_cursor"
        | b"pg_cursors"
        | b"pg_listening_channels"
        | b"pg_my_temp_schema"
        | b"pg_is_other_temp_schema" => Touches::SHOWS_SESSION,
        b"pg_sleep"
        | b"pg_sleep_for"
        | b"pg_sleep_until"
        | b"pg_current_xact_id"
        | b"pg_cancel_backend"
        | b"pg_terminate_backend"
        | b"pg_notify"
        | b"pg_reload_conf"
        | b"pg_rotate_logfile"
        | b"pg_switch_wal"
        | b"pg_promote"
        | b"pg_log_backend_memory_contexts" => Touches::NOT_REPEATABLE,
        _ if name.starts_with(b"pg_temp") || name.starts_with(b"pg_toast_temp") => Touches::TEMP,
        _ if name.starts_with(b"pg_replication_origin_") => Touches::REPLICATION_ORIGIN,
        _ if name.ends_with(b"_replication_slot") => Touches::SLOT,
        _ => Touches::NONE,
    }
}
