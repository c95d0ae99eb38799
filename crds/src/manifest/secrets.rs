//! Secrets of a file, and whether those a pool refers to are there.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::tree::{Node, Yaml};
use super::{fields, identity, placed};
use crate::{Fault, PoolConfig, SecretRef};

/// A Secret as written. `Debug` shows its keys, never a value.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretDocument {
    /// `metadata.name`.
    pub name: String,
    /// `type`; empty: Opaque.
    pub kind: String,
    /// Its values, those of `data` decoded.
    pub values: BTreeMap<String, String>,
}

impl fmt::Debug for SecretDocument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<_> = self.values.keys().collect();
        f.debug_struct("SecretDocument")
            .field("name", &self.name)
            .field("keys", &keys)
            .finish_non_exhaustive()
    }
}

/// The fields of a Secret.
const FIELDS: [&str; 7] = [
    "apiVersion",
    "kind",
    "metadata",
    "type",
    "data",
    "stringData",
    "immutable",
];

/// Reads a document of kind Secret. No fault shows a value.
pub(super) fn read(node: &Node, faults: &mut Vec<Fault>) -> Option<SecretDocument> {
    fields(node, &FIELDS, faults);
    let name = identity(node, faults).name;
    if name.is_empty() {
        faults.push(placed(node, Fault::new("metadata.name", "is missing")));
    }
    let kind = node
        .get("type")
        .and_then(Node::text)
        .unwrap_or_default()
        .to_owned();
    let mut values = BTreeMap::new();
    // As in the API, stringData wins over data.
    for (section, encoded) in [("data", true), ("stringData", false)] {
        for (key, value) in entries(node, section, faults) {
            let read = match &value.value {
                Yaml::Text(text) if encoded => decoded(text),
                Yaml::Text(text) => Ok(text.clone()),
                _ => Err("expected text (a number, true or false needs quotes)"),
            };
            match read {
                Ok(text) => _ = values.insert(key.clone(), text),
                Err(message) => {
                    faults.push(placed(value, Fault::new(format!("{section}.{key}"), message)));
                }
            }
        }
    }
    (!name.is_empty()).then_some(SecretDocument { name, kind, values })
}

/// Keys and values of a section, where it is there.
fn entries<'a>(node: &'a Node, section: &str, faults: &mut Vec<Fault>) -> &'a [(String, Node)] {
    match node.get(section).map(|node| (node, &node.value)) {
        None | Some((_, Yaml::Null)) => &[],
        Some((_, Yaml::Map(entries))) => entries,
        Some((node, _)) => {
            faults.push(placed(
                node,
                Fault::new(section, "expected a mapping from keys to text"),
            ));
            &[]
        }
    }
}

fn decoded(text: &str) -> Result<String, &'static str> {
    let text: String = text.split_whitespace().collect();
    let bytes = STANDARD
        .decode(text)
        .map_err(|_| "expected base64 (plain text goes under stringData)")?;
    String::from_utf8(bytes).map_err(|_| "does not decode to text in UTF-8")
}

/// The Secrets and keys that a pool refers to and that are not there.
pub(super) fn missing(pool: &PoolConfig, secrets: &[SecretDocument]) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut need = |path: String, name: &str, keys: &[&str], or: Option<&str>| {
        let Some(secret) = secrets.iter().find(|secret| secret.name == name) else {
            let text = format!("there is no Secret {name:?} in this file, nor a folder of that name for it");
            return faults.push(Fault::new(format!("{path}.name"), text));
        };
        if or.is_some_and(|key| secret.values.contains_key(key)) {
            return;
        }
        for key in keys.iter().filter(|key| !secret.values.contains_key(**key)) {
            faults.push(Fault::new(
                path.clone(),
                format!("Secret {name:?} has no key {key:?}"),
            ));
        }
    };
    let mut login = |path: &str, secret: &Option<SecretRef>| {
        if let Some(secret) = secret {
            need(
                path.to_owned(),
                &secret.name,
                &[&secret.username_key],
                Some("uri"),
            );
        }
    };
    login("spec.adminSecretRef", &pool.admin_secret);
    login("spec.proxyAdminSecretRef", &pool.proxy_admin_secret);
    login("spec.replicationSecretRef", &pool.replication_secret);
    for (index, secret) in pool.auth.user_secrets.iter().enumerate() {
        need(
            format!("spec.auth.userSecretRefs[{index}]"),
            &secret.name,
            &[],
            None,
        );
    }
    if let Some(ca) = &pool.server_tls.ca_secret {
        need(
            "spec.serverTls.caSecretRef".to_owned(),
            &ca.name,
            &[&ca.key],
            None,
        );
    }
    if let Some(ca) = &pool.tls.client_ca_secret {
        need(
            "spec.tls.clientCaSecretRef".to_owned(),
            &ca.name,
            &[&ca.key],
            None,
        );
    }
    if let Some(pair) = &pool.server_tls.client_cert_secret {
        let keys = [pair.cert_key.as_str(), pair.private_key.as_str()];
        need(
            "spec.serverTls.clientCertSecretRef".to_owned(),
            &pair.name,
            &keys,
            None,
        );
    }
    if let Some(pair) = &pool.tls.cert_secret {
        let keys = [pair.cert_key.as_str(), pair.private_key.as_str()];
        need("spec.tls.certSecretRef".to_owned(), &pair.name, &keys, None);
    }
    faults
}
