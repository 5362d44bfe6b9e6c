//! What the errors of the parts below are to a front end.

use super::revoke::RevokeError;
use crate::ca::CaError;
use crate::config::ConfigError;
use crate::fleet::address::AddressError;
use crate::fleet::select::SelectError;
use crate::model::{AppError, Holder, Kind};
use crate::pairing::{BackgroundError, DeskError, ListenerError, QueueError};
use crate::rotation::RotationError;
use crate::store::files::issued::IssuedError;
use crate::store::files::registry::RegistryError;
use crate::store::locks::LockError;
use crate::store::runs::RunStoreError;
use crate::trust::TrustFileError;
use std::io;

macro_rules! from {
    ($($error:ty => $kind:expr),+ $(,)?) => {
        $(impl From<$error> for AppError {
            fn from(error: $error) -> Self {
                Self::new($kind, error.to_string())
            }
        })+
    };
}

from! {
    BackgroundError => Kind::System,
    CaError => Kind::Setup,
    ConfigError => Kind::Setup,
    IssuedError => Kind::System,
    ListenerError => Kind::System,
    RotationError => Kind::Setup,
    RunStoreError => Kind::System,
    TrustFileError => Kind::Setup,
    io::Error => Kind::System,
    std::num::TryFromIntError => Kind::Usage,
}

impl From<RegistryError> for AppError {
    fn from(error: RegistryError) -> Self {
        let kind = match &error {
            RegistryError::BadName(_) => Kind::Usage,
            RegistryError::Unknown(_) => Kind::NotFound,
            RegistryError::Exists(_) => Kind::Conflict,
            _ => Kind::System,
        };
        Self::new(kind, error.to_string())
    }
}

impl From<AddressError> for AppError {
    fn from(error: AddressError) -> Self {
        match error {
            AddressError::Registry(error) => error.into(),
            AddressError::Unknown(ref words) => Self {
                unknown: words.clone(),
                ..Self::new(Kind::NotFound, error.to_string())
            },
        }
    }
}

impl From<SelectError> for AppError {
    fn from(error: SelectError) -> Self {
        match error {
            SelectError::AllAndWords
            | SelectError::List(_)
            | SelectError::Port(_)
            | SelectError::TwoPorts(..) => Self::usage(error.to_string()),
            SelectError::Registry(error) => error.into(),
            _ => Self::new(Kind::NotFound, error.to_string()),
        }
    }
}

impl From<LockError> for AppError {
    fn from(error: LockError) -> Self {
        let message = error.to_string();
        match error {
            LockError::Held(holders) => Self {
                conflicts: holders.iter().map(Holder::pair).collect(),
                holders,
                ..Self::new(Kind::Locked, message)
            },
            LockError::Io(..) => Self::system(message),
        }
    }
}

impl From<QueueError> for AppError {
    fn from(error: QueueError) -> Self {
        let kind = match &error {
            QueueError::BadId(_) => Kind::Usage,
            QueueError::Unknown(_) => Kind::NotFound,
            QueueError::Decided(_) => Kind::Conflict,
            _ => Kind::System,
        };
        Self::new(kind, error.to_string())
    }
}

impl From<DeskError> for AppError {
    fn from(error: DeskError) -> Self {
        match error {
            DeskError::Queue(error) => error.into(),
            DeskError::Ca(error) => error.into(),
            DeskError::Registry(error) => error.into(),
            DeskError::Issued(error) => error.into(),
            DeskError::Revoke(error) => error.into(),
            error => Self::new(Kind::Conflict, error.to_string()),
        }
    }
}

impl From<RevokeError> for AppError {
    fn from(error: RevokeError) -> Self {
        let message = error.to_string();
        match error {
            RevokeError::NoSerial(_) => Self::new(Kind::NotFound, message),
            RevokeError::Registry(error) => error.into(),
            RevokeError::Issued(error) => error.into(),
            RevokeError::List(..) => Self::system(message),
        }
    }
}
