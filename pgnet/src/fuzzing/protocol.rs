//! Targets for what is on the wire.

use bytes::BytesMut;

use crate::backend::{self, Authentication};
use crate::client::{Array, ByteArray, FromValue, Lsn, Range};
use crate::fields::ErrorFields;
use crate::frame::{self, HEADER};
use crate::frontend::{self, SaslInitial};
use crate::startup::{self, Startup};

/// Takes frames until the bytes end or make no sense: never out of bounds, never without progress.
pub(super) fn frame(data: &[u8]) {
    let limit = 4_096;
    let mut rest = data;
    while let Ok(Some((frame, after))) = frame::split(rest, limit) {
        assert!(after.len() + HEADER + frame.body.len() == rest.len());
        assert!(frame.body.len() + 4 <= limit as usize);
        rest = after;
    }
    if let Ok(Some(len)) = frame::peek_startup(data) {
        assert!((8..=frame::STARTUP_MAX + 4).contains(&len));
    }
}

/// What is decoded and written again is the same; nothing is larger than the packet.
pub(super) fn startup(data: &[u8]) {
    let Ok(decoded) = startup::decode(data) else {
        return;
    };
    let mut again = BytesMut::new();
    match &decoded {
        Startup::Startup { version, parameters } => {
            assert!(
                parameters
                    .iter()
                    .map(|(n, v)| n.len() + v.len() + 2)
                    .sum::<usize>()
                    <= data.len()
            );
            if version.major != 3 {
                return;
            }
            startup::startup(&mut again, *version, parameters.iter().map(|(n, v)| (n, v)));
        }
        Startup::Ssl => startup::ssl_request(&mut again),
        Startup::GssEnc => startup::gssenc_request(&mut again),
        Startup::Cancel { process_id, key } => startup::cancel_request(&mut again, *process_id, key),
    }
    assert_eq!(again, data);
}

/// The first byte is the type.
pub(super) fn frontend(data: &[u8]) {
    use frontend::{Message, Target};
    let Some((tag, body)) = data.split_first() else {
        return;
    };
    let Ok(message) = frontend::decode(*tag, body) else {
        return;
    };
    let mut again = BytesMut::new();
    let buf = &mut again;
    match message {
        Message::Query(sql) => frontend::query(buf, sql),
        Message::Parse { name, sql, types } => {
            frontend::parse(buf, name, sql, &types.iter().collect::<Vec<_>>());
        }
        Message::Bind {
            portal,
            statement,
            param_formats,
            params,
            result_formats,
        } => {
            let (formats, results): (Vec<_>, Vec<_>) =
                (param_formats.iter().collect(), result_formats.iter().collect());
            frontend::bind(
                buf,
                portal,
                statement,
                &formats,
                &params.iter().collect::<Vec<_>>(),
                &results,
            );
        }
        Message::Describe {
            target: Target::Statement,
            name,
        } => frontend::describe_statement(buf, name),
        Message::Describe {
            target: Target::Portal,
            name,
        } => frontend::describe_portal(buf, name),
        Message::Execute { portal, max_rows } => frontend::execute(buf, portal, max_rows),
        Message::Close {
            target: Target::Statement,
            name,
        } => frontend::close_statement(buf, name),
        Message::Close {
            target: Target::Portal,
            name,
        } => frontend::close_portal(buf, name),
        Message::Sync => frontend::sync(buf),
        Message::Flush => frontend::flush(buf),
        Message::Terminate => frontend::terminate(buf),
        Message::CopyData(data) => frontend::copy_data(buf, data),
        Message::CopyDone => frontend::copy_done(buf),
        Message::CopyFail(reason) => frontend::copy_fail(buf, reason),
        Message::FunctionCall {
            function,
            arg_formats,
            args,
            result_format,
        } => {
            let formats: Vec<_> = arg_formats.iter().collect();
            frontend::function_call(
                buf,
                function,
                &formats,
                &args.iter().collect::<Vec<_>>(),
                result_format,
            );
        }
        Message::Authentication(body) => {
            // The same bytes may be any of the three; none may panic.
            let _ = (frontend::password_of(&body), SaslInitial::decode(&body));
            frontend::sasl_response(buf, &body);
        }
    }
    same(&again, *tag, body);
}

