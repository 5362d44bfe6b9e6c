//! Placeholder crate documentation, replaced by the first module.
