package io.github.sessiond.testing;

import static io.github.sessiond.testing.World.cookie;
import static io.github.sessiond.testing.World.someone;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.catchThrowableOfType;

import io.github.sessiond.client.Applied;
import io.github.sessiond.client.CookieFormat;
import io.github.sessiond.client.Credential;
import io.github.sessiond.client.DataTooLargeException;
import io.github.sessiond.client.Description;
import io.github.sessiond.client.DestroyOptions;
import io.github.sessiond.client.DestroyScope;
import io.github.sessiond.client.InvalidArgumentException;
import io.github.sessiond.client.ListResult;
import io.github.sessiond.client.Reason;
import io.github.sessiond.client.ResolveOptions;
import io.github.sessiond.client.ResolveResult;
import io.github.sessiond.client.Session;
import io.github.sessiond.client.SessionGoneException;
import io.github.sessiond.client.SessionState;
import io.github.sessiond.client.SessiondClient;
import io.github.sessiond.client.SessiondException;
import io.github.sessiond.client.TooManySessionsException;
import io.github.sessiond.client.TouchOptions;
import io.github.sessiond.client.TouchResult;
import io.github.sessiond.client.VersionMismatchException;
import io.github.sessiond.client.WriteOptions;
import io.github.sessiond.client.WriteResult;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.time.Instant;
import java.util.Collections;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.stream.IntStream;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.parallel.Execution;
import org.junit.jupiter.api.parallel.ExecutionMode;

/** How a client behaves, the fake and the real one. */
@Execution(ExecutionMode.CONCURRENT)
abstract class Behaviours {
    static final String DELETION = "session=; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT; Path=/; HttpOnly; SameSite=Lax";

    /** A world; that of the fake is the test's own, because its clock is moved. */
    abstract World world();

    private static ResolveResult resolve(SessiondClient client, String token) {
        return client.resolve(Credential.token(token));
    }

    private static String json(SessiondClient client, String token) {
        return resolve(client, token).session().json();
    }

    private static WriteOptions set(String json) {
        return new WriteOptions().setJson(json);
    }

    @Test
    void aVisitorWithoutACookieHasNoSessionAndNoneIsMade() {
        SessiondClient client = world().client();
        for (Credential credential : new Credential[] {null, Credential.cookieHeader(""), Credential.cookieHeader("other=1; sessions=2; =; ;;")}) {
            assertThat(client.resolve(credential)).isEqualTo(new ResolveResult(SessionState.NONE, null, List.of(), ""));
        }
    }

    @Test
    void aCookieThatIsNoTokenIsInvalidAndOctetsOfAnyKindBreakNothing() {
        SessiondClient client = world().client();
        for (String header : new String[] {"session=junk", "session=", "session=\u00ff\u0000\u0080", "session=\u6f22", "session=" + "A".repeat(40) + "." + "b".repeat(43)}) {
            assertThat(client.resolve(Credential.cookieHeader(header)).state()).as(header).isEqualTo(SessionState.INVALID);
        }
        assertThat(client.resolve(Credential.cookieHeader("session=" + "x".repeat(70_000))).state()).isEqualTo(SessionState.INVALID);
        assertThat(resolve(client, "junk").state()).isEqualTo(SessionState.INVALID);
    }

