//! Export: from a daemon to a file or to standard output.
//!
//! What is written so far is good up to its last cursor, whatever happens to this
//! process or to the daemon: `--resume` cuts a file off there and goes on, `--after`
//! goes on in another one.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufRead, BufReader, BufWriter, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    time::SystemTime,
};

use sessiond::grpc::wire::ExportSessionsRequest;

use super::{
    connect,
    line::{End, Header, Line},
    patiently, progress, style,
};
use crate::{
    cli::ExportArgs,
    client::{Caller, Problem},
};

/// Exports, and says what in a sentence.
pub async fn export(
    caller: &Caller,
    args: &ExportArgs,
    now: SystemTime,
) -> Result<String, Problem> {
    // Before a file is made, which is in the way of the next try.
    let mut client = connect(caller).await?;
    let Some(Start { mut output, mut end, mut cursor }) = start(args, now)? else {
        return Ok("the export is complete already".to_owned());
    };
    let bar = progress("exporting", None);
    bar.set_position(end.record_count);
    // Of the engines before this one.
    let mut before = end.record_count;
    loop {
        let request = ExportSessionsRequest {
            engine: args.engine.clone(),
            page_size: 0,
            page_token: cursor.clone(),
        };
        let page = patiently(caller, async || {
            client.export_sessions(caller.request(request.clone())).await
        });
        let page = page.await.map_err(|why| go_on(why, args, &cursor))?;
        if !end.engines.contains(&page.engine) {
            before = end.record_count;
            end.engines.push(page.engine);
        }
        end.record_count += page.records.len() as u64;
        end.unreadable_count += u64::from(page.unreadable_count);
        if let Some(stored) = page.stored_count {
            bar.set_length(before + stored);
        }
        style(&bar, page.stored_count);
        bar.set_position(end.record_count);
        let mut lines: Vec<_> =
            page.records.into_iter().map(|record| Line::Record(Box::new(record))).collect();
        let is_last = page.next_page_token.is_empty();
        lines.push(if is_last {
            Line::End(end.clone())
        } else {
            Line::Cursor(page.next_page_token.clone())
        });
        write(&mut output, &lines).map_err(|why| go_on(why, args, &cursor))?;
        if is_last {
            break;
        }
        cursor = page.next_page_token;
    }
    bar.finish_and_clear();
    let End { record_count, unreadable_count, engines } = end;
    let unreadable = match unreadable_count {
        0 => String::new(),
        count => format!("; {count} could not be read and are left out, see the daemon's log"),
    };
    Ok(format!("exported {record_count} records of {}{unreadable}", engines.join(", ")))
}

/// Where to write, and what was written before.
struct Start {
    output: Box<dyn Write>,
    end: End,
    cursor: String,
}

/// `None`: there is nothing left to do.
fn start(args: &ExportArgs, now: SystemTime) -> Result<Option<Start>, Problem> {
    let mut start = match &args.output {
        None => {
            let output = Box::new(BufWriter::new(io::stdout()));
            let cursor = args.after.clone().unwrap_or_default();
            Start { output, end: End::default(), cursor }
        }
        Some(path) if args.resume => return resume(path),
        Some(path) => {
            // It holds everybody's data. And what is there already stays.
            let mut options = OpenOptions::new();
            let file = options.write(true).create_new(true).mode(0o600).open(path);
            let file = file.map_err(|error| match error.kind() {
                io::ErrorKind::AlreadyExists => format!(
                    "{} is there already; --resume goes on with it if it is an export, else name \
                     another file",
                    path.display()
                ),
                _ => format!("{} can not be written: {error}", path.display()),
            })?;
            let output = Box::new(BufWriter::new(file));
            Start { output, end: End::default(), cursor: args.after.clone().unwrap_or_default() }
        }
    };
    write(&mut start.output, &[Line::Header(Header::new(now, args.after.clone()))])?;
    Ok(Some(start))
}

/// Cuts a file off after its last cursor.
fn resume(path: &Path) -> Result<Option<Start>, Problem> {
    let problem = |what: String| format!("{} can not be resumed: {what}", path.display());
    let unreadable = |error: io::Error| problem(error.to_string());
    let file = OpenOptions::new().read(true).write(true).open(path).map_err(unreadable)?;
    let mut reader = BufReader::new(&file);
    let (mut end, mut cursor) = (End::default(), String::new());
    // Up to the last cursor, and up to where we are.
    let (mut good_bytes, mut bytes) = (0, 0);
    let mut good = End::default();
    for number in 1u64.. {
        let mut text = String::new();
        let len = reader.read_line(&mut text).map_err(unreadable)?;
        if !text.ends_with('\n') {
            // What was being written when it stopped, or nothing.
            break;
        }
        bytes += len as u64;
        match Line::parse(&text).map_err(|why| problem(format!("line {number}: {why}")))? {
            Line::Header(_) if number == 1 => good_bytes = bytes,
            _ if number == 1 => return Err(problem("it does not begin as an export does".into())),
            Line::Header(_) => return Err(problem(format!("line {number} begins another export"))),
            Line::Record(record) => {
                end.record_count += 1;
                if !end.engines.contains(&record.engine) {
                    end.engines.push(record.engine);
                }
            }
            Line::Cursor(next) => (good_bytes, good, cursor) = (bytes, end.clone(), next),
            Line::End(_) => return Ok(None),
        }
    }
    if good_bytes == 0 {
        return Err(problem("it does not begin as an export does".to_owned()));
    }
    let mut file: File = file;
    file.set_len(good_bytes).map_err(unreadable)?;
    file.seek(SeekFrom::End(0)).map_err(unreadable)?;
    Ok(Some(Start { output: Box::new(BufWriter::new(file)), end: good, cursor }))
}

fn write(output: &mut impl Write, lines: &[Line]) -> Result<(), Problem> {
    let failed = |error: io::Error| format!("the export can not be written: {error}");
    for line in lines {
        let text = line.to_text().map_err(|unfit| unfit.to_string())?;
        output.write_all(text.as_bytes()).map_err(failed)?;
    }
    output.flush().map_err(failed)
}

/// What went wrong, and how to go on.
fn go_on(why: Problem, args: &ExportArgs, cursor: &str) -> Problem {
    match &args.output {
        Some(path) => format!("{why}; go on with --output {} --resume", path.display()),
        None if cursor == args.after.as_deref().unwrap_or_default() => why,
        None => format!("{why}; go on with --after {cursor}"),
    }
}
