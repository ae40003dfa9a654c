//! Unix sockets: their files, and who may connect.

use std::{
    fs, io,
    os::{
        fd::OwnedFd,
        unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, CWD, Gid, Mode, chownat, fchmod},
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with},
};
use tokio::net::{UnixListener, UnixStream};

use super::config::{SocketAccess, SocketGroup};

/// As tokio's own listeners have: the system's `somaxconn` decides.
const LONGEST_BACKLOG: i32 = -1;

/// Binds and listens. Removes the file of a socket that nobody listens on.
pub(super) async fn listen_at(
    path: &Path,
    access: &SocketAccess,
) -> io::Result<(UnixListener, SocketFile)> {
    clear_stale_socket(path).await?;
    let socket = bind_closed(path, access.mode)?;
    let inode = fs::symlink_metadata(path)?.ino();
    let file = SocketFile { path: path.to_owned(), inode: Some(inode) };
    if let Some(group) = &access.group {
        give_to(path, group)?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(access.mode))?;
    listen(&socket, LONGEST_BACKLOG)?;
    let listener = UnixListener::from_std(std::os::unix::net::UnixListener::from(socket))?;
    Ok((listener, file))
}

fn give_to(path: &Path, SocketGroup { id, name }: &SocketGroup) -> io::Result<()> {
    // A sandbox may forbid the change, and it may not be needed.
    if fs::symlink_metadata(path)?.gid() == *id {
        return Ok(());
    }
    let given = chownat(CWD, path, None, Some(Gid::from_raw(*id)), AtFlags::SYMLINK_NOFOLLOW);
    given.map_err(|error| match error {
        // INVAL: a group that the user namespace of the daemon does not have.
        Errno::PERM | Errno::INVAL => io::Error::other(format!(
            "the socket cannot be given to the group {name}: the user of the daemon is not in \
             it, or its sandbox forbids that"
        )),
        error => error.into(),
    })
}

/// Binds a socket that nobody can connect to before `listen`, when the mode of its file is
/// what it will be. Until then the mode is never wider, whatever the umask is. (The umask
/// itself is not changed, because it belongs to all threads of the process.)
fn bind_closed(path: &Path, mode: u32) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // Linux gives the file the mode of the socket, less the umask. If a system does not, the
    // socket is still closed.
    let _ = fchmod(&socket, Mode::from_raw_mode(mode));
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

/// Removes a socket that no process listens on. A killed daemon leaves one behind.
async fn clear_stale_socket(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(io::Error::other("a file that is not a socket exists there"));
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path).await {
        Ok(_) => Err(io::ErrorKind::AddrInUse.into()),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) => Err(error),
    }
}

/// The file of a unix socket. It is removed when dropped, if the daemon has made it.
pub struct SocketFile {
    path: PathBuf,
    /// `None`: the service manager has made it, and keeps it.
    inode: Option<u64>,
}

impl SocketFile {
    /// A file that stays.
    pub(super) fn of_service_manager(path: PathBuf) -> Self {
        Self { path, inode: None }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // In the meantime another daemon may have created its own socket there.
        let is_ours = |found: fs::Metadata| Some(found.ino()) == self.inode;
        if fs::symlink_metadata(&self.path).is_ok_and(is_ours) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_unix_socket_is_never_open_wider_than_it_will_be() {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        let path = scratch.path().join("socket");
        let mode = || fs::metadata(&path).expect("a socket").permissions().mode() & 0o777;
        for wanted in [0o660, 0o600, 0o666] {
            let socket = bind_closed(&path, wanted).expect("it is bound");
            assert_eq!(mode() & !wanted, 0, "the mode is {:o}", mode());
            let refused = UnixStream::connect(&path).await.expect_err("nobody can connect yet");
            assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
            drop(socket);
            let access = SocketAccess { mode: wanted, group: None };
            let listening = listen_at(&path, &access).await;
            let _listening = listening.expect("a socket that nobody listens on is stale");
            assert_eq!(mode(), wanted);
            UnixStream::connect(&path).await.expect("it is open");
        }
    }
}
