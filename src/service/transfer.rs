//! What operators call: export and import of sessions as they are stored.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};

use super::{
    admin::AdminService,
    engines::Engines,
    fault::{Fault, Reason},
    input::{self, RawDuration, RawTime},
    operation::run_detached,
    page::{self, PageToken, Question, bad_token},
};
use crate::session::{
    clock::{Moment, WallOffset, WallTime},
    data::Data,
    engine::Engine,
    id::{PublicId, VerifierHash},
    lifetime::MAX_DURATION,
    record::{Extension, Former, Record},
    store::Cursor,
    transfer::{Entry, Exported, Imported, Kind, Position},
};

const DEFAULT_SIZE: usize = 500;
/// Records that one import may bring.
const MOST_RECORDS: usize = 1000;
/// A page ends when its data has grown to this.
const PAGE_BYTES: usize = 1 << 20;
/// A page also ends after this many slices, of which most may be empty: a Redis may hold
/// much else. So a call is short.
const PAGE_SLICES: usize = 100;
/// Records that one import has under way at a time, so that one flush serves many.
const AT_ONCE: usize = 64;
/// A record gets at most this version when it is imported, although later ones are taken.
/// So whatever is imported can be written to for ages, exported and imported again.
const LATEST_VERSION: u64 = 1 << 62;

/// Asks for a page of all that is stored.
pub struct ExportRequest<'r> {
    /// The engine's name; empty: all engines, one after the other.
    pub engine: &'r str,
    /// 0: 500. Above 1000: 1000.
    pub page_size: i32,
    /// Of the answer before; empty: the first page.
    pub page_token: &'r str,
}

/// A page of what is stored, all of one engine.
#[derive(Debug)]
pub struct ExportPage {
    /// The engine's name.
    pub engine: String,
    /// What is not over yet.
    pub entries: Vec<Entry>,
    /// `None`: this is the last page.
    pub next_page_token: Option<String>,
    /// How many sessions the engine stores, including expired ones. `None`: the store
    /// does not know.
    pub stored_count: Option<u64>,
    /// Unreadable records, which are left out; the log names them.
    pub unreadable_count: u32,
    /// When the page was made.
    pub time: WallTime,
    /// How the moments of its entries are shown.
    pub offset: WallOffset,
}

/// A record that another daemon has exported, as the caller gives it.
pub struct ImportRecord {
    /// The engine's name; empty: [`DEFAULT`](super::engines::DEFAULT).
    pub engine: String,
    /// A mark is dropped where the engine does not adopt.
    pub kind: Kind,
    /// The text of a public id.
    pub id: String,
    /// SHA-256 of the verifier: 32 bytes.
    pub verifier_sha256: Bytes,
    /// At least 1.
    pub version: u64,
    /// UTF-8 of at most 256 bytes. Empty: anonymous.
    pub principal: Bytes,
    /// `None` is refused. A time after now is taken for now.
    pub create_time: Option<RawTime>,
    /// When the session ends, unless its absolute timeout comes first. `None` is refused.
    pub idle_deadline: Option<RawTime>,
    /// The session's own idle timeout. `None`: that of the engine that imports it.
    pub duration: Option<RawDuration>,
    /// A JSON object.
    pub data: Bytes,
    /// The secret halves that were rolled, the latest one last.
    pub former: Vec<ImportFormer>,
    /// Whether the cookie is persistent; `None`: as the engine's configuration says.
    pub persistent: Option<bool>,
    /// The text for the list of devices; empty: none.
    pub label: Bytes,
}

/// A verifier that was replaced by a roll.
pub struct ImportFormer {
    /// Expected to have 32 bytes.
    pub verifier_sha256: Bytes,
    /// When it was replaced.
    pub roll_time: Option<RawTime>,
}

/// What became of imported records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ImportCounts {
    /// Nothing was stored under the id.
    pub created: u32,
    /// The record was a later state than the stored one.
    pub replaced: u32,
    /// The stored record is as late or later.
    pub kept: u32,
    /// The record's time is over, or it is a mark and the engine does not adopt.
    pub dropped: u32,
}

