package io.github.sessiond.spring;

import java.nio.file.Path;
import java.time.Duration;
import java.util.List;
import org.springframework.boot.context.properties.ConfigurationProperties;
import org.springframework.boot.context.properties.bind.DefaultValue;

/**
 * Where the daemon is, and how to talk to it.
 *
 * @param address The daemon's address: host:port, or unix:/path.
 * @param engine Name of the engine; empty is the daemon's default.
 * @param token Bearer token, if the daemon asks for one.
 * @param tokenFile File with the bearer token on its first line; read again when the daemon refuses it.
 * @param timeout How long an operation may take.
 * @param maxInFlight Operations under way at a time; one more fails at once.
 * @param tls TLS towards the daemon.
 * @param adminAddress Address of the daemon's admin service, which finds the sessions of a user who is not logged in here.
 * @param adminToken Bearer token of the admin service.
 * @param adminTokenFile File with the bearer token of the admin service on its first line.
 * @param trustedPackages Packages of classes that session attributes may have, beside those of Java and Spring.
 */
@ConfigurationProperties("sessiond")
public record SessiondProperties(
        @DefaultValue("127.0.0.1:50051") String address,
        @DefaultValue("") String engine,
        String token,
        Path tokenFile,
        @DefaultValue("5s") Duration timeout,
        @DefaultValue("10000") int maxInFlight,
        @DefaultValue Tls tls,
        @DefaultValue("") String adminAddress,
        String adminToken,
        Path adminTokenFile,
        @DefaultValue List<String> trustedPackages) {

    /** Leaves out the tokens. */
    @Override
    public String toString() {
        return "SessiondProperties[address=" + address + ", adminAddress=" + adminAddress + "]";
    }

    /**
     * TLS towards the daemon: files in PEM form.
     *
     * @param enabled Whether to use TLS.
     * @param ca Certificates of the authorities that sign the daemon's certificate; default: those that Java trusts.
     * @param cert The client's certificate chain, for a daemon that asks for one.
     * @param key The key of the client's certificate.
     * @param serverName The name in the daemon's certificate; default: the host of the address.
     */
    public record Tls(@DefaultValue("false") boolean enabled, Path ca, Path cert, Path key, String serverName) {}
}
