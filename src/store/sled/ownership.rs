//! Whose the data directory is, and who may read it.
//!
//! sled takes whatever has one of its names for its own: it reads, overwrites and deletes
//! it. So the store opens a directory only if it is ours, or holds nothing:
//!
//! - It is **ours** if it has our marker, the file `layout`, or `layout.unfinished` while a
//!   database is being made. Other files may be there as well, but not under a name that sled
//!   would take for its own.
//! - Without the marker it may hold nothing but what file systems and orchestrators put there:
//!   `lost+found`, and names that begin with a dot. No name of sled's or ours does.
//!
//! Everything that is ours is for our user only.

use std::{
    ffi::OsStr,
    fs::{self, File, Metadata, Permissions},
    io,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
};

use rustix::fs::{FlockOperation, flock};

use super::{
    mark::{self, MARK_FILE},
    open::{LAYOUT, LAYOUT_FILE, LOCK_FILE, OpenError, UNFINISHED_FILE},
    quarantine,
};

/// With this every layout of every release begins.
const ANY_LAYOUT: &str = "sessiond sled ";
/// A database that was never completed is smaller, each of its files. If it is larger, it
/// was restored without its marker, and is not removed.
const MOST_UNFINISHED_BYTES: u64 = 256 << 10;

/// Fails unless the directory is ours or holds nothing. Changes nothing.
pub(super) fn check(path: &Path) -> Result<(), OpenError> {
    let directory = |source| OpenError::Directory { path: path.to_owned(), source };
    match stranger(path).map_err(directory)? {
        None => Ok(()),
        Some(found) => Err(OpenError::Foreign { path: path.to_owned(), found }),
    }
}

/// Makes this process the owner of the directory until it is dropped.
pub(super) struct DirectoryLock(File);

impl DirectoryLock {
    pub(super) fn take(path: &Path) -> Result<Self, OpenError> {
        let directory = |source| OpenError::Directory { path: path.to_owned(), source };
        let lock = private_file(&path.join(LOCK_FILE)).map_err(directory)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self(lock)),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(OpenError::InUse { path: path.to_owned() }),
            Err(errno) => Err(directory(errno.into())),
        }
    }
}

impl Drop for DirectoryLock {
    /// Unlocks, because closing is not enough: a process that is started at this moment has a copy
    /// of every descriptor until its exec.
    fn drop(&mut self) {
        if let Err(error) = flock(&self.0, FlockOperation::Unlock) {
            tracing::warn!(%error, "the lock of the data directory cannot be released");
        }
    }
}

/// What the marker says.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Marker {
    Made,
    Unfinished,
    None,
}

/// The name of something that is not ours and must not be touched.
fn stranger(path: &Path) -> io::Result<Option<String>> {
    let marker = marker(path)?;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let name = entry.file_name();
        if !is_tolerable(path, &name, &entry.metadata()?, marker)? {
            return Ok(Some(name.to_string_lossy().into_owned()));
        }
    }
    Ok(None)
}

/// Whether the directory has the note that a database is being made in it.
pub(super) fn is_unfinished(path: &Path) -> io::Result<bool> {
    Ok(small_file(&path.join(UNFINISHED_FILE))?.is_some_and(|note| note == LAYOUT.as_bytes()))
}

fn marker(path: &Path) -> io::Result<Marker> {
    let layout = small_file(&path.join(LAYOUT_FILE))?;
    if layout.is_some_and(|layout| layout.starts_with(ANY_LAYOUT.as_bytes())) {
        return Ok(Marker::Made);
    }
    Ok(match is_unfinished(path)? {
        true => Marker::Unfinished,
        false => Marker::None,
    })
}

