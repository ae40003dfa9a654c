# The image of sessiond.
#
#   docker build -t sessiond:0.1.0 .
#   docker run --rm sessiond:0.1.0 serve --dev
#
# A container is best configured by its environment, or by a file that
# SESSIOND_CONFIG names: what stands behind `serve` as flags, the health check
# does not see.
#
# With TLS on listen.grpc add a unix socket to it (unix:/run/sessiond/sessiond.sock):
# the health check prefers that, and needs no certificate there.
#
# As delivered the daemon listens on loopback, which is right for a sidecar: it
# shares the network namespace of what it serves. deploy/ has both ways to run it.

# rustc 1.95 or later and a C compiler.
# No newer glibc than the one of the runtime image.
ARG BUILD_IMAGE=docker.io/library/rust:1.95-bookworm
# glibc and libgcc, and neither a shell nor a package manager.
ARG RUNTIME_IMAGE=gcr.io/distroless/cc-debian12:nonroot

FROM ${BUILD_IMAGE} AS build
WORKDIR /build
# Tests and benches stay outside: cargo does not miss a target that it does not
# build, as long as Cargo.toml gives its path.
COPY Cargo.toml Cargo.lock build.rs ./
COPY proto proto
COPY src src
RUN cargo build --profile dist --locked --bin sessiond \
    && mkdir /empty

FROM ${RUNTIME_IMAGE}
LABEL org.opencontainers.image.title="sessiond" \
      org.opencontainers.image.description="Web sessions for every service of an application, over gRPC" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0"
COPY --from=build /build/target/dist/sessiond /usr/local/bin/sessiond
# A fresh named volume takes its owner from here. /run/sessiond is for a unix socket.
COPY --from=build --chown=65532:65532 /empty/ /var/lib/sessiond/
COPY --from=build --chown=65532:65532 /empty/ /run/sessiond/

# By number, so that Kubernetes can tell that it is not root.
USER 65532:65532
# The default of store.sled.path is "data", which is /var/lib/sessiond/data then.
# A variable in its place would win over the configuration file.
WORKDIR /var/lib/sessiond
VOLUME /var/lib/sessiond
# Session service, metrics.
EXPOSE 50051 9464
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=3 \
    CMD ["/usr/local/bin/sessiond", "health", "--timeout=2s"]
ENTRYPOINT ["/usr/local/bin/sessiond"]
CMD ["serve"]
