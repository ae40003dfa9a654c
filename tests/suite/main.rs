//! All tests that use sessiond from outside, as one binary.
//!
//! Most tests start a daemon in this process, with a clock that the test moves. Some run the
//! built program. All listen on port 0 and run in parallel.

mod access;
mod administration;
mod adoption;
mod adoption_limits;
mod boundaries;
mod checking;
mod clocks;
mod concurrency;
mod configuration;
mod configuration_reference;
mod conformance;
mod crash_states;
mod data_directory;
mod describing;
mod destroying;
mod documents;
mod express;
mod faults;
mod generated;
mod golden;
mod large_records;
mod layouts;
mod lifetimes;
mod listeners;
mod logs;
mod messages_in_documents;
mod operators;
mod own_sessions;
mod peers;
mod pipelines;
mod places;
mod principals;
mod processes;
mod redis_connections;
mod redis_daemon;
mod redis_needs;
mod redis_principals;
mod redis_replicas;
mod redis_scan;
mod redis_scripts;
mod redis_store;
mod redis_work;
mod reloading;
mod reloading_files;
mod resolving;
mod secret_files;
mod service_manager;
mod signals;
mod support;
mod transfer;
mod watching;
mod writing;
