pub mod grpc;
pub mod server;
pub mod session;
pub mod store;
