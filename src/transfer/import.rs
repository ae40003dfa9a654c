//! Import: from a file or standard input to a daemon.
//!
//! Records are sent in batches. Records that exist already are skipped, so the same
//! export may be imported again: all of it, or from the line that an interrupted import
//! prints. But sessions that ended there after the first import come back. So import
//! only into a daemon that serves no application yet.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io::{self, BufRead, BufReader, IsTerminal},
    time::SystemTime,
};

use prost::Message;
use sessiond::{
    grpc::pb::{
        ExportSessionsRequest, ImportSessionsRequest, ImportSessionsResponse,
        RevokeSessionsRequest, SessionRecord,
    },
    session::id::PublicId,
};

use tonic::{Code, Status};

use super::{
    Admin, connect,
    line::{Cursor, Header, Line},
    patiently, progress,
};
use crate::{
    cli::ImportArgs,
    client::{Caller, Problem},
};

/// A batch is sent when it reaches one of these limits. Every daemon accepts a message
/// of this size: its max_message_bytes is at least 64 KiB, and at least 64 KiB above any
/// max_data_bytes.
const BATCH_RECORDS: usize = 500;
const BATCH_BYTES: usize = 60 << 10;
/// The most ids that one RevokeSessions accepts.
const REVOKED_AT_ONCE: usize = 1000;

/// Imports. Returns one line with the number of records per outcome, `key=count` each.
pub(crate) async fn import(caller: &Caller, args: &ImportArgs) -> Result<String, Problem> {
    let input: Box<dyn BufRead> = match &args.input {
        Some(path) => {
            let file = File::open(path);
            let unreadable = |error| format!("cannot read {}: {error}", path.display());
            Box::new(BufReader::new(file.map_err(unreadable)?))
        }
        None if io::stdin().is_terminal() => {
            return Err("expected an export on standard input, or a file with --input".to_owned());
        }
        None => Box::new(io::stdin().lock()),
    };
    let mut importing = Importing {
        caller,
        client: connect(caller).await?,
        batch: Batch::default(),
        counts: ImportSessionsResponse::default(),
        taken: Taken { line: args.from_line.saturating_sub(1), cursor: None },
        seen: args.mirror.then(Seen::default),
    };
    let bar = progress("importing", None);
    let ended = importing.run(input, args, &bar).await;
    bar.finish_and_clear();
    let ended = ended.map_err(|why| importing.go_on(why, args))?;
    let ImportSessionsResponse { created_count, replaced_count, kept_count, dropped_count } =
        importing.counts;
    let ended = ended.map_or_else(String::new, |count| format!(" ended={count}"));
    Ok(format!(
        "created={created_count} replaced={replaced_count} kept={kept_count} \
         dropped={dropped_count}{ended}"
    ))
}

struct Importing<'c> {
    caller: &'c Caller,
    client: Admin,
    batch: Batch,
    counts: ImportSessionsResponse,
    taken: Taken,
    /// `None` without --mirror.
    seen: Option<Seen>,
}

/// Records to send in one call, and their line numbers.
#[derive(Default)]
struct Batch {
    records: Vec<SessionRecord>,
    lines: Vec<u64>,
    bytes: usize,
}

/// The last line, and the last cursor, that the daemon has accepted.
struct Taken {
    line: u64,
    cursor: Option<Cursor>,
}

/// The header and the sessions of the export, for --mirror.
#[derive(Default)]
struct Seen {
    header: Option<Header>,
    sessions: HashMap<String, HashSet<PublicId>>,
}

