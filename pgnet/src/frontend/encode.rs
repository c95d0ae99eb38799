//! Encoders: each appends one whole frame to the buffer and allocates nothing beyond it.

use bytes::{BufMut, BytesMut};

use super::tag;
use crate::wire::{framed, put_count, put_cstr, put_formats, put_value};

/// Appends a Query.
pub fn query(buf: &mut BytesMut, sql: &[u8]) {
    buf.reserve(sql.len() + 6);
    framed(buf, tag::QUERY, |buf| put_cstr(buf, sql));
}

/// Appends a Parse.
pub fn parse(buf: &mut BytesMut, name: &[u8], sql: &[u8], types: &[u32]) {
    framed(buf, tag::PARSE, |buf| {
        put_cstr(buf, name);
        put_cstr(buf, sql);
        put_count(buf, types.len());
        for oid in types {
            buf.put_u32(*oid);
        }
    });
}

/// Appends a Bind.
pub fn bind(
    buf: &mut BytesMut,
    portal: &[u8],
    statement: &[u8],
    param_formats: &[i16],
    params: &[Option<&[u8]>],
    result_formats: &[i16],
) {
    framed(buf, tag::BIND, |buf| {
        put_cstr(buf, portal);
        put_cstr(buf, statement);
        put_formats(buf, param_formats);
        put_count(buf, params.len());
        for value in params {
            put_value(buf, *value);
        }
        put_formats(buf, result_formats);
    });
}

fn named(buf: &mut BytesMut, tag: u8, kind: u8, name: &[u8]) {
    framed(buf, tag, |buf| {
        buf.put_u8(kind);
        put_cstr(buf, name);
    });
}

/// Appends a Describe of a statement.
pub fn describe_statement(buf: &mut BytesMut, name: &[u8]) {
    named(buf, tag::DESCRIBE, b'S', name);
}

/// Appends a Describe of a portal.
pub fn describe_portal(buf: &mut BytesMut, name: &[u8]) {
    named(buf, tag::DESCRIBE, b'P', name);
}

/// Appends an Execute; `max_rows` 0 is all of them.
pub fn execute(buf: &mut BytesMut, portal: &[u8], max_rows: i32) {
    framed(buf, tag::EXECUTE, |buf| {
        put_cstr(buf, portal);
        buf.put_i32(max_rows);
    });
}

/// Appends a Close of a statement.
pub fn close_statement(buf: &mut BytesMut, name: &[u8]) {
    named(buf, tag::CLOSE, b'S', name);
}

/// Appends a Close of a portal.
pub fn close_portal(buf: &mut BytesMut, name: &[u8]) {
    named(buf, tag::CLOSE, b'P', name);
}

/// Appends a Sync.
pub fn sync(buf: &mut BytesMut) {
    framed(buf, tag::SYNC, |_| ());
}

/// Appends a Flush.
pub fn flush(buf: &mut BytesMut) {
    framed(buf, tag::FLUSH, |_| ());
}

/// Appends a Terminate.
pub fn terminate(buf: &mut BytesMut) {
    framed(buf, tag::TERMINATE, |_| ());
}

/// Appends a piece of COPY data.
pub fn copy_data(buf: &mut BytesMut, data: &[u8]) {
    buf.reserve(data.len() + 5);
    framed(buf, tag::COPY_DATA, |buf| buf.put_slice(data));
}

/// Appends the end of COPY data.
pub fn copy_done(buf: &mut BytesMut) {
    framed(buf, tag::COPY_DONE, |_| ());
}

/// Appends the end of a COPY that is given up.
pub fn copy_fail(buf: &mut BytesMut, reason: &[u8]) {
    framed(buf, tag::COPY_FAIL, |buf| put_cstr(buf, reason));
}

/// Appends a FunctionCall.
pub fn function_call(
    buf: &mut BytesMut,
    function: u32,
    arg_formats: &[i16],
    args: &[Option<&[u8]>],
    result_format: i16,
) {
    framed(buf, tag::FUNCTION_CALL, |buf| {
        buf.put_u32(function);
        put_formats(buf, arg_formats);
        put_count(buf, args.len());
        for value in args {
            put_value(buf, *value);
        }
        buf.put_i16(result_format);
    });
}

/// Appends a password, in clear text or as md5.
pub fn password(buf: &mut BytesMut, password: &[u8]) {
    framed(buf, tag::AUTHENTICATION, |buf| put_cstr(buf, password));
}

/// Appends the first message of a SASL exchange.
pub fn sasl_initial(buf: &mut BytesMut, mechanism: &[u8], data: Option<&[u8]>) {
    framed(buf, tag::AUTHENTICATION, |buf| {
        put_cstr(buf, mechanism);
        put_value(buf, data);
    });
}

/// Appends a further message of a SASL exchange.
pub fn sasl_response(buf: &mut BytesMut, data: &[u8]) {
    framed(buf, tag::AUTHENTICATION, |buf| buf.put_slice(data));
}
