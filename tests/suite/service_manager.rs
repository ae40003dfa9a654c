//! The daemon under a service manager: what it is told, the sockets that it passes, and a stop
//! that says so first.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
        unix::{
            fs::{FileTypeExt, MetadataExt, PermissionsExt},
            net::{UnixDatagram, UnixListener},
            process::CommandExt,
        },
    },
    process::{Command, Stdio},
    time::Duration,
};

use rustix::process::Signal;
use sessiond::grpc::pb::session_service_client::SessionServiceClient;

use crate::support::{
    daemon::set,
    program::{PATIENCE, Program, run, sessiond, stderr},
};

/// The socket of a service manager, as systemd has one.
struct Manager {
    socket: UnixDatagram,
    folder: tempfile::TempDir,
}

impl Manager {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let socket = UnixDatagram::bind(folder.path().join("notify")).expect("it is bound");
        socket.set_read_timeout(Some(PATIENCE)).expect("it waits so long");
        Self { socket, folder }
    }

    /// A daemon that it starts, with these arguments of `serve --dev` and variables.
    fn start(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Program {
        let ports = ["serve", "--dev", "--set=listen.grpc=127.0.0.1:0"];
        let ports = ports.into_iter().chain(["--set=listen.admin=127.0.0.1:0"]);
        let ports = ports.chain(["--set=listen.metrics=127.0.0.1:0"]);
        let mut command = sessiond(ports.chain(arguments.iter().copied()));
        command.env("NOTIFY_SOCKET", self.folder.path().join("notify"));
        command.envs(variables.iter().copied());
        Program::start(&mut command)
    }

    /// The next message, as assignments.
    fn next(&self) -> Vec<String> {
        let mut octets = [0; 4096];
        let length = self.socket.recv(&mut octets).expect("expected a message of the daemon");
        let text = std::str::from_utf8(&octets[..length]).expect("text");
        text.lines().map(str::to_owned).collect()
    }

    /// Passes over messages until one has `assignment`.
    fn until(&self, assignment: &str) -> Vec<String> {
        loop {
            let message = self.next();
            if message.iter().any(|one| one == assignment) {
                return message;
            }
        }
    }
}

fn value<'a>(message: &'a [String], name: &str) -> &'a str {
    let mut values = message.iter().filter_map(|one| one.strip_prefix(name)?.strip_prefix('='));
    values.next().unwrap_or_else(|| panic!("expected {name} in {message:?}"))
}

fn monotonic_micros() -> u128 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Duration::try_from(now).expect("it counts from the boot").as_micros()
}

#[test]
fn the_service_manager_hears_of_the_start_each_reload_and_the_stop() {
    let manager = Manager::new();
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let secrets = scratch.path().join("secrets");
    fs::write(&secrets, "a-signing-secret-for-tests-long-enough\n").expect("written");
    let secret_file = format!("--set=engine.default.cookie.secret_file={}", secrets.display());
    let mut program = manager.start(&[&secret_file], &[]);
    assert_eq!(value(&manager.next(), "STATUS"), "starting: the store is opened");
    assert_eq!(manager.next(), ["READY=1", "STATUS=serving"]);

    // As `systemctl reload` does for a unit of the type notify-reload.
    let before = monotonic_micros();
    program.signal(Signal::HUP);
    let message = manager.next();
    assert_eq!(message[0], "RELOADING=1");
    let begun: u128 = value(&message, "MONOTONIC_USEC").parse().expect("a number");
    assert!((before..=monotonic_micros()).contains(&begun), "{before} and {message:?}");
    assert_eq!(manager.next(), ["READY=1", "STATUS=serving"]);

    fs::write(&secrets, "short\n").expect("written");
    let refused = run(["reload", "--address", program.address("admin")]);
    assert_eq!(refused.status.code(), Some(1));
    assert_eq!(manager.next()[0], "RELOADING=1", "also of a reload that was asked for otherwise");
    let message = manager.next();
    assert_eq!(message[0], "READY=1", "the daemon goes on with what it had");
    let status = value(&message, "STATUS");
    assert!(status.starts_with("serving; the reload is refused"), "{status}");
    assert!(status.contains("cookie.secret_file"), "{status}");

    program.signal(Signal::TERM);
    let message = manager.next();
    assert_eq!(message, ["STOPPING=1", "STATUS=stopping: what is in flight is finished"]);
    assert_eq!(program.wait().code(), Some(0));
}

