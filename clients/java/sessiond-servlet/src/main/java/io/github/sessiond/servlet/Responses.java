package io.github.sessiond.servlet;

import io.github.sessiond.client.SessiondException;
import io.github.sessiond.client.UnavailableException;
import io.github.sessiond.client.VersionMismatchException;
import jakarta.servlet.ServletException;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import java.io.IOException;
import java.nio.charset.Charset;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.regex.Pattern;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/** What an adapter reads from a request and says in a response; for those who write an adapter. */
public final class Responses {
    private static final Logger LOG = LoggerFactory.getLogger("io.github.sessiond.servlet");
    private static final Pattern NOT_SHARED = Pattern.compile("(?i)(^|[\\s,])(no-store|private)\\s*($|[,=])");

    private Responses() {}

    /**
     * The octets of the Cookie header: a container decodes them as ISO-8859-1.
     *
     * @param request the request
     * @return the octets, several lines joined with {@code "; "}; null: there is none
     */
    public static byte[] cookieHeader(HttpServletRequest request) {
        List<String> lines = Collections.list(request.getHeaders("Cookie"));
        if (lines.isEmpty()) {
            return null;
        }
        String header = String.join("; ", lines);
        Charset charset = header.chars().allMatch(unit -> unit < 0x100) ? StandardCharsets.ISO_8859_1 : StandardCharsets.UTF_8;
        return header.getBytes(charset);
    }

    /**
     * Puts a Set-Cookie line into a response, in place of another one of its name, and sees to it that no shared cache
     * keeps the response.
     *
     * @param response the response
     * @param line the value of the line
     */
    public static void setCookie(HttpServletResponse response, String line) {
        if (response.isCommitted()) {
            LOG.warn("the head of a response was gone before its session was created or renewed: the browser has no cookie of it");
            return;
        }
        String name = line.substring(0, line.indexOf('=') + 1);
        List<String> others = new ArrayList<>(response.getHeaders("Set-Cookie"));
        if (others.removeIf(other -> other.startsWith(name))) {
            response.setHeader("Set-Cookie", line);
            others.forEach(other -> response.addHeader("Set-Cookie", other));
        } else {
            response.addHeader("Set-Cookie", line);
        }
        String control = response.getHeader("Cache-Control");
        if (control == null || !NOT_SHARED.matcher(control).find()) {
            response.setHeader("Cache-Control", "no-store");
        }
    }

    /**
     * The exception of the client that is behind another one.
     *
     * @param thrown what an application has thrown
     * @return the exception; null: it is something else
     */
    public static SessiondException find(Throwable thrown) {
        Throwable at = thrown;
        while (at != null && !(at instanceof SessiondException)) {
            at = at instanceof ServletException servlet && servlet.getRootCause() != null ? servlet.getRootCause() : at.getCause();
        }
        return (SessiondException) at;
    }

    /**
     * Answers with what an exception means: 503 with {@code Retry-After} if nobody knows what became of the session, 409
     * for a change with an id from before a login.
     *
     * @param response the response
     * @param cause the exception
     * @return false if the exception says nothing to a browser, or the head of the response is gone
     * @throws IOException if the response cannot be written
     */
    public static boolean answer(HttpServletResponse response, SessiondException cause) throws IOException {
        if (cause.httpStatus() == 500 || response.isCommitted()) {
            return false;
        }
        LOG.debug("a request is answered with {}: {}", cause.httpStatus(), cause.reason());
        response.reset();
        response.setHeader("Cache-Control", "no-store");
        if (cause instanceof UnavailableException || cause instanceof VersionMismatchException) {
            response.setHeader("Retry-After", Long.toString(retryAfter(cause)));
        }
        response.sendError(cause.httpStatus());
        return true;
    }

    /**
     * What to say in {@code Retry-After}.
     *
     * @param cause an exception
     * @return whole seconds, at least 1
     */
    public static long retryAfter(SessiondException cause) {
        Duration after = cause.retryAfter() == null ? Duration.ZERO : cause.retryAfter();
        return Math.max(1, (after.toMillis() + 999) / 1000);
    }
}
