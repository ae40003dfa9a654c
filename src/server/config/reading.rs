//! Reads files that a configuration names, whatever kind of file they are.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Component, Path, PathBuf},
    sync::mpsc,
    thread,
    time::Duration,
};

use zeroize::Zeroizing;

/// What a pipe or a device may give. No file of a configuration is near it.
const MOST_BYTES: u64 = 16 << 20;

/// How long to wait for a pipe that nobody writes to. Without a limit the start would hang
/// without a word.
const PATIENCE: Duration = Duration::from_secs(10);

/// The octets of a file. A pipe, as the shell makes for `<(...)`, is read to its end.
pub(crate) fn bytes(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    within(path, PATIENCE)
}

/// The text of a file.
pub(crate) fn text(path: &Path) -> io::Result<Zeroizing<String>> {
    let bytes = bytes(path)?;
    let text = std::str::from_utf8(&bytes)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8"))?;
    Ok(Zeroizing::new(text.to_owned()))
}

fn within(path: &Path, patience: Duration) -> io::Result<Zeroizing<Vec<u8>>> {
    if fs::metadata(path)?.is_file() {
        return Ok(Zeroizing::new(fs::read(path)?));
    }
    // To open a pipe already waits for its writer. The thread stays behind if nobody comes.
    let (sender, outcome) = mpsc::sync_channel(1);
    let owned = path.to_owned();
    let reader = thread::Builder::new().name("sessiond-reader".to_owned());
    reader.spawn(move || sender.send(to_end(owned)))?;
    outcome.recv_timeout(patience).unwrap_or_else(|_| {
        let problem =
            format!("it is a pipe or a device, and did not come to its end within {patience:?}");
        Err(io::Error::new(io::ErrorKind::TimedOut, problem))
    })
}

fn to_end(path: PathBuf) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::new());
    File::open(path)?.take(MOST_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MOST_BYTES {
        let problem = format!("it gives more than {MOST_BYTES} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
    }
    Ok(bytes)
}

/// A path that was written relative to a folder. The `.` between the two tells later what was
/// written, see [`unreadable`].
pub(super) fn beside(folder: &Path, written: &Path) -> PathBuf {
    folder.join(".").join(written)
}

/// Why a file of a configuration cannot be read.
///
/// The path is named, unless it may be a secret that was put into the key by mistake: a name
/// alone, or a path whose first folder does not exist. Then the folder is named where it was
/// looked for.
pub(crate) fn unreadable(path: &Path, error: &io::Error) -> String {
    let (folder, written) = parts(path);
    let names: Vec<_> = written.components().filter(is_name).collect();
    let first = names.first().map(|first| folder.join(first));
    if names.len() > 1 && first.is_some_and(|first| first.is_dir()) {
        return format!("the file {} cannot be read: {error}", plain(path).display());
    }
    let folder = std::path::absolute(&folder).unwrap_or(folder);
    format!(
        "the file cannot be read: {error}; its name is not shown, because it may be a secret; it \
         was looked for in {}",
        folder.display()
    )
}

/// The path without the `.` in it.
pub(super) fn plain(path: &Path) -> PathBuf {
    path.components().collect()
}

/// The folder that a path counts from, and what was written.
fn parts(path: &Path) -> (PathBuf, &Path) {
    let text = path.to_str().unwrap_or_default();
    match text.split_once("/./") {
        Some((folder, written)) => (folder.into(), Path::new(written)),
        None if path.has_root() => (PathBuf::from("/"), path),
        None => (PathBuf::from("."), path),
    }
}

fn is_name(component: &Component<'_>) -> bool {
    matches!(component, Component::Normal(_))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error() -> io::Error {
        io::ErrorKind::NotFound.into()
    }

    #[test]
    fn a_path_is_named_unless_it_may_be_a_secret() {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        let path = scratch.path().join("missing");
        let expected = format!("the file {} cannot be read: {}", path.display(), error());
        assert_eq!(unreadable(&path, &error()), expected);
        fs::create_dir(scratch.path().join("secrets")).expect("a folder");
        let told = unreadable(&beside(scratch.path(), Path::new("secrets/one")), &error());
        let path = scratch.path().join("secrets/one");
        assert_eq!(told, format!("the file {} cannot be read: {}", path.display(), error()));
        let told = unreadable(&beside(scratch.path(), Path::new("hunter2")), &error());
        assert!(!told.contains("hunter2"), "{told}");
        let end = format!("it was looked for in {}", scratch.path().display());
        assert!(told.ends_with(&end), "expected {end:?} at the end of {told:?}");
        for secret in ["hunter2", "/hunter2", "hunter2/9Jk+", "/hunter2/9Jk+", "./hunter2"] {
            let told = unreadable(Path::new(secret), &error());
            assert!(!told.contains("hunter2"), "{told}");
            assert!(told.starts_with("the file cannot be read: "), "{told}");
            let here = std::env::current_dir().expect("a folder");
            let folder = if secret.starts_with('/') { Path::new("/") } else { &here };
            let end = format!("it was looked for in {}", folder.display());
            assert!(told.ends_with(&end), "expected {end:?} at the end of {told:?}");
        }
    }

    #[test]
    fn a_pipe_is_read_to_its_end() {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        let path = pipe(scratch.path());
        let writer = thread::spawn({
            let path = path.clone();
            move || fs::write(path, "later").expect("written")
        });
        assert_eq!(&**text(&path).expect("it is written to"), "later");
        writer.join().expect("it ends");
    }

    #[test]
    fn a_pipe_without_a_writer_is_an_error() {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        let path = pipe(scratch.path());
        let error = within(&path, Duration::from_millis(10)).expect_err("nobody writes");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(error.to_string().contains("did not come to its end within 10ms"), "{error}");
        // So that the thread ends.
        drop(File::options().write(true).open(&path));
    }

    #[test]
    fn what_is_no_file_is_an_error() {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        bytes(scratch.path()).expect_err("a folder");
        let error = bytes(Path::new("/dev/zero")).expect_err("it has no end");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        let junk = scratch.path().join("junk");
        fs::write(&junk, b"\xff").expect("written");
        assert_eq!(text(&junk).expect_err("no text").to_string(), "it is not UTF-8");
    }

    fn pipe(folder: &Path) -> PathBuf {
        let path = folder.join("pipe");
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0)
            .expect("a pipe");
        path
    }
}
