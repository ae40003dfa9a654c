//! The gRPC services of a listener: ours, with health and reflection beside them.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::{
    server::NamedService,
    service::{Routes, RoutesBuilder},
};

use super::config::Limits;
use crate::{
    grpc::{
        admin_service::SessionAdminService,
        auth::Guard,
        handler::{Handler, UnaryRequests},
        health::{HealthService, Serving},
        pb::{
            FILE_DESCRIPTOR_SET, SessionServiceMethod,
            session_admin_service_server::SessionAdminServiceServer,
        },
        session_service::SessionService,
        spans::Traces,
    },
    service::{
        admin::AdminService, engines::Engines, observer::Observer, reload::Reload,
        status::StatusSource, watchers::Watchers,
    },
};

/// The size limit of a request for reflection.
const MAX_REFLECTION_BYTES: usize = 4 << 10;

/// The services that gRPC health knows by name, whatever the listener serves.
const SERVICES: [&str; 2] = ["sessiond.v1.SessionService", "sessiond.v1.SessionAdminService"];

/// What a caller is told who has reached the wrong listener.
const UNSERVED_BY_GRPC: &str = "not served here: this is an address of listen.grpc, which serves \
    sessiond.v1.SessionService and health; sessiond.v1.SessionAdminService is at the addresses of \
    listen.admin";
const UNSERVED_BY_ADMIN: &str = "not served here: this is an address of listen.admin, which serves \
    sessiond.v1.SessionAdminService and health; sessiond.v1.SessionService is at the addresses of \
    listen.grpc";

/// What the gRPC services are made of.
pub(super) struct GrpcServer {
    pub limits: Limits,
    /// Entries that one slice of a cleanup looks at.
    pub slice: usize,
    pub reflection: bool,
    pub engines: Engines,
    pub watchers: Arc<Watchers>,
    pub observer: Arc<dyn Observer>,
    /// Whether the stores can serve.
    pub serving: watch::Receiver<Serving>,
    /// Cancelled when the daemon stops: watching ends.
    pub stopping: CancellationToken,
    /// Tells operators how the daemon is.
    pub status: Arc<dyn StatusSource>,
    pub reloads: Arc<dyn Reload>,
    pub traces: Traces,
}

impl GrpcServer {
    /// For the listeners of frontends.
    pub(super) fn sessions(&self, guard: Guard) -> Handler {
        let sessions = SessionService {
            engines: self.engines.clone(),
            observer: Arc::clone(&self.observer),
            max_message_bytes: self.limits.max_message_bytes.as_usize(),
            pipeline_in_flight: self.limits.pipeline_in_flight as usize,
        };
        let routes = self.routes(Routes::builder(), SessionServiceMethod::SERVICE);
        Handler {
            auth: Some(guard),
            health: self.health(),
            sessions: Some(sessions),
            unary: None,
            routes,
            unserved: UNSERVED_BY_GRPC,
            traces: self.traces.clone(),
        }
    }

    /// For the listeners of operators.
    pub(super) fn admin(&self, guard: Guard) -> Handler {
        let service = SessionAdminServiceServer::new(SessionAdminService(AdminService {
            engines: self.engines.clone(),
            slice: self.slice,
            watchers: Arc::clone(&self.watchers),
            stopping: self.stopping.clone(),
            status: Arc::clone(&self.status),
            reloads: Arc::clone(&self.reloads),
        }))
        .max_decoding_message_size(self.limits.max_message_bytes.as_usize());
        let name = <SessionAdminServiceServer<SessionAdminService>>::NAME;
        let mut routes = Routes::builder();
        routes.add_service(service);
        let max_message_bytes = self.limits.max_message_bytes.as_usize();
        Handler {
            auth: Some(guard),
            health: self.health(),
            sessions: None,
            unary: Some(UnaryRequests { service: name, max_message_bytes }),
            routes: self.routes(routes, name),
            unserved: UNSERVED_BY_ADMIN,
            traces: self.traces.clone(),
        }
    }

    fn health(&self) -> HealthService {
        HealthService { services: SERVICES.to_vec(), serving: self.serving.clone() }
    }

    /// The services in `routes`, with reflection of the service `name`.
    fn routes(&self, mut routes: RoutesBuilder, name: &str) -> Routes {
        if self.reflection {
            let builder = || {
                tonic_reflection::server::Builder::configure()
                    .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
                    .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
                    .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
                    .with_service_name(name)
                    .with_service_name("grpc.health.v1.Health")
            };
            const OURS: &str = "the descriptors are compiled in";
            // Many clients still ask for v1alpha.
            let (v1, v1alpha) =
                (builder().build_v1().expect(OURS), builder().build_v1alpha().expect(OURS));
            let v1 = v1.max_decoding_message_size(MAX_REFLECTION_BYTES);
            let v1alpha = v1alpha.max_decoding_message_size(MAX_REFLECTION_BYTES);
            routes.add_service(v1).add_service(v1alpha);
        }
        routes.routes().prepare()
    }
}
