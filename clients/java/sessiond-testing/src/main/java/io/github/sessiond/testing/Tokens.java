package io.github.sessiond.testing;

import io.github.sessiond.client.CookieFormat;
import io.github.sessiond.client.SessionState;
import io.github.sessiond.client.internal.pb.Credential;
import java.nio.charset.StandardCharsets;
import java.security.GeneralSecurityException;
import java.security.MessageDigest;
import java.security.SecureRandom;
import java.time.Duration;
import java.time.Instant;
import java.time.ZoneOffset;
import java.time.format.DateTimeFormatter;
import java.util.ArrayList;
import java.util.Base64;
import java.util.List;
import java.util.Locale;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import javax.crypto.Mac;
import javax.crypto.spec.SecretKeySpec;

/** Ids, tokens and cookies as the daemon makes and reads them, so that a test sees what a browser would see. */
final class Tokens {
    private static final int MAX_HEADER = 64 << 10;
    private static final int MAX_CANDIDATES = 8;
    private static final Pattern SHAPE = Pattern.compile("([A-Za-z0-9_-]{40})\\.([A-Za-z0-9+/]{43})");
    private static final SecureRandom RANDOM = new SecureRandom();
    private static final DateTimeFormatter EXPIRES =
            DateTimeFormatter.ofPattern("EEE, dd MMM yyyy HH:mm:ss 'GMT'", Locale.ROOT).withZone(ZoneOffset.UTC);

    /** A session id: 16 characters that are public, 24 that are secret. */
    record Id(String id, String secret) {}

    /** The ids that a credential proves, and why there is none if none of them is live. */
    record Presented(List<Id> ids, SessionState absence) {}

    private final FakeEngine engine;
    private final byte[] key = random(32);

    Tokens(FakeEngine engine) {
        this.engine = engine;
    }

    /** A new id; {@code id}: for the same session, null: for a new one. */
    static Id newId(String id) {
        Base64.Encoder encoder = Base64.getUrlEncoder();
        return new Id(id == null ? encoder.encodeToString(random(12)) : id, encoder.encodeToString(random(18)));
    }

    private static byte[] random(int length) {
        byte[] octets = new byte[length];
        RANDOM.nextBytes(octets);
        return octets;
    }

    /** What a record keeps of the secret half. */
    static String hash(String secret) {
        try {
            byte[] digest = MessageDigest.getInstance("SHA-256").digest(secret.getBytes(StandardCharsets.ISO_8859_1));
            return Base64.getEncoder().encodeToString(digest);
        } catch (GeneralSecurityException impossible) {
            throw new IllegalStateException(impossible);
        }
    }

    private byte[] mac(String id) {
        try {
            Mac mac = Mac.getInstance("HmacSHA256");
            mac.init(new SecretKeySpec(key, "HmacSHA256"));
            return mac.doFinal(id.getBytes(StandardCharsets.ISO_8859_1));
        } catch (GeneralSecurityException impossible) {
            throw new IllegalStateException(impossible);
        }
    }

    String sign(Id id) {
        String whole = id.id() + id.secret();
        return whole + "." + Base64.getEncoder().withoutPadding().encodeToString(mac(whole));
    }

    Presented present(boolean given, Credential credential) {
        if (!given || credential.getKindCase() == Credential.KindCase.KIND_NOT_SET) {
            return new Presented(List.of(), SessionState.NONE);
        }
        boolean token = credential.hasToken();
        byte[] octets = (token ? credential.getToken() : credential.getCookieHeader()).toByteArray();
        if (octets.length > MAX_HEADER) {
            return new Presented(List.of(), SessionState.INVALID);
        }
        String text = new String(octets, StandardCharsets.ISO_8859_1);
        List<String> values = token ? List.of(text) : cookies(text);
        List<Id> ids = new ArrayList<>();
        SessionState absence = values.isEmpty() ? SessionState.NONE : SessionState.INVALID;
        int candidates = 0;
        for (String value : values) {
            Matcher match = SHAPE.matcher(spelled(value));
            if (!match.matches()) {
                continue;
            }
            if (++candidates > MAX_CANDIDATES) {
                break;
            }
            String id = match.group(1);
            if (MessageDigest.isEqual(Base64.getDecoder().decode(match.group(2)), mac(id))) {
                absence = SessionState.NOT_FOUND;
                ids.add(new Id(id.substring(0, 16), id.substring(16)));
            }
        }
        return new Presented(ids, absence);
    }

    private List<String> cookies(String header) {
        List<String> values = new ArrayList<>();
        for (String pair : header.split(";")) {
            int equals = pair.indexOf('=');
            if (equals >= 0 && trim(pair.substring(0, equals)).equals(engine.cookieName)) {
                String value = trim(pair.substring(equals + 1));
                boolean quoted = value.length() >= 2 && value.startsWith("\"") && value.endsWith("\"");
                values.add(quoted ? value.substring(1, value.length() - 1) : value);
            }
        }
        return values;
    }

    /** SP and HTAB only. */
    private static String trim(String text) {
        return text.replaceAll("^[ \t]+|[ \t]+$", "");
    }

    /** A token may have the prefix of express-session, and be percent-encoded. */
    private static String spelled(String value) {
        return value.replaceFirst("(?i)^s(:|%3a)", "").replaceAll("(?i)%2b", "+").replaceAll("(?i)%2f", "/");
    }

    /** The value of a Set-Cookie line; {@code maxAge}: null, if it is not persistent. */
    String setCookie(Id id, Duration maxAge, Instant now) {
        String prefix = engine.cookieFormat == CookieFormat.EXPRESS ? "s:" : "";
        String age = "";
        if (maxAge != null) {
            long seconds = (maxAge.toMillis() + 999) / 1000;
            age = "; Max-Age=" + seconds + "; Expires=" + EXPIRES.format(now.plus(maxAge));
        }
        return engine.cookieName + "=" + prefix + sign(id) + age + scope();
    }

    /** The value of the Set-Cookie line that deletes the cookie. */
    String deletion() {
        return engine.cookieName + "=; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT" + scope();
    }

    private String scope() {
        boolean secure = engine.cookieName.startsWith("__Host-") || engine.cookieName.startsWith("__Secure-");
        return "; Path=/; HttpOnly" + (secure ? "; Secure" : "") + "; SameSite=Lax";
    }
}
