//! The example frontends, as a browser meets them.
//!
//! The packages of an example come from its registry once, into the target
//! folder. A machine that can not run an example skips its test with a word on
//! stderr; with SESSIOND_TEST_REQUIRE_FRONTENDS=1, as in CI, the test fails.

use std::{
    collections::BTreeSet,
    env,
    fs::{self, File},
    io::{BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Barrier, mpsc},
    thread::{self, JoinHandle},
};

use ureq::{
    Agent, Body, Cookie,
    http::{Response, Uri},
};

use crate::support::program::{PATIENCE, Program};

const REQUIRE: &str = "SESSIOND_TEST_REQUIRE_FRONTENDS";

#[test]
fn python_wsgi() {
    check("python-wsgi", python());
}

#[test]
fn node_express() {
    check("node-express", node());
}

/// How to start the Python example, or why this machine can not.
fn python() -> Result<Command, String> {
    let requirements = example("python-wsgi/requirements.txt");
    let home = install("python", "python3", &requirements, |home| {
        run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(home.join("venv")))?;
        let mut pip = Command::new(home.join("venv/bin/python"));
        pip.args(["-m", "pip", "install", "--quiet", "--retries=1", "-r"]).arg(&requirements);
        run(&mut pip)
    })?;
    let mut command = Command::new(home.join("venv/bin/python"));
    command.arg(example("python-wsgi/app.py"));
    Ok(command)
}

/// How to start the Node example, or why this machine can not.
fn node() -> Result<Command, String> {
    let package = example("node-express/package.json");
    let home = install("node", "node", &package, |home| {
        fs::copy(&package, home.join("package.json")).expect("package.json can be copied");
        let mut npm = Command::new("npm");
        npm.args(["install", "--no-audit", "--no-fund", "--omit=dev", "--fetch-retries=1"]);
        run(npm.current_dir(home))
    })?;
    let mut command = Command::new("node");
    command.arg(example("node-express/app.js")).env("NODE_PATH", home.join("node_modules"));
    Ok(command)
}

fn example(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(path)
}

/// The folder where the packages of `manifest` are. Installs them unless this
/// version of the interpreter did so already.
fn install(
    language: &str,
    interpreter: &str,
    manifest: &Path,
    steps: impl FnOnce(&Path) -> Result<String, String>,
) -> Result<PathBuf, String> {
    let version = run(Command::new(interpreter).arg("--version"))?;
    let manifest = fs::read_to_string(manifest).expect("the example names its packages");
    let wanted = version + &manifest;

    let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("frontends").join(language);
    fs::create_dir_all(&home).expect("a scratch folder");
    let stamp = home.join("stamp");
    // The tests may run twice at a time, in two terminals.
    let lock = File::create(home.join("lock")).expect("a file to lock");
    lock.lock().expect("the scratch folder can be locked");
    if fs::read_to_string(&stamp).is_ok_and(|found| found == wanted) {
        return Ok(home);
    }
    // An installation that fails half way must not pass for a finished one.
    let _ = fs::remove_file(&stamp);
    steps(&home)?;
    fs::write(&stamp, wanted).expect("the stamp can be written");
    Ok(home)
}

/// Runs a command to its end and gives what it printed.
fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("{command:?} can not run: {error}"))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{command:?} failed, {}: {}", output.status, stderr.trim_end()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn check(name: &str, command: Result<Command, String>) {
    let command = match command {
        Ok(command) => command,
        Err(problem) => {
            assert!(env::var(REQUIRE).as_deref() != Ok("1"), "{REQUIRE}=1, but {problem}");
            // Past the test harness, which hides what a passing test prints.
            let _ = writeln!(std::io::stderr(), "skipped: {name}: {problem}");
            return;
        }
    };
    // No deadline moves during the test, however slow the machine is. So there
    // is no Set-Cookie but for what the visitor does.
    let daemon = Program::serve(&["--dev", "--set=engine.default.touch_granularity=30m"]);
    let frontend = Frontend::start(command, daemon.address("grpc"));

    visits_are_counted(&frontend);
    visitors_are_apart(&frontend);
    a_login_rolls(&frontend);
    a_login_needs_no_visit_before(&frontend);
    a_logout_is_final(&frontend);
    no_parallel_visit_is_lost(&frontend);
    an_outage_is_no_logout(&frontend, daemon);
}

