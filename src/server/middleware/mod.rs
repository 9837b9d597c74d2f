//! What every request passes, whatever its path. One layer a file.

pub mod observe;
