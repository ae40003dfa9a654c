//! Quarantine: moves a damaged database away as a whole, for an empty one to
//! take its place. Nothing is ever deleted.
//!
//! The database moves into a folder inside the data directory. The lock stays
//! where it is, and no other process can interfere; renaming needs no space.
//! Until everything has moved, the folder is called `unfinished`. An opening
//! first completes such a move, because half of a database might open as a
//! different one.
//!
//! An empty store ends every session. Temporary problems must therefore never
//! lead here: a failing or full disk, missing permissions, another process.
//! [`prove_disk`] runs before anything moves.

use std::{
    fs::{self, DirBuilder, File},
    io::{self, Read},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use super::{
    mark::MARK_FILE,
    open::{LAYOUT, LAYOUT_FILE, SEGMENT_BYTES, UNFINISHED_FILE},
    ownership::write_private,
};

/// In the data directory.
pub(super) const FOLDER: &str = "quarantine";
/// In [`FOLDER`]: the name during a move. A crash may leave it.
const UNFINISHED: &str = "unfinished";
/// With each database in quarantine: what was wrong with it.
const WHY: &str = "why.txt";
/// In [`FOLDER`], so that no file of anybody else is in its place.
const PROBE: &str = "probe";

/// The most databases in quarantine: a disk that damages one database after
/// another must not fill up with them.
const MOST: usize = 8;

/// Moves the database to quarantine and returns its new path.
pub(super) fn put(path: &Path, problem: &str) -> io::Result<PathBuf> {
    let folder = path.join(FOLDER);
    let mut private = DirBuilder::new();
    private.mode(0o700).recursive(true).create(&folder)?;
    prove_disk(path)?;
    if all(path)?.len() >= MOST {
        return Err(io::Error::other(format!(
            "{MOST} databases are in quarantine already: find out what damages them, and remove \
             those that you do not need"
        )));
    }
    let unfinished = folder.join(UNFINISHED);
    private.create(&unfinished)?;
    let why =
        format!("sessiond {} found this database damaged: {problem}\n", env!("CARGO_PKG_VERSION"));
    write_private(&unfinished.join(WHY), why.as_bytes())?;
    for directory in [&unfinished, &folder, path] {
        File::open(directory)?.sync_all()?;
    }
    move_all(path, &unfinished)
}

/// Completes a move that a crash has interrupted.
pub(super) fn finish(path: &Path) -> io::Result<()> {
    let unfinished = path.join(FOLDER).join(UNFINISHED);
    match database_in(&unfinished) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // Nothing has moved yet: the opening decides again whether to move it.
        Ok(moved) if moved.is_empty() => {
            match fs::remove_file(unfinished.join(WHY)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            fs::remove_dir(&unfinished)
        }
        Ok(_) => move_all(path, &unfinished).map(drop),
        Err(error) => Err(error),
    }
}

/// The names of the databases in quarantine, oldest first.
pub(super) fn all(path: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(path.join(FOLDER)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if ![UNFINISHED, PROBE].contains(&&*name) {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// The marker of the directory moves last. Before it goes, another one says that the
/// directory is ours, and that a database is to be made in it.
fn move_all(path: &Path, unfinished: &Path) -> io::Result<PathBuf> {
    let layout = path.join(LAYOUT_FILE);
    let move_there =
        |from: &Path| fs::rename(from, unfinished.join(from.file_name().unwrap_or_default()));
    let sync = || {
        File::open(unfinished)?.sync_all()?;
        File::open(path)?.sync_all()
    };
    for from in database_in(path)?.into_iter().filter(|from| *from != layout) {
        move_there(&from)?;
    }
    write_private(&path.join(UNFINISHED_FILE), LAYOUT.as_bytes())?;
    sync()?;
    if layout.exists() {
        move_there(&layout)?;
        sync()?;
    }
    // The file system's time of the last rename.
    let moved = fs::metadata(unfinished)?.modified()?;
    let moved = humantime::format_rfc3339_millis(moved).to_string().replace(':', "-");
    let aside = path.join(FOLDER).join(moved);
    fs::rename(unfinished, &aside)?;
    File::open(path.join(FOLDER))?.sync_all()?;
    Ok(aside)
}

/// The files of sled, and those that an opening creates. Nothing else is
/// touched: the directory may be the root of a file system.
pub(super) fn database_in(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if is_of_database(&entry.file_name().to_string_lossy()) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

pub(super) fn is_of_database(name: &str) -> bool {
    matches!(name, "conf" | "db" | "blobs" | LAYOUT_FILE | MARK_FILE)
        || name.starts_with("snap.")
        || name.starts_with("damaged.snap.")
}

/// Fails unless all of the database can be read, and a probe as large as sled's
/// largest write can be written. If both succeed, the disk works and the
/// content is wrong.
fn prove_disk(path: &Path) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 20];
    let mut to_read = database_in(path)?;
    while let Some(at) = to_read.pop() {
        if fs::symlink_metadata(&at)?.is_dir() {
            for entry in fs::read_dir(&at)? {
                to_read.push(entry?.path());
            }
            continue;
        }
        let mut file = File::open(&at)?;
        while file.read(&mut buffer)? > 0 {}
    }
    let probe = path.join(FOLDER).join(PROBE);
    let written = write_private(&probe, &vec![0x55; SEGMENT_BYTES]);
    fs::remove_file(&probe)?;
    written.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILES: [&str; 6] =
        ["conf", "db", "snap.0000000000000010", "damaged.snap.00", MARK_FILE, LAYOUT_FILE];

    fn database() -> tempfile::TempDir {
        let directory = tempfile::tempdir().expect("a scratch folder");
        for name in FILES.into_iter().chain(["lock", "notes"]) {
            fs::write(directory.path().join(name), name).expect("written");
        }
        fs::create_dir(directory.path().join("blobs")).expect("made");
        fs::write(directory.path().join("blobs/7"), "7").expect("written");
        directory
    }

    fn assert_moved(path: &Path) {
        let [name] = &all(path).expect("readable")[..] else {
            panic!("expected one folder, of the database that was moved")
        };
        let aside = path.join(FOLDER).join(name);
        for file in FILES {
            assert_eq!(fs::read(aside.join(file)).expect("moved"), file.as_bytes());
        }
        assert_eq!(fs::read(aside.join("blobs/7")).expect("moved"), b"7");
        assert!(database_in(path).expect("readable").is_empty(), "all of it has moved");
        for stays in ["lock", "notes", UNFINISHED_FILE] {
            assert!(path.join(stays).exists(), "{stays} must stay");
        }
        assert!(fs::read_to_string(aside.join(WHY)).expect("it says why").contains("a problem"));
    }

    #[test]
    fn all_of_the_database_moves_and_nothing_else() {
        let directory = database();
        let aside = put(directory.path(), "a problem").expect("it moves");
        assert_moved(directory.path());
        assert!(aside.ends_with(&all(directory.path()).expect("readable")[0]));
        finish(directory.path()).expect("there is nothing to finish");
        assert_moved(directory.path());
    }

    #[test]
    fn a_crash_at_any_rename_is_finished_by_the_next_opening() {
        for moved in 0..=FILES.len() {
            let directory = database();
            let path = directory.path();
            let unfinished = path.join(FOLDER).join(UNFINISHED);
            fs::create_dir_all(&unfinished).expect("made");
            fs::write(unfinished.join(WHY), "a problem").expect("written");
            for name in &FILES[..moved] {
                fs::rename(path.join(name), unfinished.join(name)).expect("moved");
            }
            finish(path).expect("it is finished");
            assert!(!unfinished.exists());
            if moved > 0 {
                assert_moved(path);
            } else {
                assert_eq!(
                    database_in(path).expect("readable").len(),
                    FILES.len() + 1,
                    "as it was"
                );
            }
        }
    }

    #[test]
    fn there_is_a_bound() {
        let directory = database();
        for number in 0..MOST {
            fs::create_dir_all(directory.path().join(FOLDER).join(number.to_string()))
                .expect("made");
        }
        let refused = put(directory.path(), "a problem").expect_err("there are too many");
        assert!(refused.to_string().contains("in quarantine already"), "{refused}");
        assert_eq!(database_in(directory.path()).expect("readable").len(), FILES.len() + 1);
    }

    #[test]
    fn nothing_moves_when_a_file_cannot_be_read() {
        let directory = database();
        // Reading a symlink loop fails for every user.
        fs::remove_file(directory.path().join("conf")).expect("removed");
        std::os::unix::fs::symlink("conf", directory.path().join("conf")).expect("a loop");
        put(directory.path(), "a problem").expect_err("the error says nothing about the content");
        assert!(all(directory.path()).expect("readable").is_empty());
        assert!(directory.path().join("db").exists());
    }
}
