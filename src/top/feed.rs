//! What comes from the daemon. A daemon that is away is called again: a restart is what somebody
//! may be watching.

use std::time::Duration;

use sessiond::grpc::pb::{
    GetStatusRequest, GetStatusResponse, WatchSessionsRequest, WatchSessionsResponse,
    session_admin_service_client::SessionAdminServiceClient,
};
use tokio::sync::{mpsc, watch};
use tonic::transport::Channel;

use crate::client::{Caller, Problem};

/// How long to wait before a daemon that is away is called again.
const PAUSE: Duration = Duration::from_secs(1);

/// Something new to show.
pub(super) enum News {
    Status(Box<GetStatusResponse>),
    /// Nobody answers, or not as expected.
    Away(Problem),
    Event(Box<WatchSessionsResponse>),
    /// Events come from now on, or why they do not.
    Events(Result<(), Problem>),
}

/// Looks at the daemon's status at an interval, which may change.
pub(super) async fn looks(
    called: Caller,
    mut intervals: watch::Receiver<Duration>,
    news: mpsc::Sender<News>,
) {
    let mut client: Option<SessionAdminServiceClient<Channel>> = None;
    loop {
        let found = match client.take() {
            Some(client) => look(&called, client).await,
            None => match called.connect().await {
                Ok(channel) => look(&called, SessionAdminServiceClient::new(channel)).await,
                Err(problem) => Err(problem),
            },
        };
        let found = match found {
            Ok((again, status)) => {
                client = Some(again);
                News::Status(Box::new(status))
            }
            Err(problem) => News::Away(problem),
        };
        if news.send(found).await.is_err() {
            return;
        }
        let interval = *intervals.borrow_and_update();
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            changed = intervals.changed() => if changed.is_err() { return },
        }
    }
}

async fn look(
    called: &Caller,
    mut client: SessionAdminServiceClient<Channel>,
) -> Result<(SessionAdminServiceClient<Channel>, GetStatusResponse), Problem> {
    let answer = client.get_status(called.request(GetStatusRequest {})).await;
    let status = answer.map_err(|status| called.refused(&status))?.into_inner();
    Ok((client, status))
}

/// Passes on what happens to sessions.
pub(super) async fn events(called: Caller, news: mpsc::Sender<News>) {
    loop {
        let ended = match watch(&called, &news).await {
            // Nobody looks any more.
            Ok(()) => return,
            Err(problem) => news.send(News::Events(Err(problem))).await,
        };
        if ended.is_err() {
            return;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn watch(called: &Caller, news: &mpsc::Sender<News>) -> Result<(), Problem> {
    let mut client = SessionAdminServiceClient::new(called.connect().await?);
    let request = called.stream_request(WatchSessionsRequest::default());
    let answer = client.watch_sessions(request).await;
    let mut stream = answer.map_err(|status| called.refused(&status))?.into_inner();
    if news.send(News::Events(Ok(()))).await.is_err() {
        return Ok(());
    }
    loop {
        match stream.message().await.map_err(|status| called.refused(&status))? {
            None => return Err("the daemon has ended the stream".to_owned()),
            Some(event) => {
                if news.send(News::Event(Box::new(event))).await.is_err() {
                    return Ok(());
                }
            }
        }
    }
}
