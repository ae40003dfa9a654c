//! The changes that were made to sessions, and whether a store agrees with them.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD as BASE64URL};
use sessiond::{
    grpc::pb::Session,
    session::{
        clock::Moment,
        id::PublicId,
        record::Principal,
        store::{Certainty, Result, Store},
    },
    store::sled::{Durability, OnDamage, SledDatabase, SledOptions, SledStore},
};

/// A session with all its changes, one after the other.
#[derive(Clone)]
pub(crate) struct Story {
    pub id: PublicId,
    pub steps: Vec<Step>,
}

#[derive(Clone)]
pub(crate) struct Step {
    pub durability: Durability,
    /// The length of the log before the request was sent, and after its answer.
    pub sent: u64,
    pub acknowledged: u64,
    /// The state after the change; `None` if the session has ended.
    pub left: Option<Left>,
}

#[derive(Debug, PartialEq, Eq, Clone)]
pub(crate) struct Left {
    pub version: u64,
    pub data: Vec<u8>,
}

/// The principal for a session of a rig, by number. Every fourth session is anonymous.
pub(crate) fn principal(number: u64) -> &'static str {
    PRINCIPALS[number as usize % PRINCIPALS.len()]
}

const PRINCIPALS: [&str; 4] = ["", "ann", "bob", "cleo"];

/// The errors of a store, by kind.
pub(crate) type Findings = Vec<(&'static str, String)>;

/// Opens the store in `data` as it was at `cut`, an offset in the recorder's log, and compares
/// it with the stories. It may also hold up to `untold` records of unacknowledged creations.
pub(crate) async fn judge(data: &Path, stories: &[Story], cut: u64, untold: usize) -> Findings {
    let options = SledOptions {
        path: data.to_owned(),
        cache_bytes: 16 << 20,
        flush_interval: Duration::from_secs(3600),
        threads: 2,
        max_pending: 64,
        min_free_bytes: 0,
        on_damage: OnDamage::Refuse,
        write: Durability::Buffered,
        destroy: Durability::Buffered,
        roll: Durability::Buffered,
    };
    let opened = catch_unwind(AssertUnwindSafe(|| {
        let database = SledDatabase::open(options).map_err(|error| error.to_string())?;
        let store = database.store("default").map_err(|error| error.to_string())?;
        Ok::<_, String>((database, store))
    }));
    let (_database, store) = match opened {
        Ok(Ok(opened)) => opened,
        Ok(Err(error)) => {
            // The directory's name is different each time.
            let error = error.replace(&data.display().to_string(), "DATA");
            return vec![("does not open", error)];
        }
        Err(_) => return vec![("panics at open", String::new())],
    };
    let mut findings = Findings::new();
    // Every change that was acknowledged before this offset was included in a sync.
    let synced = stories.iter().flat_map(|story| &story.steps);
    let synced = synced
        .filter(|step| step.durability == Durability::Synced && step.acknowledged <= cut)
        .map(|step| step.sent)
        .max()
        .unwrap_or(0);
    let mut present = 0;
    for story in stories {
        let must = story.steps.iter().rposition(|step| {
            // An equal offset is not enough: a buffered change adds nothing to the log, so it
            // may have been made after the sync had begun.
            step.acknowledged < synced
                || step.durability == Durability::Synced && step.acknowledged <= cut
        });
        let may = story.steps.iter().rposition(|step| step.sent <= cut);
        let found = match store.read(story.id, Certainty::Current).await {
            Ok(found) => found,
            Err(error) => {
                findings.push(("a record cannot be read", error.to_string()));
                continue;
            }
        };
        if let Some(record) = &found
            && !is_listed(&store, story.id, &record.principal).await.unwrap_or(true)
        {
            findings
                .push(("a session is missing in the list of its principal", story.id.to_string()));
        }
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
            (Some(Step { durability: Durability::Synced, .. }), _) => "a synced change is lost",
            (Some(_), _) => "lost, although a later sync included it",
            (None, _) => "a state that no change stored",
        };
        findings.push((kind, detail));
    }
    if let Err(error) = judge_principals(&store, &mut findings).await {
        findings.push(("the principals cannot be listed", error.to_string()));
    }
    // No session is due at time 0, but after a crash a cleanup counts the records.
    if let Err(error) = store.cleanup(Moment::from_unix_millis(0), usize::MAX).await {
        findings.push(("a sweep fails", error.to_string()));
    }
    let count = store.count().expect("sled has counted") as usize;
    if !(present..=present + untold).contains(&count) {
        findings.push(("unknown records", format!("found {count}, expected {present} known ones")));
    }
    let end = Moment::from_unix_millis(u64::MAX / 2);
    match store.cleanup(end, usize::MAX).await.map(|swept| swept.removed.len()) {
        Ok(removed) if removed == count => {}
        Ok(removed) => {
            findings.push((
                "the index misses records",
                format!("a sweep removed {removed} of {count}"),
            ));
        }
        Err(error) => findings.push(("a sweep fails", error.to_string())),
    }
    match store.index_entries() {
        Ok(left) if left.principals == 0 && left.expiry == 0 => {}
        left => findings.push(("a full sweep leaves entries", format!("{left:?}"))),
    }
    findings
}

/// Whether the index has the entry of this session. It checks this one entry only, because a
/// list removes orphaned entries.
async fn is_listed(store: &SledStore, id: PublicId, principal: &Principal) -> Result<bool> {
    if principal.is_anonymous() {
        return Ok(true);
    }
    let mut before = *id.as_bytes();
    for octet in before.iter_mut().rev() {
        *octet = octet.wrapping_sub(1);
        if *octet != 0xff {
            break;
        }
    }
    let listed = store
        .list(principal.clone(), Some(PublicId::from_bytes(before)), 1, Certainty::Current)
        .await?;
    Ok(listed.records.first().is_some_and(|(found, _)| *found == id))
}

/// Checks that a cleanup at time 0 removes no session, and leaves no index entry without a
/// session.
async fn judge_principals(store: &SledStore, findings: &mut Findings) -> Result<()> {
    let swept = store.cleanup(Moment::from_unix_millis(0), usize::MAX).await?;
    if !swept.removed.is_empty() {
        findings.push(("a sweep removes live sessions", format!("{}", swept.removed.len())));
    }
    let entries = store.index_entries()?.principals;
    let mut listed = 0;
    for name in &PRINCIPALS[1..] {
        let principal = Principal::new(name.as_bytes()).expect("short");
        listed += store.list(principal, None, usize::MAX, Certainty::Current).await?.records.len();
    }
    if entries != listed {
        findings.push(("a sweep leaves entries", format!("{entries} for {listed} sessions")));
    }
    Ok(())
}

pub(crate) fn public_id(session: &Session) -> PublicId {
    let id = BASE64URL.decode(&session.id).expect("base64url");
    PublicId::from_bytes(id.try_into().expect("12 octets"))
}
