//! Sockets that the service manager has opened for the daemon (socket activation,
//! `sd_listen_fds(3)`).
//!
//! The name of each one says which listener it is: `grpc`, `admin` or `metrics`, as the keys of
//! `listen`. The addresses of such a key then do not count. The service manager keeps its own
//! descriptor, so clients that connect while the daemon is restarted wait, and are not refused.

use std::{
    io,
    os::fd::{FromRawFd, OwnedFd},
    path::PathBuf,
};

use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketType, getsockname,
    sockopt::{socket_acceptconn, socket_type},
};
use tokio::net::{TcpListener, UnixListener};

use super::{
    config::{AddrOrOff, Config, ConfigError, ListenAddr},
    listen::Listener,
    unix_socket::SocketFile,
};

/// The names that sockets may have.
const NAMES: [&str; 3] = ["grpc", "admin", "metrics"];

/// Sockets with their names, as they were passed.
#[derive(Default)]
pub struct PassedSockets(Vec<(String, OwnedFd)>);

impl PassedSockets {
    /// What the service manager has passed to this process; usually nothing.
    ///
    /// # Safety
    ///
    /// Call it once, before the process has opened any descriptor: what follows standard error
    /// belongs to the result.
    pub unsafe fn take() -> Result<Self, ConfigError> {
        let passed = sd_notify::listen_fds_with_names().map_err(|error| {
            ConfigError::new(
                "listen",
                format!(
                    "the service manager passed sockets in a way that cannot be used: {error}; \
                     expected LISTEN_FDS, and in LISTEN_FDNAMES a name for each"
                ),
            )
        })?;
        // SAFETY: `LISTEN_PID` is this process, so these were opened for it and have no other
        // owner in it. The caller sees to the rest.
        Ok(Self(passed.map(|(fd, name)| (name, unsafe { OwnedFd::from_raw_fd(fd) })).collect()))
    }

    /// Checks the kind of each one.
    pub(super) fn listeners(self) -> Result<PassedListeners, ConfigError> {
        let mut listeners = PassedListeners::default();
        for (name, fd) in self.0 {
            let Some(name) = NAMES.into_iter().find(|known| *known == name) else {
                let problem = format!(
                    "the service manager passed a socket with the name {name:?}; expected \
                     \"grpc\", \"admin\" or \"metrics\", which FileDescriptorName= of the socket \
                     unit sets"
                );
                return Err(ConfigError::new("listen", problem));
            };
            let listener = listener(name, fd).map_err(|found| {
                let kinds = if name == "metrics" { "a TCP socket" } else { "a TCP or unix socket" };
                ConfigError::new(
                    format!("listen.{name}"),
                    format!(
                        "the service manager passed {found}; expected {kinds} that listens \
                         (ListenStream= of the socket unit, and no Accept=)"
                    ),
                )
            })?;
            match (name, listener) {
                ("grpc", listener) => listeners.grpc.push(listener),
                ("admin", listener) => listeners.admin.push(listener),
                (_, Listener::Tcp(listener)) if listeners.metrics.is_none() => {
                    listeners.metrics = Some(listener);
                }
                _ => {
                    let problem = "the service manager passed several sockets; expected one";
                    return Err(ConfigError::new("listen.metrics", problem));
                }
            }
        }
        Ok(listeners)
    }
}

/// Listeners that take the place of those of the configuration.
#[derive(Default)]
pub(super) struct PassedListeners {
    pub grpc: Vec<Listener>,
    pub admin: Vec<Listener>,
    pub metrics: Option<TcpListener>,
}

impl PassedListeners {
    /// The configuration with the addresses that are in force, so that these are checked.
    pub(super) fn in_force(&self, config: &Config) -> Config {
        let mut config = config.clone();
        let listen = &mut config.listen;
        for (listeners, addresses) in
            [(&self.grpc, &mut listen.grpc), (&self.admin, &mut listen.admin)]
        {
            if !listeners.is_empty() {
                *addresses = listeners.iter().map(Listener::address).collect();
            }
        }
        if let Some(listener) = &self.metrics {
            listen.metrics = AddrOrOff(listener.local_addr().ok().map(ListenAddr::Tcp));
        }
        config
    }
}

/// The listener of a socket, or what it is instead.
fn listener(name: &str, fd: OwnedFd) -> Result<Listener, String> {
    match socket_type(&fd) {
        Err(_) => return Err("something that is not a socket".to_owned()),
        Ok(SocketType::STREAM) => {}
        Ok(SocketType::DGRAM) => return Err("a datagram socket".to_owned()),
        Ok(_) => return Err("a socket that is not a stream".to_owned()),
    }
    let unusable = |error: io::Error| format!("a socket that cannot be used ({error})");
    let of_system = |error: rustix::io::Errno| unusable(error.into());
    if !socket_acceptconn(&fd).map_err(of_system)? {
        return Err("a socket that does not listen".to_owned());
    }
    rustix::io::ioctl_fionbio(&fd, true).map_err(of_system)?;
    let address = getsockname(&fd).map_err(of_system)?;
    match address.address_family() {
        AddressFamily::INET | AddressFamily::INET6 => {
            let listener = TcpListener::from_std(fd.into()).map_err(unusable)?;
            Ok(Listener::Tcp(listener))
        }
        AddressFamily::UNIX if name == "metrics" => Err("a unix socket".to_owned()),
        AddressFamily::UNIX => {
            let address = SocketAddrUnix::try_from(address).map_err(of_system)?;
            let path = address.path().map(|path| path.to_string_lossy().into_owned());
            let path = path.filter(|path| !path.is_empty()).map(PathBuf::from);
            let path = path.ok_or("an abstract unix socket, which is open to every process")?;
            let listener = UnixListener::from_std(fd.into()).map_err(unusable)?;
            Ok(Listener::Unix(listener, SocketFile::of_service_manager(path)))
        }
        _ => Err("a socket of another kind of network".to_owned()),
    }
}
