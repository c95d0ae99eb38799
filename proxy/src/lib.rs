//! The pooling proxy.
