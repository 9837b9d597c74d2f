# syntax=docker/dockerfile:1
# The image: one static binary and the public certificate authorities, nothing else. It is built for the platform it is built on
# (`docker buildx build --platform`, on a machine of that kind or emulated). The same sources and SOURCE_DATE_EPOCH give the same bytes.
ARG RUST_IMAGE=docker.io/library/rust:1.95.0-slim-bookworm

FROM ${RUST_IMAGE} AS build
# In the image: the toolchain that is there, not one that rust-toolchain.toml would have fetched with its components. What C programs tell of
# the moment of their compilation (mimalloc does) is always the same, whatever the sources' date: dependencies outlast many of those.
ENV CARGO_INCREMENTAL=0 \
    CARGO_TERM_COLOR=never \
    SOURCE_DATE_EPOCH=0 \
    RUSTFLAGS="-C target-feature=+crt-static --remap-path-prefix=/src=. --remap-path-prefix=/usr/local/cargo=cargo"
RUN mkdir -p /src /out /usr/local/cargo/registry && chown 65532:65532 /src /out /usr/local/cargo/registry
# Nothing that is compiled runs as root: dependencies have programs that run while they are built.
USER 65532:65532
WORKDIR /src
# Dependencies first, with sources that do nothing: this layer lasts until Cargo.lock changes. A target is named so that the flags are not
# those of build scripts too.
COPY --chown=65532:65532 Cargo.toml Cargo.lock ./
RUN mkdir src bench \
    && echo 'fn main() {}' > src/main.rs \
    && cp src/main.rs bench/main.rs \
    && touch src/lib.rs \
    && rustc --print host-tuple > /out/target \
    && cargo build --locked --release --target "$(cat /out/target)" \
    && rm -r src
COPY --chown=65532:65532 src src
# Newer than what the layer before made of them; and this layer keeps the program alone.
RUN touch src/main.rs src/lib.rs \
    && cargo build --locked --release --target "$(cat /out/target)" \
    && cp "target/$(cat /out/target)/release/chatservice" /out/chatservice \
    && rm -r target

FROM scratch
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="ChatService" \
      org.opencontainers.image.description="A Kubernetes operator for chat APIs, and the chat server that it runs" \
      org.opencontainers.image.source="https://github.com/chatservice/chatservice" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build --chown=0:0 --chmod=755 /out/chatservice /chatservice
# A number, so that Kubernetes can tell that it is not root
USER 65532:65532
EXPOSE 8080 9090
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s CMD ["/chatservice", "healthcheck"]
ENTRYPOINT ["/chatservice"]
