//! Export: from a daemon to a file or to standard output.
//!
//! The output is valid up to its last cursor, even if this process or the daemon fails.
//! `--resume` cuts the file after that cursor and continues it. `--after` continues
//! after a cursor in another file.

use std::{
    fs::OpenOptions,
    io::{self, BufRead, BufReader, BufWriter, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    time::SystemTime,
};

use sessiond::grpc::pb::{ExportSessionsRequest, ExportSessionsResponse};

use super::{
    connect,
    line::{Cursor, Header, Line, Total},
    patiently, progress, style,
};
use crate::{
    cli::ExportArgs,
    client::{Caller, Problem},
};

/// Exports, and returns a summary for the user.
pub(crate) async fn export(caller: &Caller, args: &ExportArgs) -> Result<String, Problem> {
    let mut resumed = None;
    let mut place = Place::of(args);
    if let Some(path) = args.output.as_deref().filter(|_| args.resume) {
        let Some(stopped) = resume(path, &args.engine)? else {
            return Ok("the export is complete already".to_owned());
        };
        place = stopped.place;
        resumed = Some(stopped.output);
    }
    let mut client = connect(caller).await?;
    let bar = progress("exporting", None);
    // Records of the engines before the current one.
    let mut before = 0;
    let mut output = resumed;
    loop {
        let request = ExportSessionsRequest {
            engine: place.engine.clone(),
            page_size: 0,
            page_token: place.cursor.clone(),
        };
        let page =
            patiently(async || client.export_sessions(caller.request(request.clone())).await);
        let refused = |status| place.go_on(caller.refused(&status), args);
        let page = page.await.map_err(refused)?;
        // Opened after the first page, so that an export that cannot start leaves no file behind.
        if output.is_none() {
            output = Some(begin(args, &page)?);
        }
        let output = output.as_mut().expect("it was opened above");
        let total = &mut place.total;
        if !total.engines.contains(&page.engine) {
            before = total.record_count;
            total.engines.push(page.engine);
        }
        total.record_count += page.records.len() as u64;
        total.unreadable_count += u64::from(page.unreadable_count);
        if let Some(stored) = page.stored_count {
            bar.set_length(before + stored);
        }
        style(&bar, page.stored_count);
        bar.set_position(total.record_count);
        let mut lines: Vec<_> =
            page.records.into_iter().map(|record| Line::Record(Box::new(record))).collect();
        let next = page.next_page_token;
        lines.push(match next.is_empty() {
            true => Line::End(total.clone()),
            false => Line::Cursor(Cursor { cursor: next.clone(), so_far: total.clone() }),
        });
        write(output, &lines).map_err(|why| place.go_on(why, args))?;
        if next.is_empty() {
            break;
        }
        place.cursor = next;
    }
    bar.finish_and_clear();
    let Total { record_count, unreadable_count, engines } = place.total;
    let unreadable = match unreadable_count {
        0 => String::new(),
        count => format!("; {count} unreadable records are left out, see the daemon's log"),
    };
    Ok(format!("exported {record_count} records of {}{unreadable}", engines.join(", ")))
}

/// The progress of an export.
struct Place {
    engine: String,
    cursor: String,
    total: Total,
}

impl Place {
    fn of(args: &ExportArgs) -> Self {
        let cursor = args.after.clone().unwrap_or_default();
        Self { engine: args.engine.clone(), cursor, total: Total::default() }
    }

    /// Adds to the problem how to continue the export.
    fn go_on(&self, why: Problem, args: &ExportArgs) -> Problem {
        let Self { engine, cursor, .. } = self;
        let has_begun = *cursor != args.after.as_deref().unwrap_or_default();
        match &args.output {
            Some(path) if has_begun => {
                format!("{why}; continue with --output {} --resume", path.display())
            }
            None if has_begun && engine.is_empty() => {
                format!("{why}; continue with --after {cursor}")
            }
            None if has_begun => format!("{why}; continue with --engine {engine} --after {cursor}"),
            _ => why,
        }
    }
}

type Output = Box<dyn Write>;

/// Opens the output and writes the first line.
fn begin(args: &ExportArgs, first: &ExportSessionsResponse) -> Result<Output, Problem> {
    let mut output: Output = match &args.output {
        None => Box::new(BufWriter::new(io::stdout())),
        Some(path) => {
            // Readable only by the owner, because it holds the data of all sessions. An
            // existing file is not overwritten.
            let mut options = OpenOptions::new();
            let file = options.write(true).create_new(true).mode(0o600).open(path);
            let file = file.map_err(|error| match error.kind() {
                io::ErrorKind::AlreadyExists => format!(
                    "{} exists already: if it is an export, continue it with --resume, else name \
                     another file",
                    path.display()
                ),
                _ => format!("cannot write {}: {error}", path.display()),
            })?;
            Box::new(BufWriter::new(file))
        }
    };
    let time = first.page_time.and_then(|time| SystemTime::try_from(time).ok());
    let time = time.ok_or("the daemon's answer has no page_time")?;
    let header = Header::new(args.engine.clone(), time, args.after.clone());
    write(&mut output, &[Line::Header(header)])?;
    Ok(output)
}

/// An interrupted export, ready to be continued.
struct Stopped {
    output: Output,
    place: Place,
}

/// Cuts a file after its last cursor. `None`: the export is complete.
fn resume(path: &Path, engine: &str) -> Result<Option<Stopped>, Problem> {
    let problem = |what: String| format!("cannot resume {}: {what}", path.display());
    let unreadable = |error: io::Error| problem(error.to_string());
    let file = OpenOptions::new().read(true).write(true).open(path).map_err(unreadable)?;
    let mut reader = BufReader::new(&file);
    let mut place = None;
    // The length up to the last cursor, and up to the current line.
    let (mut good_bytes, mut bytes) = (0, 0);
    for number in 1u64.. {
        // Read as bytes, because the file may end within a character.
        let mut line = Vec::new();
        let len = reader.read_until(b'\n', &mut line).map_err(unreadable)?;
        if !line.ends_with(b"\n") {
            // The end of the file, or a line that was not written completely.
            break;
        }
        bytes += len as u64;
        let unfit = |why: String| problem(format!("line {number}: {why}"));
        let text = str::from_utf8(&line).map_err(|why| unfit(why.to_string()))?;
        let line = Line::parse(text).map_err(|why| unfit(why.to_string()))?;
        match (line, &mut place) {
            (Line::Header(header), None) => {
                if !engine.is_empty() && engine != header.engine {
                    return Err(problem(format!("it is not an export of {engine} alone")));
                }
                let cursor = header.after.unwrap_or_default();
                place = Some(Place { engine: header.engine, cursor, total: Total::default() });
                good_bytes = bytes;
            }
            (_, None) => break,
            (Line::Header(_), Some(_)) => {
                return Err(problem(format!("line {number} starts another export")));
            }
            (Line::Record(_), Some(_)) => {}
            (Line::Cursor(Cursor { cursor, so_far }), Some(place)) => {
                (place.cursor, place.total) = (cursor, so_far);
                good_bytes = bytes;
            }
            (Line::End(_), Some(_)) => return Ok(None),
        }
    }
    let Some(place) = place else {
        return Err(problem("it does not start like an export".to_owned()));
    };
    let mut file = file;
    file.set_len(good_bytes).map_err(unreadable)?;
    file.seek(SeekFrom::End(0)).map_err(unreadable)?;
    Ok(Some(Stopped { output: Box::new(BufWriter::new(file)), place }))
}

fn write(output: &mut impl Write, lines: &[Line]) -> Result<(), Problem> {
    let failed = |error: io::Error| format!("cannot write the export: {error}");
    for line in lines {
        let text = line.to_text().map_err(|unfit| unfit.to_string())?;
        output.write_all(text.as_bytes()).map_err(failed)?;
    }
    output.flush().map_err(failed)
}
