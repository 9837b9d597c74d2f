//! The store that all pods share.
