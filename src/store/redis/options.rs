//! The options of the store.

use std::time::Duration;

use super::{Login, RedisUrl, Source, Tls, Wait};
use crate::store::codec::Layout;

/// Where and how records are kept.
#[derive(Clone)]
pub struct RedisOptions {
    /// The server or servers. Its own login counts where `login` is empty.
    pub url: RedisUrl,
    /// Replaces the login of the URL, unless it is empty.
    pub login: Login,
    /// For the Sentinels, if they ask for one. The login of the URL is never sent to them.
    pub sentinel_login: Login,
    /// Used if the URL asks for TLS.
    pub tls: Source<Tls>,
    /// Every key begins with it.
    pub key_prefix: String,
    /// The most time that one operation may take, with all its commands.
    pub timeout: Duration,
    /// The most time until a connection can be used, with TLS and login. Also limits the probes.
    pub connect_timeout: Duration,
    /// Connections to each server.
    pub connections: usize,
    /// Operations that may wait for an answer at the same time. More are refused.
    pub max_pending: usize,
    /// How long Redis keeps a record past its deadline.
    pub expiry_grace: Duration,
    /// Replicas that must confirm a change. `None`: none.
    pub wait: Option<Wait>,
    /// The layout of the records that are written. An earlier one than the latest is for the
    /// time in which daemons of an earlier release use the same Redis.
    pub record_layout: Layout,
}

impl std::fmt::Debug for RedisOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RedisOptions({})", self.url)
    }
}
