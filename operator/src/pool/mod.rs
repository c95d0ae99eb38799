//! One pool: the actor that probes its servers, asks the core, writes the record and does the acts.

mod actor;
mod conditions;
mod publish;
mod record;
mod settings;
mod shares;
mod tasks;

pub use actor::{Actor, Options, ProxyPods};
pub use publish::lag_bytes;
pub use record::{Newer, read, write};
pub use settings::plain_settings;
