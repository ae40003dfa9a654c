//! How it is shown. Nothing depends on colours alone.

use ratatui::{
    Frame,
    layout::{Alignment, Constraint, Layout, Rect},
    style::{Style, Stylize},
    text::{Line, Span},
    widgets::{Block, Paragraph, Row, Sparkline, Table},
};
use sessiond::grpc::pb::DaemonState;

use super::view::{Daemon, View, Work};
use crate::{
    status::word,
    table::{printable, rough},
};

/// Fewer lines or columns hold no view.
const LEAST: (u16, u16) = (60, 12);

pub(super) fn draw(frame: &mut Frame<'_>, view: &View) {
    let area = frame.area();
    if area.width < LEAST.0 || area.height < LEAST.1 {
        let (width, height) = LEAST;
        let text = format!("The terminal is too small: expected {width} x {height}. q: end");
        frame.render_widget(Paragraph::new(text), area);
        return;
    }
    let Some(daemon) = &view.daemon else {
        let text = view.away.clone().unwrap_or_else(|| "looking ...".to_owned());
        frame.render_widget(Paragraph::new(printable(text.as_bytes())), area);
        return;
    };
    // What has no room is cut from below: first the events, then the tables.
    let tables = daemon.rpcs.len().max(5) as u16 + 3;
    let engines = daemon.engines.len().max(daemon.store_work.len()).min(10) as u16 + 3;
    let [head, rates, upper, lower, events, foot] = Layout::vertical([
        Constraint::Length(2),
        Constraint::Length(5),
        Constraint::Length(tables),
        Constraint::Length(engines),
        Constraint::Min(0),
        Constraint::Length(1),
    ])
    .areas(area);
    let halves = Layout::horizontal([Constraint::Percentage(60), Constraint::Percentage(40)]);
    frame.render_widget(heading(view, daemon), head);
    sparkline(frame, view, rates);
    let [left, right] = halves.areas(upper);
    frame.render_widget(work_table("operations", &daemon.rpcs), left);
    frame.render_widget(outcomes(daemon), right);
    let [left, right] = halves.areas(lower);
    frame.render_widget(work_table("store", &daemon.store_work), left);
    frame.render_widget(engine_table(daemon), right);
    frame.render_widget(event_table(view), events);
    let keys = format!(
        " q end  p pause  + - interval ({})  connections {}  watchers {}  held {}",
        sessiond::server::config::Span(view.interval),
        daemon.connections,
        daemon.watchers,
        daemon.held,
    );
    frame.render_widget(Paragraph::new(keys).style(Style::new().reversed()), foot);
}

fn heading<'v>(view: &'v View, daemon: &'v Daemon) -> Paragraph<'v> {
    let state = word(daemon.state);
    let state = match daemon.state {
        DaemonState::Serving => Span::from(state).green(),
        DaemonState::Reading | DaemonState::Stopping => Span::from(state).yellow(),
        DaemonState::NotServing | DaemonState::Unspecified => Span::from(state).red(),
    };
    let mut first = vec![
        Span::from(" sessiond ").bold(),
        Span::from(daemon.version.as_str()),
        Span::from(format!(" at {}  ", view.address)),
        state.bold(),
        Span::from(format!("  up {}  {} store", daemon.up, daemon.store)),
    ];
    if view.is_paused {
        first.push(Span::from("  paused").yellow());
    }
    let problem = match (&view.away, daemon.reason.as_str()) {
        (Some(problem), _) => format!(" away: {}", printable(problem.as_bytes())),
        (None, "") => String::new(),
        (None, reason) => format!(" {}", printable(reason.as_bytes())),
    };
    Paragraph::new(vec![Line::from(first), Line::from(problem.red())])
}

fn sparkline(frame: &mut Frame<'_>, view: &View, area: Rect) {
    let latest = view.rates.back().copied().unwrap_or_default();
    let most = view.rates.iter().max().copied().unwrap_or_default();
    let title = format!(" operations a second: {latest}, at most {most} ");
    let block = Block::bordered().title(title);
    // The latest ones, as many as there are columns.
    let width = usize::from(area.width.saturating_sub(2));
    let from = view.rates.len().saturating_sub(width);
    let bars = view.rates.iter().skip(from).copied();
    frame.render_widget(Sparkline::default().block(block).data(bars.collect::<Vec<_>>()), area);
}

