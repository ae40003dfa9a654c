package io.github.sessiond.testing;

import java.io.BufferedReader;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Stream;

/** A real daemon for a test: a free port, sessions in memory, ended by its process. */
final class DaemonProcess implements AutoCloseable {
    private final Process process;
    private final String line;

    private DaemonProcess(Process process, String line) {
        this.process = process;
        this.line = line;
    }

    /** The daemon's program; null: there is none. */
    static Path program() {
        String named = System.getenv("SESSIOND_BIN");
        if (named != null) {
            return Path.of(named).toAbsolutePath();
        }
        Path target = Path.of("../../../target").toAbsolutePath().normalize();
        return Stream.of("dist", "release", "debug").map(profile -> target.resolve(profile).resolve("sessiond")).filter(Files::exists).findFirst().orElse(null);
    }

    static boolean exists() {
        return program() != null;
    }

    /** Starts a daemon. {@code port}: 0 is a free one. {@code settings}: KEY=VALUE. */
    static DaemonProcess start(int port, String... settings) {
        return launch("127.0.0.1:" + port, settings);
    }

    /** A free port that nobody else gets while a daemon is away: Linux gives away those from 32768 on. */
    static int ownPort() {
        while (true) {
            int port = ThreadLocalRandom.current().nextInt(10_000, 30_000);
            try (ServerSocket free = new ServerSocket(port, 1, InetAddress.getLoopbackAddress())) {
                return free.getLocalPort();
            } catch (IOException taken) {
                // Another one, then.
            }
        }
    }

    static DaemonProcess launch(String listen, String... settings) {
        List<String> command = new ArrayList<>(List.of(program().toString(), "serve", "--dev"));
        Stream.concat(Stream.of("listen.grpc=" + listen, "listen.admin=", "listen.metrics=", "log.level=error"), Arrays.stream(settings))
                .forEach(setting -> command.addAll(List.of("--set", setting)));
        try {
            ProcessBuilder builder = new ProcessBuilder(command).redirectError(ProcessBuilder.Redirect.INHERIT);
            // The daemon reads its configuration from variables of this prefix.
            builder.environment().keySet().removeIf(name -> name.startsWith("SESSIOND_"));
            Process process = builder.start();
            BufferedReader out = process.inputReader(StandardCharsets.UTF_8);
            String ready = out.readLine();
            if (ready == null) {
                throw new IllegalStateException("expected the daemon to start; it ended with " + process.waitFor());
            }
            return new DaemonProcess(process, ready);
        } catch (IOException | InterruptedException failed) {
            throw new IllegalStateException(failed);
        }
    }

    String address() {
        return named("grpc");
    }

    /** Address of the admin service. */
    String admin() {
        return named("admin");
    }

    private String named(String listener) {
        Matcher match = Pattern.compile(listener + "=([^, ]+)").matcher(line);
        if (!match.find()) {
            throw new IllegalStateException("expected " + listener + " in the line " + line);
        }
        return match.group(1);
    }

    /** Stops it where it is, and returns when all of its threads stand still. */
    void pause() {
        signal("STOP");
        Path tasks = Path.of("/proc", Long.toString(process.pid()), "task");
        boolean stands;
        do {
            try (Stream<Path> threads = Files.list(tasks)) {
                stands = threads.allMatch(thread -> {
                    try {
                        return Files.readString(thread.resolve("status")).contains("\nState:\tT");
                    } catch (IOException gone) {
                        return true;
                    }
                });
            } catch (IOException failed) {
                throw new UncheckedIOException(failed);
            }
        } while (!stands);
    }

    void resume() {
        signal("CONT");
    }

    private void signal(String name) {
        try {
            new ProcessBuilder("kill", "-" + name, Long.toString(process.pid())).start().waitFor();
        } catch (IOException | InterruptedException failed) {
            throw new IllegalStateException(failed);
        }
    }

    /** Ends it at once, as a crash would. */
    void kill() {
        process.destroyForcibly();
        await();
    }

    private void await() {
        try {
            if (!process.waitFor(20, TimeUnit.SECONDS)) {
                throw new IllegalStateException("expected the daemon to end within 20 s");
            }
        } catch (InterruptedException interrupted) {
            Thread.currentThread().interrupt();
        }
    }

    /** Ends it as an operator would. */
    @Override
    public void close() {
        if (process.isAlive()) {
            resume();
            process.destroy();
        }
        await();
    }
}