    @Test
    void aWriteWithoutACredentialCreates() {
        SessiondClient client = world().client();
        Instant before = Instant.now().minusSeconds(1);
        WriteResult created = client.write(null, new WriteOptions().set(Map.of("cart", List.of("tea"))).label("Firefox"));
        Session session = created.session();
        assertThat(session.id()).matches("[\\w-]{16}");
        assertThat(session.version()).isEqualTo(1);
        assertThat(session.principal()).isNull();
        assertThat(session.label()).isEqualTo("Firefox");
        assertThat(session.duration()).isEqualTo(Duration.ofMinutes(30));
        assertThat(session.createTime()).isAfterOrEqualTo(before);
        assertThat(session.expireTime()).isAfterOrEqualTo(session.createTime().plus(Duration.ofMinutes(30)));
        assertThat(created.setCookie()).hasSize(1);
        assertThat(created.setCookie().get(0))
                .startsWith("session=" + created.token() + ";")
                .matches("session=[\\w-]{40}\\.[A-Za-z0-9+/]{43}; Max-Age=18\\d\\d; Expires=[^;]+ GMT; Path=/; HttpOnly; SameSite=Lax");
        byte[] octets = ("a=\u00ff; " + World.header(created.setCookie().get(0)) + "; b=\"").getBytes(StandardCharsets.ISO_8859_1);
        for (Credential credential : List.of(cookie(created.setCookie()), Credential.token(created.token()), Credential.cookieHeader(octets))) {
            ResolveResult found = client.resolve(credential);
            assertThat(found.state()).isEqualTo(SessionState.ACTIVE);
            assertThat(found.session().json()).isEqualTo("{\"cart\":[\"tea\"]}");
            assertThat(found.setCookie()).isEmpty();
            assertThat(found.token()).isEmpty();
        }
    }

    @Test
    void createMakesASessionOnlyForACredentialThatIsNotLive() {
        SessiondClient client = world().client();
        ResolveResult created = client.resolve(null, new ResolveOptions().create(true));
        assertThat(created.state()).isEqualTo(SessionState.CREATED);
        assertThat(created.setCookie()).hasSize(1);
        ResolveResult found = client.resolve(Credential.token(created.token()), new ResolveOptions().create(true));
        assertThat(found.state()).isEqualTo(SessionState.ACTIVE);
        assertThat(found.session().id()).isEqualTo(created.session().id());
    }

    @Test
    void aWriteMergesTopLevelKeys() {
        SessiondClient client = world().client();
        String token = client.write(null, set("{\"a\":1,\"b\":{\"c\":2},\"d\":4}")).token();
        WriteResult written = client.write(Credential.token(token), set("{\"b\":\"new\"}").unset(List.of("d", "never there")));
        assertThat(written.session().version()).isEqualTo(2);
        assertThat(written.setCookie()).isEmpty();
        assertThat(json(client, token)).isEqualTo("{\"a\":1,\"b\":\"new\"}");
        client.write(Credential.token(token), set("{\"z\":null}").replace(true));
        assertThat(json(client, token)).isEqualTo("{\"z\":null}");
    }

    @Test
    void keysThatAreNotNamedKeepTheirOctets() {
        SessiondClient client = world().client();
        String token = client.write(null, set("{\"big\": 12345678901234567890, \"e\":1.50, \"text\":\"\\u00e9\"}")).token();
        client.write(Credential.token(token), new WriteOptions().set(Map.of("other", true)));
        assertThat(json(client, token)).contains("\"big\":12345678901234567890", "\"e\":1.50", "\"text\":\"\\u00e9\"", "\"other\":true");
    }

    @Test
    void parallelWritesToDifferentKeysAllSurvive() {
        SessiondClient client = world().client();
        String token = client.write(null, new WriteOptions()).token();
        CompletableFuture.allOf(IntStream.range(0, 30)
                .mapToObj(i -> client.writeAsync(Credential.token(token), set("{\"key" + i + "\":" + i + "}")))
                .toArray(CompletableFuture[]::new)).join();
        Session session = resolve(client, token).session();
        assertThat(session.version()).isEqualTo(31);
        assertThat(session.json().split(",")).hasSize(30);
    }

