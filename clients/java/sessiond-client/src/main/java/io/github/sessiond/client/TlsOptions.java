package io.github.sessiond.client;

import java.nio.file.Path;

/**
 * TLS towards the daemon: files in PEM form.
 *
 * @param ca certificates of the authorities that sign the daemon's certificate; null: those that Java trusts
 * @param cert the client's certificate chain, for a daemon that asks for one (mTLS); null: none
 * @param key the key of {@code cert}; null: none
 * @param serverName the name in the daemon's certificate; null: the host of the address
 */
public record TlsOptions(Path ca, Path cert, Path key, String serverName) {
    /** With the certificates that Java trusts. */
    public static final TlsOptions DEFAULT = new TlsOptions(null, null, null, null);

    /**
     * With an authority of one's own.
     *
     * @param ca its certificate
     * @return the options
     */
    public static TlsOptions ca(Path ca) {
        return new TlsOptions(ca, null, null, null);
    }
}
