//! What every request passes, whatever its path. One layer a file.

pub mod authenticate;
pub mod cors;
pub mod load;
pub mod observe;
pub mod panic;
