//! CONTROL PLANE: the operator. In: ChatServices. Out: their children, their status.
//!
//! The files in the order in which they run: [`dereference`] reads what must be known, [`validate`] decides, [`build`]
//! makes the objects, `apply` writes them, `observe` knows the pods, `status` says what is.

pub mod build;
mod check;
pub mod dereference;
pub mod image;
pub mod names;
pub mod rbac;
pub mod validate;

use serde_json::Value;

use crate::crd::ChatService;
use dereference::References;
pub use image::Defaults;
pub use rbac::RULES;
pub use validate::Problem;

/// The objects that the operator would apply for a ChatService, in its order, with the number of pods in the
/// Deployment. Without a uid (a file that no API server has seen) they have no owner reference.
///
/// # Errors
/// Every problem of the spec.
pub fn render(cs: &ChatService, defaults: &Defaults) -> Result<Vec<Value>, Vec<Problem>> {
    let service = validate::validate(cs, &References::default(), defaults)?;
    Ok(build::build(&service).to_values())
}
