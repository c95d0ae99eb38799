//! Builds a PgPool manifest as YAML.

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use crate::cluster::Cluster;
use crate::server::Server;
use crate::world::World;

/// A manifest under construction: one `PgPool` and its Secrets.
///
/// ```no_run
/// # use pgstmtpool_tests::{Cluster, Manifest, World};
/// # let world = std::sync::Arc::new(World::new("doc"));
/// # let cluster = Cluster::single(&world);
/// let path = Manifest::of(&cluster).set("poolMode", "statement").set("workers.max", "5").write();
/// ```
#[derive(Clone, Debug)]
pub struct Manifest {
    folder: PathBuf,
    name: String,
    spec: Node,
    secrets: Vec<(String, Vec<(String, String)>)>,
    extra: String,
}

#[derive(Clone, Debug)]
enum Node {
    Map(Vec<(String, Node)>),
    Flow(String),
}

impl Manifest {
    /// The first server as master, the others as replicas, by TCP; everybody may log in without a password
    /// (`hba: host all all all trust`), the admin is `postgres`.
    pub fn of(cluster: &Cluster) -> Self {
        Self::of_servers(cluster.world(), cluster.servers())
    }

    /// [`Manifest::of`] a choice of servers.
    pub fn of_servers(world: &World, servers: &[Server]) -> Self {
        let mut manifest = Self {
            folder: world.path().to_owned(),
            name: "pool".to_owned(),
            spec: Node::Map(Vec::new()),
            secrets: Vec::new(),
            extra: String::new(),
        };
        let line = |s: &Server| format!("{{name: {}, host: 127.0.0.1, port: {}}}", s.name, s.port);
        let replicas: Vec<String> = servers[1..].iter().map(line).collect();
        manifest = manifest
            .set("master", &line(&servers[0]))
            .set("replicas", &format!("[{}]", replicas.join(", ")));
        manifest = manifest.set("adminSecretRef", "{name: admin}");
        manifest = manifest.set(
            "auth.hba",
            "[\"local all all trust\", \"host all all all trust\"]",
        );
        manifest.secret("admin", &[("username", "postgres"), ("password", "postgres")])
    }

    /// Names the pool and the file (`<name>.yaml`).
    pub fn named(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// Sets a field of the spec by its dotted path; `value` is YAML in flow form.
    pub fn set(mut self, path: &str, value: &str) -> Self {
        let mut node = &mut self.spec;
        for part in path.split('.') {
            if let Node::Flow(_) = node {
                *node = Node::Map(Vec::new());
            }
            let Node::Map(fields) = node else {
                unreachable!("made a map above")
            };
            let at = fields
                .iter()
                .position(|(name, _)| name == part)
                .unwrap_or_else(|| {
                    fields.push((part.to_owned(), Node::Map(Vec::new())));
                    fields.len() - 1
                });
            node = &mut fields[at].1;
        }
        *node = Node::Flow(value.to_owned());
        self
    }

    /// Removes a top-level field of the spec.
    pub fn without(mut self, field: &str) -> Self {
        if let Node::Map(fields) = &mut self.spec {
            fields.retain(|(name, _)| name != field);
        }
        self
    }

    /// Connects to the servers by their Unix sockets.
    pub fn by_unix_socket(self, cluster: &Cluster) -> Self {
        let line = |s: &Server| {
            format!(
                "{{name: {}, host: {}, port: {}}}",
                s.name,
                s.sockets.display(),
                s.port
            )
        };
        let replicas: Vec<String> = cluster.servers()[1..].iter().map(line).collect();
        self.set("master", &line(cluster.master()))
            .set("replicas", &format!("[{}]", replicas.join(", ")))
    }

    /// Adds or replaces a Secret.
    pub fn secret(mut self, name: &str, entries: &[(&str, &str)]) -> Self {
        self.secrets.retain(|(old, _)| old != name);
        let entries = entries
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        self.secrets.push((name.to_owned(), entries));
        self
    }

    /// Replaces the login rules.
    pub fn hba(self, lines: &[&str]) -> Self {
        let quoted: Vec<String> = lines.iter().map(|line| format!("{line:?}")).collect();
        self.set("auth.hba", &format!("[{}]", quoted.join(", ")))
    }

    /// Logins from a Secret `users`: user and password, verifier or hash.
    pub fn users(self, users: &[(&str, &str)]) -> Self {
        self.secret("users", users)
            .set("auth.userSecretRefs", "[{name: users}]")
    }

    /// Appends a document or text as it is.
    pub fn append(mut self, text: &str) -> Self {
        self.extra += text;
        self
    }

    /// The YAML text.
    pub fn text(&self) -> String {
        let mut out = String::new();
        for (name, entries) in &self.secrets {
            let _ = write!(
                out,
                "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}}}\nstringData:\n"
            );
            for (key, value) in entries {
                let _ = writeln!(out, "  {key}: {}", serde_json::Value::from(value.as_str()));
            }
            out += "---\n";
        }
        let _ = write!(
            out,
            "apiVersion: pgstmtpool.io/v1alpha1\nkind: PgPool\nmetadata: {{name: {}}}\nspec:\n",
            self.name
        );
        render(&self.spec, 1, &mut out);
        out + &self.extra
    }

    /// Writes `<name>.yaml` at once (write and rename, as an editor does) and returns its path.
    pub fn write(&self) -> PathBuf {
        let path = self.folder.join(format!("{}.yaml", self.name));
        let new = self.folder.join(format!("{}.yaml.new", self.name));
        std::fs::write(&new, self.text()).expect("manifest");
        // It holds Secrets.
        std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600)).expect("manifest");
        std::fs::rename(&new, &path).expect("manifest");
        path
    }
}

fn render(node: &Node, depth: usize, out: &mut String) {
    let Node::Map(fields) = node else { return };
    for (name, value) in fields {
        let indent = "  ".repeat(depth);
        match value {
            Node::Flow(text) => {
                let _ = writeln!(out, "{indent}{name}: {text}");
            }
            Node::Map(_) => {
                let _ = writeln!(out, "{indent}{name}:");
                render(value, depth + 1, out);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::World;

    #[test]
    fn dotted_paths_become_nested_maps() {
        let world = World::new("manifest");
        let server = Server {
            name: "a".into(),
            port: 5432,
            data: PathBuf::from("/data"),
            sockets: PathBuf::from("/run"),
        };
        let text = Manifest::of_servers(&world, &[server])
            .set("workers.max", "5")
            .set("workers.reserve", "1")
            .text();
        assert!(
            text.contains("\n  workers:\n    max: 5\n    reserve: 1\n"),
            "{text}"
        );
        assert!(text.contains("  password: \"postgres\"\n"), "{text}");
    }
}