fn number(rate: f64) -> Line<'static> {
    let text = match rate {
        0.0 => "-".to_owned(),
        small if small < 10.0 => format!("{small:.1}"),
        rate => format!("{rate:.0}"),
    };
    Line::from(text).alignment(Alignment::Right)
}

fn latency(seconds: Option<f64>) -> Line<'static> {
    let text = match seconds {
        None => "-".to_owned(),
        Some(seconds) if seconds < 0.001 => format!("{:.0} µs", seconds * 1e6),
        Some(seconds) if seconds < 1.0 => format!("{:.1} ms", seconds * 1e3),
        Some(seconds) => rough(std::time::Duration::from_secs_f64(seconds)),
    };
    Line::from(text).alignment(Alignment::Right)
}

fn head<const N: usize>(names: [&'static str; N]) -> Row<'static> {
    let cell = |(at, name): (usize, &'static str)| {
        let side = if at == 0 { Alignment::Left } else { Alignment::Right };
        Line::from(name).alignment(side)
    };
    Row::new(names.into_iter().enumerate().map(cell)).bold()
}

fn work_table<'v>(title: &'static str, work: &'v [Work]) -> Table<'v> {
    let rows = work.iter().map(|work| {
        let failures = number(work.failures);
        let failures = if work.failures > 0.0 { failures.red() } else { failures };
        Row::new([
            Line::from(work.name.as_str()),
            number(work.rate),
            latency(work.median),
            latency(work.p99),
            failures,
        ])
    });
    let widths = [
        Constraint::Min(10),
        Constraint::Length(9),
        Constraint::Length(9),
        Constraint::Length(9),
        Constraint::Length(9),
    ];
    Table::new(rows, widths)
        .header(head(["", "a second", "median", "99 %", "failed"]))
        .block(Block::bordered().title(format!(" {title} ")))
}

fn outcomes(daemon: &Daemon) -> Table<'_> {
    let rows = daemon.outcomes.iter();
    let rows = rows.map(|(state, rate)| Row::new([Line::from(state.as_str()), number(*rate)]));
    Table::new(rows, [Constraint::Min(10), Constraint::Length(9)])
        .header(head(["", "a second"]))
        .block(Block::bordered().title(" outcomes "))
}

fn engine_table(daemon: &Daemon) -> Table<'_> {
    let rows = daemon.engines.iter().map(|engine| {
        let stored = engine.stored.map_or("unknown".to_owned(), |count| count.to_string());
        Row::new([
            Line::from(engine.name.as_str()),
            Line::from(stored).alignment(Alignment::Right),
            number(engine.created),
            number(engine.ended),
            number(engine.swept),
        ])
    });
    let widths = [
        Constraint::Min(7),
        Constraint::Length(8),
        Constraint::Length(7),
        Constraint::Length(6),
        Constraint::Length(6),
    ];
    Table::new(rows, widths)
        .header(head(["", "stored", "new/s", "end/s", "exp/s"]))
        .block(Block::bordered().title(" engines "))
}

