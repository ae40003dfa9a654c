package io.github.sessiond.client;

import java.util.List;

/**
 * The answer to a destroy.
 *
 * @param destroyed how many live sessions were ended
 * @param setCookie the deletion cookie, if the credential held a session cookie and its session is meant
 */
public record DestroyResult(int destroyed, List<String> setCookie) {}
