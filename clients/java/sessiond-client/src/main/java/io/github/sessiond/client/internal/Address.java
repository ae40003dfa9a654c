package io.github.sessiond.client.internal;

import io.github.sessiond.client.TlsOptions;
import io.grpc.ChannelCredentials;
import io.grpc.InsecureChannelCredentials;
import io.grpc.TlsChannelCredentials;
import io.grpc.netty.shaded.io.grpc.netty.NettyChannelBuilder;
import io.grpc.netty.shaded.io.netty.channel.ChannelOption;
import io.grpc.netty.shaded.io.netty.channel.socket.nio.NioDomainSocketChannel;
import io.grpc.netty.shaded.io.netty.channel.socket.nio.NioSocketChannel;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.net.UnixDomainSocketAddress;
import java.nio.file.Path;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/** Where the daemon is, and how to make a channel to it. */
final class Address {
    private static final Pattern HOST_PORT = Pattern.compile("(\\[[0-9A-Fa-f:.%]+]|[^\\s:/\\[\\]]+):(\\d{1,5})");

    private final String text;
    private final String host;
    private final int port;
    private final Path path;
    private final TlsOptions tls;

    Address(String text, TlsOptions tls) {
        this.text = text;
        this.tls = tls;
        if (text.startsWith("unix:") && text.length() > "unix:".length()) {
            if (tls != null) {
                throw Requests.invalid("tls", "not over a unix socket");
            }
            path = Path.of(text.substring(text.startsWith("unix://") ? "unix://".length() : "unix:".length()));
            host = null;
            port = 0;
            return;
        }
        Matcher match = HOST_PORT.matcher(text);
        path = null;
        port = match.matches() ? Integer.parseInt(match.group(2)) : 0;
        if (port < 1 || port > 65535) {
            throw Requests.invalid("address", "expected host:port or unix:/path, found \"" + text + "\"");
        }
        host = match.group(1).startsWith("[") ? match.group(1).substring(1, match.group(1).length() - 1) : match.group(1);
    }

    /** A builder of a channel that has not connected. */
    NettyChannelBuilder channel(Loop loop) {
        if (path != null) {
            return NettyChannelBuilder.forAddress(UnixDomainSocketAddress.of(path), InsecureChannelCredentials.create())
                    .overrideAuthority("localhost")
                    .eventLoopGroup(loop.group)
                    .channelType(NioDomainSocketChannel.class, UnixDomainSocketAddress.class)
                    // gRPC sets it everywhere. A unix socket has no such option, and Netty would warn at each connection.
                    .withOption(ChannelOption.SO_KEEPALIVE, null);
        }
        NettyChannelBuilder builder = NettyChannelBuilder.forAddress(host, port, credentials())
                .eventLoopGroup(loop.group)
                .channelType(NioSocketChannel.class);
        return tls != null && tls.serverName() != null ? builder.overrideAuthority(tls.serverName()) : builder;
    }

    private ChannelCredentials credentials() {
        if (tls == null) {
            return InsecureChannelCredentials.create();
        }
        TlsChannelCredentials.Builder credentials = TlsChannelCredentials.newBuilder();
        try {
            if (tls.ca() != null) {
                credentials.trustManager(tls.ca().toFile());
            }
            if (tls.cert() != null) {
                credentials.keyManager(tls.cert().toFile(), tls.key().toFile());
            }
        } catch (IOException unreadable) {
            throw new UncheckedIOException(unreadable);
        }
        return credentials.build();
    }

    @Override
    public String toString() {
        return text;
    }
}