    @Test
    void ifVersionLetsOneOfSeveralWritesThrough() {
        SessiondClient client = world().client();
        String token = client.write(null, set("{\"n\":1}")).token();
        List<CompletableFuture<WriteResult>> writes = Stream.of(2, 3, 4)
                .map(n -> client.writeAsync(Credential.token(token), set("{\"n\":" + n + "}").ifVersion(1)))
                .toList();
        List<Throwable> failures = writes.stream().map(write -> write.handle((result, failure) -> failure).join()).filter(failure -> failure != null).toList();
        assertThat(failures).hasSize(2).allSatisfy(failure -> {
            assertThat(failure).isInstanceOf(VersionMismatchException.class);
            assertThat(((SessiondException) failure).code()).isEqualTo("ABORTED");
            assertThat(((SessiondException) failure).applied()).isEqualTo(Applied.NO);
        });
        assertThat(resolve(client, token).session().version()).isEqualTo(2);
    }

    @Test
    void aCredentialNeverCreates() {
        SessiondClient client = world().client();
        String ended = client.write(null, new WriteOptions()).token();
        client.destroy(Credential.token(ended));
        for (Credential credential : List.of(Credential.token(ended), Credential.token("junk"), Credential.cookieHeader("a=b"))) {
            SessionGoneException gone = catchThrowableOfType(SessionGoneException.class, () -> client.write(credential, set("{\"a\":1}")));
            assertThat(gone.reason()).isEqualTo(Reason.SESSION_GONE);
            assertThat(gone.applied()).isEqualTo(Applied.NO);
        }
        assertThat(resolve(client, ended).state()).isEqualTo(SessionState.NOT_FOUND);
    }

    @Test
    void destroyEndsASessionOnceAndDeletesTheCookie() {
        SessiondClient client = world().client();
        Credential cookie = cookie(client.write(null, new WriteOptions()).setCookie());
        assertThat(client.destroy(cookie).destroyed()).isEqualTo(1);
        assertThat(client.destroy(cookie).setCookie()).containsExactly(DELETION);
        assertThat(client.destroy(Credential.cookieHeader("session=junk")).setCookie()).containsExactly(DELETION);
        assertThat(client.destroy(Credential.cookieHeader("a=b")).setCookie()).isEmpty();
        assertThat(client.destroy(null).destroyed()).isZero();
    }

    @Test
    void touchAndWriteSetASessionsOwnDuration() {
        SessiondClient client = world().client();
        String token = client.write(null, new WriteOptions().duration(Duration.ofNanos(5_000_500_000L))).token();
        assertThat(resolve(client, token).session().duration()).isEqualTo(Duration.ofMillis(5001));
        TouchResult touched = client.touch(Credential.token(token), new TouchOptions().duration(Duration.ofMinutes(1)));
        assertThat(touched.session().duration()).isEqualTo(Duration.ofMinutes(1));
        assertThat(touched.session().version()).isEqualTo(1);
        assertThat(touched.session().json()).isEmpty();
        assertThat(touched.setCookie().get(0)).containsPattern("; Max-Age=6\\d;");
        client.write(Credential.token(token), new WriteOptions().duration(Duration.ofSeconds(7)));
        assertThat(resolve(client, token).session().duration()).isEqualTo(Duration.ofSeconds(7));
    }

    @Test
    void persistentAndLabelBelongToTheSession() {
        SessiondClient client = world().client();
        Credential token = Credential.token(client.write(null, new WriteOptions().persistent(false)).token());
        WriteResult kept = client.write(token, new WriteOptions().persistent(true).label("Chrome"));
        assertThat(kept.setCookie().get(0)).contains("; Max-Age=");
        assertThat(kept.session().label()).isEqualTo("Chrome");
        WriteResult dropped = client.write(token, new WriteOptions().persistent(false).label(""));
        assertThat(dropped.setCookie().get(0)).doesNotContain("Max-Age");
        assertThat(dropped.session().label()).isEmpty();
        assertThat(client.write(token, new WriteOptions().persistent(false)).setCookie()).isEmpty();
    }

