//! Encoders: each appends one whole frame to the buffer and allocates nothing beyond it.

use bytes::{BufMut, BytesMut};

use super::{Field, tag};
use crate::startup::ProtocolVersion;
use crate::wire::{framed, put_count, put_cstr, put_formats, put_value};

fn authentication(buf: &mut BytesMut, kind: i32, data: &[u8]) {
    framed(buf, tag::AUTHENTICATION, |buf| {
        buf.put_i32(kind);
        buf.put_slice(data);
    });
}

/// Appends AuthenticationOk.
pub fn authentication_ok(buf: &mut BytesMut) {
    authentication(buf, 0, b"");
}

/// Appends a request for the password in clear text.
pub fn authentication_cleartext(buf: &mut BytesMut) {
    authentication(buf, 3, b"");
}

/// Appends a request for the password hashed with this salt.
pub fn authentication_md5(buf: &mut BytesMut, salt: [u8; 4]) {
    authentication(buf, 5, &salt);
}

/// Appends the list of SASL mechanisms.
pub fn authentication_sasl(buf: &mut BytesMut, mechanisms: &[&[u8]]) {
    framed(buf, tag::AUTHENTICATION, |buf| {
        buf.put_i32(10);
        for mechanism in mechanisms {
            put_cstr(buf, mechanism);
        }
        buf.put_u8(0);
    });
}

/// Appends further SASL data.
pub fn authentication_sasl_continue(buf: &mut BytesMut, data: &[u8]) {
    authentication(buf, 11, data);
}

/// Appends the last SASL data.
pub fn authentication_sasl_final(buf: &mut BytesMut, data: &[u8]) {
    authentication(buf, 12, data);
}

/// Appends a ParameterStatus.
pub fn parameter_status(buf: &mut BytesMut, name: &[u8], value: &[u8]) {
    framed(buf, tag::PARAMETER_STATUS, |buf| {
        put_cstr(buf, name);
        put_cstr(buf, value);
    });
}

/// Appends a BackendKeyData; the key has 4 bytes, up to 256 for a client of protocol 3.2.
pub fn backend_key_data(buf: &mut BytesMut, process_id: i32, key: &[u8]) {
    framed(buf, tag::BACKEND_KEY_DATA, |buf| {
        buf.put_i32(process_id);
        buf.put_slice(key);
    });
}

/// Appends a NegotiateProtocolVersion: the newest version we speak and the options we do not know.
pub fn negotiate_protocol_version(buf: &mut BytesMut, newest: ProtocolVersion, unrecognized: &[&[u8]]) {
    framed(buf, tag::NEGOTIATE_PROTOCOL_VERSION, |buf| {
        buf.put_u32(newest.to_u32());
        buf.put_u32(u32::try_from(unrecognized.len()).unwrap_or(u32::MAX));
        for name in unrecognized {
            put_cstr(buf, name);
        }
    });
}

/// Appends a ReadyForQuery: `I`, `T` or `E`.
pub fn ready_for_query(buf: &mut BytesMut, status: u8) {
    framed(buf, tag::READY_FOR_QUERY, |buf| buf.put_u8(status));
}

/// Appends a CommandComplete.
pub fn command_complete(buf: &mut BytesMut, command: &[u8]) {
    framed(buf, tag::COMMAND_COMPLETE, |buf| put_cstr(buf, command));
}

/// Appends a RowDescription.
pub fn row_description(buf: &mut BytesMut, fields: &[Field<'_>]) {
    framed(buf, tag::ROW_DESCRIPTION, |buf| {
        put_count(buf, fields.len());
        for field in fields {
            put_cstr(buf, field.name);
            buf.put_u32(field.table_oid);
            buf.put_i16(field.column);
            buf.put_u32(field.type_oid);
            buf.put_i16(field.type_size);
            buf.put_i32(field.type_modifier);
            buf.put_i16(field.format);
        }
    });
}

/// Appends a DataRow.
pub fn data_row(buf: &mut BytesMut, values: &[Option<&[u8]>]) {
    framed(buf, tag::DATA_ROW, |buf| {
        put_count(buf, values.len());
        for value in values {
            put_value(buf, *value);
        }
    });
}

/// Appends an EmptyQueryResponse.
pub fn empty_query(buf: &mut BytesMut) {
    framed(buf, tag::EMPTY_QUERY_RESPONSE, |_| ());
}

/// Appends a ParseComplete.
pub fn parse_complete(buf: &mut BytesMut) {
    framed(buf, tag::PARSE_COMPLETE, |_| ());
}

/// Appends a BindComplete.
pub fn bind_complete(buf: &mut BytesMut) {
    framed(buf, tag::BIND_COMPLETE, |_| ());
}

/// Appends a CloseComplete.
pub fn close_complete(buf: &mut BytesMut) {
    framed(buf, tag::CLOSE_COMPLETE, |_| ());
}

/// Appends a NoData.
pub fn no_data(buf: &mut BytesMut) {
    framed(buf, tag::NO_DATA, |_| ());
}

/// Appends a PortalSuspended.
pub fn portal_suspended(buf: &mut BytesMut) {
    framed(buf, tag::PORTAL_SUSPENDED, |_| ());
}

/// Appends a ParameterDescription.
pub fn parameter_description(buf: &mut BytesMut, types: &[u32]) {
    framed(buf, tag::PARAMETER_DESCRIPTION, |buf| {
        put_count(buf, types.len());
        for oid in types {
            buf.put_u32(*oid);
        }
    });
}

fn copy_response(buf: &mut BytesMut, tag: u8, format: i8, columns: &[i16]) {
    framed(buf, tag, |buf| {
        buf.put_i8(format);
        put_formats(buf, columns);
    });
}

/// Appends a CopyInResponse.
pub fn copy_in_response(buf: &mut BytesMut, format: i8, columns: &[i16]) {
    copy_response(buf, tag::COPY_IN_RESPONSE, format, columns);
}

/// Appends a CopyOutResponse.
pub fn copy_out_response(buf: &mut BytesMut, format: i8, columns: &[i16]) {
    copy_response(buf, tag::COPY_OUT_RESPONSE, format, columns);
}

/// Appends a CopyBothResponse.
pub fn copy_both_response(buf: &mut BytesMut, format: i8, columns: &[i16]) {
    copy_response(buf, tag::COPY_BOTH_RESPONSE, format, columns);
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

/// Appends the result of a FunctionCall.
pub fn function_call_response(buf: &mut BytesMut, value: Option<&[u8]>) {
    framed(buf, tag::FUNCTION_CALL_RESPONSE, |buf| put_value(buf, value));
}

/// Appends a NotificationResponse.
pub fn notification(buf: &mut BytesMut, process_id: i32, channel: &[u8], payload: &[u8]) {
    framed(buf, tag::NOTIFICATION_RESPONSE, |buf| {
        buf.put_i32(process_id);
        put_cstr(buf, channel);
        put_cstr(buf, payload);
    });
}