fn event_table(view: &View) -> Table<'_> {
    let rows = view.events.iter().map(|event| {
        Row::new([
            event.time.as_str(),
            event.kind,
            event.engine.as_str(),
            event.session.as_str(),
            event.principal.as_str(),
        ])
    });
    let title = match &view.no_events {
        None => " events ".to_owned(),
        Some(problem) => format!(" no events: {} ", printable(problem.as_bytes())),
    };
    let widths = [
        Constraint::Length(8),
        Constraint::Length(18),
        Constraint::Length(12),
        Constraint::Length(16),
        Constraint::Min(8),
    ];
    Table::new(rows, widths).block(Block::bordered().title(title))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use prost_types::Timestamp;
    use ratatui::{Terminal, backend::TestBackend};
    use sessiond::grpc::pb::{
        EngineStatus, GetStatusResponse, SessionEventKind, WatchSessionsResponse,
    };

    use super::*;
    use crate::top::feed::News;

    fn status(seconds: i64, resolved: u64, failed: u64) -> News {
        let metrics = format!(
            "sessiond_requests_total{{rpc=\"Resolve\",state=\"ACTIVE\"}} {resolved}\n\
             sessiond_requests_total{{rpc=\"Resolve\",state=\"STORE_UNAVAILABLE\"}} {failed}\n\
             sessiond_request_duration_seconds_count{{rpc=\"Resolve\"}} {all}\n\
             sessiond_request_duration_seconds_bucket{{rpc=\"Resolve\",le=\"0.001\"}} {all}\n\
             sessiond_request_duration_seconds_bucket{{rpc=\"Resolve\",le=\"+Inf\"}} {all}\n\
             sessiond_store_recalled_total{{engine=\"default\"}} {resolved}\n\
             sessiond_sessions_created_total{{engine=\"default\"}} {failed}\n\
             sessiond_connections 3\nsessiond_held_bytes 2048\n",
            all = resolved + failed
        );
        let at = |seconds| Some(Timestamp { seconds, nanos: 0 });
        News::Status(Box::new(GetStatusResponse {
            version: "0.1.0".to_owned(),
            start_time: at(1_700_000_000),
            status_time: at(1_700_000_000 + seconds),
            state: DaemonState::Serving.into(),
            store: "sled".to_owned(),
            engines: vec![EngineStatus { name: "default".to_owned(), stored_count: Some(42) }],
            metrics,
            ..Default::default()
        }))
    }

    fn screen(view: &View, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal");
        terminal.draw(|frame| draw(frame, view)).expect("drawn");
        terminal.backend().to_string()
    }

    #[test]
    fn rates_are_of_the_time_between_two_looks() {
        let mut view = View::new("localhost:50052".to_owned());
        let start = Instant::now();
        view.take(status(90_000, 1000, 0), start);
        assert!(screen(&view, 100, 40).contains("operations a second: 0, at most 0"));
        view.take(status(90_002, 1400, 6), start + Duration::from_secs(2));
        view.take(
            News::Event(Box::new(WatchSessionsResponse {
                kind: SessionEventKind::Created.into(),
                session_id: "Zq3oXk2nT0aVb9Lw".to_owned(),
                principal: "ann\u{1b}[2J".into(),
                event_time: Some(Timestamp { seconds: 1_700_000_000, nanos: 0 }),
                engine: "default".to_owned(),
                ..Default::default()
            })),
            start,
        );
        let shown = screen(&view, 100, 40);
        for expected in [
            "sessiond 0.1.0 at localhost:50052  serving  up 1day 1h  sled store",
            "operations a second: 203, at most 203",
            "203    500 µs    990 µs       3.0",
            "ACTIVE",
            "STORE_UNAVAILABLE",
            "recall",
            "42",
            "22:13:20 created            default      Zq3oXk2nT0aVb9Lw ann\u{fffd}[2J",
            "connections 3",
            "held 2.0 KiB",
        ] {
            assert!(shown.contains(expected), "expected {expected:?} in:\n{shown}");
        }
        view.is_paused = true;
        view.take(status(90_003, 9999, 6), start + Duration::from_secs(3));
        let shown = screen(&view, 100, 40);
        assert!(shown.contains("paused") && shown.contains("a second: 203"), "{shown}");
        view.take(News::Away("cannot reach a daemon".to_owned()), start);
        assert!(screen(&view, 100, 40).contains("away: cannot reach a daemon"));
    }

    #[test]
    fn any_size_is_drawn() {
        let mut view = View::new("localhost:50052".to_owned());
        view.take(status(1, 1, 1), Instant::now());
        for (width, height) in [(1, 1), (59, 40), (60, 12), (80, 24), (300, 100)] {
            screen(&view, width, height);
        }
        assert!(screen(&view, 30, 5).contains("too small"));
    }
}