impl Importing<'_> {
    /// Returns how many sessions --mirror ended; `None` without --mirror.
    async fn run(
        &mut self,
        input: impl BufRead,
        args: &ImportArgs,
        bar: &indicatif::ProgressBar,
    ) -> Result<Option<u64>, Problem> {
        let (mut engines, mut last) = (None, self.taken.line);
        for (text, number) in input.lines().zip(1u64..) {
            let text = text.map_err(|error| format!("cannot read line {number}: {error}"))?;
            if number < args.from_line || text.trim().is_empty() {
                continue;
            }
            last = number;
            let line = Line::parse(&text).map_err(|why| format!("line {number}: {why}"))?;
            match line {
                _ if engines.is_some() => {
                    return Err(format!("line {number}: expected no line after the end"));
                }
                Line::Header(header) => {
                    if let Some(seen) = &mut self.seen {
                        seen.header.get_or_insert(header);
                    }
                }
                Line::Record(record) => {
                    let Batch { records, bytes, .. } = &self.batch;
                    if records.len() == BATCH_RECORDS || bytes + record.encoded_len() > BATCH_BYTES
                    {
                        self.send(number - 1).await?;
                    }
                    self.add(*record, number);
                }
                Line::Cursor(cursor) => {
                    self.send(number).await?;
                    self.taken.cursor = Some(cursor);
                }
                Line::End(total) => {
                    self.send(number).await?;
                    engines = Some(total.engines);
                }
            }
            bar.set_position(self.count());
        }
        let Some(engines) = engines else {
            self.send(last).await?;
            let problem = "the export is incomplete: the records in it were imported, but others may be \
                           missing; complete it with export --resume or --after";
            return Err(problem.to_owned());
        };
        match self.seen.take() {
            None => Ok(None),
            Some(seen) => self.end_others(&engines, &seen).await.map(Some),
        }
    }

    fn add(&mut self, record: SessionRecord, line: u64) {
        if let Some(seen) = &mut self.seen
            && let Some(id) = PublicId::from_text(record.id.as_bytes())
            && !record.adoption_mark
        {
            match seen.sessions.get_mut(&record.engine) {
                Some(sessions) => drop(sessions.insert(id)),
                None => drop(seen.sessions.insert(record.engine.clone(), HashSet::from([id]))),
            }
        }
        self.batch.bytes += record.encoded_len();
        self.batch.records.push(record);
        self.batch.lines.push(line);
    }

    /// Sends the batch. It holds the lines up to `line`.
    async fn send(&mut self, line: u64) -> Result<(), Problem> {
        let Batch { records, lines, .. } = std::mem::take(&mut self.batch);
        match self.take(&records).await {
            Ok(()) => {}
            Err(status) if status.code() == Code::InvalidArgument => {
                // Sent again one by one, to find the line with the error. The records before it
                // are accepted.
                for (record, line) in records.iter().zip(lines) {
                    let taken = self.take(std::slice::from_ref(record)).await;
                    let refused = |status| format!("line {line}: {}", self.caller.refused(&status));
                    taken.map_err(refused)?;
                    self.taken.line = line;
                }
            }
            Err(status) => return Err(self.caller.refused(&status)),
        }
        self.taken.line = line;
        Ok(())
    }

    async fn take(&mut self, records: &[SessionRecord]) -> Result<(), Status> {
        if records.is_empty() {
            return Ok(());
        }
        let request = ImportSessionsRequest { records: records.to_vec() };
        let Self { caller, client, .. } = self;
        let response =
            patiently(async || client.import_sessions(caller.request(request.clone())).await);
        let response = response.await?;
        self.counts.created_count += response.created_count;
        self.counts.replaced_count += response.replaced_count;
        self.counts.kept_count += response.kept_count;
        self.counts.dropped_count += response.dropped_count;
        Ok(())
    }

    fn count(&self) -> u64 {
        let ImportSessionsResponse { created_count, replaced_count, kept_count, dropped_count } =
            self.counts;
        [created_count, replaced_count, kept_count, dropped_count].map(u64::from).iter().sum()
    }

    /// Ends the sessions that are not in the export and were created before it began.
    async fn end_others(&mut self, engines: &[String], seen: &Seen) -> Result<u64, Problem> {
        let Some(header) = seen.header.as_ref().filter(|header| header.after.is_none()) else {
            let why = "--mirror needs a complete export from its first line; no session was ended";
            return Err(why.to_owned());
        };
        let mut ended = 0;
        for engine in engines {
            let nothing = HashSet::new();
            let exported = seen.sessions.get(engine).unwrap_or(&nothing);
            ended += self.end_others_of(engine, exported, header.export_time).await?;
        }
        Ok(ended)
    }

    async fn end_others_of(
        &mut self,
        engine: &str,
        exported: &HashSet<PublicId>,
        began: SystemTime,
    ) -> Result<u64, Problem> {
        let (mut ended, mut page_token) = (0, String::new());
        let Self { caller, client, .. } = self;
        loop {
            let request =
                ExportSessionsRequest { engine: engine.to_owned(), page_size: 0, page_token };
            let page =
                patiently(async || client.export_sessions(caller.request(request.clone())).await);
            let page = page.await.map_err(|status| caller.refused(&status))?;
            let is_other = |record: &SessionRecord| {
                let id = PublicId::from_text(record.id.as_bytes());
                let created = record.create_time.and_then(|time| SystemTime::try_from(time).ok());
                !record.adoption_mark
                    && id.is_some_and(|id| !exported.contains(&id))
                    && created.is_some_and(|created| created < began)
            };
            let ids = page.records.into_iter().filter(is_other).map(|record| record.id);
            let ids: Vec<_> = ids.collect();
            for ids in ids.chunks(REVOKED_AT_ONCE) {
                let request = RevokeSessionsRequest {
                    engine: engine.to_owned(),
                    session_ids: ids.to_vec(),
                    ..Default::default()
                };
                let revoked = patiently(async || {
                    client.revoke_sessions(caller.request(request.clone())).await
                });
                let revoked = revoked.await.map_err(|status| caller.refused(&status))?;
                ended += u64::from(revoked.revoked);
            }
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(ended);
            }
        }
    }

    /// Adds to the problem how to continue the import.
    fn go_on(&self, why: Problem, args: &ImportArgs) -> Problem {
        let Taken { line, cursor } = &self.taken;
        let next = line + 1;
        match (&args.input, cursor) {
            // Part of an export does not show which sessions are missing from it.
            _ if args.mirror => {
                format!("{why}; import it again from its first line, with --mirror")
            }
            (Some(path), _) => {
                format!("{why}; continue with --input {} --from-line {next}", path.display())
            }
            (None, Some(Cursor { cursor, .. })) => format!(
                "{why}; continue with --from-line {next} of the same input, or with an export \
                 --after {cursor}"
            ),
            (None, None) => why,
        }
    }
}
