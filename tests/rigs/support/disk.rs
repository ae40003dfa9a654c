//! Computes what a power loss may leave of the recorded operations.
//!
//! - Data are safe after fsync or fdatasync of their file; sync_file_range makes nothing safe.
//!   Of later writes, any subset may have reached the disk in any order, and one write only in
//!   part, in sectors of 512 bytes. A sector holds what it held after some write: a later write
//!   never arrives without the earlier content of its sectors.
//! - Changes of a directory arrive in order, so a power loss removes some number of the last
//!   unsafe ones. They become safe when the directory is synced, or the file that they concern,
//!   as on Linux file systems. A quarter of the images are harsher: a synced file may have no
//!   name there.

use std::{
    collections::{BTreeMap, HashMap},
    fs, io,
    path::Path,
};

use super::{Random, oplog::Operation};

const SECTOR: usize = 512;

/// A disk and the page cache above it.
pub(crate) struct Disk {
    files: Vec<File>,
    directories: BTreeMap<String, Directory>,
    /// The names as a process sees them.
    names: HashMap<String, usize>,
    open: HashMap<i32, Open>,
}

enum Open {
    File(usize),
    Directory(String),
}

#[derive(Default)]
struct File {
    safe: Vec<u8>,
    unsafe_changes: Vec<Change>,
}

enum Change {
    Write { at: usize, data: Vec<u8> },
    Truncate(usize),
}

#[derive(Default)]
struct Directory {
    changes: Vec<Entry>,
    /// How many of the changes are safe because the directory was synced.
    synced: usize,
    /// How many are safe because a file in it was synced.
    journaled: usize,
}

enum Entry {
    File { name: String, file: usize },
    Directory { path: String },
    Gone { name: String, file: usize },
    Renamed { from: String, to: String, file: usize },
}

impl Entry {
    fn is_about(&self, wanted: usize) -> bool {
        match self {
            Self::Directory { .. } => false,
            Self::File { file, .. } | Self::Gone { file, .. } | Self::Renamed { file, .. } => {
                *file == wanted
            }
        }
    }
}

/// The properties of one image, printed with a finding.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Loss {
    /// How many percent of the unsafe writes reach the disk.
    pub arrive: u64,
    /// Whether a synced file always has its name.
    pub journal: bool,
    pub torn: bool,
}

impl Disk {
    pub(crate) fn new() -> Self {
        Self {
            files: Vec::new(),
            directories: [(String::new(), Directory::default())].into(),
            names: HashMap::new(),
            open: HashMap::new(),
        }
    }

    pub(crate) fn apply(&mut self, operation: &Operation) {
        match operation {
            Operation::Start => self.open.clear(),
            Operation::Open { fd, path, made, emptied } => {
                let open = if self.directories.contains_key(path) {
                    Open::Directory(path.clone())
                } else {
                    let file = if *made { self.make(path) } else { self.names[path] };
                    if *emptied {
                        self.files[file].unsafe_changes.push(Change::Truncate(0));
                    }
                    Open::File(file)
                };
                self.open.insert(*fd, open);
            }
            Operation::Close { fd } => {
                self.open.remove(fd);
            }
            Operation::Write { fd, at, data } => {
                let at = *at as usize;
                self.file(*fd).unsafe_changes.push(Change::Write { at, data: data.clone() });
            }
            Operation::Truncate { fd, len } => {
                self.file(*fd).unsafe_changes.push(Change::Truncate(*len as usize));
            }
            Operation::Sync { fd } => self.sync(*fd),
            Operation::Rename { from, to } => {
                let file = self.names.remove(from).expect("expected the renamed file to exist");
                self.names.insert(to.clone(), file);
                let (directory, from) = split(from);
                let (same, to) = split(to);
                assert_eq!(directory, same, "expected a rename within one directory");
                let (from, to) = (from.to_owned(), to.to_owned());
                self.directory(directory).changes.push(Entry::Renamed { from, to, file });
            }
            Operation::Unlink { path } => {
                let file = self.names.remove(path).expect("expected the removed file to exist");
                let (directory, name) = split(path);
                let name = name.to_owned();
                self.directory(directory).changes.push(Entry::Gone { name, file });
            }
            Operation::MakeDirectory { path } => {
                self.directories.insert(path.clone(), Directory::default());
                let (directory, _) = split(path);
                let path = path.clone();
                self.directory(directory).changes.push(Entry::Directory { path });
            }
            Operation::SyncRange | Operation::Fault => {}
        }
    }

    fn make(&mut self, path: &str) -> usize {
        let file = self.files.len();
        self.files.push(File::default());
        self.names.insert(path.to_owned(), file);
        let (directory, name) = split(path);
        let name = name.to_owned();
        self.directory(directory).changes.push(Entry::File { name, file });
        file
    }

