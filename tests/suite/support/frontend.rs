//! Programs in other languages: the clients of `tests/peers`, and two web applications with a
//! browser of their visitors: `tests/express`, which stores its sessions itself, and the shop in
//! Express that takes its place. `tests/shop` drives the shops.
//!
//! Packages are downloaded once, into the target directory. A machine that cannot run a program
//! skips its test with a message on stderr. With SESSIOND_TEST_REQUIRE_PEERS=1, as in CI, the
//! test fails instead.

use std::{
    env,
    fs::{self, File},
    io::{BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread::{self, JoinHandle},
};

use ureq::{
    Agent, Body, Cookie,
    http::{Response, Uri},
};

use super::program::PATIENCE;

/// If it is 1, as in CI, nothing is skipped.
const REQUIRE: &str = "SESSIOND_TEST_REQUIRE_PEERS";

/// Returns what was found, or prints to stderr that `name` is skipped, and why.
pub(crate) fn or_skip<T>(name: &str, found: Result<T, String>) -> Option<T> {
    match found {
        Ok(found) => Some(found),
        Err(problem) => {
            assert!(env::var(REQUIRE).as_deref() != Ok("1"), "{REQUIRE}=1, but {problem}");
            // Directly to stderr, because the test harness hides what a passing test prints.
            let _ = writeln!(std::io::stderr(), "skipped: {name}: {problem}");
            None
        }
    }
}

/// A Python with gRPC, or why this machine has none.
pub(crate) fn interpreter() -> Result<PathBuf, String> {
    let requirements = here("tests/peers/requirements.txt");
    let home = install("python", "python3", &requirements, |home| {
        run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(home.join("venv")))?;
        let mut pip = Command::new(home.join("venv/bin/python"));
        pip.args(["-m", "pip", "install", "--quiet", "--retries=1", "-r"]).arg(&requirements);
        run(&mut pip)
    })?;
    Ok(home.join("venv/bin/python"))
}

/// How to run a Python script with gRPC.
pub(crate) fn python_script(script: &str) -> Result<Command, String> {
    let mut command = Command::new(interpreter()?);
    command.arg(here(script));
    Ok(command)
}

/// How to run a Node script with gRPC.
pub(crate) fn node_script(script: &str) -> Result<Command, String> {
    let home = packages("node", "tests/peers", &["package.json"], "install")?;
    let mut command = Command::new("node");
    command.arg(here(script)).env("NODE_PATH", home.join("node_modules"));
    Ok(command)
}

/// The command that starts the application of `tests/express`, or why this machine cannot.
pub(crate) fn express() -> Result<Command, String> {
    let files = ["package-lock.json", "package.json"];
    let home = packages("express", "tests/express", &files, "ci")?;
    let mut command = Command::new("node");
    command.arg(here("tests/express/app.js")).env("NODE_PATH", home.join("node_modules"));
    Ok(command)
}

/// The command that installs and starts the shop in Express, which `tests/shop` drives.
pub(crate) fn shop() -> Command {
    Command::new(here("examples/express/run"))
}

/// Runs `npm install` or `npm ci` with these files. The first one lists all packages.
fn packages(name: &str, folder: &str, files: &[&str], how: &str) -> Result<PathBuf, String> {
    let file = |name: &str| here(folder).join(name);
    install(name, "node", &file(files[0]), |home| {
        for name in files {
            fs::copy(file(name), home.join(name)).expect("the file can be copied");
        }
        let mut npm = Command::new("npm");
        npm.args([how, "--no-audit", "--no-fund", "--omit=dev", "--fetch-retries=1"]);
        run(npm.current_dir(home))
    })
}

/// A file of this repository.
fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The directory with the packages of `manifest`. Installs them, unless it has been done with
/// this version of the interpreter.
fn install(
    name: &str,
    interpreter: &str,
    manifest: &Path,
    steps: impl FnOnce(&Path) -> Result<String, String>,
) -> Result<PathBuf, String> {
    let version = run(Command::new(interpreter).arg("--version"))?;
    let manifest = fs::read_to_string(manifest).expect("the manifest can be read");
    let wanted = version + &manifest;

    let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("frontends").join(name);
    fs::create_dir_all(&home).expect("a scratch folder");
    let stamp = home.join("stamp");
    // Another test run may be using the same directory.
    let lock = File::create(home.join("lock")).expect("a file to lock");
    lock.lock().expect("the scratch folder can be locked");
    if fs::read_to_string(&stamp).is_ok_and(|found| found == wanted) {
        return Ok(home);
    }
    // An interrupted installation must not be taken for a complete one.
    let _ = fs::remove_file(&stamp);
    steps(&home)?;
    fs::write(&stamp, wanted).expect("the stamp can be written");
    Ok(home)
}