    @Test
    void everySpellingOfATokenIsRead() {
        SessiondClient client = world().client();
        WriteResult created = client.write(null, new WriteOptions().engine("express"));
        assertThat(created.setCookie().get(0)).matches("connect\\.sid=s:[^;]+; Path=/; HttpOnly; SameSite=Lax");
        String token = created.token();
        for (String value : List.of(token, "s:" + token, "s%3A" + token.replace("+", "%2B").replace("/", "%2F"), "\"" + token + "\"")) {
            Credential header = Credential.cookieHeader("a=b;\t connect.sid \t= " + value + " ; c");
            assertThat(client.resolve(header, new ResolveOptions().engine("express")).state()).as(value).isEqualTo(SessionState.ACTIVE);
        }
        assertThat(resolve(client, token).state()).as("another engine has another secret").isEqualTo(SessionState.INVALID);
    }

    @Test
    void ofSeveralCookiesOfTheNameTheLiveOneCounts() {
        SessiondClient client = world().client();
        String ended = client.write(null, new WriteOptions()).token();
        client.destroy(Credential.token(ended));
        WriteResult live = client.write(null, new WriteOptions());
        Credential header = Credential.cookieHeader("session=junk; session=" + ended + "; session=" + live.token());
        assertThat(client.resolve(header).session().id()).isEqualTo(live.session().id());
        client.destroy(header);
        assertThat(client.resolve(header).state()).isEqualTo(SessionState.NOT_FOUND);
    }

    @Test
    void aLoginRollsKeepsWhatAnAnonymousVisitorHadAndDropsWhatAnotherUserHad() {
        SessiondClient client = world().client();
        String ann = someone();
        String anonymous = client.write(null, set("{\"cart\":[1]}")).token();
        WriteResult login = client.write(Credential.token(anonymous), new WriteOptions().principal(ann));
        assertThat(login.token()).isNotEmpty();
        assertThat(login.session().principal()).isEqualTo(ann);
        assertThat(json(client, login.token())).isEqualTo("{\"cart\":[1]}");
        assertThat(client.write(Credential.token(login.token()), new WriteOptions().principal(ann)).token()).isEmpty();
        WriteResult other = client.write(Credential.token(login.token()), set("{\"hello\":\"bob\"}").principal(someone()));
        assertThat(json(client, other.token())).isEqualTo("{\"hello\":\"bob\"}");
        WriteResult nobody = client.write(Credential.token(other.token()), new WriteOptions().principal(""));
        assertThat(nobody.session().principal()).isNull();
        assertThat(json(client, nobody.token())).isEqualTo("{}");
    }

    @Test
    void anIdFromBeforeARollIsSupersededAndStillEndsItsSession() {
        World world = world();
        SessiondClient client = world.client();
        String engine = "short";
        WriteResult first = client.write(null, new WriteOptions().engine(engine).duration(Duration.ofMinutes(5)));
        WriteResult rolled = client.write(Credential.token(first.token()), new WriteOptions().engine(engine).roll(true));
        ResolveResult old = client.resolve(Credential.token(first.token()), new ResolveOptions().engine(engine).create(true));
        assertThat(old).isEqualTo(new ResolveResult(SessionState.SUPERSEDED, null, List.of(), ""));
        assertThatThrownBy(() -> client.write(Credential.token(first.token()), set("{\"a\":1}").engine(engine))).isInstanceOf(SessionGoneException.class);
        world.pass(World.GRACE.plusMillis(300));
        ResolveResult late = client.resolve(Credential.token(first.token()), new ResolveOptions().engine(engine).create(true));
        assertThat(late.state()).as("after the grace").isEqualTo(SessionState.CREATED);
        assertThat(client.destroy(Credential.token(first.token()), new DestroyOptions().engine(engine)).destroyed()).isZero();
        WriteResult again = client.write(Credential.token(rolled.token()), new WriteOptions().engine(engine).roll(true));
        assertThat(client.destroy(Credential.token(rolled.token()), new DestroyOptions().engine(engine)).destroyed()).isEqualTo(1);
        assertThat(client.resolve(Credential.token(again.token()), new ResolveOptions().engine(engine)).state()).isEqualTo(SessionState.NOT_FOUND);
    }

