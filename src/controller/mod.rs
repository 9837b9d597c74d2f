//! CONTROL PLANE: the operator. In: ChatServices. Out: their children, their status.
//!
//! The files in the order in which they run: [`dereference`] reads what must be known, [`validate`] decides, `build`
//! makes the objects, `apply` writes them, `observe` knows the pods, `status` says what is.

mod check;
pub mod dereference;
pub mod image;
pub mod names;
pub mod validate;