impl AdminService {
    /// One page of an export.
    pub async fn export(&self, request: ExportRequest<'_>) -> Result<ExportPage, Fault> {
        let size = page::size(request.page_size, DEFAULT_SIZE)?;
        let question = Question::Export { engine: request.engine };
        let start = match PageToken::from_text(request.page_token, question)? {
            Some(token) => Place::decode(&token).ok_or_else(bad_token)?,
            None => self.start(request.engine)?,
        };
        let engine = self.engines.get(start.engine.as_bytes())?;
        let token = |engine: &Engine, position| {
            Place { engine: engine.name().to_owned(), position }.encode().to_text(question)
        };
        let offset = engine.wall_offset();
        let mut page = ExportPage {
            engine: engine.name().to_owned(),
            entries: Vec::new(),
            next_page_token: None,
            stored_count: engine.count(),
            unreadable_count: 0,
            time: offset.wall(engine.now()),
            offset,
        };
        let (mut position, mut bytes) = (start.position, 0);
        for slice in 1.. {
            let Exported { entries, unreadable, next } = engine.export(position).await?;
            bytes += entries.iter().map(|entry| entry.record.size()).sum::<usize>();
            page.entries.extend(entries);
            page.unreadable_count += u32::try_from(unreadable).unwrap_or(u32::MAX);
            let Some(next) = next else { break };
            if page.entries.len() >= size || bytes >= PAGE_BYTES || slice == PAGE_SLICES {
                page.next_page_token = Some(token(engine, next));
                return Ok(page);
            }
            position = next;
        }
        if request.engine.is_empty()
            && let Some(following) = self.engines.after(engine.name())
        {
            page.next_page_token = Some(token(following, Position::START));
        }
        Ok(page)
    }

    /// Where the first page begins.
    fn start(&self, engine: &str) -> Result<Place, Fault> {
        // Without a name it is the first engine: none comes before the empty name.
        let first = engine.is_empty().then(|| self.engines.after("")).flatten();
        let engine = first.map_or_else(|| self.engines.get(engine.as_bytes()), Ok)?;
        Ok(Place { engine: engine.name().to_owned(), position: Position::START })
    }

    /// Keeps what another daemon has exported. All records are checked before any is
    /// kept.
    pub async fn import(
        &self,
        records: impl ExactSizeIterator<Item = ImportRecord>,
    ) -> Result<ImportCounts, Fault> {
        let outcomes = stream::iter(checked(&self.engines, records)?)
            .map(|(engine, entry)| {
                let must_complete = engine.must_complete();
                run_detached(must_complete, async move { engine.import(entry).await })
            })
            .buffer_unordered(AT_ONCE);
        let mut counts = ImportCounts::default();
        let mut outcomes = std::pin::pin!(outcomes);
        while let Some(outcome) = outcomes.try_next().await? {
            *match outcome {
                Imported::Created => &mut counts.created,
                Imported::Replaced => &mut counts.replaced,
                Imported::Kept => &mut counts.kept,
                Imported::Dropped => &mut counts.dropped,
            } += 1;
        }
        Ok(counts)
    }
}

fn checked(
    engines: &Engines,
    records: impl ExactSizeIterator<Item = ImportRecord>,
) -> Result<Vec<(Arc<Engine>, Entry)>, Fault> {
    let found = records.len();
    if found > MOST_RECORDS {
        return Err(invalid(format!("expected at most {MOST_RECORDS} records, found {found}")));
    }
    let checked = records.enumerate().map(|(at, record)| {
        let engine = engines.get(record.engine.as_bytes());
        let engine = engine.map(Arc::clone).map_err(|fault| fault.with_field("records"))?;
        let entry = entry(record, &engine).map_err(|why| invalid(format!("record {at}: {why}")))?;
        Ok((engine, entry))
    });
    checked.collect()
}

fn invalid(problem: String) -> Fault {
    Fault::at(Reason::InvalidArgument, "records", problem)
}

