package io.github.sessiond.client.internal;

import java.nio.charset.StandardCharsets;

/** Cookie headers. */
public final class CookieHeader {
    private CookieHeader() {}

    /** Whether a header has a cookie of this name, octet by octet. SP and HTAB around a name do not count. */
    public static boolean has(byte[] header, String name) {
        String text = new String(header, StandardCharsets.ISO_8859_1);
        String octets = new String(name.getBytes(StandardCharsets.UTF_8), StandardCharsets.ISO_8859_1);
        for (int at = text.indexOf(octets); at >= 0; at = text.indexOf(octets, at + 1)) {
            int before = at - 1;
            while (before >= 0 && isSpace(text.charAt(before))) {
                before--;
            }
            int after = at + octets.length();
            while (after < text.length() && isSpace(text.charAt(after))) {
                after++;
            }
            if ((before < 0 || text.charAt(before) == ';') && after < text.length() && text.charAt(after) == '=') {
                return true;
            }
        }
        return false;
    }

    private static boolean isSpace(char unit) {
        return unit == ' ' || unit == '\t';
    }
}