#[test]
fn a_start_that_fails_says_why() {
    let manager = Manager::new();
    let mut command = sessiond(["serve", "--dev", "--set=listen.grpc=unix:@sessiond"]);
    command.env("NOTIFY_SOCKET", manager.folder.path().join("notify"));
    let output = command.output().expect("the program can be run");
    assert_eq!(output.status.code(), Some(78), "{}", stderr(&output));
    let status = manager.next();
    assert!(value(&status, "STATUS").starts_with("listen.grpc"), "{status:?}");
}

#[test]
fn the_watchdog_is_told_twice_in_its_time() {
    let manager = Manager::new();
    let before = monotonic_micros();
    let program = manager.start(&[], &[("WATCHDOG_USEC", "400000")]);
    for _ in 0..6 {
        manager.until("WATCHDOG=1");
    }
    // The first one comes at once. On a busy machine all may come late, and none too early.
    let took = monotonic_micros() - before;
    assert!(took >= 1_000_000, "expected 200 ms from one to the next, found {took} us for five");
    assert_eq!(program.stop().0, Some(0));

    // It is for another process: a parent, which has left its variables.
    let program = manager.start(&[], &[("WATCHDOG_USEC", "1000"), ("WATCHDOG_PID", "1")]);
    manager.until("READY=1");
    program.signal(Signal::HUP);
    assert_eq!(manager.next()[0], "RELOADING=1", "expected no watchdog");
    assert_eq!(program.stop().0, Some(0));
}

/// Nobody listens at the address any more.
#[test]
fn a_service_manager_that_is_gone_stops_nothing() {
    let manager = Manager::new();
    fs::remove_file(manager.folder.path().join("notify")).expect("removed");
    let program = manager.start(&[], &[("WATCHDOG_USEC", "1000")]);
    let log = program.wait_for_log("the service manager at NOTIFY_SOCKET cannot be told", 1);
    let health = run(["health", "--address", program.address("grpc")]);
    assert_eq!(health.status.code(), Some(0), "{log}");
    let (code, log) = program.stop();
    assert_eq!(code, Some(0));
    assert_eq!(log.matches("NOTIFY_SOCKET").count(), 1, "expected it once: {log}");
}

