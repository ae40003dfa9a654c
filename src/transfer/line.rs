//! The lines of an export, each a JSON object:
//!
//! ```text
//! {"sessiond_export":1,"engine":"","export_time":"2026-01-31T09:00:00.000Z"}
//! {"engine":"default","id":"…","verifier_sha256":"…","version":3,"principal":"ann",
//!  "create_time":"…","idle_deadline":"…","duration_millis":3600000,"former":[…],"data":{…}}
//! {"cursor":"…","so_far":{"record_count":1,"unreadable_count":0,"engines":["default"]}}
//! {"end":{"record_count":1,"unreadable_count":0,"engines":["default"]}}
//! ```
//!
//! The first line starts an export. A cursor says that all lines before it are complete,
//! and where to continue. The end says that nothing is missing. Session data is exported
//! byte for byte, except that the white space between its members may change.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD as BASE64URL};
use serde::{Deserialize, Serialize, de::IgnoredAny};
use serde_json::value::RawValue;
use sessiond::grpc::pb::{self, SessionRecord};

/// The version of the format that is written and read.
const LAYOUT: u32 = 1;
/// 9999-12-31T23:59:59Z, the last second that RFC 3339 can express.
const LAST_SECOND: i64 = 253_402_300_799;

/// A line of an export.
#[derive(Debug)]
pub(super) enum Line {
    Header(Header),
    Record(Box<SessionRecord>),
    Cursor(Cursor),
    End(Total),
}

/// The first line of an export.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Header {
    sessiond_export: u32,
    /// The requested engine; empty: all engines.
    pub engine: String,
    /// When the export began, by the clock of the daemon.
    #[serde(with = "time")]
    pub export_time: SystemTime,
    /// The cursor that this export continues from: earlier records are in another file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

/// Marks that all lines before it are complete.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Cursor {
    /// Where to continue.
    pub cursor: String,
    pub so_far: Total,
}

/// The totals of an export.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Total {
    pub record_count: u64,
    /// Records that were left out because the daemon could not read them.
    pub unreadable_count: u64,
    /// All exported engines, including those without a session.
    pub engines: Vec<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EndLine {
    end: Total,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RecordLine {
    engine: String,
    id: String,
    #[serde(with = "base64url")]
    verifier_sha256: Vec<u8>,
    version: u64,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    principal: String,
    #[serde(with = "time")]
    create_time: SystemTime,
    #[serde(with = "time")]
    idle_deadline: SystemTime,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    duration_millis: Option<u64>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    adoption_mark: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    former: Vec<FormerVerifier>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    persistent: Option<bool>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    label: String,
    data: Box<RawValue>,
}

/// A verifier that was rolled.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FormerVerifier {
    #[serde(with = "base64url")]
    verifier_sha256: Vec<u8>,
    #[serde(with = "time")]
    roll_time: SystemTime,
}

/// Tells the kinds of lines apart.
#[derive(Deserialize)]
struct Probe {
    sessiond_export: Option<IgnoredAny>,
    cursor: Option<IgnoredAny>,
    end: Option<IgnoredAny>,
}

/// Why a text is not a valid line. Of the text, it quotes only names of keys.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unfit {
    #[error("expected a line of an export, error at column {column}: {problem}")]
    Syntax { column: usize, problem: String },
    #[error("the export has layout {found}, this version reads only layout {LAYOUT}")]
    UnknownLayout { found: u32 },
    #[error("the daemon sent an invalid record: {problem}")]
    Record { problem: &'static str },
}

impl Header {
    pub(super) fn new(engine: String, export_time: SystemTime, after: Option<String>) -> Self {
        Self { sessiond_export: LAYOUT, engine, export_time, after }
    }
}

impl Line {
    pub(super) fn parse(text: &str) -> Result<Self, Unfit> {
        // serde would accept an array in place of an object, member by member.
        if !text.trim_start().starts_with('{') {
            return Err(Unfit::Syntax { column: 1, problem: "not a JSON object".to_owned() });
        }
        let probe: Probe = from_json(text)?;
        if probe.sessiond_export.is_some() {
            let header: Header = from_json(text)?;
            return match header.sessiond_export {
                LAYOUT => Ok(Self::Header(header)),
                found => Err(Unfit::UnknownLayout { found }),
            };
        }
        if probe.cursor.is_some() {
            return from_json(text).map(Self::Cursor);
        }
        if probe.end.is_some() {
            return from_json(text).map(|EndLine { end }| Self::End(end));
        }
        let line: RecordLine = from_json(text)?;
        Ok(Self::Record(Box::new(SessionRecord {
            engine: line.engine,
            id: line.id,
            verifier_sha256: line.verifier_sha256.into(),
            version: line.version,
            principal: line.principal.into(),
            create_time: Some(line.create_time.into()),
            idle_deadline: Some(line.idle_deadline.into()),
            duration: line.duration_millis.map(duration),
            data: String::from(Box::<str>::from(line.data)).into(),
            adoption_mark: line.adoption_mark,
            former: line
                .former
                .into_iter()
                .map(|former| pb::FormerVerifier {
                    verifier_sha256: former.verifier_sha256.into(),
                    roll_time: Some(former.roll_time.into()),
                })
                .collect(),
            persistent: line.persistent,
            label: line.label.into(),
        })))
    }

