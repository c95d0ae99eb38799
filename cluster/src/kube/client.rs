//! How the API is reached, and what its answers mean.

use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use crate::SourceError;

/// No call to the API takes longer; a stalled one must not hold up an actor.
const CALL: Duration = Duration::from_secs(5);
/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(3);

/// A client: of the pod's ServiceAccount, or as `KUBECONFIG` and `~/.kube/config` say. `context` chooses one of those.
///
/// # Errors
/// [`SourceError::Unavailable`] says what is missing. Nothing is sent yet.
pub async fn client(context: Option<&str>) -> Result<Client, SourceError> {
    let unavailable = |error: &dyn std::fmt::Display| SourceError::Unavailable(error.to_string());
    let mut config = match context {
        None => Config::infer().await.map_err(|error| unavailable(&error))?,
        Some(context) => {
            let file = Kubeconfig::read().map_err(|error| unavailable(&error))?;
            let options = KubeConfigOptions {
                context: Some(context.to_owned()),
                ..KubeConfigOptions::default()
            };
            Config::from_custom_kubeconfig(file, &options)
                .await
                .map_err(|error| unavailable(&error))?
        }
    };
    config.connect_timeout = Some(CONNECT);
    Client::try_from(config).map_err(|error| unavailable(&error))
}

/// Why a call brought nothing.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// No answer. A write may have been carried out.
    #[error("the API did not answer within {CALL:?}")]
    Timeout,
    /// An answer, or no connection.
    #[error("{}", text(.0))]
    Api(#[from] kube::Error),
}

impl CallError {
    /// The status code of the answer; `None`: there was none.
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Api(kube::Error::Api(status)) => Some(status.code),
            _ => None,
        }
    }

    /// Somebody else wrote first, or made it first.
    pub fn is_conflict(&self) -> bool {
        self.code() == Some(409)
    }

    /// There is no such object.
    pub fn is_missing(&self) -> bool {
        self.code() == Some(404)
    }
}

impl From<CallError> for SourceError {
    fn from(error: CallError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

/// An error of the API in one line.
pub fn text(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if status.message.is_empty() => {
            format!("{} ({})", status.reason, status.code)
        }
        kube::Error::Api(status) => status.message.clone(),
        other => {
            let mut text = other.to_string();
            let mut cause = std::error::Error::source(other);
            while let Some(next) = cause {
                text = next.to_string();
                cause = next.source();
            }
            text
        }
    }
}

/// Waits for an answer, but not for ever.
///
/// # Errors
/// [`CallError`].
pub async fn call<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, CallError> {
    match tokio::time::timeout(CALL, request).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(CallError::Timeout),
    }
}