/// The first byte is the type.
pub(super) fn backend(data: &[u8]) {
    use backend::Message;
    let Some((tag, body)) = data.split_first() else {
        return;
    };
    let Ok(message) = backend::decode(*tag, body) else {
        return;
    };
    let mut again = BytesMut::new();
    let buf = &mut again;
    match message {
        Message::Authentication(request) => return authentication(request, *tag, body),
        Message::BackendKeyData { process_id, key } => backend::backend_key_data(buf, process_id, &key),
        Message::BindComplete => backend::bind_complete(buf),
        Message::CloseComplete => backend::close_complete(buf),
        Message::CommandComplete(command) => backend::command_complete(buf, command),
        Message::CopyData(data) => backend::copy_data(buf, data),
        Message::CopyDone => backend::copy_done(buf),
        Message::CopyInResponse(copy) => {
            backend::copy_in_response(buf, copy.format, &copy.columns.iter().collect::<Vec<_>>());
        }
        Message::CopyOutResponse(copy) => {
            backend::copy_out_response(buf, copy.format, &copy.columns.iter().collect::<Vec<_>>());
        }
        Message::CopyBothResponse(copy) => {
            backend::copy_both_response(buf, copy.format, &copy.columns.iter().collect::<Vec<_>>());
        }
        Message::DataRow(values) => {
            let all: Vec<_> = values.iter().collect();
            assert_eq!(all.len(), values.len());
            backend::data_row(buf, &all);
        }
        Message::EmptyQueryResponse => backend::empty_query(buf),
        Message::ErrorResponse(view) | Message::NoticeResponse(view) => {
            let _ = (view.code(), view.severity(), view.to_owned());
            return;
        }
        Message::FunctionCallResponse(value) => backend::function_call_response(buf, value),
        Message::NegotiateProtocolVersion {
            version,
            unrecognized,
        } => {
            backend::negotiate_protocol_version(buf, version, &unrecognized.iter().collect::<Vec<_>>());
            // A bare minor version comes back as a whole one.
            return;
        }
        Message::NoData => backend::no_data(buf),
        Message::NotificationResponse {
            process_id,
            channel,
            payload,
        } => {
            backend::notification(buf, process_id, channel, payload);
        }
        Message::ParameterDescription(types) => {
            backend::parameter_description(buf, &types.iter().collect::<Vec<_>>())
        }
        Message::ParameterStatus { name, value } => backend::parameter_status(buf, name, value),
        Message::ParseComplete => backend::parse_complete(buf),
        Message::PortalSuspended => backend::portal_suspended(buf),
        Message::ReadyForQuery(status) => backend::ready_for_query(buf, status.as_byte()),
        Message::RowDescription(row) => {
            let all: Vec<_> = row.iter().collect();
            assert_eq!(all.len(), row.len());
            backend::row_description(buf, &all);
        }
    }
    same(&again, *tag, body);
}

fn authentication(request: Authentication<'_>, tag: u8, body: &[u8]) {
    let mut again = BytesMut::new();
    let buf = &mut again;
    match request {
        Authentication::Ok => backend::authentication_ok(buf),
        Authentication::Cleartext => backend::authentication_cleartext(buf),
        Authentication::Md5 { salt } => backend::authentication_md5(buf, salt),
        Authentication::Sasl(mechanisms) => {
            backend::authentication_sasl(buf, &mechanisms.iter().collect::<Vec<_>>())
        }
        Authentication::SaslContinue(data) => backend::authentication_sasl_continue(buf, data),
        Authentication::SaslFinal(data) => backend::authentication_sasl_final(buf, data),
        _ => return,
    }
    same(&again, tag, body);
}

fn same(again: &[u8], tag: u8, body: &[u8]) {
    assert!(
        again.first() == Some(&tag) && again.get(HEADER..) == Some(body),
        "not what was decoded"
    );
}

/// Owned fields survive being written and read.
pub(super) fn fields(data: &[u8]) {
    let Ok(fields) = ErrorFields::decode(data) else {
        return;
    };
    let mut again = BytesMut::new();
    fields.encode_error(&mut again);
    assert_eq!(again.get(HEADER..).map(ErrorFields::decode), Some(Ok(fields)));
}

/// Values in text and in binary.
pub(super) fn values(data: &[u8]) {
    let _ = (
        Array::<i32>::from_binary(data),
        Range::<i64>::from_binary(data),
        Lsn::from_binary(data),
    );
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let _ = (
        Range::<String>::from_text(text),
        Lsn::from_text(text),
        ByteArray::from_text(text),
    );
    if let Ok(Array(elements)) = Array::<String>::from_text(text) {
        assert!(elements.len() <= data.len());
    }
    let literal = crate::quote::literal(text);
    assert!(literal.len() >= text.len() + 2 && crate::quote::identifier(text).ends_with('"'));
}
