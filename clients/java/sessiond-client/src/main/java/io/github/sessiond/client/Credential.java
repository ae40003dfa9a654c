package io.github.sessiond.client;

import java.nio.charset.StandardCharsets;
import java.util.Objects;

/** What a request presents to prove which session is its own. */
public final class Credential {
    private final byte[] octets;
    private final boolean token;

    private Credential(byte[] octets, boolean token) {
        this.octets = octets;
        this.token = token;
    }

    /**
     * The request's Cookie header, unchanged.
     *
     * @param octets the header's octets; join several header lines with {@code "; "}
     * @return the credential
     */
    public static Credential cookieHeader(byte[] octets) {
        return new Credential(octets.clone(), false);
    }

    /**
     * The request's Cookie header as a Servlet container gives it: one character for each octet (ISO-8859-1). A text
     * with other characters is sent as UTF-8.
     *
     * @param header the header; join several header lines with {@code "; "}
     * @return the credential
     */
    public static Credential cookieHeader(String header) {
        boolean octets = header.chars().allMatch(character -> character < 0x100);
        return new Credential(header.getBytes(octets ? StandardCharsets.ISO_8859_1 : StandardCharsets.UTF_8), false);
    }

    /**
     * The token of an answer, for clients that keep it elsewhere than in a cookie.
     *
     * @param token the token
     * @return the credential
     */
    public static Credential token(String token) {
        return new Credential(Objects.requireNonNull(token, "token").getBytes(StandardCharsets.UTF_8), true);
    }

    /**
     * Whether this is a token and not a Cookie header.
     *
     * @return whether it is a token
     */
    public boolean isToken() {
        return token;
    }

    /**
     * What is presented.
     *
     * @return a copy of the octets
     */
    public byte[] octets() {
        return octets.clone();
    }

    /** Says what kind of credential it is, and nothing of it. */
    @Override
    public String toString() {
        return token ? "Credential[token]" : "Credential[cookieHeader]";
    }
}
