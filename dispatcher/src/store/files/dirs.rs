//! State directories: made on demand with the modes the packages give them.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Mode of shared state directories: group members may write, new files keep the group.
const MODE: u32 = 0o2770;

/// Makes `dir` (and what leads to it) if it is not there; an existing one is left as it is.
pub fn ensure(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(dir)?;
    // A set-group-ID bit that the file system refuses is no reason to stop.
    fs::set_permissions(dir, fs::Permissions::from_mode(MODE))
        .or_else(|_| fs::set_permissions(dir, fs::Permissions::from_mode(MODE & 0o777)))
}
