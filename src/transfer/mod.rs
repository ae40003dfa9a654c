//! `export` and `import`: move all sessions of one daemon to another, as lines of JSON.
//!
//! | file | holds |
//! |---|---|
//! | [`line`] | the format of a line |
//! | [`export`] | from a daemon to a file or standard output; resuming an interrupted export |
//! | [`import`] | from a file or standard input to a daemon |

mod export;
mod import;
mod line;

use std::{
    fmt::Write,
    io::IsTerminal,
    time::{Duration, Instant},
};

use indicatif::{HumanCount, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use sessiond::grpc::pb::session_admin_service_client::SessionAdminServiceClient;
use tonic::{Code, Response, Status, transport::Channel};

pub(crate) use self::{export::export, import::import};
use crate::client::{Caller, Problem};

type Admin = SessionAdminServiceClient<Channel>;

/// How long a call is repeated while the daemon is unavailable or overloaded.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(500);

async fn connect(caller: &Caller) -> Result<Admin, Problem> {
    // The size of a page is bounded only by the records in it.
    Ok(Admin::new(caller.connect().await?).max_decoding_message_size(usize::MAX))
}

/// Repeats a call after temporary errors. Every call made here is safe to repeat.
async fn patiently<T>(
    mut call: impl AsyncFnMut() -> Result<Response<T>, Status>,
) -> Result<T, Status> {
    let started = Instant::now();
    loop {
        match call().await {
            Ok(response) => return Ok(response.into_inner()),
            Err(status)
                if matches!(
                    status.code(),
                    Code::Unavailable | Code::ResourceExhausted | Code::DeadlineExceeded
                ) && started.elapsed() < PATIENCE =>
            {
                tokio::time::sleep(PAUSE).await;
            }
            Err(status) => return Err(status),
        }
    }
}

/// A progress bar on standard error. It is hidden if standard error is no terminal.
fn progress(doing: &'static str, total: Option<u64>) -> ProgressBar {
    let target = if std::io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let bar = ProgressBar::with_draw_target(total, target).with_message(doing);
    style(&bar, total);
    bar
}

fn style(bar: &ProgressBar, total: Option<u64>) {
    let template = match total {
        Some(_) => "{msg} [{wide_bar}] {human_pos} of about {human_len}, {rate}/s, {eta} left",
        None => "{msg} {spinner} {human_pos}, {rate}/s, for {elapsed}",
    };
    let style = ProgressStyle::with_template(template).expect("the templates are well-formed");
    bar.set_style(style.with_key("rate", |state: &ProgressState, text: &mut dyn Write| {
        // Writing to this text cannot fail.
        let _ = write!(text, "{}", HumanCount(state.per_sec() as u64));
    }));
}