fn visits_are_counted(frontend: &Frontend) {
    let visitor = Visitor::new(frontend);
    let first = visitor.visit();
    first.shows(1, "nobody", "on the first visit");
    assert_eq!(first.set_cookie.len(), 1, "expected one Set-Cookie on the first visit: {first:?}");
    let cookie = visitor.cookie();
    for visits in 2..=3 {
        let page = visitor.visit();
        page.shows(visits, "nobody", "with the cookie of the first visit");
        page.sets_no_cookie("the browser knows it all already");
    }
    assert_eq!(visitor.cookie(), cookie, "expected the same session all along");
}

fn visitors_are_apart(frontend: &Frontend) {
    let (ann, other) = (Visitor::new(frontend), Visitor::new(frontend));
    ann.login("ann").is_ok("login");
    ann.visit().shows(1, "ann", "after the login");
    other.visit().shows(1, "nobody", "for another visitor");
    other.login("bob").is_ok("login");
    other.visit().shows(2, "bob", "for the other visitor, after a login");
    ann.visit().shows(2, "ann", "untouched by the other visitor");
    assert_ne!(ann.cookie(), other.cookie(), "expected a session for each visitor");
}

fn a_login_rolls(frontend: &Frontend) {
    let visitor = Visitor::new(frontend);
    visitor.visit().shows(1, "nobody", "before the login");
    visitor.visit().shows(2, "nobody", "before the login");
    let before = visitor.cookie();

    let login = visitor.login("ann");
    login.is_ok("login");
    assert_eq!(login.set_cookie.len(), 1, "expected one Set-Cookie on login: {login:?}");
    let after = visitor.cookie();
    assert_ne!(after, before, "expected login to give the browser a new id");
    visitor.visit().shows(3, "ann", "after the login: visits survive it");

    let replay = Visitor::with(frontend, &before);
    replay.visit().shows(1, "nobody", "with the cookie from before the login");
    assert_ne!(replay.cookie(), after, "expected no way from the old cookie to the new one");
    let page = visitor.visit();
    page.shows(4, "ann", "after the replay, which must not count");
    page.sets_no_cookie("a replay changes nothing for the owner");

    visitor.login("ann").is_ok("a second login");
    assert_ne!(visitor.cookie(), after, "expected every login to roll, of the same user too");
    visitor.visit().shows(5, "ann", "after the second login");
}

fn a_login_needs_no_visit_before(frontend: &Frontend) {
    // Made up, thus live nowhere, and to be adopted by nobody.
    let planted = format!("session={}.{}", "A".repeat(32), "A".repeat(43));
    let visitor = Visitor::with(frontend, &planted);
    visitor.login("ann").is_ok("login with a cookie that is none of ours");
    assert_ne!(visitor.cookie(), planted, "expected an id that the daemon made");
    visitor.visit().shows(1, "ann", "after a login without a session");
    let nameless = Visitor::new(frontend).login("");
    assert_eq!(nameless.status, 400, "expected a login without a user to fail: {nameless:?}");
    nameless.sets_no_cookie("the login failed");
}

