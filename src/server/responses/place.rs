//! An object somewhere in a request. In: its bytes and its path. Out: its members; or the error that names the one that is wrong
//! by its whole path, such as `input[0].content[1].text`.

use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::server::error::ApiError;
use crate::server::json::{self, Object};
use crate::server::routes::input::{Kind, invalid, unsupported};

/// The object and where it is.
pub(super) struct Place<'a> {
    object: Object<'a>,
    path: &'a str,
}

impl<'a> Place<'a> {
    /// `allowed` ends the sentence "`path` must be …" for what is no object.
    pub(super) fn new(raw: &'a [u8], path: &'a str, allowed: &str) -> Result<Self, ApiError> {
        let object = Some(raw).filter(|raw| Kind::Object.fits(raw)).and_then(|raw| json::object(raw).ok());
        Ok(Self { object: object.ok_or_else(|| invalid(path, allowed))?, path })
    }

    /// The path of a member.
    pub(super) fn at(&self, name: &str) -> String {
        format!("{}.{name}", self.path)
    }

    /// Whether a member is there, and not `null`.
    pub(super) fn has(&self, name: &str) -> bool {
        self.object.non_null(name).is_some()
    }

    pub(super) fn is_text(&self, name: &str) -> bool {
        self.object.non_null(name).is_some_and(|raw| Kind::Text.fits(raw))
    }

    /// A member as `T`; None where it is not there. `allowed` ends the sentence "`path` must be …".
    pub(super) fn get<T: DeserializeOwned>(&self, name: &str, allowed: &str) -> Result<Option<T>, ApiError> {
        let Some(raw) = self.object.non_null(name) else { return Ok(None) };
        serde_json::from_slice(raw).map(Some).map_err(|_| invalid(&self.at(name), allowed))
    }

    /// A member that must be there.
    pub(super) fn required<T: DeserializeOwned>(&self, name: &str, allowed: &str) -> Result<T, ApiError> {
        self.get(name, allowed)?.ok_or_else(|| invalid(&self.at(name), allowed))
    }

    pub(super) fn text(&self, name: &str) -> Result<Option<String>, ApiError> {
        self.get(name, Kind::Text.allowed())
    }

    pub(super) fn required_text(&self, name: &str) -> Result<String, ApiError> {
        self.required(name, Kind::Text.allowed())
    }

    /// The elements of a member that is an array.
    pub(super) fn array(&self, name: &str, allowed: &str) -> Result<Vec<&'a RawValue>, ApiError> {
        let raw = self.object.non_null(name).unwrap_or_default();
        serde_json::from_slice(raw).map_err(|_| invalid(&self.at(name), allowed))
    }

    /// A member of this kind, as it was written; None where it is not there.
    pub(super) fn raw(&self, name: &str, kind: Kind) -> Result<Option<Box<RawValue>>, ApiError> {
        if self.object.non_null(name).is_some_and(|value| !kind.fits(value)) {
            return Err(invalid(&self.at(name), kind.allowed()));
        }
        self.get(name, kind.allowed())
    }

    /// Refuses a member that is not among these: what is not understood is not ignored. `null` stands for nothing.
    pub(super) fn only(&self, known: &[&str]) -> Result<(), ApiError> {
        for (name, value) in self.object.members() {
            if !known.contains(&name) && value != b"null" {
                let name: String = name.chars().take(64).collect();
                let instead = format!("the members here are {}", known.join(", "));
                return Err(unsupported(&self.at(&name), &instead));
            }
        }
        Ok(())
    }
}
