//! What the tests share: the fake and the daemon as one world, a daemon, a proxy.

pub(crate) mod raw;

use std::{
    env,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use sessiond_client::{
    Client, Data, Result,
    testing::{EngineOptions, Fake},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// A user that no other test has.
pub(crate) fn someone() -> String {
    static USERS: AtomicU64 = AtomicU64::new(0);
    format!("user-{}", USERS.fetch_add(1, Ordering::Relaxed))
}

pub(crate) fn data(json: &str) -> Data {
    Data::from_json(json).expect("a JSON object")
}

/// What a browser keeps of a Set-Cookie value: the name and the value.
pub(crate) fn kept(line: &str) -> String {
    line.split(';').next().unwrap_or_default().to_owned()
}

/// Something that answers a client: the fake or the daemon, with the same engines.
pub(crate) struct World {
    pub(crate) client: Client,
    fake: Option<Fake>,
    _daemon: Option<Daemon>,
}

impl World {
    pub(crate) fn fake() -> Self {
        let engine = |name: &str, change: fn(&mut EngineOptions)| {
            let mut options = EngineOptions { cookie_name: name.to_owned(), ..Default::default() };
            change(&mut options);
            options
        };
        let fake = Fake::with_engines([
            ("default", engine("session", |_| {})),
            (
                "short",
                engine("short", |options| {
                    options.duration = Duration::from_secs(20);
                    options.touch_granularity = Some(Duration::from_millis(1));
                    options.roll_grace = Duration::from_secs(1);
                }),
            ),
            ("two", engine("two", |options| options.max_sessions_per_principal = Some(2))),
            ("small", engine("small", |options| options.max_data_bytes = 5000)),
        ]);
        Self { client: fake.client(), fake: Some(fake), _daemon: None }
    }

    pub(crate) fn daemon() -> Self {
        let daemon = Daemon::start(&[
            "engine.short.duration=20s",
            "engine.short.touch_granularity=1ms",
            "engine.short.roll_grace=1s",
            "engine.two.max_sessions_per_principal=2",
            "engine.small.max_data_bytes=5000",
            "engine.default.cookie.name=session",
            "engine.short.cookie.name=short",
            "engine.two.cookie.name=two",
            "engine.small.cookie.name=small",
            "engine.default.cookie.secure=false",
            "engine.short.cookie.secure=false",
            "engine.two.cookie.secure=false",
            "engine.small.cookie.secure=false",
        ]);
        let client = Client::new(&daemon.address).expect("an address");
        Self { client, fake: None, _daemon: Some(daemon) }
    }

    /// Lets time pass.
    pub(crate) async fn pass(&self, time: Duration) {
        match &self.fake {
            Some(fake) => fake.advance(time),
            None => tokio::time::sleep(time).await,
        }
    }
}

/// Each function is a test with the fake, and one with the daemon.
macro_rules! in_both_worlds {
    ($($name:ident)*) => {
        mod fake {
            $(#[tokio::test]
            async fn $name() {
                super::$name(&crate::support::World::fake()).await.expect("no error");
            })*
        }

        mod daemon {
            $(#[tokio::test]
            async fn $name() {
                super::$name(&crate::support::World::daemon()).await.expect("no error");
            })*
        }
    };
}
pub(crate) use in_both_worlds;

/// A daemon of its own, with its sessions in memory.
pub(crate) struct Daemon {
    pub(crate) address: String,
    process: Child,
}

impl Daemon {
    /// Starts one on a free port, with these settings.
    pub(crate) fn start(settings: &[&str]) -> Self {
        Self::at("127.0.0.1:0", settings)
    }

    pub(crate) fn at(listen: &str, settings: &[&str]) -> Self {
        let mut command = Command::new(binary());
        command.args(["serve", "--dev"]);
        let listen = format!("listen.grpc={listen}");
        let own = [&listen, "listen.admin=", "listen.metrics=", "log.level=error"];
        for setting in own.iter().chain(settings) {
            command.args(["--set", setting]);
        }
        // It reads its configuration from variables of this prefix.
        for (name, _) in env::vars_os() {
            if name.to_string_lossy().starts_with("SESSIOND_") {
                command.env_remove(name);
            }
        }
        let mut process = command.stdout(Stdio::piped()).spawn().expect("the daemon starts");
        let mut line = String::new();
        let output = process.stdout.take().expect("a pipe");
        BufReader::new(output).read_line(&mut line).expect("a line");
        let address = line.split("grpc=").nth(1).and_then(|rest| rest.split([',', ' ']).next());
        let address = address.unwrap_or_else(|| panic!("expected grpc=ADDRESS in {line:?}"));
        Self { address: address.trim().to_owned(), process }
    }

    fn signal(&self, name: &str) {
        let id = self.process.id().to_string();
        let killed = Command::new("kill").args([name, &id]).status().expect("kill");
        assert!(killed.success(), "expected {name} to reach the daemon");
    }

    /// Stops it where it is, and waits until all of its threads stand still.
    pub(crate) fn pause(&self) {
        self.signal("-STOP");
        let threads = Path::new("/proc").join(self.process.id().to_string()).join("task");
        let stands = |thread: std::io::Result<std::fs::DirEntry>| {
            let stat = std::fs::read_to_string(thread.expect("a thread").path().join("stat"));
            stat.is_ok_and(|stat| {
                stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" T"))
            })
        };
        while !std::fs::read_dir(&threads).expect("its threads").all(stands) {
            thread::yield_now();
        }
    }

    pub(crate) fn resume(&self) {
        self.signal("-CONT");
    }

    /// Ends it in an orderly way, and waits for its end.
    pub(crate) fn stop(mut self) {
        self.signal("-TERM");
        let status = self.process.wait().expect("its end");
        assert!(status.success(), "expected the daemon to stop, found {status}");
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn binary() -> PathBuf {
    if let Some(named) = env::var_os("SESSIOND_BIN") {
        return named.into();
    }
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target");
    let built = ["dist", "release", "debug"].map(|profile| target.join(profile).join("sessiond"));
    let found = built.into_iter().find(|path| path.exists());
    found.expect("expected a daemon: build it, or name it with SESSIOND_BIN")
}

/// The error of a call that a client with this timeout makes. A busy machine may not get as far as
/// a first attempt to connect in a short time.
pub(crate) async fn in_time(client: impl Fn(Duration) -> Client) -> sessiond_client::Error {
    for seconds in [1, 5] {
        let client = client(Duration::from_secs(seconds));
        let error = client.describe().await.expect_err("no daemon answers");
        if error.reason() != sessiond_client::Reason::Timeout {
            return error;
        }
    }
    let error = client(Duration::from_secs(25)).describe().await;
    error.expect_err("no daemon answers")
}

/// A proxy in front of a daemon, which can cut its connections.
pub(crate) struct Proxy {
    pub(crate) address: String,
    /// After so many octets from the daemon the connection is cut.
    left: Arc<AtomicUsize>,
}

impl Proxy {
    pub(crate) async fn start(to: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let left = Arc::new(AtomicUsize::new(usize::MAX));
        let (to, shared) = (to.to_owned(), Arc::clone(&left));
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let (to, left) = (to.clone(), Arc::clone(&shared));
                tokio::spawn(async move {
                    let far = TcpStream::connect(to).await?;
                    forward(near, far, &left).await
                });
            }
        });
        Self { address, left }
    }

    /// Cuts the connection after so many octets from the daemon. The next one is whole.
    pub(crate) fn cut_after(&self, octets: usize) {
        self.left.store(octets, Ordering::SeqCst);
    }
}

async fn forward(near: TcpStream, far: TcpStream, left: &AtomicUsize) -> std::io::Result<()> {
    let (mut near_read, mut near_write) = near.into_split();
    let (mut far_read, mut far_write) = far.into_split();
    let there = tokio::io::copy(&mut near_read, &mut far_write);
    let back = async {
        let mut buffer = vec![0; 16 << 10];
        loop {
            let read = far_read.read(&mut buffer).await?;
            let room = left.load(Ordering::SeqCst);
            near_write.write_all(&buffer[..read.min(room)]).await?;
            if read == 0 || read >= room {
                left.store(usize::MAX, Ordering::SeqCst);
                return Ok(());
            }
            if room != usize::MAX {
                left.store(room - read, Ordering::SeqCst);
            }
        }
    };
    tokio::select! {
        copied = there => copied.map(drop),
        cut = back => cut,
    }
}

/// Makes a session, and returns its token.
pub(crate) async fn create(client: &Client) -> Result<String> {
    let credential = sessiond_client::Credential::NONE;
    let written = client.write(&credential, data(r#"{"a":1}"#).into()).await?;
    Ok(written.token.expect("a token"))
}