/// `serve --dev` with sockets as a service manager passes them: from descriptor 3 on, with names.
fn passing(sockets: &[(&str, BorrowedFd<'_>)], arguments: &[&str]) -> Command {
    let fds: Vec<RawFd> = sockets.iter().map(|(_, fd)| fd.as_raw_fd()).collect();
    let names: Vec<_> = sockets.iter().map(|(name, _)| *name).collect();
    let moved: String =
        fds.iter().enumerate().map(|(at, fd)| format!("{}<&{fd} {fd}<&- ", at + 3)).collect();
    // The shell has the process id that the program keeps.
    let script = format!("exec {moved}; export LISTEN_PID=$$; exec \"$0\" \"$@\"");
    let mut command = Command::new("bash");
    command.args(["-c", &script, env!("CARGO_BIN_EXE_sessiond"), "serve", "--dev"]);
    command.args(["--set=listen.metrics=", "--set=listen.admin=127.0.0.1:0"]).args(arguments);
    command.env_clear();
    command.env("LISTEN_FDS", fds.len().to_string()).env("LISTEN_FDNAMES", names.join(":"));
    command.stdin(Stdio::null());
    let inherit = move || {
        for fd in &fds {
            // SAFETY: the parent keeps them open until the child has been started.
            let fd = unsafe { BorrowedFd::borrow_raw(*fd) };
            rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty())?;
        }
        Ok(())
    };
    // SAFETY: it makes system calls only.
    unsafe { command.pre_exec(inherit) };
    command
}

fn duplicate(socket: impl AsFd) -> OwnedFd {
    // Above what the script moves them to.
    rustix::io::fcntl_dupfd_cloexec(socket, 100).expect("there is room")
}

fn loopback() -> (OwnedFd, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    (duplicate(listener), address)
}

async fn write(address: SocketAddr) {
    let client = SessionServiceClient::connect(format!("http://{address}")).await;
    client.expect("a connection").write(set("{}")).await.expect("a Write is taken");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sockets_of_the_service_manager_are_served_and_stay_open() {
    let ((grpc, address), (page, metrics)) = (loopback(), loopback());
    let sockets = [("metrics", page.as_fd()), ("grpc", grpc.as_fd())];
    // An address that cannot be bound: the socket takes its place.
    let start = || Program::start(&mut passing(&sockets, &["--set=listen.grpc=192.0.2.1:1"]));
    let program = start();
    assert_eq!(program.address("grpc"), address.to_string());
    assert_eq!(program.address("metrics"), metrics.to_string());
    write(address).await;
    let (_, log) = get(metrics, "/readyz");
    assert_eq!(log, "ready\n");
    assert_eq!(program.stop().0, Some(0));

    // Who connects while no daemon is there is served by the next one.
    let waiting = tokio::spawn(write(address));
    let program = start();
    waiting.await.expect("it was not refused");
    assert_eq!(program.stop().0, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_file_of_a_passed_socket_is_left_to_its_owner() {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let path = scratch.path().join("sessiond.sock");
    let socket = duplicate(UnixListener::bind(&path).expect("it is bound"));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o606)).expect("its mode");
    let program = Program::start(&mut passing(
        &[("admin", socket.as_fd())],
        &["--set=listen.grpc=127.0.0.1:0"],
    ));
    let address = format!("unix:{}", path.display());
    assert_eq!(program.address("admin"), address);
    let status = run(["status", "--address", &address]);
    assert_eq!(status.status.code(), Some(0), "{}", stderr(&status));
    assert_eq!(program.stop().0, Some(0));
    let metadata = fs::metadata(&path).expect("expected the file to stay");
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o606, "expected the mode of the owner");
}

#[test]
fn a_passed_socket_of_the_wrong_kind_is_named() {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let tcp = || loopback().0;
    let unix = UnixListener::bind(scratch.path().join("a.sock")).expect("it is bound");
    let datagrams = UnixDatagram::unbound().expect("a socket");
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let (pipe, _other) = std::io::pipe().expect("a pipe");
    let (listener, listening) = loopback();
    let connection = TcpStream::connect(listening).expect("it listens");
    let everywhere = TcpListener::bind("0.0.0.0:0").expect("a free port");
    let not_listening = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::STREAM,
        None,
    )
    .expect("a socket");
    use std::os::linux::net::SocketAddrExt;
    let name = std::os::unix::net::SocketAddr::from_abstract_name(
        scratch.path().as_os_str().as_encoded_bytes(),
    );
    let abstract_one = UnixListener::bind_addr(&name.expect("a name")).expect("it is bound");
    for (name, socket, key, problem) in [
        (
            "sessiond.socket",
            tcp(),
            "listen",
            "passed a socket with the name \"sessiond.socket\"; expected \"grpc\", \"admin\" or \"metrics\"",
        ),
        (
            "grpc",
            duplicate(pipe),
            "listen.grpc",
            "passed something that is not a socket; expected a TCP or unix socket that listens",
        ),
        ("admin", duplicate(datagrams), "listen.admin", "passed a datagram socket; expected"),
        ("grpc", duplicate(udp), "listen.grpc", "passed a datagram socket; expected"),
        (
            "grpc",
            duplicate(connection),
            "listen.grpc",
            "passed a socket that does not listen; expected",
        ),
        (
            "grpc",
            duplicate(not_listening),
            "listen.grpc",
            "passed a socket that does not listen; expected",
        ),
        (
            "metrics",
            duplicate(unix),
            "listen.metrics",
            "passed a unix socket; expected a TCP socket that listens",
        ),
        (
            "grpc",
            duplicate(abstract_one),
            "listen.grpc",
            "passed an abstract unix socket, which is open to every process; expected",
        ),
        (
            "grpc",
            duplicate(everywhere),
            "listen.grpc",
            "can be reached from other machines; set listen.tls.cert_file",
        ),
    ] {
        let command = &mut passing(&[(name, socket.as_fd())], &["--set=listen.grpc=127.0.0.1:0"]);
        let output = command.output().expect("the program can be run");
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(78), "{name}: {said}");
        assert!(said.contains(&format!("\nsessiond: {key}: ")), "{name}: {said}");
        assert!(said.contains(problem), "expected {problem:?} in {said}");
    }
    drop(listener);
    let (one, other) = (tcp(), tcp());
    let twice = [("metrics", one.as_fd()), ("metrics", other.as_fd())];
    let output = passing(&twice, &["--set=listen.grpc=127.0.0.1:0"]).output().expect("it runs");
    assert!(
        stderr(&output).contains("passed several sockets; expected one"),
        "{}",
        stderr(&output)
    );
    let mut unnamed = passing(&twice, &["--set=listen.grpc=127.0.0.1:0"]);
    let output = unnamed.env("LISTEN_FDNAMES", "grpc").output().expect("it runs");
    assert_eq!(output.status.code(), Some(78));
    assert!(
        stderr(&output).contains("expected LISTEN_FDS, and in LISTEN_FDNAMES a name for each"),
        "{}",
        stderr(&output)
    );
}

