//! This process's own store.
