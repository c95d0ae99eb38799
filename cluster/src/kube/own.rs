//! What a program is told of the pod it runs in.

/// Where a pod reads its own namespace.
const NAMESPACE_FILE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";

/// A variable of the environment; one that is empty is not there.
pub fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The namespace this program runs in; `None`: not in a pod.
pub fn own_namespace() -> Option<String> {
    environment("POD_NAMESPACE").or_else(|| {
        let text = std::fs::read_to_string(NAMESPACE_FILE).ok()?;
        Some(text.trim().to_owned()).filter(|name| !name.is_empty())
    })
}

/// The name of the pod this program runs in; elsewhere one that no other process of this machine has.
pub fn own_pod() -> String {
    environment("POD_NAME")
        .or_else(|| environment("HOSTNAME"))
        .unwrap_or_else(|| format!("process-{}", std::process::id()))
}