    /// The text of the line, with the line feed at its end.
    pub(super) fn to_text(&self) -> Result<String, Unfit> {
        let text = match self {
            Self::Header(header) => to_json(header),
            Self::Cursor(cursor) => to_json(cursor),
            Self::End(end) => to_json(&EndLine { end: end.clone() }),
            Self::Record(record) => to_json(&line(record)?),
        };
        Ok(text + "\n")
    }
}

fn line(record: &SessionRecord) -> Result<RecordLine, Unfit> {
    let unfit = |problem| Unfit::Record { problem };
    let text =
        |bytes: &[u8], problem| String::from_utf8(bytes.to_vec()).map_err(|_| unfit(problem));
    let moment = |time: Option<prost_types::Timestamp>| {
        let time = time.filter(|time| time.seconds <= LAST_SECOND);
        let time = time.and_then(|time| SystemTime::try_from(time).ok());
        time.ok_or(unfit("a missing time, or one out of range"))
    };
    let data = text(&record.data, "data that is not UTF-8")?;
    // JSON strings hold no raw line breaks, so these are white space between members.
    let data = RawValue::from_string(data.replace(['\n', '\r'], " "));
    let own = record.duration.map(Duration::try_from).transpose();
    let former: Result<_, Unfit> = record
        .former
        .iter()
        .map(|former| {
            let verifier_sha256 = former.verifier_sha256.to_vec();
            Ok(FormerVerifier { verifier_sha256, roll_time: moment(former.roll_time)? })
        })
        .collect();
    Ok(RecordLine {
        engine: record.engine.clone(),
        id: record.id.clone(),
        verifier_sha256: record.verifier_sha256.to_vec(),
        version: record.version,
        principal: text(&record.principal, "a principal that is not UTF-8")?,
        create_time: moment(record.create_time)?,
        idle_deadline: moment(record.idle_deadline)?,
        duration_millis: own
            .map_err(|_| unfit("an invalid duration"))?
            .map(|own| own.as_millis().try_into().unwrap_or(u64::MAX)),
        adoption_mark: record.adoption_mark,
        former: former?,
        persistent: record.persistent,
        label: text(&record.label, "a label that is not UTF-8")?,
        data: data.map_err(|_| unfit("data that is not JSON"))?,
    })
}

fn duration(millis: u64) -> prost_types::Duration {
    prost_types::Duration {
        seconds: (millis / 1000).try_into().unwrap_or(i64::MAX),
        nanos: (millis % 1000) as i32 * 1_000_000,
    }
}

fn from_json<'t, T: Deserialize<'t>>(text: &'t str) -> Result<T, Unfit> {
    serde_json::from_str(text).map_err(|error| {
        let message = error.to_string();
        // The column is reported separately, and the line number is always 1.
        let problem = message.rsplit_once(" at line ").map_or(message.as_str(), |(what, _)| what);
        // The value that was found may be session data, so it is not quoted.
        let problem = problem.split_once(": string ").map_or(problem, |(what, _)| what);
        Unfit::Syntax { column: error.column(), problem: problem.to_owned() }
    })
}

fn to_json(line: &impl Serialize) -> String {
    serde_json::to_string(line).expect("numbers, texts and JSON become JSON")
}

/// RFC 3339 with milliseconds, the precision of records.
mod time {
    use serde::{Deserializer, Serializer, de::Error};

    use super::*;

    pub(super) fn serialize<S: Serializer>(
        time: &SystemTime,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_rfc3339_millis(*time))
    }

    pub(super) fn deserialize<'d, D: Deserializer<'d>>(
        deserializer: D,
    ) -> Result<SystemTime, D::Error> {
        let text = String::deserialize(deserializer)?;
        let time = humantime::parse_rfc3339(&text).ok().filter(|time| *time >= UNIX_EPOCH);
        time.ok_or_else(|| D::Error::custom("expected a time such as 2026-01-31T09:00:00.000Z"))
    }
}

mod base64url {
    use serde::{Deserializer, Serializer, de::Error};