fn a_logout_is_final(frontend: &Frontend) {
    let visitor = Visitor::new(frontend);
    let created = visitor.visit();
    visitor.login("ann").is_ok("login");
    visitor.visit().shows(2, "ann", "before the logout");
    let before = visitor.cookie();

    let logout = visitor.logout();
    logout.is_ok("logout");
    let [deletion] = logout.set_cookie.as_slice() else {
        panic!("expected the deletion cookie on logout: {logout:?}");
    };
    assert_eq!(attribute(deletion, "Max-Age"), Some("0"), "expected a deletion: {deletion}");
    assert_eq!(
        attribute(deletion, "Path"),
        attribute(&created.set_cookie[0], "Path"),
        "expected the Path it was set with, or the browser keeps the cookie: {deletion}"
    );
    assert_eq!(visitor.cookie(), "", "expected the browser to drop the cookie: {deletion}");

    visitor.visit().shows(1, "nobody", "after the logout");
    let replay = Visitor::with(frontend, &before);
    replay.visit().shows(1, "nobody", "with the cookie from before the logout");
    visitor.visit().shows(2, "nobody", "after the replay");
    Visitor::new(frontend).logout().sets_no_cookie("a logout without a cookie has none to delete");
}

fn no_parallel_visit_is_lost(frontend: &Frontend) {
    const PARALLEL: u32 = 10;
    let visitor = Visitor::new(frontend);
    visitor.visit().shows(1, "nobody", "on the first visit");
    let cookie = visitor.cookie();
    let start = Barrier::new(PARALLEL as usize);
    let tab = || {
        let tab = Visitor::with(frontend, &cookie);
        start.wait();
        tab.visit()
    };
    let pages: Vec<Page> = thread::scope(|scope| {
        let tabs: Vec<_> = (0..PARALLEL).map(|_| scope.spawn(tab)).collect();
        tabs.into_iter().map(|tab| tab.join().expect("a page")).collect()
    });
    let shown: BTreeSet<_> = pages.iter().map(|page| page.text.clone()).collect();
    let expected: BTreeSet<_> = (2..2 + PARALLEL).map(|visits| text(visits, "nobody")).collect();
    assert_eq!(shown, expected, "expected each parallel visit to count once");
    for page in &pages {
        page.sets_no_cookie("parallel visits change nothing in the browser");
    }
    visitor.visit().shows(2 + PARALLEL, "nobody", "after the parallel visits");
}

fn an_outage_is_no_logout(frontend: &Frontend, daemon: Program) {
    let visitor = Visitor::new(frontend);
    visitor.login("ann").is_ok("login");
    let cookie = visitor.cookie();
    daemon.kill();
    let pages = [
        ("a visit", visitor.visit()),
        ("a login", visitor.login("bob")),
        ("a logout", visitor.logout()),
        ("a first visit", Visitor::new(frontend).visit()),
    ];
    for (what, page) in pages {
        assert_eq!(page.status, 503, "expected 503 for {what} without the daemon: {page:?}");
        assert_eq!(page.retry_after.as_deref(), Some("1"), "expected Retry-After: 1 for {what}");
        page.sets_no_cookie("nobody knows anything about the session");
    }
    assert_eq!(visitor.cookie(), cookie, "expected the browser to keep its session");
}

/// A running frontend. It is killed when dropped.
struct Frontend {
    child: Child,
    url: String,
    stderr: Option<JoinHandle<String>>,
}

impl Frontend {
    /// Starts a frontend of the daemon at `sessiond` and waits until it listens.
    fn start(mut command: Command, sessiond: &str) -> Self {
        let mut child = command
            .env("SESSIOND", sessiond)
            .env("PORT", "0")
            // gRPC would go through the machine's HTTP proxy, if it has one.
            .env("no_grpc_proxy", "127.0.0.1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the frontend can be run");
        let mut stderr = child.stderr.take().expect("stderr is piped");
        let stderr = thread::spawn(move || {
            let mut log = Vec::new();
            let _ = stderr.read_to_end(&mut log);
            String::from_utf8_lossy(&log).into_owned()
        });
        let stdout = child.stdout.take().expect("stdout is piped");
        let (sender, line) = mpsc::channel();
        thread::spawn(move || {
            let mut line = String::new();
            let _ = BufReader::new(stdout).read_line(&mut line);
            let _ = sender.send(line);
        });
        let mut frontend = Self { child, url: String::new(), stderr: Some(stderr) };
        let line = line.recv_timeout(PATIENCE).expect("the frontend says something");
        let url = line.trim_end().strip_prefix("listening on ");
        frontend.url = url.unwrap_or_else(|| panic!("expected the URL, found {line:?}")).to_owned();
        frontend
    }
}

