//! A setting, and where it comes from.

use crate::import::tree::DirectiveId;

/// A setting and the directive that it comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting<T> {
    /// The directive that sets the value.
    pub id: DirectiveId,
    /// The parsed value of the setting.
    pub value: T,
}
