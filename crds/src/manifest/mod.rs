//! A file: documents of kind PgPool and Secret, in any order, several pools if need be.
//!
//! Begin with [`parse_manifest`]. Documents of other kinds are left alone with a warning, so that the file that is
//! applied to a cluster can be used as it is; but what looks like a misspelt one of ours is a fault.

mod secrets;
mod strict;
mod tree;

use crate::{API_VERSION, Fault, GROUP, Identity, KIND, Place, PoolConfig};
use tree::{Node, Yaml};

pub use secrets::SecretDocument;

/// A valid file.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    /// The pools in the order written; at least one.
    pub pools: Vec<Pool>,
    /// The Secrets in the order written, and those that came from elsewhere.
    pub secrets: Vec<SecretDocument>,
    /// What is allowed but probably not meant.
    pub warnings: Vec<Fault>,
}

/// A pool of a file.
pub type Pool = PoolConfig;

impl Manifest {
    /// The pool of this name; without a name the only one.
    ///
    /// # Errors
    /// A fault that names the pools there are.
    pub fn pool(&self, name: Option<&str>) -> Result<&Pool, Fault> {
        let names = || {
            self.pools
                .iter()
                .map(|pool| pool.name.as_str())
                .collect::<Vec<_>>()
                .join(", ")
        };
        match (name, self.pools.as_slice()) {
            (None, [pool]) => Ok(pool),
            (None, _) => Err(Fault::new(
                "",
                format!("holds several pools, say which with --pool: {}", names()),
            )),
            (Some(name), pools) => pools
                .iter()
                .find(|pool| pool.name == name)
                .ok_or_else(|| Fault::new("", format!("holds no pool {name:?}, only {}", names()))),
        }
    }

    /// The Secret of this name.
    pub fn secret(&self, name: &str) -> Option<&SecretDocument> {
        self.secrets.iter().find(|secret| secret.name == name)
    }
}

/// Reads a file: every document, all faults at once. `source` is its name, for the faults.
///
/// # Errors
/// Every fault, each with its line, its path (after the name of the pool where there are several) and what was
/// expected.
pub fn parse_manifest(text: &str, source: &str) -> Result<Manifest, Vec<Fault>> {
    parse_manifest_with(text, source, &[])
}

/// The names of the pools in a file, valid or not; none where it is no YAML.
pub fn pool_names(text: &str) -> Vec<String> {
    let documents = tree::read(text).unwrap_or_default();
    let ours = documents
        .iter()
        .filter(|node| node.get("kind").and_then(Node::text) == Some(KIND));
    ours.map(|node| identity(node, &mut Vec::new()).name).collect()
}

/// As [`parse_manifest`], with Secrets that stand elsewhere. Those in the file win.
///
/// # Errors
/// As [`parse_manifest`].
pub fn parse_manifest_with(
    text: &str,
    source: &str,
    elsewhere: &[SecretDocument],
) -> Result<Manifest, Vec<Fault>> {
    let documents = tree::read(text).map_err(|fault| vec![fault.in_file(source)])?;
    let mut reader = Reader::default();
    for document in &documents {
        reader.document(document);
    }
    reader.finish(source, elsewhere)
}

/// A document of kind PgPool: its name, where it stands, what was found in it.
struct PoolDocument<'a> {
    name: String,
    node: &'a Node,
    pool: Option<Pool>,
    faults: Vec<Fault>,
    warnings: Vec<Fault>,
}

#[derive(Default)]
struct Reader<'a> {
    pools: Vec<PoolDocument<'a>>,
    secrets: Vec<SecretDocument>,
    /// Faults of the file and of Secrets.
    faults: Vec<Fault>,
    warnings: Vec<Fault>,
}

impl<'a> Reader<'a> {
    fn fault(&mut self, node: &Node, path: &str, message: impl Into<String>) {
        self.faults.push(placed(node, Fault::new(path, message)));
    }

    fn document(&mut self, node: &'a Node) {
        if !matches!(node.value, Yaml::Map(_)) {
            return self.fault(
                node,
                "",
                "expected a document with apiVersion, kind, metadata and spec",
            );
        }
        let text = |key| node.get(key).and_then(Node::text).unwrap_or_default();
        match (text("apiVersion"), text("kind")) {
            (API_VERSION, KIND) => {
                let document = pool(node);
                if self.pools.iter().any(|other| other.name == document.name) {
                    let message = format!("there are two pools of the name {:?}", document.name);
                    self.fault(node, "metadata.name", message);
                }
                self.pools.push(document);
            }
            ("v1", "Secret") => {
                if let Some(secret) = secrets::read(node, &mut self.faults) {
                    if self.secrets.iter().any(|other| other.name == secret.name) {
                        let message = format!("there are two Secrets of the name {:?}", secret.name);
                        self.fault(node, "metadata.name", message);
                    }
                    self.secrets.push(secret);
                }
            }
            ("v1", "List") => {
                if let Some(Yaml::List(items)) = node.get("items").map(|items| &items.value) {
                    items.iter().for_each(|item| self.document(item));
                }
            }
            (version, kind) => self.other(node, version, kind),
        }
    }

