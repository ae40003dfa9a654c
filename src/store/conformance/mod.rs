//! What every store must do, as a test that any crate can run on its own store.
//!
//! It is compiled with the feature `conformance`, which is for tests only:
//!
//! ```toml
//! [dev-dependencies]
//! sessiond = { path = "../sessiond", features = ["conformance"] }
//! ```
//!
//! The test opens an empty store and calls [`check`], which panics at the first thing
//! that the store does wrong. For the memory store it is this:
//!
//! ```
//! use std::sync::Arc;
//!
//! use sessiond::store::{
//!     conformance::{self, Expiry},
//!     memory::MemoryStore,
//! };
//!
//! # let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
//! # runtime.block_on(async {
//! let store = Arc::new(MemoryStore::default());
//! conformance::check(store, Expiry::Cleanup).await;
//! # });
//! ```
//!
//! What a kind of store does beside that is not checked here: what it keeps over a
//! restart, how it fails, and how it keeps engines apart. Tests of such things can use
//! [`sample`].
//!
//! | file | holds |
//! |---|---|
//! | [`sample`] | records and changes to test with |
//! | `records` | one record: create, touch, write, destroy |
//! | `expiry` | cleanup, and the number of records |
//! | `listing` | the sessions of a principal |
//! | `transfer` | scan and restore |

mod expiry;
mod listing;
mod records;
pub mod sample;
mod transfer;

use std::{error::Error, sync::Arc};

use crate::session::{
    id::PublicId,
    record::Record,
    store::{Certainty, Result, Store},
};

/// What removes a record when its deadline has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    /// [`Store::cleanup`] does, and [`Store::count`] knows the number of records.
    Cleanup,
    /// The store does, at a time of its own, and [`Store::cleanup`] finds nothing.
    Store,
}

/// Checks what a store does. `store` must be empty. Needs a tokio runtime; with several
/// threads, races are more likely to show.
///
/// # Panics
///
/// If the store does something else than [`Store`] says. The message tells what was
/// expected.
pub async fn check(store: Arc<dyn Store>, expiry: Expiry) {
    if expiry == Expiry::Cleanup {
        expiry::removes_expired_records(store.as_ref()).await;
        expiry::follows_a_shortened_deadline(store.as_ref()).await;
        expiry::names_the_removed_records(store.as_ref()).await;
        expiry::lists_until_removed(store.as_ref()).await;
        expiry::counts_its_records(store.as_ref()).await;
    }
    records::creates_once(store.as_ref()).await;
    records::touches_live_records(store.as_ref()).await;
    records::writes_live_records(store.as_ref()).await;
    records::refuses_without_a_change(store.as_ref()).await;
    records::destroys_durably(store.as_ref()).await;
    records::destroys_by_claim(store.as_ref()).await;
    records::destroys_by_a_former_id(store.as_ref()).await;
    records::keeps_unknown_fields(store.as_ref()).await;
    listing::lists_a_principal_in_pages(store.as_ref()).await;
    listing::follows_changes_of_the_principal(store.as_ref()).await;
    listing::lists_what_stays_during_changes(store.as_ref()).await;
    transfer::restores_later_states(store.as_ref()).await;
    transfer::scans_what_stays_during_changes(store.as_ref()).await;
    records::serializes_writes(store).await;
}

/// The answer of the store, which must not fail.
#[track_caller]
fn answered<T>(outcome: Result<T>) -> T {
    outcome.unwrap_or_else(|error| {
        let cause = error.source().map(ToString::to_string).unwrap_or_default();
        panic!("expected the store to answer, found the error: {error}: {cause}")
    })
}

/// The answer of the store about a record that exists.
#[track_caller]
fn found<T>(outcome: Result<Option<T>>) -> T {
    answered(outcome).expect("expected the record to be there, found none")
}

async fn stored(store: &dyn Store, id: PublicId) -> Option<Arc<Record>> {
    answered(store.read(id, Certainty::Current).await)
}

async fn create(store: &dyn Store, id: PublicId, record: Record) -> Arc<Record> {
    answered(store.create(id, record).await).expect("expected a free id, found it taken")
}
