//! Export and import: records on the wire, and the pages of an export.

use std::sync::Arc;

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD as BASE64URL};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use sha2::{Digest, Sha256};

use super::{
    convert,
    engines::Engines,
    fault::{Fault, Reason},
    operation::run_detached,
    page,
    wire::{
        ExportSessionsRequest, ExportSessionsResponse, ImportSessionsRequest,
        ImportSessionsResponse, SessionRecord,
    },
};
use crate::session::{
    clock::Moment,
    data::Data,
    engine::Engine,
    id::{PublicId, VerifierHash},
    lifetime::MAX_DURATION,
    record::Record,
    store::Cursor,
    transfer::{Entry, Exported, Imported, Kind, Position},
};

const DEFAULT_SIZE: usize = 500;
const MOST_RECORDS: usize = 1000;
/// A page ends when its data has grown to this.
const PAGE_BYTES: usize = 1 << 20;
/// Or when so many slices have gone into it, of which most may be empty: a Redis may
/// hold much else. So a call is short.
const PAGE_SLICES: usize = 100;
/// 9999-12-31T23:59:59.999Z, where timestamps end. A mark may be for ever.
const LAST: Moment = Moment::from_unix_millis(253_402_300_799_999);
/// Records that one call has under way at a time, so that one flush serves many.
const AT_ONCE: usize = 64;

/// One page of an export.
pub async fn export(
    engines: &Engines,
    request: ExportSessionsRequest,
) -> Result<ExportSessionsResponse, Fault> {
    let size = page::size(request.page_size, DEFAULT_SIZE)?;
    let asked = request.engine.as_str();
    let (engine, mut position) = match request.page_token.as_str() {
        "" => {
            // Without a name the first one: none comes before the empty name.
            let first = asked.is_empty().then(|| engines.after("")).flatten();
            (first.map_or_else(|| engines.get(asked.as_bytes()), Ok)?, Position::START)
        }
        token => {
            let place = decode(token, asked).ok_or_else(bad_token)?;
            (engines.get(place.0.as_bytes())?, place.1)
        }
    };
    let mut page = ExportSessionsResponse {
        engine: engine.name().to_owned(),
        stored_count: engine.count(),
        page_time: Some(convert::timestamp(engine.now())),
        ..ExportSessionsResponse::default()
    };
    let mut bytes = 0;
    for slice in 1.. {
        let Exported { entries, unreadable, next } = engine.export(position).await?;
        bytes += entries.iter().map(|entry| entry.record.size()).sum::<usize>();
        page.records.extend(entries.iter().map(|entry| record(engine.name(), entry)));
        page.unreadable_count += u32::try_from(unreadable).unwrap_or(u32::MAX);
        let Some(next) = next else { break };
        if page.records.len() >= size || bytes >= PAGE_BYTES || slice == PAGE_SLICES {
            page.next_page_token = encode(engine.name(), asked, &next);
            return Ok(page);
        }
        position = next;
    }
    if asked.is_empty()
        && let Some(following) = engines.after(engine.name())
    {
        page.next_page_token = encode(following.name(), asked, &Position::START);
    }
    Ok(page)
}

/// Keeps what another daemon has exported.
pub async fn import(
    engines: &Engines,
    request: ImportSessionsRequest,
) -> Result<ImportSessionsResponse, Fault> {
    if request.records.len() > MOST_RECORDS {
        let found = request.records.len();
        return Err(invalid(format!("expected at most {MOST_RECORDS} records, found {found}")));
    }
    let records = request.records.into_iter().enumerate();
    let checked = records.map(|(at, record)| {
        let engine = engines.get(record.engine.as_bytes());
        let engine = engine.map(Arc::clone).map_err(|fault| fault.with_field("records"))?;
        let entry = entry(record, &engine).map_err(|why| invalid(format!("record {at}: {why}")))?;
        Ok((engine, entry))
    });
    let checked: Vec<(Arc<Engine>, Entry)> = checked.collect::<Result<_, Fault>>()?;
    let outcomes = stream::iter(checked)
        .map(|(engine, entry)| {
            let must_complete = engine.must_complete();
            run_detached(must_complete, async move { engine.import(entry).await })
        })
        .buffer_unordered(AT_ONCE);
    let mut response = ImportSessionsResponse::default();
    let mut outcomes = std::pin::pin!(outcomes);
    while let Some(outcome) = outcomes.try_next().await? {
        *match outcome {
            Imported::Created => &mut response.created_count,
            Imported::Replaced => &mut response.replaced_count,
            Imported::Kept => &mut response.kept_count,
            Imported::Dropped => &mut response.dropped_count,
        } += 1;
    }
    Ok(response)
}

