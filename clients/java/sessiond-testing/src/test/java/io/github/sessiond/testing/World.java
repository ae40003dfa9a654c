package io.github.sessiond.testing;

import io.github.sessiond.client.CookieFormat;
import io.github.sessiond.client.Credential;
import io.github.sessiond.client.SessiondClient;
import java.time.Clock;
import java.time.Duration;
import java.time.Instant;
import java.time.ZoneOffset;
import java.util.List;
import java.util.Map;
import java.util.concurrent.atomic.AtomicInteger;

/** The same behaviours are asked of the fake and of the real daemon: here are the two. */
interface World extends AutoCloseable {
    /** {@code short} lives so long; an id that was rolled in it counts as just rolled for so long. Long enough for a busy machine. */
    Duration SHORT = Duration.ofMillis(5000);

    Duration GRACE = Duration.ofMillis(4000);

    AtomicInteger USERS = new AtomicInteger();

    SessiondClient client();

    /** Lets time pass. */
    void pass(Duration duration);

    @Override
    void close();

    /** A user that no other test has. */
    static String someone() {
        return "user-" + ProcessHandle.current().pid() + "-" + USERS.incrementAndGet();
    }

    /** What a browser sends back after these Set-Cookie values. */
    static Credential cookie(List<String> setCookie) {
        return Credential.cookieHeader(header(setCookie.get(setCookie.size() - 1)));
    }

    static String header(String setCookie) {
        return setCookie.substring(0, setCookie.indexOf(';'));
    }

    static Map<String, FakeEngine> engines() {
        return Map.of(
                "default", new FakeEngine(),
                "short", new FakeEngine().cookieName("short").duration(SHORT).touchGranularity(Duration.ofMillis(1)).rollGrace(GRACE),
                "still", new FakeEngine().cookieName("still").automaticTouch(false).duration(SHORT).touchGranularity(Duration.ofMillis(1)),
                "brief", new FakeEngine().cookieName("brief").duration(Duration.ofMinutes(1)).absoluteDuration(SHORT),
                "two", new FakeEngine().cookieName("two").maxSessionsPerPrincipal(2, false),
                "idlest", new FakeEngine().cookieName("idlest").maxSessionsPerPrincipal(2, true).touchGranularity(Duration.ofMillis(1)),
                "express", new FakeEngine().cookieName("connect.sid").cookieFormat(CookieFormat.EXPRESS).persistent(false),
                "small", new FakeEngine().cookieName("small").maxDataBytes(5000));
    }

    static World fake() {
        Clock start = Clock.fixed(Instant.now(), ZoneOffset.UTC);
        FakeSessiond fake = FakeSessiond.create(engines(), start);
        return new World() {
            @Override
            public SessiondClient client() {
                return fake;
            }

            @Override
            public void pass(Duration duration) {
                fake.advance(duration);
            }

            @Override
            public void close() {
                fake.close();
            }
        };
    }

    static World daemon() {
        DaemonProcess daemon = DaemonProcess.start(0, settings());
        SessiondClient client = SessiondClient.builder(daemon.address()).timeout(Duration.ofSeconds(60)).build();
        return new World() {
            @Override
            public SessiondClient client() {
                return client;
            }

            @Override
            public void pass(Duration duration) {
                try {
                    Thread.sleep(duration.toMillis());
                } catch (InterruptedException interrupted) {
                    Thread.currentThread().interrupt();
                }
            }

            @Override
            public void close() {
                client.close();
                daemon.close();
            }
        };
    }

    private static String[] settings() {
        return engines().entrySet().stream().flatMap(entry -> {
            String engine = "engine." + entry.getKey() + ".";
            FakeEngine of = entry.getValue();
            return java.util.stream.Stream.of(
                    "cookie.name=" + of.cookieName,
                    "cookie.secure=false",
                    "cookie.format=" + of.cookieFormat.name().toLowerCase(java.util.Locale.ROOT),
                    "cookie.persistent=" + of.persistent,
                    "duration=" + of.duration.toMillis() + "ms",
                    of.touchGranularity == null ? "touch_granularity=auto" : "touch_granularity=" + of.touchGranularity.toMillis() + "ms",
                    of.absoluteDuration == null ? "absolute_duration=none" : "absolute_duration=" + of.absoluteDuration.toMillis() + "ms",
                    "roll_grace=" + of.rollGrace.toMillis() + "ms",
                    "automatic_touch=" + of.automaticTouch,
                    "max_data_bytes=" + of.maxDataBytes,
                    "max_sessions_per_principal=" + of.maxSessionsPerPrincipal,
                    "on_limit=" + (of.endIdlest ? "end_idlest" : "refuse_newest")).map(setting -> engine + setting);
        }).toArray(String[]::new);
    }
}