    use super::*;

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64URL.encode(bytes))
    }

    pub(super) fn deserialize<'d, D: Deserializer<'d>>(
        deserializer: D,
    ) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        BASE64URL.decode(text).map_err(|_| D::Error::custom("expected base64url without padding"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record() -> SessionRecord {
        let time = |seconds| Some(prost_types::Timestamp { seconds, nanos: 250_000_000 });
        SessionRecord {
            engine: "default".to_owned(),
            id: "AAAAAAAAAAAAAAAA".to_owned(),
            verifier_sha256: vec![7; 32].into(),
            version: 3,
            principal: "zoë".into(),
            create_time: time(1_700_000_000),
            idle_deadline: time(1_700_001_800),
            duration: Some(duration(1500)),
            data: r#"{"n":9007199254740993.10}"#.into(),
            adoption_mark: false,
            former: vec![pb::FormerVerifier {
                verifier_sha256: vec![8; 32].into(),
                roll_time: time(1_700_000_900),
            }],
            persistent: Some(true),
            label: "Firefox on Linux".into(),
        }
    }

    fn there_and_back(record: SessionRecord) -> SessionRecord {
        let text = Line::Record(Box::new(record)).to_text().expect("a line");
        assert_eq!(text.matches('\n').count(), 1, "one line: {text}");
        match Line::parse(&text).expect("a line") {
            Line::Record(record) => *record,
            _ => panic!("parsed as another kind of line: {text}"),
        }
    }

    /// Lines written by older versions stay readable.
    #[test]
    fn the_format_of_a_record_is_stable() {
        let text = Line::Record(Box::new(record())).to_text().expect("a line");
        let verifier = BASE64URL.encode([7; 32]);
        let former = BASE64URL.encode([8; 32]);
        let expected = format!(
            "{{\"engine\":\"default\",\"id\":\"AAAAAAAAAAAAAAAA\",\"verifier_sha256\":\"{verifier}\",\
             \"version\":3,\"principal\":\"zoë\",\"create_time\":\"2023-11-14T22:13:20.250Z\",\
             \"idle_deadline\":\"2023-11-14T22:43:20.250Z\",\"duration_millis\":1500,\
             \"former\":[{{\"verifier_sha256\":\"{former}\",\"roll_time\":\"2023-11-14T22:28:20.250Z\"}}],\
             \"persistent\":true,\"label\":\"Firefox on Linux\",\
             \"data\":{{\"n\":9007199254740993.10}}}}\n"
        );
        assert_eq!(text, expected);
        assert!(there_and_back(record()) == record(), "parsing inverts writing");
        let plain = SessionRecord {
            principal: "".into(),
            duration: None,
            adoption_mark: true,
            former: Vec::new(),
            persistent: None,
            label: "".into(),
            ..record()
        };
        assert!(there_and_back(plain.clone()) == plain);
    }

    #[test]
    fn data_keeps_its_bytes_and_its_line() {
        let data = "{\"a\" :\n 1e400,\r\n\"b\":\"x\\n\\u00e9\"}";
        let back = there_and_back(SessionRecord { data: data.into(), ..record() });
        assert_eq!(back.data, "{\"a\" :  1e400,  \"b\":\"x\\n\\u00e9\"}");
    }

    #[test]
    fn a_time_that_cannot_be_written_is_an_error() {
        let time = |seconds| Some(prost_types::Timestamp { seconds, nanos: 999_000_000 });
        let last = SessionRecord { idle_deadline: time(LAST_SECOND), ..record() };
        assert!(there_and_back(last.clone()) == last, "the end of the year 9999");
        let beyond = SessionRecord { idle_deadline: time(LAST_SECOND + 1), ..record() };
        Line::Record(Box::new(beyond)).to_text().expect_err("there is no such date");
    }

    #[test]
    fn the_other_lines_are_told_apart() {
        let began = UNIX_EPOCH + Duration::from_secs(1);
        let header = Header::new("shop".to_owned(), began, Some("c".to_owned()));
        let total = Total { record_count: 1, unreadable_count: 2, engines: vec!["a".to_owned()] };
        let cursor = Cursor { cursor: "x".to_owned(), so_far: total.clone() };
        for line in [Line::Header(header), Line::Cursor(cursor), Line::End(total)] {
            let text = line.to_text().expect("a line");
            let read = Line::parse(&text).expect("a line");
            assert_eq!(format!("{read:?}"), format!("{line:?}"));
        }
    }

    #[test]
    fn invalid_lines_are_refused_without_quoting_them() {
        for (text, expected) in [
            ("", "column 1: not a JSON object"),
            ("[1,2,3]", "column 1: not a JSON object"),
            ("{", "column 1: EOF while parsing"),
            (r#"{"engine":"default"}"#, "missing field `id`"),
            (r#"{"cursor":"x","more":1}"#, "unknown field `more`"),
            (r#"{"cursor":"x"}"#, "missing field `so_far`"),
            (r#"{"cursor":{"secret":1}}"#, "invalid type: map, expected a string"),
            (r#"{"end":"secret"}"#, "invalid type"),
            (
                r#"{"sessiond_export":2,"engine":"","export_time":"2026-01-31T09:00:00Z"}"#,
                "layout 2",
            ),
            (
                r#"{"sessiond_export":1,"engine":"","export_time":"secret"}"#,
                "expected a time such as",
            ),
        ] {
            let problem = Line::parse(text).expect_err("no line").to_string();
            assert!(problem.contains(expected), "{text}: expected {expected}, found {problem}");
            assert!(!problem.contains("secret"), "{problem}");
        }
    }

    proptest! {
        #[test]
        fn parsing_any_text_never_panics(text in "\\PC{0,80}") {
            let _ = Line::parse(&text);
        }
    }
}