/// The record, or what is wrong with it. Quotes nothing of it.
fn entry(record: ImportRecord, engine: &Engine) -> Result<Entry, String> {
    let kind = record.kind;
    let id = PublicId::from_text(record.id.as_bytes()).ok_or_else(|| {
        format!("id: expected {} characters of base64url, a public id", PublicId::TEXT_LEN)
    })?;
    let hash = verifier("verifier_sha256", &record.verifier_sha256)?;
    if !(1..=i64::MAX as u64).contains(&record.version) {
        return Err("version: expected at least 1 and less than 2^63".to_owned());
    }
    let data = own_data(&record.data, engine.max_data_bytes())?;
    let (now, offset) = (engine.now(), engine.wall_offset());
    let moment = |field, time| moment(field, time, offset);
    let deadline = moment("idle_deadline", record.idle_deadline)?;
    // The longest lifetime, and one granularity, which is no longer.
    if kind == Kind::Session && deadline.since(now) > MAX_DURATION * 2 {
        return Err(format!(
            "idle_deadline: expected at most {} s from now",
            MAX_DURATION.as_secs() * 2
        ));
    }
    if record.former.len() > Extension::MAX_FORMER {
        let (most, found) = (Extension::MAX_FORMER, record.former.len());
        return Err(format!("former: expected at most {most}, found {found}"));
    }
    let former = record.former.iter().map(|former| {
        let verifier = verifier("former.verifier_sha256", &former.verifier_sha256)?;
        let rolled = moment("former.roll_time", former.roll_time)?.min(now);
        Ok(Former { verifier, rolled })
    });
    let former = former.collect::<Result<_, String>>()?;
    let named = |field| move |fault: Fault| format!("{field}: {}", fault.message);
    let duration = record.duration.map(input::duration).transpose();
    Ok(Entry {
        kind,
        id,
        record: Arc::new(Record {
            verifier: hash,
            version: record.version.min(LATEST_VERSION),
            // It may come from a clock that is ahead of ours; the absolute lifetime
            // counts from it.
            create_time: moment("create_time", record.create_time)?.min(now),
            deadline,
            duration: duration.map_err(named("duration"))?,
            principal: input::principal(&record.principal).map_err(named("principal"))?,
            data,
            extension: Extension {
                former,
                persistent: record.persistent,
                label: input::label(&record.label).map_err(named("label"))?,
                unknown: Bytes::new(),
            },
        }),
    })
}

fn verifier(field: &str, sha256: &[u8]) -> Result<VerifierHash, String> {
    sha256.try_into().map(VerifierHash::from_bytes).map_err(|_| {
        let found = sha256.len();
        format!("{field}: expected {} bytes, found {found}", VerifierHash::LEN)
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

fn moment(field: &str, time: Option<RawTime>, offset: WallOffset) -> Result<Moment, String> {
    let time = time.and_then(input::time).map(|time| offset.moment(time));
    time.ok_or_else(|| format!("{field}: expected a time after 1970"))
}

/// Where a page of an export begins.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    /// The engine's name.
    engine: String,
    position: Position,
}

impl Place {
    fn encode(&self) -> PageToken {
        let Position { kind, cursor } = &self.position;
        let name_len = u8::try_from(self.engine.len()).expect("names are checked at start");
        let head = [u8::from(*kind == Kind::Mark), u8::from(cursor.is_some()), name_len];
        let cursor = cursor.as_ref().map_or(&[][..], |Cursor(octets)| octets);
        PageToken::new([&head, self.engine.as_bytes(), cursor].concat())
    }

    fn decode(token: &PageToken) -> Option<Self> {
        let (&[mark, has_cursor, name_len], rest) = token.place.split_first_chunk()?;
        let (name, cursor) = rest.split_at_checked(name_len.into())?;
        let kind = if mark == 0 { Kind::Session } else { Kind::Mark };
        let cursor = (has_cursor != 0).then(|| Cursor(Bytes::copy_from_slice(cursor)));
        let engine = String::from_utf8(name.to_vec()).ok()?;
        Some(Self { engine, position: Position { kind, cursor } })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_what_its_token_says() {
        let cursor = Some(Cursor(Bytes::from_static(&[0, 1, 254, 255])));
        let position = Position { kind: Kind::Mark, cursor };
        for position in [position, Position::START] {
            let place = Place { engine: "shop".to_owned(), position };
            assert_eq!(Place::decode(&place.encode()), Some(place));
        }
        assert_eq!(Place::decode(&PageToken::new([0, 0, 9, b'a'])), None);
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
}
