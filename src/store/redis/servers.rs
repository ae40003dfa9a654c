//! Redis in each of its forms: turns the options into the servers to ask.

use std::sync::Arc;

use redis::Value;

use super::{
    RedisOptions,
    cluster::Cluster,
    command::Command,
    connect::{Access, Connector, Login, Place, Traffic},
    failure::Failure,
    needs::Needs,
    scan::Holders,
    server::{Manner, Server},
    source::Source,
    time::Timekeeper,
    url::{Endpoint, RedisUrl, Target},
};
use crate::store::database::LinkFigures;

/// One server, or a cluster of them.
pub(super) enum Servers {
    One(Arc<Server>),
    Cluster(Cluster),
}

impl Servers {
    /// Starts to connect. `needs`: what the servers are tried out for, unless
    /// they are only read from.
    pub(super) fn start(
        options: &RedisOptions,
        needs: Option<Arc<Needs>>,
        traffic: Arc<Traffic>,
        time: Timekeeper,
    ) -> Self {
        let RedisUrl { tls, username, password, target } = options.url.clone();
        let named = &options.login;
        let login = Login {
            username: if named.username.is_empty() { username } else { named.username.clone() },
            password: match &named.password {
                Source::Fixed(none) if none.is_empty() => Source::Fixed(password),
                own => own.clone(),
            },
        };
        let access = Arc::new(Access {
            tls: tls.then(|| options.tls.clone()),
            servers: login,
            sentinels: options.sentinel_login.clone(),
            timeout: options.connect_timeout,
            needs,
            traffic,
        });
        let time = Arc::new(time);
        let manner = Manner {
            connections: options.connections,
            wait: options.wait,
            timeout: options.timeout,
        };
        let one = |place| {
            let connector = Connector { access: Arc::clone(&access), place };
            Self::One(Arc::new(Server::start(&connector, &time, manner)))
        };
        match target {
            Target::Server { address, database } => {
                one(Place::Server { endpoint: Endpoint::Tcp(address), database })
            }
            Target::Socket { path, database } => {
                one(Place::Server { endpoint: Endpoint::Unix(path), database })
            }
            Target::Sentinel { sentinels, service, database } => {
                let (sentinels, service) = (sentinels.into(), service.into());
                one(Place::Primary { sentinels, service, database, naming: Arc::default() })
            }
            Target::Cluster { seeds } => Self::Cluster(Cluster::start(access, time, manner, seeds)),
        }
    }

    pub(super) async fn run(&self, command: &Command<'_>) -> Result<Value, Failure> {
        match self {
            Self::One(server) => server.run(command, false).await,
            Self::Cluster(cluster) => cluster.run(command).await,
        }
    }

    /// Waits for the outcome of the current attempts to connect.
    pub(super) async fn tried(&self) -> Result<(), Failure> {
        match self {
            Self::One(server) => server.tried().await,
            Self::Cluster(cluster) => cluster.tried().await,
        }
    }

    pub(super) fn holders(&self) -> Result<Holders, Failure> {
        match self {
            Self::One(server) => {
                Ok(Holders { map: 0, servers: vec![Arc::clone(server)], are_cluster: false })
            }
            Self::Cluster(cluster) => cluster.holders(),
        }
    }

    /// As [`holders`](Self::holders), after the map has been fetched again.
    pub(super) async fn holders_now(&self) -> Result<Holders, Failure> {
        if let Self::Cluster(cluster) = self {
            cluster.learn().await?;
        }
        self.holders()
    }

    pub(super) fn check(&self) -> Result<(), Failure> {
        match self {
            Self::One(server) => server.check(),
            Self::Cluster(cluster) => cluster.check(Server::check),
        }
    }

    pub(super) fn check_reading(&self) -> Result<(), Failure> {
        match self {
            Self::One(server) => server.check_reading(),
            Self::Cluster(cluster) => cluster.check(Server::check_reading),
        }
    }

    /// Counts the connections by their state.
    pub(super) fn count_links(&self, counts: &mut LinkFigures) {
        match self {
            Self::One(server) => server.count_links(counts),
            Self::Cluster(cluster) => cluster.each_server(|server| server.count_links(counts)),
        }
    }
}