/// The status and the body.
fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).expect("it listens");
    write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    (status.expect("a status"), body.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_says_so_before_the_listeners_close() {
    let manager = Manager::new();
    let mut program = manager.start(&["--set=runtime.drain=1h"], &[]);
    manager.until("READY=1");
    let metrics: SocketAddr = program.address("metrics").parse().expect("an address");
    let grpc = program.address("grpc").to_owned();
    assert_eq!(get(metrics, "/readyz"), (200, "ready\n".to_owned()));
    program.signal(Signal::TERM);
    let message = manager.until("STOPPING=1");
    assert_eq!(value(&message, "STATUS"), "draining for 1h before the listeners close");
    assert_eq!(get(metrics, "/readyz"), (503, "not ready: stopping\n".to_owned()));
    assert_eq!(get(metrics, "/healthz").0, 200);
    let health = run(["health", "--address", &grpc]);
    assert_eq!(health.status.code(), Some(1));
    assert!(stderr(&health).contains("NOT_SERVING"), "{}", stderr(&health));
    // A load balancer that has not looked yet sends new connections, and calls on them.
    write(grpc.parse().expect("an address")).await;
    // A second signal does not wait.
    program.signal(Signal::TERM);
    assert_eq!(program.wait().code(), Some(1));

    let mut program = manager.start(&["--set=runtime.drain=100ms"], &[]);
    program.signal(Signal::TERM);
    assert_eq!(program.wait().code(), Some(0));
    let log = program.log();
    let at = |text: &str| log.find(text).unwrap_or_else(|| panic!("expected {text:?} in {log}"));
    assert!(
        at("draining: not ready any more; the listeners close after 100ms")
            < at("stopping: no more connections")
    );
}

#[test]
fn a_unix_socket_has_the_mode_and_the_group_of_its_keys() {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let path = |name: &str| scratch.path().join(name);
    let listen = |key: &str| format!("--set=listen.{key}=unix:{}", path(key).display());
    // root may give a file to any group, others to their own.
    let is_root = rustix::process::geteuid().is_root();
    let group = if is_root { 54321 } else { rustix::process::getegid().as_raw() };
    let settings = [
        listen("grpc"),
        listen("admin"),
        format!("--set=listen.unix.grpc_group={group}"),
        "--set=listen.unix.admin_mode=0600".to_owned(),
    ];
    let arguments = ["serve", "--dev", "--set=listen.metrics="].into_iter();
    let program =
        Program::start(&mut sessiond(arguments.chain(settings.iter().map(String::as_str))));
    let of = |name: &str| {
        let metadata = fs::metadata(path(name)).expect("a socket");
        (metadata.permissions().mode() & 0o777, metadata.gid())
    };
    assert_eq!(of("grpc"), (0o660, group));
    assert_eq!(of("admin"), (0o600, rustix::process::getegid().as_raw()));
    assert_eq!(program.stop().0, Some(0));

    let check = |settings: &[&str]| {
        let all = ["check", "--dev"].into_iter().chain(settings.iter().copied());
        let output = run(all);
        (output.status.code(), stderr(&output))
    };
    let (code, said) = check(&[&settings[0], "--set=listen.unix.grpc_group=no-such-group"]);
    assert_eq!(code, Some(78), "{said}");
    assert!(
        said.contains("listen.unix.grpc_group: this machine has no group \"no-such-group\""),
        "{said}"
    );
    let (code, said) = check(&["--set=listen.unix.grpc_group=no-such-group"]);
    assert_eq!(code, Some(0), "there is no unix socket: {said}");
    let (code, said) = check(&["--set=listen.unix.admin_mode=rw-rw----"]);
    assert_eq!(code, Some(78), "{said}");
    assert!(said.contains("expected an octal mode such as \"0660\" or \"0600\""), "{said}");
    let open = ["check", &settings[0], "--set=listen.unix.grpc_mode=0666"].into_iter();
    let output =
        run(open
            .chain(["--set=engine.default.cookie.secrets=a-signing-secret-for-tests-long-enough"]));
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stderr(&output).contains("every user of this machine may call"), "{}", stderr(&output));
}

#[test]
fn an_abstract_socket_is_refused() {
    for arguments in [
        &["check", "--set=listen.grpc=unix:@sessiond"][..],
        &["health", "--address", "unix:@sessiond"],
    ] {
        let output = run(arguments.iter().copied());
        let said = stderr(&output);
        assert_ne!(output.status.code(), Some(0), "{said}");
        assert!(said.contains("an abstract socket (\"@\") has no mode"), "{said}");
    }
}
