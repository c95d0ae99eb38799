//! Frontend messages as bytes.

/// One message: tag, length, body.
pub fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    out.extend(length(body.len() + 4));
    out.extend_from_slice(body);
    out
}

fn length(bytes: usize) -> [u8; 4] {
    u32::try_from(bytes).expect("a message below 4 GiB").to_be_bytes()
}

fn count(of: usize) -> [u8; 2] {
    u16::try_from(of).expect("at most 65535").to_be_bytes()
}

fn text(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(bytes);
    out.push(0);
}

/// StartupMessage of a protocol version (`0x0003_0000` is 3.0).
pub fn startup(version: u32, parameters: &[(&str, &str)]) -> Vec<u8> {
    let mut body = version.to_be_bytes().to_vec();
    for (name, value) in parameters {
        text(&mut body, name.as_bytes());
        text(&mut body, value.as_bytes());
    }
    body.push(0);
    let mut out = length(body.len() + 4).to_vec();
    out.extend(body);
    out
}

/// CancelRequest.
pub fn cancel(process_id: i32, key: &[u8]) -> Vec<u8> {
    let mut out = length(12 + key.len()).to_vec();
    out.extend(80_877_102_u32.to_be_bytes());
    out.extend(process_id.to_be_bytes());
    out.extend_from_slice(key);
    out
}

/// SSLRequest.
pub fn ssl_request() -> Vec<u8> {
    let mut out = length(8).to_vec();
    out.extend(80_877_103_u32.to_be_bytes());
    out
}

/// GSSENCRequest.
pub fn gss_request() -> Vec<u8> {
    let mut out = length(8).to_vec();
    out.extend(80_877_104_u32.to_be_bytes());
    out
}

/// Query.
pub fn query(sql: &[u8]) -> Vec<u8> {
    let mut body = Vec::with_capacity(sql.len() + 1);
    text(&mut body, sql);
    frame(b'Q', &body)
}

/// Parse.
pub fn parse(name: &[u8], sql: &[u8], types: &[u32]) -> Vec<u8> {
    let mut body = Vec::new();
    text(&mut body, name);
    text(&mut body, sql);
    body.extend(count(types.len()));
    types.iter().for_each(|t| body.extend(t.to_be_bytes()));
    frame(b'P', &body)
}

/// Bind; formats as the protocol has them (none: all text; one: for all).
pub fn bind(
    portal: &[u8],
    name: &[u8],
    formats: &[i16],
    values: &[Option<Vec<u8>>],
    results: &[i16],
) -> Vec<u8> {
    let mut body = Vec::new();
    text(&mut body, portal);
    text(&mut body, name);
    body.extend(count(formats.len()));
    formats.iter().for_each(|f| body.extend(f.to_be_bytes()));
    arguments(&mut body, values);
    body.extend(count(results.len()));
    results.iter().for_each(|f| body.extend(f.to_be_bytes()));
    frame(b'B', &body)
}

fn arguments(body: &mut Vec<u8>, values: &[Option<Vec<u8>>]) {
    body.extend(count(values.len()));
    for value in values {
        match value {
            None => body.extend((-1_i32).to_be_bytes()),
            Some(bytes) => {
                body.extend(length(bytes.len()));
                body.extend_from_slice(bytes);
            }
        }
    }
}

/// Describe (`what` is `S` or `P`).
pub fn describe(what: u8, name: &[u8]) -> Vec<u8> {
    named(b'D', what, name)
}

/// Close (`what` is `S` or `P`).
pub fn close(what: u8, name: &[u8]) -> Vec<u8> {
    named(b'C', what, name)
}

fn named(tag: u8, what: u8, name: &[u8]) -> Vec<u8> {
    let mut body = vec![what];
    text(&mut body, name);
    frame(tag, &body)
}

/// Execute; 0 rows means all.
pub fn execute(portal: &[u8], rows: u32) -> Vec<u8> {
    let mut body = Vec::new();
    text(&mut body, portal);
    body.extend(rows.to_be_bytes());
    frame(b'E', &body)
}

/// Sync.
pub fn sync() -> Vec<u8> {
    frame(b'S', &[])
}

/// FunctionCall with text arguments and a text result.
pub fn function_call(function: u32, values: &[Option<Vec<u8>>]) -> Vec<u8> {
    let mut body = function.to_be_bytes().to_vec();
    body.extend(count(0));
    arguments(&mut body, values);
    body.extend(count(0));
    frame(b'F', &body)
}

/// CopyFail.
pub fn copy_fail(reason: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    text(&mut body, reason);
    frame(b'f', &body)
}

/// PasswordMessage.
pub fn password(secret: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    text(&mut body, secret);
    frame(b'p', &body)
}

/// SASLInitialResponse.
pub fn sasl_initial(mechanism: &[u8], data: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    text(&mut body, mechanism);
    body.extend(length(data.len()));
    body.extend_from_slice(data);
    frame(b'p', &body)
}
