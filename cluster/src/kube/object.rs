//! The resource as the API gives it. Read field by field: what an older program does not know must not end its watch.

use crds::raw::PgPoolSpec;
use crds::status::PgPoolStatus;
use crds::{Checked, Fault, Identity, Place, PoolConfig};
use kube::api::ApiResource;
use kube::core::DynamicObject;

/// What the API calls the resource.
pub fn resource() -> ApiResource {
    ApiResource {
        group: crds::GROUP.to_owned(),
        version: crds::VERSION.to_owned(),
        api_version: crds::API_VERSION.to_owned(),
        kind: crds::KIND.to_owned(),
        plural: "pgpools".to_owned(),
    }
}

/// The spec of an object, checked.
///
/// # Errors
/// Every fault. The API refuses most of them before; a field of a newer version may be one.
pub fn config_of(object: &DynamicObject) -> Result<Checked, Vec<Fault>> {
    let metadata = &object.metadata;
    let identity = Identity {
        name: metadata.name.clone().unwrap_or_default(),
        namespace: metadata.namespace.clone().unwrap_or_default(),
        generation: metadata.generation.unwrap_or_default(),
    };
    let written = object.data.get("spec").cloned().unwrap_or_default();
    let spec: PgPoolSpec =
        serde_json::from_value(written).map_err(|error| vec![Fault::new("spec", error.to_string())])?;
    PoolConfig::from_spec(identity, spec, Place::Cluster)
}

/// The status of an object; `None`: the operator has not written one yet.
///
/// # Errors
/// When it is not what this version understands.
pub fn status_of(object: &DynamicObject) -> Result<Option<PgPoolStatus>, Fault> {
    match object.data.get("status") {
        None | Some(serde_json::Value::Null) => Ok(None),
        Some(written) => serde_json::from_value(written.clone())
            .map(Some)
            .map_err(|error| Fault::new("status", error.to_string())),
    }
}

/// The version of an object.
pub fn version_of(object: &DynamicObject) -> String {
    object.metadata.resource_version.clone().unwrap_or_default()
}

/// Whether `new` is older than `old`: a watch may still bring what was before our own write. Where versions are no
/// numbers nothing is known to be older.
pub(super) fn is_older(new: &DynamicObject, old: &DynamicObject) -> bool {
    let number = |object: &DynamicObject| version_of(object).parse::<u64>().ok();
    new.metadata.uid == old.metadata.uid && number(new).zip(number(old)).is_some_and(|(new, old)| new < old)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(version: &str, data: serde_json::Value) -> DynamicObject {
        let mut object = DynamicObject::new("orders", &resource());
        object.metadata.resource_version = Some(version.to_owned());
        object.data = data;
        object
    }

    #[test]
    fn a_field_of_a_newer_version_does_not_hurt() {
        let spec = serde_json::json!({"spec": {"master": {"name": "a", "podName": "pg-0"}, "newer": {"x": 1}},
            "status": {"epoch": 3, "newer": 4}});
        let object = object("7", spec);
        assert_eq!(config_of(&object).unwrap().config.name, "orders");
        assert_eq!(status_of(&object).unwrap().unwrap().epoch, 3);
    }

    #[test]
    fn a_watch_that_is_behind_our_own_write_is_older() {
        let of = |version| object(version, serde_json::Value::Null);
        assert!(is_older(&of("9"), &of("10")));
        assert!(!is_older(&of("10"), &of("10")) && !is_older(&of("b"), &of("10")));
        let mut anew = of("9");
        anew.metadata.uid = Some("other".to_owned());
        assert!(!is_older(&anew, &of("10")), "it was deleted and made anew");
    }
}