fn is_tolerable(path: &Path, name: &OsStr, found: &Metadata, marker: Marker) -> io::Result<bool> {
    let file = path.join(name);
    Ok(match &*name.to_string_lossy() {
        LOCK_FILE => found.is_file() && (found.len() == 0 || marker != Marker::None),
        MARK_FILE => marker != Marker::None && found.is_file() && mark::is_ours(&fs::read(file)?),
        // A loss of power may leave zeros of it, or nothing.
        UNFINISHED_FILE => small_file(&file)?.is_some_and(|note| {
            let ours = LAYOUT.bytes();
            note.len() <= LAYOUT.len()
                && note.iter().zip(ours).all(|(octet, our)| [0, our].contains(octet))
        }),
        LAYOUT_FILE => marker == Marker::Made,
        "lost+found" => found.is_dir(),
        name if name.starts_with('.') => true,
        // sled reads, and in time deletes, whatever begins like a snapshot.
        name if name.starts_with("snap.") => {
            marker == Marker::Made && found.is_file() && is_snapshot(name)
        }
        name if marker == Marker::Unfinished && quarantine::is_of_database(name) => {
            match found.is_dir() {
                true => fs::read_dir(file)?.next().is_none(),
                false => found.is_file() && found.len() <= MOST_UNFINISHED_BYTES,
            }
        }
        _ => marker != Marker::None,
    })
}

/// `snap.` and 16 hexadecimal digits; with `.generating` while it is written.
fn is_snapshot(name: &str) -> bool {
    let digits = name.strip_prefix("snap.").unwrap_or_default();
    let digits = digits.strip_suffix(".generating").unwrap_or(digits);
    digits.len() == 16 && digits.bytes().all(|digit| digit.is_ascii_hexdigit())
}

/// The beginning of a file, more than a layout takes. `None` if there is no regular file.
fn small_file(path: &Path) -> io::Result<Option<Vec<u8>>> {
    use io::Read;
    let found = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        found => found?,
    };
    if !found.is_file() {
        return Ok(None);
    }
    let mut content = Vec::new();
    File::open(path)?.take(100).read_to_end(&mut content)?;
    Ok(Some(content))
}

const FILE_MODE: u32 = 0o600;
const DIRECTORY_MODE: u32 = 0o700;

/// Opens a file of ours to read and write. Makes it for our user only.
pub(super) fn private_file(path: &Path) -> io::Result<File> {
    File::options().read(true).write(true).create(true).truncate(false).mode(FILE_MODE).open(path)
}

/// Writes a new file, for our user only.
pub(super) fn write_private(path: &Path, content: &[u8]) -> io::Result<File> {
    let file = private_file(path)?;
    file.set_len(0)?;
    std::os::unix::fs::FileExt::write_all_at(&file, content, 0)?;
    file.sync_all()?;
    Ok(file)
}

/// Takes the permissions of all others away: of the directory, and of what is ours in it.
pub(super) fn make_private(path: &Path) -> io::Result<()> {
    // Nobody else could reach what is in a directory that was private already.
    let was_open = restrict(path, DIRECTORY_MODE)?;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let found = entry.metadata()?;
        let is_ours = quarantine::is_of_database(name)
            || [LOCK_FILE, UNFINISHED_FILE, quarantine::FOLDER].contains(&name);
        if is_ours && found.is_dir() {
            restrict(&entry.path(), DIRECTORY_MODE)?;
        } else if is_ours && found.is_file() {
            restrict(&entry.path(), FILE_MODE)?;
        }
    }
    if was_open {
        tracing::info!(
            "other users could read the data directory, or files in it; now only this user can"
        );
    }
    Ok(())
}

/// Whether the mode was another one.
fn restrict(path: &Path, mode: u32) -> io::Result<bool> {
    let found = fs::metadata(path)?.permissions().mode() & 0o7777;
    if found & !mode == 0 {
        return Ok(false);
    }
    match fs::set_permissions(path, Permissions::from_mode(mode)) {
        Ok(()) => Ok(true),
        Err(error) => Err(io::Error::new(
            error.kind(),
            format!(
                "{} has the mode {found:04o}, so others can use it, and it cannot be changed to \
                 {mode:04o}: {error}; change it, or name a directory that belongs to the \
                 daemon's user",
                path.display()
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_released_although_a_new_process_still_holds_its_file() {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        let lock = DirectoryLock::take(scratch.path()).expect("nobody has it");
        let of_a_new_process = lock.0.try_clone().expect("a copy");
        let taken = DirectoryLock::take(scratch.path()).map(drop);
        assert!(matches!(taken, Err(OpenError::InUse { .. })), "expected InUse, found {taken:?}");
        drop(lock);
        let taken = DirectoryLock::take(scratch.path()).map(drop);
        assert!(taken.is_ok(), "expected the lock to be free, found {taken:?}");
        drop(of_a_new_process);
    }
}
