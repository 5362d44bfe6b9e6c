//! Backups of a dispatcher, and how one is put back: what belongs to it, a consistent picture of it,
//! the archive, and a replacement that a crash cannot leave half done.

mod archive;
mod due;
mod lists;
mod owners;
mod place;
mod places;
mod snapshot;
mod staging;

pub use archive::{Archive, Kind, Manifest};
pub use due::{Due, LastBackup};
pub(crate) use lists::{merged, newer};
pub use place::{Folder, FolderItem, Item, Place};
pub use places::Places;
pub use snapshot::{Picture, snapshot};
pub(crate) use snapshot::{manifest, read_item};
pub use staging::{Restored, Staging, finish_interrupted, restored_from};
