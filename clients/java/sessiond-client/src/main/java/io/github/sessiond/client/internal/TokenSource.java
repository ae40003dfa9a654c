package io.github.sessiond.client.internal;

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;

/** The bearer token. A file is read again for each connection. */
final class TokenSource {
    private final PipelineClient.Options options;
    private String token;
    private boolean fresh;

    TokenSource(PipelineClient.Options options) {
        this.options = options;
    }

    /** The token; null: none. */
    synchronized String read() throws IOException {
        if (options.tokenFile() == null) {
            return options.token();
        }
        String line = Files.readString(options.tokenFile(), StandardCharsets.ISO_8859_1).lines().findFirst().orElse("").strip();
        if (!PipelineClient.isToken(line)) {
            throw new IOException("its first line is no token");
        }
        fresh = !line.equals(token);
        token = line;
        return line;
    }

    /** Whether the file had another token than at the read before: it may have been replaced again meanwhile. */
    synchronized boolean isFresh() {
        return fresh;
    }
}
