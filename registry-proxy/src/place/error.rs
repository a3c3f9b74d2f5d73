//! Why a place could not do what it was asked for.

use jaunt_distribution::Error as RegistryError;

use super::layout::LayoutError;

/// The place's own error, which names the place and the object.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error(transparent)]
    Layout(#[from] LayoutError),
}

impl PlaceError {
    /// Whether the place does not allow what it was asked for, however often it is asked.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Registry(error) => error.is_refusal(),
            Self::Layout(_) => false,
        }
    }

    /// Whether the same may succeed later without anything being changed.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Registry(error) => error.is_transient(),
            Self::Layout(_) => false,
        }
    }

    /// Whether the place says that it does not have the object.
    pub fn is_not_found(&self) -> bool {
        match self {
            Self::Registry(error) => error.is_not_found(),
            Self::Layout(error) => matches!(error, LayoutError::NotFound { .. }),
        }
    }
}