    @Test
    void aSessionLivesAsLongAsItIsUsedAndNotLongerThanAllowed() {
        World world = world();
        SessiondClient client = world.client();
        String used = client.write(null, new WriteOptions().engine("short")).token();
        String left = client.write(null, new WriteOptions().engine("still")).token();
        String brief = client.write(null, new WriteOptions().engine("brief")).token();
        for (int i = 0; i < 3; i++) {
            world.pass(World.SHORT.dividedBy(2));
            assertThat(client.resolve(Credential.token(used), new ResolveOptions().engine("short")).state()).isEqualTo(SessionState.ACTIVE);
            client.resolve(Credential.token(left), new ResolveOptions().engine("still"));
        }
        assertThat(client.resolve(Credential.token(left), new ResolveOptions().engine("still")).state()).isIn(SessionState.EXPIRED, SessionState.NOT_FOUND);
        assertThat(client.resolve(Credential.token(brief), new ResolveOptions().engine("brief")).state()).isIn(SessionState.EXPIRED, SessionState.NOT_FOUND);
    }

    @Test
    void listsAndEndsOthersAllOrSomeOfAPrincipalsSessions() {
        SessiondClient client = world().client();
        String ann = someone();
        Credential here = login(client, ann);
        Credential there = login(client, ann);
        Credential away = login(client, ann);
        Credential stranger = login(client, someone());
        ListResult list = client.listSessions(here);
        assertThat(list.state()).isEqualTo(SessionState.ACTIVE);
        assertThat(list.currentSessionId()).isEqualTo(id(client, here));
        assertThat(list.sessions()).extracting(Session::id).containsExactlyInAnyOrder(id(client, here), id(client, there), id(client, away));
        assertThat(list.sessions()).allSatisfy(session -> {
            assertThat(session.principal()).isEqualTo(ann);
            assertThat(session.json()).isEmpty();
            assertThat(session.lastUseTime()).isNotNull();
        });
        DestroyOptions some = new DestroyOptions().sessionIds(List.of(id(client, there), id(client, stranger), "AAAAAAAAAAAAAAAA"));
        assertThat(client.destroy(here, some).destroyed()).isEqualTo(1);
        assertThat(client.resolve(there).state()).isEqualTo(SessionState.NOT_FOUND);
        assertThat(client.resolve(stranger).state()).isEqualTo(SessionState.ACTIVE);
        assertThat(client.destroy(here, new DestroyOptions().scope(DestroyScope.OTHERS)).destroyed()).isEqualTo(1);
        Credential again = login(client, ann);
        assertThat(client.destroy(here, new DestroyOptions().scope(DestroyScope.ALL)).destroyed()).isEqualTo(2);
        assertThat(client.resolve(again).state()).isEqualTo(SessionState.NOT_FOUND);
        assertThat(client.listSessions(here)).isEqualTo(new ListResult(SessionState.NOT_FOUND, List.of(), null));
    }

    @Test
    void anAnonymousSessionCountsAlone() {
        SessiondClient client = world().client();
        WriteResult one = client.write(null, new WriteOptions());
        WriteResult two = client.write(null, new WriteOptions());
        Credential token = Credential.token(one.token());
        assertThat(client.listSessions(token).sessions()).hasSize(1);
        assertThat(client.destroy(token, new DestroyOptions().scope(DestroyScope.OTHERS)).destroyed()).isZero();
        assertThat(client.destroy(token, new DestroyOptions().sessionIds(List.of(two.session().id()))).destroyed()).isZero();
        assertThat(client.destroy(token, new DestroyOptions().sessionIds(List.of(one.session().id()))).setCookie()).containsExactly(DELETION);
        assertThat(client.destroy(Credential.token(two.token()), new DestroyOptions().scope(DestroyScope.ALL)).destroyed()).isEqualTo(1);
    }