    fn directory(&mut self, path: &str) -> &mut Directory {
        self.directories.get_mut(path).expect("expected the directory to exist")
    }

    fn file(&mut self, fd: i32) -> &mut File {
        match self.open.get(&fd) {
            Some(Open::File(file)) => &mut self.files[*file],
            _ => panic!("an operation on descriptor {fd}, which is not an open file"),
        }
    }

    fn sync(&mut self, fd: i32) {
        match self.open.get(&fd).expect("expected the synced file to be open") {
            Open::Directory(path) => {
                let directory =
                    self.directories.get_mut(path).expect("expected the directory to exist");
                directory.synced = directory.changes.len();
                directory.journaled = directory.changes.len();
            }
            Open::File(file) => {
                let synced = &mut self.files[*file];
                for change in synced.unsafe_changes.drain(..) {
                    change.apply(&mut synced.safe);
                }
                for directory in self.directories.values_mut() {
                    if let Some(last) = directory.changes.iter().rposition(|c| c.is_about(*file)) {
                        directory.journaled = directory.journaled.max(last + 1);
                    }
                }
            }
        }
    }

    /// Writes a possible state after a power loss at this point into the empty directory `to`.
    pub(crate) fn lose_power(&self, random: &mut Random, to: &Path) -> io::Result<Loss> {
        let loss = Loss {
            arrive: *random.pick(&[0, 10, 50, 90, 100]),
            journal: random.chance(75),
            torn: random.chance(50),
        };
        // Parents come before their entries.
        let mut present = vec![String::new()];
        for (path, directory) in &self.directories {
            if !present.contains(path) {
                continue;
            }
            let safe = if loss.journal { directory.journaled } else { directory.synced };
            let open = directory.changes.len() - safe;
            let kept = safe
                + match random.index(4) {
                    0 => 0,
                    1 => random.index(open + 1),
                    _ => open,
                };
            let mut names = BTreeMap::new();
            for change in &directory.changes[..kept] {
                match change {
                    Entry::File { name, file } => {
                        names.insert(name, *file);
                    }
                    Entry::Directory { path } => {
                        fs::create_dir(to.join(path))?;
                        present.push(path.clone());
                    }
                    Entry::Gone { name, .. } => {
                        names.remove(name);
                    }
                    Entry::Renamed { from, to, file } => {
                        names.remove(from);
                        names.insert(to, *file);
                    }
                }
            }
            for (name, file) in names {
                let content = self.files[file].after_loss(random, loss);
                fs::write(to.join(path).join(name), content)?;
            }
        }
        Ok(loss)
    }
}

fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

impl Change {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Truncate(len) => content.resize(*len, 0),
            Self::Write { at, data } => {
                let end = at + data.len();
                if content.len() < end {
                    content.resize(end, 0);
                }
                content[*at..end].copy_from_slice(data);
            }
        }
    }
}

impl File {
    fn after_loss(&self, random: &mut Random, loss: Loss) -> Vec<u8> {
        let mut found = self.safe.clone();
        if self.unsafe_changes.is_empty() {
            return found;
        }
        let arrives: Vec<_> =
            self.unsafe_changes.iter().map(|_| random.chance(loss.arrive)).collect();
        let last = arrives.iter().rposition(|arrives| *arrives);
        let mut seen = self.safe.clone();
        for (number, change) in self.unsafe_changes.iter().enumerate() {
            change.apply(&mut seen);
            if !arrives[number] {
                continue;
            }
            let torn = loss.torn && last == Some(number);
            match change {
                Change::Truncate(len) => found.resize(*len, 0),
                Change::Write { at, data } if !data.is_empty() => {
                    let (first, end) = (at / SECTOR, (at + data.len()).div_ceil(SECTOR));
                    // A torn write: only its first part, its last part, or some of its sectors
                    // arrive.
                    let (way, place) = (random.index(3), first + random.index(end - first + 1));
                    for sector in first..end {
                        let arrives = match way {
                            _ if !torn => true,
                            0 => sector < place,
                            1 => sector >= place,
                            _ => random.chance(50),
                        };
                        if arrives {
                            copy_sector(&seen, &mut found, sector);
                        }
                    }
                }
                Change::Write { .. } => {}
            }
        }
        found
    }
}

fn copy_sector(from: &[u8], to: &mut Vec<u8>, sector: usize) {
    let start = sector * SECTOR;
    let end = (start + SECTOR).min(from.len());
    if to.len() < end {
        to.resize(end, 0);
    }
    to[start..end].copy_from_slice(&from[start..end]);
}