/// Runs a command until it ends and returns its output.
fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("{command:?} cannot run: {error}"))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{command:?} failed, {}: {}", output.status, stderr.trim_end()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A running frontend. It is killed when dropped.
pub(crate) struct Frontend {
    child: Child,
    url: String,
    stderr: Option<JoinHandle<String>>,
}

impl Frontend {
    /// Starts a frontend and waits until it listens. The first start of the shop installs it.
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command
            .env("PORT", "0")
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
        let line = line.recv_timeout(5 * PATIENCE).expect("the frontend prints a line");
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
pub(crate) struct Visitor {
    agent: Agent,
    url: String,
}

impl Visitor {
    pub(crate) fn new(frontend: &Frontend) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(PATIENCE))
            .proxy(None)
            // A frontend may close an idle connection at the moment when it is used again.
            .max_idle_connections(0);
        Self { agent: config.build().new_agent(), url: frontend.url.clone() }
    }

    /// A visitor with a cookie from elsewhere, `name=value`.
    pub(crate) fn with(frontend: &Frontend, cookie: &str) -> Self {
        let visitor = Self::new(frontend);
        let uri: Uri = visitor.url.parse().expect("the frontend prints a URL");
        let parsed = Cookie::parse(cookie.to_owned(), &uri).expect("a cookie");
        visitor
            .agent
            .cookie_jar_lock()
            .insert(parsed, &uri)
            .expect("the cookie jar accepts the cookie");
        assert_eq!(visitor.cookie(), cookie, "expected the cookie in the jar");
        visitor
    }

    /// The same browser, for a site that is now served from `frontend`.
    pub(crate) fn at(self, frontend: &Frontend) -> Self {
        Self { url: frontend.url.clone(), ..self }
    }

    /// `name=value` of each cookie that the next request will send.
    pub(crate) fn cookie(&self) -> String {
        let jar = self.agent.cookie_jar_lock();
        let pairs: Vec<_> = jar.iter().map(|c| format!("{}={}", c.name(), c.value())).collect();
        pairs.join("; ")
    }

    pub(crate) fn visit(&self) -> Page {
        Page::read(self.agent.get(format!("{}/", self.url)).call())
    }

    pub(crate) fn login(&self, user: &str) -> Page {
        Page::read(self.agent.post(format!("{}/login", self.url)).send_form([("user", user)]))
    }

    /// Counts a visit in the shop.
    pub(crate) fn visit_shop(&self) -> Page {
        Page::read(self.agent.post(format!("{}/visit", self.url)).send_empty())
    }

    /// The session, as the shop shows it.
    pub(crate) fn session(&self) -> Page {
        Page::read(self.agent.get(format!("{}/session", self.url)).call())
    }

    pub(crate) fn logout(&self) -> Page {
        Page::read(self.agent.post(format!("{}/logout", self.url)).send_empty())
    }
}

/// An answer of the frontend.
#[derive(Debug)]
pub(crate) struct Page {
    pub status: u16,
    pub text: String,
    pub set_cookie: Vec<String>,
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
            text: response.body_mut().read_to_string().expect("a page of text"),
        }
    }

    #[track_caller]
    pub(crate) fn is_ok(&self, what: &str) {
        assert_eq!(self.status, 200, "expected {what} to succeed: {self:?}");
    }

    #[track_caller]
    pub(crate) fn shows(&self, visits: u32, user: &str, when: &str) {
        self.says(&format!("visits: {visits}\nuser: {user}\n"), when);
    }

    #[track_caller]
    pub(crate) fn says(&self, text: &str, when: &str) {
        self.is_ok(when);
        assert_eq!(self.text, text, "expected this {when}");
    }

    #[track_caller]
    pub(crate) fn sets_no_cookie(&self, because: &str) {
        assert!(self.set_cookie.is_empty(), "expected no Set-Cookie: {because}; {self:?}");
    }
}
