//! A Kubernetes cluster for tests, and what a person does with it: kubectl, helm, psql and a workload in a pod.

mod cluster;
mod failed;
mod load;
mod stage;

pub use cluster::{Kube, helm_program};
pub use failed::Evidence;
pub use load::{Load, LoadOptions};
pub use stage::{KubeStage, NAMESPACE, PASSWORD, POOL};
