//! Cancel requests.

use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};

use super::open::{Encryption, attempts, open};
use super::{ConnectError, Target};
use crate::startup;
use crate::tls::ClientTls;

/// Asks the server to cancel what the connection with this process id and key is running, and waits until the server has closed: only
/// then has it sent the signal, and what is sent on that connection later cannot be hit by it any more.
///
/// The server never says whether the key was right or anything was running. Uses TLS as a login would, so that nobody reads the key.
///
/// # Errors
/// [`ConnectError`]; after [`ConnectError::Timeout`] the request may or may not take effect at any time.
pub async fn cancel(
    target: &Target,
    tls: &ClientTls,
    process_id: i32,
    key: &[u8],
    timeout: Duration,
) -> Result<(), ConnectError> {
    let deadline = Instant::now() + timeout;
    let work = async {
        let encryption = attempts(target, tls.mode())
            .first()
            .copied()
            .unwrap_or(Encryption::Plain);
        let mut stream = open(target, tls, encryption, None, deadline).await?;
        let mut request = BytesMut::new();
        startup::cancel_request(&mut request, process_id, key);
        stream.write_all(&request).await.map_err(ConnectError::Io)?;
        stream.flush().await.map_err(ConnectError::Io)?;
        // The server answers nothing; how it closes (a reset, no close_notify) does not matter.
        let mut nothing = [0; 64];
        while matches!(stream.read(&mut nothing).await, Ok(n) if n > 0) {}
        Ok(())
    };
    timeout_at(deadline, work)
        .await
        .unwrap_or(Err(ConnectError::Timeout(timeout)))
}
