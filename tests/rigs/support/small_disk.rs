//! A small file system that a test can fill without harm to others.
//!
//! It is a tmpfs in a mount namespace of its own, held open by a child process. No other
//! process sees it; the tests reach it through the child's directory in /proc. So it needs no
//! root, and it disappears with the child.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use rustix::fs::{FallocateFlags, fallocate, statvfs};

pub(crate) struct SmallDisk {
    holder: Child,
    path: PathBuf,
    _mount_point: tempfile::TempDir,
}

impl SmallDisk {
    /// Makes a file system of this size, or returns why this machine cannot have one.
    pub(crate) fn new(bytes: u64) -> Result<Self, String> {
        let mount_point = tempfile::tempdir().expect("a scratch folder");
        let script =
            r#"mount -t tmpfs -o "size=$1,mode=700" small "$2" && echo mounted && exec cat"#;
        let mut holder = Command::new("unshare")
            .args(["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"])
            .arg(bytes.to_string())
            .arg(mount_point.path())
            // Ends the child when this process ends for any reason.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("unshare(1) cannot be run: {error}"))?;
        let mut line = String::new();
        let stdout = holder.stdout.take().expect("it is piped");
        let _ = BufReader::new(stdout).read_line(&mut line);
        let below = mount_point.path().strip_prefix("/").expect("an absolute path");
        let path = PathBuf::from(format!("/proc/{}/root", holder.id())).join(below);
        if line.trim() != "mounted" {
            let _ = holder.kill();
            let output = holder.wait_with_output().expect("the child can be waited for");
            return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
        }
        let disk = Self { holder, path, _mount_point: mount_point };
        let found = statvfs(&disk.path)
            .map_err(|error| format!("the file system cannot be reached: {error}"))?;
        assert_eq!(found.f_blocks * found.f_frsize, bytes, "a file system of its own");
        Ok(disk)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn free_bytes(&self) -> u64 {
        let found = statvfs(&self.path).expect("the file system reports its free space");
        found.f_bavail * found.f_frsize
    }

    /// Grows or shrinks the ballast file so that `leave_bytes` are free. Others use and free
    /// space at the same time.
    pub(crate) fn leave(&self, leave_bytes: u64) {
        let ballast = self.path.join("ballast");
        let file = File::options().create(true).truncate(false).write(true).open(&ballast);
        let file = file.expect("the ballast can be opened");
        let has = file.metadata().expect("a size").len();
        let free = self.free_bytes();
        match free.checked_sub(leave_bytes) {
            // Another writer may take the space first. Then the ballast gets nothing.
            Some(0) => {}
            Some(more) => drop(fallocate(&file, FallocateFlags::empty(), has, more)),
            None => {
                let less = leave_bytes - free;
                file.set_len(has.saturating_sub(less)).expect("the ballast can be shortened");
            }
        }
    }

    /// Removes the ballast, so that all its space is free again.
    pub(crate) fn relieve(&self) {
        match fs::remove_file(self.path.join("ballast")) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => panic!("{error}"),
            _ => {}
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