    @Test
    void aListOfSeveralPagesIsWhole() {
        SessiondClient client = world().client();
        String ann = someone();
        List<CompletableFuture<WriteResult>> made = IntStream.range(0, 1100).mapToObj(i -> client.writeAsync(null, new WriteOptions().principal(ann))).toList();
        Credential token = Credential.token(made.stream().map(CompletableFuture::join).toList().get(0).token());
        assertThat(client.listSessions(token).sessions().stream().map(Session::id).distinct()).hasSize(1100);
        assertThat(client.destroy(token, new DestroyOptions().scope(DestroyScope.ALL)).destroyed()).isEqualTo(1100);
    }

    @Test
    void aLimitRefusesTheNewestOrEndsTheIdlest() {
        World world = world();
        SessiondClient client = world.client();
        String ann = someone();
        client.write(null, new WriteOptions().engine("two").principal(ann));
        client.write(null, new WriteOptions().engine("two").principal(ann));
        assertThatThrownBy(() -> client.write(null, new WriteOptions().engine("two").principal(ann)))
                .isInstanceOfSatisfying(TooManySessionsException.class, error -> assertThat(error.code()).isEqualTo("FAILED_PRECONDITION"));
        String first = client.write(null, new WriteOptions().engine("idlest").principal(ann)).token();
        world.pass(Duration.ofMillis(20));
        String second = client.write(null, new WriteOptions().engine("idlest").principal(ann)).token();
        world.pass(Duration.ofMillis(20));
        client.touch(Credential.token(first), new TouchOptions().engine("idlest").duration(Duration.ofMinutes(29)));
        world.pass(Duration.ofMillis(20));
        client.touch(Credential.token(first), new TouchOptions().engine("idlest").duration(Duration.ofMinutes(30)));
        client.write(null, new WriteOptions().engine("idlest").principal(ann));
        assertThat(client.resolve(Credential.token(first), new ResolveOptions().engine("idlest")).state()).isEqualTo(SessionState.ACTIVE);
        assertThat(client.resolve(Credential.token(second), new ResolveOptions().engine("idlest")).state()).isEqualTo(SessionState.NOT_FOUND);
    }

    @Test
    void refusesWhatIsNotAllowedAndSaysWhichField() {
        SessiondClient client = world().client();
        String token = client.write(null, set("{\"a\":1}")).token();
        Credential mine = Credential.token(token);
        refused(Reason.UNKNOWN_ENGINE, null, () -> client.resolve(null, new ResolveOptions().engine("none")));
        for (Duration duration : List.of(Duration.ZERO, Duration.ofMillis(-1), Duration.ofDays(401))) {
            refused(Reason.INVALID_ARGUMENT, "duration", () -> client.touch(mine, new TouchOptions().duration(duration)));
        }
        refused(Reason.INVALID_ARGUMENT, "ifVersion", () -> client.write(mine, new WriteOptions().ifVersion(0)));
        refused(Reason.INVALID_ARGUMENT, "ifVersion", () -> client.write(null, new WriteOptions().ifVersion(1)));
        for (String principal : List.of("x".repeat(257), "\u00e9".repeat(129), "half \ud83d")) {
            refused(Reason.INVALID_ARGUMENT, "principal", () -> client.write(null, new WriteOptions().principal(principal)));
        }
        refused(Reason.INVALID_ARGUMENT, "label", () -> client.write(null, new WriteOptions().label("x".repeat(257))));
        refused(Reason.INVALID_ARGUMENT, "unset", () -> client.write(mine, new WriteOptions().unset(Collections.nCopies(1001, "k"))));
        String deep = "{\"a\":" + "[".repeat(64) + "]".repeat(64) + "}";
        Map<String, Integer> many = new HashMap<>();
        IntStream.range(0, 4097).forEach(i -> many.put("k" + i, 0));
        for (String json : List.of("[1]", "{\"a\":", "7", "{\"a\":NaN}", deep)) {
            refused(Reason.INVALID_DATA, "set", () -> client.write(mine, set(json)));
        }
        refused(Reason.INVALID_DATA, "set", () -> client.write(mine, new WriteOptions().set(many)));
        refused(Reason.INVALID_ARGUMENT, "sessionIds", () -> client.destroy(mine, new DestroyOptions().sessionIds(List.of())));
        refused(Reason.INVALID_ARGUMENT, "sessionIds", () -> client.destroy(mine, new DestroyOptions().sessionIds(Collections.nCopies(1001, "AAAAAAAAAAAAAAAA"))));
        refused(Reason.INVALID_ARGUMENT, "sessionIds", () -> client.destroy(mine, new DestroyOptions().sessionIds(List.of("unknown"))));
        refused(Reason.INVALID_ARGUMENT, "sessionIds", () -> client.destroy(mine, new DestroyOptions().sessionIds(List.of("AAAAAAAAAAAAAAAA")).scope(DestroyScope.ALL)));
        assertThat(json(client, token)).as("nothing was changed").isEqualTo("{\"a\":1}");
    }

