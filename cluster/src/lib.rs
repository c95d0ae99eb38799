//! `ClusterSource`: where manifest, secrets and status come from; how proxies acknowledge.
