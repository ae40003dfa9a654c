# The image of sessiond.
#
#   docker build -t sessiond:0.1.0 .
#   docker run --rm sessiond:0.1.0 serve --dev
#
# Configure a container by its environment, or by a file that SESSIOND_CONFIG
# names. The health check does not see options after `serve`.
#
# With TLS on listen.grpc add a unix socket to it (unix:/run/sessiond/sessiond.sock).
# The health check prefers it, because it needs no certificate.
#
# By default the daemon listens on loopback. That is right for a sidecar, which
# shares the network namespace of its application. docs/deployment.md describes
# the ways to run it, and deploy/ has files for them.

# rustc 1.95 or later and a C compiler.
# Its glibc must not be newer than the one of the runtime image.
ARG BUILD_IMAGE=docker.io/library/rust:1.95-bookworm
# glibc and libgcc, and neither a shell nor a package manager.
ARG RUNTIME_IMAGE=gcr.io/distroless/cc-debian12:nonroot

# release/build puts the program that it has built in place of this stage, which ends at the
# empty line. So what follows is said once, for the image of a release as well.
FROM ${BUILD_IMAGE} AS build
WORKDIR /build
# Tests and benches are left out: cargo does not need the files of a target that
# it does not build, as long as Cargo.toml names its path.
COPY Cargo.toml Cargo.lock ./
COPY clients/rust/Cargo.toml clients/rust/
COPY proto/generate/Cargo.toml proto/generate/
COPY src src
RUN cargo build --profile dist --locked --bin sessiond \
    && mkdir /empty

FROM ${RUNTIME_IMAGE}
LABEL org.opencontainers.image.title="sessiond" \
      org.opencontainers.image.description="Web sessions for every service of an application, over gRPC" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0"
COPY --from=build /build/target/dist/sessiond /usr/local/bin/sessiond
# A new named volume takes its owner from here. /run/sessiond is for a unix socket.
COPY --from=build --chown=65532:65532 /empty/ /var/lib/sessiond/
COPY --from=build --chown=65532:65532 /empty/ /run/sessiond/

# By number, so that Kubernetes can see that it is not root.
USER 65532:65532
# The default of store.sled.path is "data", so the data directory is
# /var/lib/sessiond/data. A variable would win over the configuration file.
WORKDIR /var/lib/sessiond
VOLUME /var/lib/sessiond
# SessionService and metrics.
EXPOSE 50051 9464
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=3 \
    CMD ["/usr/local/bin/sessiond", "health", "--timeout=2s"]
ENTRYPOINT ["/usr/local/bin/sessiond"]
CMD ["serve"]