    @Test
    void refusesDataOverMaxDataBytes() {
        SessiondClient client = world().client();
        String token = client.write(null, new WriteOptions().engine("small").set(Map.of("a", "x".repeat(2990)))).token();
        for (WriteOptions write : List.of(
                new WriteOptions().engine("small").set(Map.of("b", "x".repeat(2990))),
                new WriteOptions().engine("small").set(Map.of("b", "x".repeat(5000))),
                new WriteOptions().engine("small").set(Map.of("b", "x".repeat(3 << 20))))) {
            DataTooLargeException error = catchThrowableOfType(DataTooLargeException.class, () -> client.write(Credential.token(token), write));
            assertThat(error.reason()).isEqualTo(Reason.DATA_TOO_LARGE);
            assertThat(error.httpStatus()).isEqualTo(413);
        }
    }

    @Test
    void halfASurrogatePairSurvives() {
        SessiondClient client = world().client();
        String token = client.write(null, new WriteOptions().set(Map.of("text", "half \ud83d!"))).token();
        assertThat(json(client, token)).isEqualTo("{\"text\":\"half \\ud83d!\"}");
    }

    @Test
    void describesItsEngines() {
        SessiondClient client = world().client();
        Description description = client.describe();
        assertThat(description.version()).matches("\\d+\\.\\d+\\.\\d+.*");
        assertThat(description.limits().maxKeys()).isEqualTo(4096);
        assertThat(description.engines()).extracting(engine -> engine.name())
                .containsExactly("brief", "default", "express", "idlest", "short", "small", "still", "two");
        assertThat(description.engine("express").orElseThrow()).satisfies(engine -> {
            assertThat(engine.cookieName()).isEqualTo("connect.sid");
            assertThat(engine.cookieFormat()).isEqualTo(CookieFormat.EXPRESS);
            assertThat(engine.persistent()).isFalse();
            assertThat(engine.absoluteDuration()).isNull();
            assertThat(engine.maxDataBytes()).isEqualTo(65_536);
        });
        assertThat(client.description()).isPresent();
    }

    private static Credential login(SessiondClient client, String principal) {
        return Credential.token(client.write(null, new WriteOptions().principal(principal)).token());
    }

    private static String id(SessiondClient client, Credential credential) {
        return client.resolve(credential).session().id();
    }

    private static void refused(Reason reason, String field, org.assertj.core.api.ThrowableAssert.ThrowingCallable call) {
        InvalidArgumentException error = catchThrowableOfType(InvalidArgumentException.class, call);
        assertThat(error).as("expected %s of %s", reason, field).isNotNull();
        assertThat(error.reason()).isEqualTo(reason);
        assertThat(error.code()).isEqualTo("INVALID_ARGUMENT");
        assertThat(error.applied()).isEqualTo(Applied.NO);
        assertThat(error.retryable()).isFalse();
        if (field != null) {
            assertThat(error.field()).isEqualTo(field);
        }
    }
}