fn invalid(problem: String) -> Fault {
    Fault::at(Reason::InvalidArgument, "records", problem)
}

fn record(engine: &str, Entry { kind, id, record }: &Entry) -> SessionRecord {
    SessionRecord {
        engine: engine.to_owned(),
        id: id.to_string(),
        verifier_sha256: Bytes::copy_from_slice(record.verifier.as_bytes()),
        version: record.version,
        principal: record.principal.as_bytes().clone(),
        create_time: Some(convert::timestamp(record.create_time.min(LAST))),
        idle_deadline: Some(convert::timestamp(record.deadline.min(LAST))),
        duration: record.duration.map(convert::duration),
        data: record.data.text().clone(),
        adoption_mark: *kind == Kind::Mark,
    }
}

/// The record, or what is wrong with it. Quotes nothing of it.
fn entry(record: SessionRecord, engine: &Engine) -> Result<Entry, String> {
    let kind = if record.adoption_mark { Kind::Mark } else { Kind::Session };
    let id = PublicId::from_text(record.id.as_bytes()).ok_or_else(|| {
        format!("id: expected {} characters of base64url, a public id", PublicId::TEXT_LEN)
    })?;
    let verifier = record.verifier_sha256.as_ref().try_into().map(VerifierHash::from_bytes);
    let verifier = verifier.map_err(|_| {
        let found = record.verifier_sha256.len();
        format!("verifier_sha256: expected {} bytes, found {found}", VerifierHash::LEN)
    })?;
    if !(1..=i64::MAX as u64).contains(&record.version) {
        return Err("version: expected at least 1 and less than 2^63".to_owned());
    }
    let data = own_data(&record.data, engine.max_data_bytes())?;
    let now = engine.now();
    let deadline = moment("idle_deadline", record.idle_deadline)?;
    // The longest lifetime, and one granularity, which is no longer.
    if kind == Kind::Session && deadline.since(now) > MAX_DURATION * 2 {
        return Err(format!(
            "idle_deadline: expected at most {} s from now",
            MAX_DURATION.as_secs() * 2
        ));
    }
    let named = |field| move |fault: Fault| -> String { format!("{field}: {}", fault.message()) };
    let duration = record.duration.as_ref().map(convert::own_duration).transpose();
    Ok(Entry {
        kind,
        id,
        record: Arc::new(Record {
            verifier,
            version: record.version,
            // Of a clock that is ahead of ours; the absolute lifetime counts from it.
            create_time: moment("create_time", record.create_time)?.min(now),
            deadline,
            duration: duration.map_err(named("duration"))?,
            principal: convert::principal(&record.principal).map_err(named("principal"))?,
            data,
        }),
    })
}

/// A copy: a slice would keep all records of the call in memory.
fn own_data(data: &[u8], most: usize) -> Result<Data, String> {
    if data.len() > most {
        let found = data.len();
        return Err(format!(
            "data: expected at most max_data_bytes of the engine, which is {most}, found {found} bytes"
        ));
    }
    Data::parse(Bytes::copy_from_slice(data)).map_err(|error| format!("data: {error}"))
}

fn moment(field: &str, time: Option<prost_types::Timestamp>) -> Result<Moment, String> {
    let millis = time.and_then(|prost_types::Timestamp { seconds, nanos }| {
        let (seconds, nanos) = (u64::try_from(seconds).ok()?, u64::try_from(nanos).ok()?);
        (nanos < 1_000_000_000)
            .then_some(seconds.checked_mul(1000)?.checked_add(nanos / 1_000_000)?)
    });
    let millis = millis.ok_or_else(|| format!("{field}: expected a time after 1970"))?;
    Ok(Moment::from_unix_millis(millis))
}

const LAYOUT: u8 = 1;
const DIGEST_LEN: usize = 8;
/// The longest name of an engine and the longest cursor take less.
const MOST_TOKEN_BYTES: usize = 1024;

