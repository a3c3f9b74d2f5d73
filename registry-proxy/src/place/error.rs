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
    /// Whether the place says that it does not have the object.
    pub fn is_not_found(&self) -> bool {
        match self {
            Self::Registry(error) => error.is_not_found(),
            Self::Layout(error) => matches!(error, LayoutError::NotFound { .. }),
        }
    }
}
