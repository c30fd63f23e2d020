# One image for web, worker, flower, sandbox and the one-shot migration; docker-compose.yml says which is which.
# It holds no servers of its own: requirements-container.lock is without the extra `embedded`. The base is pinned to an
# exact version and to its bytes (`docker buildx imagetools inspect` prints the digest of another one).

ARG PYTHON=python:3.12.12-slim-bookworm@sha256:593bd06efe90efa80dc4eee3948be7c0fde4134606dd40d8dd8dbcade98e669c

FROM ${PYTHON} AS build
RUN python -m venv /opt/venv
COPY requirements-container.lock .
RUN /opt/venv/bin/python -m pip install --no-cache-dir --require-hashes -r requirements-container.lock

FROM ${PYTHON}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Darkroom" \
    org.opencontainers.image.description="A self-hosted queue for AI image jobs" \
    org.opencontainers.image.licenses="MIT" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}"
RUN useradd --system --uid 10001 --home-dir /nonexistent --shell /usr/sbin/nologin darkroom \
    && install -d -m 0700 -o darkroom -g darkroom /var/lib/darkroom
COPY --from=build /opt/venv /opt/venv
COPY . /srv/darkroom
RUN echo /srv/darkroom > "$(/opt/venv/bin/python -c 'import site; print(site.getsitepackages()[0])')/darkroom.pth" \
    && printf '%s\n' '#!/opt/venv/bin/python -P' \
        'import sys' 'from app.cli import main' 'sys.exit(main())' > /opt/venv/bin/darkroom \
    && chmod +x /opt/venv/bin/darkroom \
    && /opt/venv/bin/python -m compileall -q /srv/darkroom

ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    DARKROOM_VAR=/var/lib/darkroom \
    DARKROOM_HOST=0.0.0.0 \
    DARKROOM_PORT=8000 \
    DARKROOM_LOG_FORMAT=json
USER darkroom
WORKDIR /srv/darkroom
VOLUME /var/lib/darkroom
EXPOSE 8000

HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/healthz', timeout=2)"]
CMD ["python", "-m", "gunicorn", "-c", "python:app.gunicorn_conf", "app.wsgi:app"]
