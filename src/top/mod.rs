//! `sessiond top`: a live view of a running daemon.
//!
//! | file | holds |
//! |---|---|
//! | this one | the terminal, the keys, and the loop |
//! | [`feed`] | what comes from the daemon: its status at an interval, events as they happen |
//! | [`view`] | what is shown, computed from two looks at the metrics |
//! | [`draw`] | how it is shown |

use std::{
    io::IsTerminal,
    thread,
    time::{Duration, Instant},
};

use ratatui::crossterm::event::{self, Event as Input, KeyCode, KeyEventKind, KeyModifiers};
use tokio::sync::{mpsc, watch};

use self::{feed::News, view::View};
use crate::client::{Caller, Problem};

mod draw;
mod feed;
mod view;

/// What may wait to be shown. Older news is not lost, the feed waits.
const WAITING: usize = 256;
/// The shortest and the longest time between two looks.
const INTERVALS: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(60)];
/// How often the terminal's input is looked at after the view has ended.
const INPUT_POLL: Duration = Duration::from_millis(100);

/// Shows the daemon until somebody presses `q`.
pub(crate) async fn run(called: &Caller, interval: Duration) -> Result<(), Problem> {
    if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
        return Err("top needs a terminal; `sessiond status` prints the state once".to_owned());
    }
    // The first look, before the terminal is taken: what is wrong is told as by other commands.
    called.status().await?;
    let (keys, pressed) = mpsc::channel(16);
    let (news, arriving) = mpsc::channel(WAITING);
    let (interval, intervals) = watch::channel(interval);
    let feeding = [
        tokio::spawn(feed::looks(called.clone(), intervals, news.clone())),
        tokio::spawn(feed::events(called.clone(), news)),
    ];
    let terminal = ratatui::try_init().map_err(|error| format!("the terminal: {error}"))?;
    // It ends with the process, or at the first key after the view.
    thread::spawn(move || read_keys(&keys));
    let shown =
        show(terminal, View::new(called.address().to_string()), pressed, arriving, interval);
    let shown = shown.await;
    ratatui::restore();
    for task in feeding {
        task.abort();
    }
    shown.map_err(|error| format!("the terminal: {error}"))
}

/// What a key asks for.
enum Key {
    End,
    Pause,
    Faster,
    Slower,
    /// The terminal has another size.
    Redraw,
}

fn read_keys(keys: &mpsc::Sender<Key>) {
    while !keys.is_closed() {
        let key = match event::poll(INPUT_POLL) {
            Ok(true) => event::read().ok().and_then(|input| key(&input)),
            Ok(false) => None,
            Err(_) => Some(Key::End),
        };
        if let Some(key) = key
            && keys.blocking_send(key).is_err()
        {
            return;
        }
    }
}

fn key(input: &Input) -> Option<Key> {
    match input {
        Input::Resize(..) => Some(Key::Redraw),
        Input::Key(key) if key.kind == KeyEventKind::Press => match key.code {
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Some(Key::End),
            KeyCode::Char('q') | KeyCode::Esc => Some(Key::End),
            KeyCode::Char('p' | ' ') => Some(Key::Pause),
            KeyCode::Char('+') => Some(Key::Faster),
            KeyCode::Char('-') => Some(Key::Slower),
            _ => None,
        },
        _ => None,
    }
}

async fn show(
    mut terminal: ratatui::DefaultTerminal,
    mut view: View,
    mut keys: mpsc::Receiver<Key>,
    mut arriving: mpsc::Receiver<News>,
    interval: watch::Sender<Duration>,
) -> std::io::Result<()> {
    loop {
        view.interval = *interval.borrow();
        terminal.draw(|frame| draw::draw(frame, &view))?;
        tokio::select! {
            key = keys.recv() => match key {
                None | Some(Key::End) => return Ok(()),
                Some(Key::Pause) => view.is_paused = !view.is_paused,
                Some(Key::Faster) => interval.send_modify(|it| *it = (*it / 2).max(INTERVALS[0])),
                Some(Key::Slower) => interval.send_modify(|it| *it = (*it * 2).min(INTERVALS[1])),
                Some(Key::Redraw) => {}
            },
            Some(news) = arriving.recv() => {
                view.take(news, Instant::now());
                // What came together is drawn once.
                while let Ok(news) = arriving.try_recv() {
                    view.take(news, Instant::now());
                }
            }
        }
    }
}
