//! All tests that look at sessiond from outside, as one binary.
//!
//! Most start a daemon in this process, with a clock that the test moves; some
//! run the built program. All listen on port 0 and run in parallel.

mod administration;
mod adoption;
mod boundaries;
mod clocks;
mod concurrency;
mod configuration;
mod configuration_reference;
mod conformance;
mod crash_states;
mod destroying;
mod documents;
mod express;
mod faults;
mod frontends;
mod golden;
mod large_records;
mod layouts;
mod lifetimes;
mod listeners;
mod messages_in_documents;
mod pipelines;
mod principals;
mod processes;
mod redis_daemon;
mod redis_principals;
mod redis_replicas;
mod redis_scan;
mod redis_store;
mod redis_work;
mod resolving;
mod secret_files;
mod support;
mod transfer;
mod watching;
mod writing;
