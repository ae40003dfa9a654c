//! What was done to sessions, and whether a store agrees.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD as BASE64URL};
use sessiond::{
    grpc::wire::Session,
    session::{clock::Moment, id::PublicId, store::Store},
    store::sled::{Durability, SledDatabase, SledOptions},
};

/// A session, and everything that was done to it, one after the other.
#[derive(Clone)]
pub struct Story {
    pub id: PublicId,
    pub steps: Vec<Step>,
}

#[derive(Clone)]
pub struct Step {
    pub durability: Durability,
    /// The length of the log before it was asked for, and after it was answered.
    pub sent: u64,
    pub acknowledged: u64,
    /// What it left behind; `None`: nothing.
    pub left: Option<Left>,
}

#[derive(Debug, PartialEq, Eq, Clone)]
pub struct Left {
    pub version: u64,
    pub data: Vec<u8>,
}

/// What is wrong with a store, by kind.
pub type Findings = Vec<(&'static str, String)>;

/// Opens the store in `data` as it was left at `cut`, a place in the recorder's
/// log, and holds it to the stories. `untold` more records may be there.
pub async fn judge(data: &Path, stories: &[Story], cut: u64, untold: usize) -> Findings {
    let options = SledOptions {
        path: data.to_owned(),
        cache_bytes: 16 << 20,
        flush_interval: Duration::from_secs(3600),
        max_pending: 64,
        min_free_bytes: 0,
        write: Durability::Buffered,
        destroy: Durability::Buffered,
        roll: Durability::Buffered,
    };
    let opened = catch_unwind(AssertUnwindSafe(|| {
        let database = SledDatabase::open(options).map_err(|error| error.to_string())?;
        let store = database.store("default", 0).map_err(|error| error.to_string())?;
        Ok::<_, String>((database, store))
    }));
    let (_database, store) = match opened {
        Ok(Ok(opened)) => opened,
        Ok(Err(error)) => {
            // The directory's name says nothing.
            let error = error.replace(&data.display().to_string(), "DATA");
            return vec![("does not open", error)];
        }
        Err(_) => return vec![("panics at open", String::new())],
    };
    let mut findings = Findings::new();
    // Everything acknowledged before this was asked for was synced along.
    let synced = stories.iter().flat_map(|story| &story.steps);
    let synced = synced
        .filter(|step| step.durability == Durability::Synced && step.acknowledged <= cut)
        .map(|step| step.sent)
        .max()
        .unwrap_or(0);
    let mut present = 0;
    for story in stories {
        let must = story.steps.iter().rposition(|step| {
            step.acknowledged <= synced
                || step.durability == Durability::Synced && step.acknowledged <= cut
        });
        let may = story.steps.iter().rposition(|step| step.sent <= cut);
        let found = match store.read(story.id).await {
            Ok(found) => found,
            Err(error) => {
                findings.push(("a record can not be read", error.to_string()));
                continue;
            }
        };
        let found =
            found.map(|record| Left { version: record.version, data: record.data.text().to_vec() });
        present += usize::from(found.is_some());
        let first = must.unwrap_or(0);
        let mut allowed = story.steps[..may.map_or(0, |may| may + 1)].iter().skip(first);
        if must.is_none() && found.is_none() || allowed.any(|step| step.left == found) {
            continue;
        }
        let must = must.map(|must| &story.steps[must]);
        let version = |left: Option<&Left>| left.map(|left| left.version);
        let detail = format!(
            "{}: version {:?} instead of {:?} acknowledged as {:?} at {:?}",
            story.id,
            version(found.as_ref()),
            must.map(|step| version(step.left.as_ref())),
            must.map(|step| step.durability),
            must.map(|step| step.acknowledged),
        );
        let kind = match (must, &found) {
            (Some(Step { left: None, .. }), Some(_)) => "a destroyed session is back",
            (Some(Step { durability: Durability::Synced, .. }), _) => "synced is lost",
            (Some(_), _) => "lost, though a later sync took it along",
            (None, _) => "makes no sense",
        };
        findings.push((kind, detail));
    }
    let count = store.count().expect("sled counts") as usize;
    if !(present..=present + untold).contains(&count) {
        findings.push(("unknown records", format!("{count} are there, {present} are known")));
    }
    let end = Moment::from_unix_millis(u64::MAX / 2);
    match store.cleanup(end, usize::MAX).await {
        Ok(swept) if swept.removed == count => {}
        Ok(swept) => findings
            .push(("the index misses records", format!("{} of {count} are swept", swept.removed))),
        Err(error) => findings.push(("a sweep fails", error.to_string())),
    }
    findings
}

pub fn public_id(session: &Session) -> PublicId {
    let id = BASE64URL.decode(&session.id).expect("base64url");
    PublicId::from_bytes(id.try_into().expect("12 octets"))
}
