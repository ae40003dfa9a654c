//! `[listen.unix]`: who may connect to the unix sockets of `grpc` and `admin`.

use serde::{Deserialize, Serialize};

use super::{ConfigError, Listen, ListenAddr, SocketMode};
use crate::server::system;

/// `[listen.unix]`: the files of unix sockets. `admin` has its own, because whoever may call it
/// may read and end all sessions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UnixConfig {
    /// The permissions of the sockets in `grpc`.
    pub grpc_mode: SocketMode,
    /// The group that they are given to: a name or a number. Empty: the one of the process.
    pub grpc_group: String,
    /// The permissions of the sockets in `admin`.
    pub admin_mode: SocketMode,
    /// The group that they are given to.
    pub admin_group: String,
}

impl Default for UnixConfig {
    fn default() -> Self {
        let mode = SocketMode(0o660);
        let group = String::new();
        Self { grpc_mode: mode, grpc_group: group.clone(), admin_mode: mode, admin_group: group }
    }
}

/// Who may connect to a unix socket: whoever may write to its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketAccess {
    /// The permissions of its file.
    pub mode: u32,
    /// The group that it is given to. `None`: the one of the process, or of the folder if that
    /// has the set-group-ID bit.
    pub group: Option<SocketGroup>,
}

/// A group of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketGroup {
    /// Its number.
    pub id: u32,
    /// As it is configured.
    pub name: String,
}

/// The access to the sockets of each listener.
#[derive(Debug, Clone)]
pub struct UnixAccess {
    /// To those of `grpc`.
    pub grpc: SocketAccess,
    /// To those of `admin`.
    pub admin: SocketAccess,
}

/// Looks the groups up. A group that is not needed, because there is no unix socket, is not.
pub(super) fn check(
    listen: &Listen,
    with_tokens: bool,
    advice: &mut Vec<String>,
) -> Result<UnixAccess, ConfigError> {
    let UnixConfig { grpc_mode, grpc_group, admin_mode, admin_group } = &listen.unix;
    let mut access = |name, addresses: &[ListenAddr], mode: &SocketMode, group: &str| {
        if !addresses.iter().any(|address| matches!(address, ListenAddr::Unix(_))) {
            return Ok(SocketAccess { mode: mode.0, group: None });
        }
        if mode.0 & 0o002 != 0 && !with_tokens {
            advice.push(format!(
                "listen.unix.{name}_mode = \"{mode}\": every user of this machine may call; give the \
                 socket to a group with listen.unix.{name}_group, and use the mode 0660"
            ));
        }
        Ok(SocketAccess { mode: mode.0, group: group_of(name, group)? })
    };
    Ok(UnixAccess {
        grpc: access("grpc", &listen.grpc, grpc_mode, grpc_group)?,
        admin: access("admin", &listen.admin, admin_mode, admin_group)?,
    })
}

fn group_of(name: &str, group: &str) -> Result<Option<SocketGroup>, ConfigError> {
    if group.is_empty() {
        return Ok(None);
    }
    let refused = |problem| ConfigError::new(format!("listen.unix.{name}_group"), problem);
    let id = match group.parse() {
        Ok(id) => Some(id),
        Err(_) => system::group_id(group).map_err(|error| {
            refused(format!("the group {group:?} cannot be looked up: {error}"))
        })?,
    };
    let id = id.ok_or_else(|| refused(format!("this machine has no group {group:?}")))?;
    Ok(Some(SocketGroup { id, name: group.to_owned() }))
}