    /// Neither a pool nor a Secret: perhaps misspelt, else not for us.
    fn other(&mut self, node: &Node, version: &str, kind: &str) {
        let group = version.split('/').next().unwrap_or_default();
        let like_ours = strict::distance(group, GROUP) <= 2;
        // KubeDB has a kind Pgpool of its own.
        let like_kind = strict::distance(kind, KIND) <= 1 && group != "kubedb.com";
        if kind == KIND && like_kind {
            self.fault(
                node,
                "apiVersion",
                format!("expected {API_VERSION}, is {version:?}"),
            );
        } else if like_ours || like_kind {
            self.fault(
                node,
                "kind",
                format!("expected {KIND} of {API_VERSION}, is {kind:?} of {version:?}"),
            );
        } else if version.is_empty() || kind.is_empty() {
            let key = if version.is_empty() { "apiVersion" } else { "kind" };
            let message = format!("is missing: expected {API_VERSION}, kind {KIND}, or v1, kind Secret");
            self.fault(node, key, message);
        } else if version == "v1" && strict::distance(kind, "Secret") <= 1 {
            self.fault(node, "kind", format!("expected Secret, is {kind:?}"));
        } else {
            let message = format!("a document of kind {kind} ({version}) is not for us and left alone");
            self.warnings.push(placed(node, Fault::new("", message)));
        }
    }

    fn finish(self, source: &str, elsewhere: &[SecretDocument]) -> Result<Manifest, Vec<Fault>> {
        let Self {
            pools: documents,
            mut secrets,
            mut faults,
            mut warnings,
        } = self;
        let others: Vec<_> = elsewhere
            .iter()
            .filter(|other| secrets.iter().all(|secret| secret.name != other.name))
            .cloned()
            .collect();
        secrets.extend(others);
        if documents.is_empty() {
            let message = format!("holds no document of kind {KIND} (apiVersion {API_VERSION})");
            faults.push(Fault::new("", message));
        }
        let several = documents.len() > 1;
        let mut pools = Vec::new();
        for document in documents {
            let PoolDocument {
                name,
                node,
                pool,
                faults: mut found,
                warnings: noticed,
            } = document;
            if let Some(pool) = pool {
                let missing = secrets::missing(&pool, &secrets).into_iter();
                found.extend(missing.map(|fault| placed(node, fault)));
                pools.push(pool);
            }
            let named = |fault: Fault| match several {
                true => Fault {
                    path: format!("{name} {}", fault.path),
                    ..fault
                },
                false => fault,
            };
            faults.extend(found.into_iter().map(named));
            warnings.extend(noticed.into_iter().map(named));
        }
        if faults.is_empty() {
            let warnings = warnings
                .into_iter()
                .map(|warning| warning.in_file(source))
                .collect();
            return Ok(Manifest {
                pools,
                secrets,
                warnings,
            });
        }
        faults.sort_by_key(|fault| fault.line.unwrap_or(0));
        faults.truncate(crate::fault::FAULTS_MAX);
        Err(faults.into_iter().map(|fault| fault.in_file(source)).collect())
    }
}

/// Reads a document of kind PgPool.
fn pool(node: &Node) -> PoolDocument<'_> {
    let mut faults = Vec::new();
    let mut warnings = Vec::new();
    fields(
        node,
        &["apiVersion", "kind", "metadata", "spec", "status"],
        &mut faults,
    );
    let identity = identity(node, &mut faults);
    let name = identity.name.clone();
    if node.get("status").is_some() {
        let message = "is not read: the status stands in a file of its own beside this one";
        warnings.push(placed(node, Fault::new("status", message)));
    }
    let Some(written) = node.get("spec") else {
        faults.push(placed(node, Fault::new("spec", "is missing")));
        return PoolDocument {
            name,
            node,
            pool: None,
            faults,
            warnings,
        };
    };
    let spec = strict::spec(written, &mut faults);
    let pool = match PoolConfig::from_spec(identity, spec, Place::File) {
        Ok(checked) => {
            warnings.extend(checked.warnings.into_iter().map(|warning| placed(node, warning)));
            Some(checked.config)
        }
        Err(found) => {
            // What was left out for its type must not be called missing as well.
            let said: Vec<String> = faults.iter().map(|fault| fault.path.clone()).collect();
            let new = found.into_iter().filter(|fault| !said.contains(&fault.path));
            faults.extend(new.map(|fault| placed(node, fault)));
            None
        }
    };
    PoolDocument {
        name,
        node,
        pool,
        faults,
        warnings,
    }
}

/// The same fault with its line.
fn placed(node: &Node, fault: Fault) -> Fault {
    Fault {
        line: fault.line.or_else(|| node.line_of(&fault.path)),
        ..fault
    }
}

/// The fields of a document that are not `known`, or repeated, are faults.
fn fields(node: &Node, known: &[&str], faults: &mut Vec<Fault>) {
    let Yaml::Map(entries) = &node.value else { return };
    for (index, (key, value)) in entries.iter().enumerate() {
        if entries[..index].iter().any(|(before, _)| before == key) {
            faults.push(placed(value, Fault::new(key, "is written twice")));
        } else if !known.contains(&key.as_str()) {
            faults.push(placed(value, Fault::new(key, strict::unknown(key, known))));
        }
    }
}

/// Name, namespace and generation. A missing name is left to the checks that follow.
fn identity(node: &Node, faults: &mut Vec<Fault>) -> Identity {
    let metadata = node.get("metadata");
    let mut text = |key: &str| match metadata.and_then(|metadata| metadata.get(key)) {
        None => String::new(),
        Some(value) => value.text().map(str::to_owned).unwrap_or_else(|| {
            let text = "expected text (a number needs quotes)";
            faults.push(placed(node, Fault::new(format!("metadata.{key}"), text)));
            String::new()
        }),
    };
    let (name, namespace) = (text("name"), text("namespace"));
    let generation = match metadata
        .and_then(|metadata| metadata.get("generation"))
        .map(|node| &node.value)
    {
        Some(Yaml::Number(number)) => number.as_i64().unwrap_or_default(),
        _ => 0,
    };
    Identity {
        name,
        namespace,
        generation,
    }
}

#[cfg(test)]
mod tests;