/// A token says where the next page begins. As with those of lists, a digest keeps
/// a caller from going on with another question.
fn encode(engine: &str, asked: &str, Position { kind, cursor }: &Position) -> String {
    let mut bytes = vec![LAYOUT, u8::from(*kind == Kind::Mark), u8::from(cursor.is_some())];
    bytes.push(u8::try_from(engine.len()).expect("names of engines are checked at start"));
    bytes.extend_from_slice(engine.as_bytes());
    bytes.extend_from_slice(cursor.as_ref().map(|Cursor(octets)| octets.as_ref()).unwrap_or(&[]));
    bytes.extend_from_slice(&digest(&bytes, asked));
    BASE64URL.encode(bytes)
}

fn decode(token: &str, asked: &str) -> Option<(String, Position)> {
    if token.len() > MOST_TOKEN_BYTES {
        return None;
    }
    let bytes = BASE64URL.decode(token).ok()?;
    let (bytes, digested) = bytes.split_last_chunk::<DIGEST_LEN>()?;
    if digest(bytes, asked) != *digested {
        return None;
    }
    let (&[LAYOUT, mark, has_cursor, name_len], rest) = bytes.split_first_chunk()? else {
        return None;
    };
    let (name, cursor) = rest.split_at_checked(name_len.into())?;
    let kind = if mark == 0 { Kind::Session } else { Kind::Mark };
    let cursor = (has_cursor != 0).then(|| Cursor(Bytes::copy_from_slice(cursor)));
    Some((String::from_utf8(name.to_vec()).ok()?, Position { kind, cursor }))
}

fn digest(bytes: &[u8], asked: &str) -> [u8; DIGEST_LEN] {
    let mut digest = Sha256::new_with_prefix("sessiond export token\0");
    // An engine's name has no NUL.
    for part in [asked.as_bytes(), b"\0", bytes] {
        digest.update(part);
    }
    *digest.finalize().first_chunk().expect("SHA-256 is longer")
}

fn bad_token() -> Fault {
    let problem = "expected the next_page_token of an answer to the same question, or nothing for \
                   the first page";
    Fault::at(Reason::InvalidArgument, "page_token", problem)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn place() -> (String, Position) {
        let cursor = Some(Cursor(Bytes::from_static(&[0, 1, 254, 255])));
        ("shop".to_owned(), Position { kind: Kind::Mark, cursor })
    }

    #[test]
    fn a_token_is_good_for_its_question_only() {
        let (engine, position) = place();
        let token = encode(&engine, "", &position);
        assert_eq!(decode(&token, ""), Some(place()));
        assert_eq!(decode(&token, "shop"), None, "all engines were asked for, not one");
        for at in 0..token.len() {
            let mut other = token.clone().into_bytes();
            other[at] = if other[at] == b'A' { b'B' } else { b'A' };
            let other = String::from_utf8(other).expect("ASCII");
            assert_eq!(decode(&other, ""), None, "octet {at} was changed");
        }
        let start = encode("default", "default", &Position::START);
        assert_eq!(decode(&start, "default"), Some(("default".to_owned(), Position::START)));
    }

    #[test]
    fn a_record_keeps_nothing_else_of_its_call() {
        let call = Bytes::from_static(b"another record{\"a\":1}and another");
        let data = own_data(&call[14..21], 7).expect("an object");
        assert_eq!(&data.text()[..], b"{\"a\":1}");
        own_data(&call[14..21], 6).expect_err("it is longer");
        let kept = data.text().as_ptr();
        assert!(!call.as_ptr_range().contains(&kept), "a slice keeps all of the call in memory");
    }

    proptest! {
        #[test]
        fn any_text_is_judged_without_a_panic(text in "\\PC{1,40}|[A-Za-z0-9_-]{0,60}") {
            prop_assert_eq!(decode(&text, ""), None);
        }

        #[test]
        fn any_time_is_judged_without_a_panic(seconds in any::<i64>(), nanos in any::<i32>()) {
            let time = prost_types::Timestamp { seconds, nanos };
            if let Ok(moment) = moment("create_time", Some(time)) {
                let back = convert::timestamp(moment);
                prop_assert_eq!((back.seconds, back.nanos), (seconds, nanos / 1_000_000 * 1_000_000));
            }
        }
    }
}