impl Drop for Frontend {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(log) = self.stderr.take().and_then(|reader| reader.join().ok())
            && thread::panicking()
        {
            eprintln!("the frontend's log:\n{log}");
        }
    }
}

/// A browser that keeps cookies.
struct Visitor {
    agent: Agent,
    url: String,
}

impl Visitor {
    fn new(frontend: &Frontend) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(PATIENCE))
            .proxy(None)
            // A frontend may close an idle connection just when it is used again.
            .max_idle_connections(0);
        Self { agent: config.build().new_agent(), url: frontend.url.clone() }
    }

    /// A visitor who got hold of a cookie, `name=value`.
    fn with(frontend: &Frontend, cookie: &str) -> Self {
        let visitor = Self::new(frontend);
        let uri: Uri = visitor.url.parse().expect("the frontend prints a URL");
        let parsed = Cookie::parse(cookie.to_owned(), &uri).expect("a cookie");
        visitor.agent.cookie_jar_lock().insert(parsed, &uri).expect("the jar takes it");
        assert_eq!(visitor.cookie(), cookie, "the jar holds what was put in");
        visitor
    }

    /// `name=value` of each cookie: what the next request will send.
    fn cookie(&self) -> String {
        let jar = self.agent.cookie_jar_lock();
        let pairs: Vec<_> = jar.iter().map(|c| format!("{}={}", c.name(), c.value())).collect();
        pairs.join("; ")
    }

    fn visit(&self) -> Page {
        Page::read(self.agent.get(format!("{}/", self.url)).call())
    }

    fn login(&self, user: &str) -> Page {
        Page::read(self.agent.post(format!("{}/login", self.url)).send_form([("user", user)]))
    }

    fn logout(&self) -> Page {
        Page::read(self.agent.post(format!("{}/logout", self.url)).send_empty())
    }
}

/// What the frontend answered.
#[derive(Debug)]
struct Page {
    status: u16,
    text: String,
    set_cookie: Vec<String>,
    retry_after: Option<String>,
}

impl Page {
    fn read(response: Result<Response<Body>, ureq::Error>) -> Self {
        let mut response = response.expect("the frontend answers");
        let header = |name| {
            let lines = response.headers().get_all(name).iter();
            lines.map(|line| line.to_str().expect("ASCII").to_owned()).collect::<Vec<_>>()
        };
        Self {
            status: response.status().as_u16(),
            set_cookie: header("set-cookie"),
            retry_after: header("retry-after").pop(),
            text: response.body_mut().read_to_string().expect("a page of text"),
        }
    }

    #[track_caller]
    fn is_ok(&self, what: &str) {
        assert_eq!(self.status, 200, "expected {what} to succeed: {self:?}");
    }

    #[track_caller]
    fn shows(&self, visits: u32, user: &str, when: &str) {
        self.is_ok(when);
        assert_eq!(self.text, text(visits, user), "expected this {when}");
    }

    #[track_caller]
    fn sets_no_cookie(&self, because: &str) {
        assert!(self.set_cookie.is_empty(), "expected no Set-Cookie: {because}; {self:?}");
    }
}

/// What the page of a visit says.
fn text(visits: u32, user: &str) -> String {
    format!("visits: {visits}\nuser: {user}\n")
}

/// The value of an attribute of a Set-Cookie line.
fn attribute<'l>(line: &'l str, name: &str) -> Option<&'l str> {
    let mut pairs = line.split(';').skip(1).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}
